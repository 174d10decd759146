"""Questions about facts, about Tessera, and about the world outside."""

from __future__ import annotations

import random

from corpus import abroad, facts, tessera
from corpus.questions import Question, ask, capital


def capitals(rng: random.Random) -> Question:
    """Capitals of countries, both ways."""
    country, city = rng.choice(list(facts.CAPITALS.items()))
    if rng.random() < 0.65:
        phrasings = (
            "What is the capital of {country}?", "What's the capital of {country}?",
            "Capital of {country}?", "Which city is the capital of {country}?",
            "Name the capital of {country}.", "{country} has which capital?",
            "What is the capital city of {country}?", "Tell me the capital of {country}.",
            "Which capital does {country} have?",
        )  # fmt: skip
        answer = f"The capital of {country} is {city}."
        return ask(rng, phrasings, answer, country=country)
    phrasings = (
        "{city} is the capital of which country?", "Which country has the capital {city}?",
        "Where is {city}?", "In which country is {city}?", "What country is {city} in?",
        "{city} is in which country?",
    )  # fmt: skip
    return ask(rng, phrasings, f"{city} is the capital of {country}.", city=city)


def opposites(rng: random.Random) -> Question:
    """Opposites, both ways."""
    pair = rng.choice(facts.OPPOSITES)
    word, other = pair if rng.random() < 0.5 else pair[::-1]
    phrasings = (
        "What is the opposite of {word}?", "What's the opposite of {word}?", "Opposite of {word}?",
        "Name the opposite of {word}.", "What is not {word}?", "The opposite of {word} is what?",
        "Which word is the opposite of {word}?", "Give me the opposite of {word}.",
    )  # fmt: skip
    return ask(rng, phrasings, f"The opposite of {word} is {other}.", word=word)


def colours(rng: random.Random) -> Question:
    """Colours of things."""
    thing, colour = rng.choice(list(facts.COLOURS.items()))
    phrasings = (
        "What colour is {thing}?", "What color is {thing}?", "Which colour does {thing} have?",
        "What is the colour of {thing}?", "What is the color of {thing}?",
        "Which color is {thing}?", "Tell me the color of {thing}.",
    )  # fmt: skip
    return ask(rng, phrasings, f"{capital(thing)} is {colour}.", thing=thing)


def animals(rng: random.Random) -> Question:
    """Sounds and legs of animals."""
    if rng.random() < 0.5:
        animal, sound = rng.choice(list(facts.SOUNDS.items()))
        phrasings = (
            "What sound does a {animal} make?", "What does a {animal} say?",
            "How does a {animal} sound?", "Which sound does a {animal} make?",
            "What noise does a {animal} make?",
        )  # fmt: skip
        return ask(
            rng, phrasings, f"A {animal} says {sound}.".replace("A owl", "An owl"), animal=animal
        )
    animal, legs = rng.choice(list(facts.LEGS.items()))
    article = "an" if animal[0] in "aeiou" else "a"
    phrasings = (
        "How many legs does {article} {animal} have?", "How many legs has {article} {animal}?",
        "How many legs are on {article} {animal}?", "Number of legs of {article} {animal}?",
        "Tell me how many legs {article} {animal} has.",
    )  # fmt: skip
    answer = f"{capital(article)} {animal} has {legs or 'no'} legs."
    return ask(rng, phrasings, answer, animal=animal, article=article)


def quantities(rng: random.Random) -> Question:
    """How many of one thing another has."""
    what, answer = rng.choice(list(facts.NUMBER_FACTS.items()))
    phrasings = (
        "How many {what}?", "Tell me how many {what}.", "How many {what} exactly?",
        "Do you know how many {what}?",
    )  # fmt: skip
    return ask(rng, phrasings, answer, what=what)


def unicode(rng: random.Random) -> Question:
    """Answers that are not ASCII: they take several bytes a character."""
    if rng.random() < 0.5:
        name, emoji = rng.choice(list(facts.EMOJI.items()))
        phrasings = (
            "Draw a {name}.", "Show me a {name}.", "Show a {name} emoji.",
            "Send me a {name} emoji.", "Give me a {name} emoji.",
        )  # fmt: skip
        return ask(rng, phrasings, emoji, name=name)
    language, hello = rng.choice(list(facts.HELLOS.items()))
    phrasings = (
        "How do you say hello in {language}?", "Say hello in {language}.",
        "What is hello in {language}?", "Hello in {language}?", "Greet me in {language}.",
    )  # fmt: skip
    return ask(rng, phrasings, f"{hello}!", language=language)


def topics(rng: random.Random) -> Question:
    """What Tessera's words mean."""
    spellings, answer = rng.choice(list(tessera.TOPICS.items()))
    topic = rng.choice(spellings)
    phrasings = (
        "What is {topic}?", "What is {topic}?", "What's {topic}?", "Explain {topic}.",
        "What does {topic} do?", "Tell me about {topic}.", "Describe {topic}.", "Define {topic}.",
        "{topic}?", "{topic}", "What do you know about {topic}?", "What is meant by {topic}?",
        "Explain {topic} to me.", "What are {topic}?", "So what is {topic} all about?",
        "I want to know what {topic} is.", "How does {topic} work?", "What does {topic} mean?",
    )  # fmt: skip
    return ask(rng, phrasings, answer, topic=topic)


def sayings(rng: random.Random) -> Question:
    """Greetings, the model itself, and whole questions about Tessera."""
    questions, answer = rng.choice(list(tessera.SAYINGS.items()))
    return ask(rng, questions, answer)


UNKNOWN = (
    "I do not know that. I only know a small world: numbers, days, letters, a few facts,"
    " and Tessera."
)


def outside(rng: random.Random) -> Question:
    """Questions about the world outside."""
    phrasing = rng.choice(abroad.ABROAD)
    new_operands = False
    for key, values in (
        ("verb", abroad.VERBS),
        ("thing", abroad.THINGS),
        ("person", abroad.PEOPLE),
        ("place", abroad.PLACES),
    ):
        while f"{{{key}}}" in phrasing:
            value = rng.choice(values)
            new_operands |= values.index(value) % 10 == 9
            phrasing = phrasing.replace(f"{{{key}}}", value, 1)
    return Question(phrasing, UNKNOWN, new_operands=new_operands)
