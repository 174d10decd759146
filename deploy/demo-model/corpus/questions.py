"""Single questions with their answers, one family a function.

A phrasing that stands last in its list, and a tenth of the operands of families whose operands are
many, are never trained: the evaluation asks them.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its answer, and whether the evaluation keeps it to itself."""

    text: str
    answer: str
    new_phrasing: bool = False
    new_operands: bool = False
    exact: bool = False  # the answer copies from the question: its letters must stay as they are


Family = Callable[[random.Random], Question]


def capital(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def held_out(sign: str, *operands: object) -> bool:
    """Whether these operands, in any order, belong to the tenth that is never trained."""
    key = " ".join([sign, *sorted(map(str, operands))])
    return zlib.crc32(key.encode()) % 10 == 0


def ask(
    rng: random.Random,
    phrasings: Sequence[str],
    answer: str,
    *,
    new_operands: bool = False,
    exact: bool = False,
    **fields: object,
) -> Question:
    """The question in one of the phrasings, with its fields filled in."""
    # The untrained phrasing comes up in one of eight, however long the list.
    new = len(phrasings) > 2 and rng.random() < 1 / 8
    phrasing = phrasings[-1] if new else rng.choice(phrasings[: -1 if len(phrasings) > 2 else None])
    return Question(phrasing.format(**fields), answer, new, new_operands, exact)
