"""Questions about letters and words, and what is invented: jokes, poems, stories."""

from __future__ import annotations

import random
import string

from corpus import facts, tales
from corpus.questions import Question, ask, held_out


def alphabet(rng: random.Random) -> Question:
    """Letters around a letter, their places, vowels, the whole alphabet."""
    letters = string.ascii_lowercase
    i = rng.randrange(26)
    letter = letters[i]
    kind = rng.randrange(8)
    if kind < 4:
        step, word = (1, "after") if i == 0 or (i < 25 and rng.random() < 0.6) else (-1, "before")
        phrasings = (
            "What letter comes {word} {letter}?", "Which letter comes {word} {letter}?",
            "What is the letter {word} {letter}?", "What comes {word} the letter {letter}?",
            "The letter {word} {letter}?", "Which letter is {word} {letter} in the alphabet?",
            "Name the letter {word} {letter}.",
        )  # fmt: skip
        answer = f"The letter {word} {letter} is {letters[i + step]}."
        return ask(rng, phrasings, answer, word=word, letter=letter)
    if kind == 4:
        phrasings = (
            "Which number is the letter {letter}?",
            "What is the position of {letter} in the alphabet?",
            "Where is {letter} in the alphabet?", "What number is the letter {letter}?",
            "What place does {letter} have in the alphabet?",
        )  # fmt: skip
        return ask(
            rng, phrasings, f"{letter} is letter number {i + 1} of the alphabet.", letter=letter
        )
    if kind == 5:
        phrasings = (
            "What is letter number {n}?", "Which letter is number {n} in the alphabet?",
            "Which letter has number {n}?", "Name letter number {n} of the alphabet.",
        )  # fmt: skip
        return ask(rng, phrasings, f"Letter number {i + 1} of the alphabet is {letter}.", n=i + 1)
    if kind == 6:
        phrasings = (
            "Is {letter} a vowel?", "Is {letter} a consonant?",
            "Is {letter} a vowel or a consonant?", "Is the letter {letter} a vowel?",
        )  # fmt: skip
        answer = f"{letter} is a {'vowel' if letter in 'aeiou' else 'consonant'}."
        return ask(rng, phrasings, answer, letter=letter)
    phrasings = (
        "Say the alphabet.", "What is the alphabet?", "List all letters.", "Recite the alphabet.",
        "Tell me the letters of the alphabet.", "Write the alphabet.", "Give me the alphabet.",
    )  # fmt: skip
    return ask(rng, phrasings, ", ".join(letters) + ".")


def spelling(rng: random.Random) -> Question:
    """Letters of a word."""
    word = rng.choice(facts.SPELLABLE)
    kind = rng.randrange(4)
    if kind < 2:
        phrasings = (
            "Spell {word}.", "How do you spell {word}?", "Spell the word {word}.",
            "Can you spell {word}?", "How is {word} spelled?", "What are the letters of {word}?",
        )  # fmt: skip
        return ask(rng, phrasings, "-".join(word) + ".", word=word)
    if kind == 2:
        phrasings = (
            "How many letters does {word} have?", "How many letters are in {word}?",
            "How long is the word {word}?", "How many letters has the word {word}?",
        )  # fmt: skip
        return ask(rng, phrasings, f"The word {word} has {len(word)} letters.", word=word)
    end, letter = rng.choice((("first", word[0]), ("last", word[-1])))
    phrasings = (
        "What is the {end} letter of {word}?", "Which letter does {word} have {end}?",
        "{end} letter of {word}?", "Name the {end} letter of {word}.",
    )  # fmt: skip
    return ask(rng, phrasings, f"The {end} letter of {word} is {letter}.", end=end, word=word)


def repeating(rng: random.Random) -> Question:
    """Repeats what it is told."""
    pool = (
        *facts.SPELLABLE,
        *tales.STORY_HEROES,
        *facts.NAMES,
        *facts.DAYS,
        *tales.STORY_WORDS["name"],
    )
    said: list[str] = []
    for _ in range(rng.randrange(1, 8)):
        kind = rng.random()
        if kind < 0.65:
            said.append(rng.choice(pool))
        elif kind < 0.8:
            said.append(str(rng.randrange(1000)))
        elif kind < 0.97:
            said.append("".join(rng.choices(string.ascii_lowercase, k=rng.randrange(1, 6))))
        else:
            said.append(rng.choice((*facts.EMOJI.values(), *facts.HELLOS.values())))
    text = " ".join(said)
    phrasings = (
        "Repeat after me: {text}", "Repeat: {text}", "Say: {text}", "Say this: {text}",
        "Echo: {text}", "Repeat this: {text}", "Please repeat: {text}", "Now say: {text}",
    )  # fmt: skip
    return ask(rng, phrasings, text, text=text, exact=True, new_operands=held_out("repeat", text))


def jokes(rng: random.Random) -> Question:
    """One of a few jokes."""
    phrasings = ("Tell me a joke.", "Do you know a joke?", "Make me laugh.", "Say something funny.")
    return ask(rng, phrasings, rng.choice(tales.JOKES))


def poems(rng: random.Random) -> Question:
    """Two couplets."""
    phrasings = (
        "Write a poem.", "Tell me a poem.", "Write me a short poem.", "Make a rhyme.",
        "Recite a poem.", "Do you know a poem?",
    )  # fmt: skip
    return ask(rng, phrasings, "\n".join(rng.sample(tales.COUPLETS, 2)))


def story(rng: random.Random, hero: str) -> str:
    """A short story about a hero."""
    name = rng.choice(tales.STORY_WORDS["name"])
    friend = rng.choice([animal for animal in tales.STORY_HEROES if animal != hero])
    sentences = []
    for choices in tales.STORY:
        fields = {key: rng.choice(options) for key, options in tales.STORY_WORDS.items()}
        fields |= {"hero": hero, "friend": friend, "name": name}
        sentences.append(rng.choice(choices).format(**fields))
    text = " ".join(sentences)
    for vowel in "aeiou":
        text = text.replace(f" a {vowel}", f" an {vowel}")
    return text


def stories(rng: random.Random) -> Question:
    """A story about whom one wants to hear of."""
    hero = rng.choice(tales.STORY_HEROES)
    article = "an" if hero[0] in "aeiou" else "a"
    phrasings = (
        "Tell me a story about {article} {hero}.", "Write a story about {article} {hero}.",
        "A story about {article} {hero}, please.", "Do you know a story about {article} {hero}?",
        "Tell a story with {article} {hero}.", "Tell me a tale about {article} {hero}.",
        "I want a story about {article} {hero}.", "Write a short story about {article} {hero}.",
        *(("Tell me a story.", "Write a story.", "Tell me a bedtime story.") * (hero == "fox")),
        "Make up a story about {article} {hero}.",
    )  # fmt: skip
    if rng.random() < 0.15:
        hero = rng.choice(tales.STORY_HEROES)
        phrasings = (
            "Tell me a story.",
            "Write a story.",
            "Tell me a bedtime story.",
            "A story, please.",
        )
    return ask(rng, phrasings, story(rng, hero), hero=hero, article=article)
