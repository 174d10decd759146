"""Questions about days and months."""

from __future__ import annotations

import random

from corpus import facts
from corpus.questions import Question, ask

ORDINALS = [
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
]


def days(rng: random.Random) -> Question:
    """Days around a day."""
    i = rng.randrange(7)
    day = facts.DAYS[i]
    kind = rng.randrange(8)
    if kind < 4:
        step, word = rng.choice(((1, "after"), (-1, "before")))
        answer = f"The day {word} {day} is {facts.DAYS[(i + step) % 7]}."
        near = "tomorrow" if step == 1 else "yesterday"
        phrasings = (
            "Which day comes {word} {day}?", "What day comes {word} {day}?",
            "What is the day {word} {day}?", "What comes {word} {day}?",
            "Which day is {word} {day}?", "Today is {day}. What day is {near}?",
            "If today is {day}, what day is {near}?", "The day {word} {day}?",
            "What day is {word} {day}?", "Tell me the day {word} {day}.",
            "Name the day {word} {day}.",
        )  # fmt: skip
        return ask(rng, phrasings, answer, word=word, day=day, near=near)
    if kind < 6:
        n = rng.randrange(1, 15)
        step, word = rng.choice(((1, "after"), (-1, "before")))
        plural = "day" if n == 1 else "days"
        answer = f"{n} {plural} {word} {day} is {facts.DAYS[(i + step * n) % 7]}."
        phrasings = (
            "What day is {n} {plural} {word} {day}?", "Which day is {n} {plural} {word} {day}?",
            "What is {n} {plural} {word} {day}?", "{n} {plural} {word} {day}?",
            "Which day comes {n} {plural} {word} {day}?",
        )  # fmt: skip
        return ask(rng, phrasings, answer, n=n, plural=plural, word=word, day=day)
    if kind == 6:
        answer = f"{day} is {'a weekend day' if i > 4 else 'a working day'}."
        phrasings = (
            "Is {day} a weekend day?", "Is {day} on the weekend?", "Do people work on {day}?",
            "Is {day} a working day?", "Is {day} part of the weekend?",
        )  # fmt: skip
        return ask(rng, phrasings, answer, day=day)
    if rng.random() < 0.5:
        phrasings = (
            "Name the days of the week.", "What are the days of the week?",
            "List the days of the week.", "Which days does a week have?",
            "Tell me all days of the week.",
        )  # fmt: skip
        return ask(rng, phrasings, ", ".join(facts.DAYS) + ".")
    phrasings = (
        "What is the {n} day of the week?", "Which day is the {n} of the week?",
        "Name the {n} day of the week.",
    )  # fmt: skip
    return ask(rng, phrasings, f"The {ORDINALS[i]} day of the week is {day}.", n=ORDINALS[i])


def months(rng: random.Random) -> Question:
    """Months around a month, their lengths, numbers and seasons."""
    i = rng.randrange(12)
    month = facts.MONTHS[i]
    kind = rng.randrange(6)
    if kind < 2:
        step, word = rng.choice(((1, "after"), (-1, "before")))
        phrasings = (
            "Which month comes {word} {month}?", "What month comes {word} {month}?",
            "What is the month {word} {month}?", "What comes {word} {month}?",
            "The month {word} {month}?", "Which month is {word} {month}?",
            "Name the month {word} {month}.",
        )  # fmt: skip
        answer = f"The month {word} {month} is {facts.MONTHS[(i + step) % 12]}."
        return ask(rng, phrasings, answer, word=word, month=month)
    if kind == 2:
        phrasings = (
            "How many days does {month} have?", "How many days are in {month}?",
            "How long is {month}?", "How many days has {month}?",
            "How many days are there in {month}?",
        )  # fmt: skip
        leap = ", and 29 in a leap year" if i == 1 else ""
        return ask(rng, phrasings, f"{month} has {facts.MONTH_LENGTHS[i]} days{leap}.", month=month)
    if kind == 3:
        phrasings = (
            "Which number is {month}?", "What number is {month}?",
            "Which month of the year is {month}?", "What number of month is {month}?",
            "{month} is which month of the year?",
        )  # fmt: skip
        return ask(rng, phrasings, f"{month} is the {ORDINALS[i]} month of the year.", month=month)
    if kind == 4:
        phrasings = (
            "What is the {n} month?", "Which month is the {n}?",
            "What is the {n} month of the year?", "Name the {n} month of the year.",
        )  # fmt: skip
        answer = f"The {ORDINALS[i]} month of the year is {month}."
        return ask(rng, phrasings, answer, n=ORDINALS[i])
    if rng.random() < 0.6:
        phrasings = (
            "Which season is {month} in?", "In which season is {month}?", "What season is {month}?",
            "Is it warm in {month}?", "Which season does {month} belong to?",
        )  # fmt: skip
        season = facts.SEASONS[(i + 1) % 12 // 3]
        return ask(rng, phrasings, f"In the north, {month} is in {season}.", month=month)
    phrasings = (
        "Name the months of the year.", "What are the months?", "List all months.",
        "Which months does a year have?", "Tell me the months of the year.",
    )  # fmt: skip
    return ask(rng, phrasings, ", ".join(facts.MONTHS) + ".")
