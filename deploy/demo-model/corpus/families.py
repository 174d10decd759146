"""All families of questions, and how much of the training each gets."""

from __future__ import annotations

from corpus.calendar import days, months
from corpus.general import (
    animals,
    capitals,
    colours,
    opposites,
    outside,
    quantities,
    sayings,
    topics,
    unicode,
)
from corpus.numbers import (
    addition,
    comparison,
    counting,
    division,
    doubling,
    multiplication,
    neighbours,
    number_words,
    parity,
    subtraction,
    too_big,
)
from corpus.questions import Family
from corpus.words import alphabet, jokes, poems, repeating, spelling, stories

# Family → how much of the training it gets.
FAMILIES: dict[Family, float] = {
    addition: 14, subtraction: 12, multiplication: 3, division: 2, too_big: 1, neighbours: 1,
    doubling: 1.5, comparison: 2, parity: 1, number_words: 2, counting: 2.5, days: 5, months: 4,
    alphabet: 4, spelling: 4, capitals: 3, opposites: 2, colours: 1.5, animals: 1.5, quantities: 1,
    unicode: 1.5, topics: 8, sayings: 6, repeating: 3, jokes: 0.5, poems: 0.5, stories: 2,
    outside: 6,
}  # fmt: skip
# Their answers differ from time to time: there is nothing exact to match.
INVENTED: tuple[Family, ...] = (jokes, poems, stories)
