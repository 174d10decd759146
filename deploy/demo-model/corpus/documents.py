"""Documents to train on: chats and plain texts, made from the questions with a seeded generator."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass

from corpus import facts, tales
from corpus.families import FAMILIES
from corpus.numbers import operand, words
from corpus.questions import Question, capital, held_out
from corpus.words import story


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side of a chat says."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Document:
    """A chat, or a plain text when it has no turns."""

    turns: tuple[Turn, ...] = ()
    text: str = ""


SYSTEM_PROMPTS = (
    "You are a helpful assistant.", "You are a friendly assistant.", "Answer the questions.",
    "You are the demo model of Tessera.", "Be kind.", "Be brief.", "Help the user.",
    "You are a teacher.", "Answer in one sentence.", "You answer questions about Tessera.",
)  # fmt: skip
QUESTION_OPENINGS = (
    "Can you tell me: ", "Tell me, ", "Hey, ", "Hi, ", "Hello! ", "Please tell me: ", "Tessera, ",
    "Do you know: ", "I want to know: ", "Quick question: ", "Now, ", "Ok, ", "And ", "So, ",
)  # fmt: skip
REQUEST_OPENINGS = ("Please ", "Can you ", "Could you ", "Now ", "Hey, ", "Ok, ", "I want you to ")
REQUESTS = (
    "Add", "Count", "Tell", "Name", "Write", "Spell", "Explain", "Say", "Describe", "Define",
    "Calculate", "Compute", "Subtract", "Multiply", "Divide", "List", "Give", "Draw", "Show",
)  # fmt: skip


def vary(question: Question, rng: random.Random) -> str:
    """The question as different people would type it."""
    text = question.text
    first, rest = text[:1], text[1:]
    if rng.random() < 0.15:
        opening = rng.choice(
            REQUEST_OPENINGS if text.split(" ")[0] in REQUESTS else QUESTION_OPENINGS
        )
        named = text.split(" ")[0] in (*facts.DAYS, *facts.CAPITALS, *facts.MONTHS)
        text = opening + (text if named or question.exact else first.lower() + rest)
    if question.exact:
        return text
    style = rng.random()
    if style < 0.3:
        text = text.lower()
    elif style < 0.33:
        text = text.upper()
    if rng.random() < 0.15:
        short = rng.choice((r"\1's", r"\1s"))
        text = re.sub(r"^(what|who|where)( is|'s)\b", short, text, flags=re.IGNORECASE)
    if rng.random() < 0.04:
        text = misspelled(text, question.answer, rng)
    ending = rng.random()
    if ending < 0.25:
        text = text.rstrip("?.")
    elif ending < 0.35:
        text = text.rstrip("?.") + rng.choice(("?", ".", "!", " please", ", please.", " ?", "??"))
    return text


def misspelled(text: str, answer: str, rng: random.Random) -> str:
    """Two letters of a word change places, unless the answer needs that word."""
    long = [
        word for word in text.split() if len(word) > 4 and word.isalpha() and word not in answer
    ]
    if not long:
        return text
    word = rng.choice(long)
    i = rng.randrange(len(word) - 1)
    return text.replace(word, word[:i] + word[i + 1] + word[i] + word[i + 2 :], 1)


def pick(rng: random.Random) -> Question:
    """A question that may be trained, from a family by its weight."""
    families, weights = list(FAMILIES), list(FAMILIES.values())
    while True:
        question = rng.choices(families, weights)[0](rng)
        if not (question.new_phrasing or question.new_operands):
            return question


def exchange(rng: random.Random) -> list[Turn]:
    """One question and its answer."""
    question = pick(rng)
    return [Turn("user", vary(question, rng)), Turn("model", question.answer)]


def remembering(rng: random.Random) -> list[Turn]:
    """Turns that need an earlier turn."""
    kind = rng.randrange(4)
    between = [turn for _ in range(rng.randrange(2)) for turn in exchange(rng)]
    if kind == 0:
        name = rng.choice(facts.NAMES)
        if rng.random() < 0.5:
            name = "".join(rng.choices(string.ascii_lowercase, k=rng.randrange(3, 7))).capitalize()
        told = rng.choice(("My name is {}.", "I am {}.", "Hi, I am {}.", "Call me {}.", "I'm {}."))
        asked = rng.choice(("What is my name?", "Who am I?", "Do you remember my name?"))
        return [
            Turn("user", told.format(name)), Turn("model", f"Nice to meet you, {name}!"),
            *between,
            Turn("user", asked), Turn("model", f"Your name is {name}."),
        ]  # fmt: skip
    if kind == 1:
        a, b, c = (rng.randrange(33) for _ in range(3))
        while held_out("+", a, b) or held_out("+", a + b, c):
            a, b, c = (rng.randrange(33) for _ in range(3))
        then = rng.choice(("And {} more?", "Add {} to that.", "And plus {}?", "Plus {}?"))
        return [
            Turn("user", rng.choice(("What is {} plus {}?", "{} + {}")).format(a, b)),
            Turn("model", f"{a} plus {b} is {a + b}."),
            Turn("user", then.format(c)), Turn("model", f"{a + b} plus {c} is {a + b + c}."),
        ]  # fmt: skip
    if kind == 2:
        names, noun = rng.choice(((facts.DAYS, "day"), (facts.MONTHS, "month")))
        i = rng.randrange(len(names))
        one, two, three = (names[(i + k) % len(names)] for k in range(3))
        then = rng.choice(("And after that?", "And the {} after that?", "And then?", "And next?"))
        return [
            Turn("user", f"Which {noun} comes after {one}?"),
            Turn("model", f"The {noun} after {one} is {two}."),
            Turn("user", then.format(noun)), Turn("model", f"The {noun} after {two} is {three}."),
        ]  # fmt: skip
    n = rng.randrange(100)
    told = rng.choice(("Remember the number {}.", "My number is {}.", "Remember {}."))
    asked = rng.choice(
        ("What is my number?", "Which number did I tell you?", "What was the number?")
    )
    return [
        Turn("user", told.format(n)), Turn("model", f"I will remember {n}."),
        *between,
        Turn("user", asked), Turn("model", f"Your number is {n}."),
    ]  # fmt: skip


def chat(rng: random.Random) -> Document:
    """One to four exchanges, now and then after a system turn."""
    turns: list[Turn] = []
    if rng.random() < 0.15:
        turns.append(Turn("system", rng.choice(SYSTEM_PROMPTS)))
    for _ in range(rng.choices((1, 2, 3, 4), (60, 20, 12, 8))[0]):
        turns += remembering(rng) if rng.random() < 0.06 else exchange(rng)
    return Document(tuple(turns))


def sums(rng: random.Random) -> str:
    """Lines of written sums: the densest way to practise them."""
    lines: list[str] = []
    while len(lines) < 8:
        a, b = operand(rng), operand(rng)
        sign, result = rng.choice((("+", a + b), ("-", a - b)))
        if not held_out(sign, a, b):
            lines.append(f"{a} {sign} {b} = {result}")
    return "\n".join(lines)


def plain(rng: random.Random) -> Document:
    """A text without turns, for completion."""
    kind = rng.randrange(10)
    if kind < 5:
        return Document(text=sums(rng))
    if kind == 5:
        return Document(text=story(rng, rng.choice(tales.STORY_HEROES)))
    if kind == 6:
        a = rng.randrange(80)
        numbers = range(a, a + rng.randrange(3, 20))
        lists = (list(map(str, numbers)), facts.DAYS, facts.MONTHS, string.ascii_lowercase)
        return Document(text=", ".join(rng.choice(lists)) + ".")
    if kind == 7:
        return Document(
            text=", ".join(capital(words(n)) for n in range(rng.randrange(3, 15))) + "."
        )
    # Answers that say what they are about stand by themselves.
    while True:
        answer = pick(rng).answer
        if answer.startswith(("The ", "A ", "Tessera", *facts.CAPITALS.values(), *facts.MONTHS)):
            return Document(text=answer)


def documents(seed: int) -> Iterator[Document]:
    """Documents without end, always the same ones for a seed."""
    rng = random.Random(seed)
    while True:
        yield plain(rng) if rng.random() < 0.2 else chat(rng)
