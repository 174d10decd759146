"""Draws from the best of a ranked distribution whose rest is known within bounds.

Knows weights and bounds; knows nothing of ids, logits or where either came from.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import neg

ROUNDING = 1e-9
"""More than the relative error of any sum of a row's weights in float64."""


@dataclass(frozen=True, slots=True)
class Head:
    """The first n weights of a distribution in descending order, and bounds of its whole mass."""

    weights: Sequence[float]
    """[n] relative to the best one, which is 1."""
    low: float
    """The mass of all weights is at least this, …"""
    high: float
    """… and at most this."""
    complete: bool
    """Whether there are no other weights."""


def weights_of(logits: list[float], best: float, temperature: float) -> list[float]:
    """exp((logit - best) / temperature) of each. No logit is above the best."""
    exp = math.exp
    if temperature == 1.0:
        return [exp(logit - best) for logit in logits]
    return [exp((logit - best) / temperature) for logit in logits]


def draw(head: Head, top_p: float, min_p: float, u: float) -> int | None:
    """The index that `u` selects by the inverse cumulative distribution, in descending order.

    top_p keeps the smallest head that has at least this share of the mass; min_p keeps what has at
    least this weight; the draw is from what both keep.

    Args:
        head: the distribution.
        top_p: above 0; 1 is off.
        min_p: 0 is off, at most 1.
        u: 0 <= u < 1.

    Returns:
        The index; None where it depends on what the bounds leave open. Every step is monotone in
        the mass, in floating point too: what both bounds give, all masses between them give.
    """
    cumulative = list(accumulate(head.weights))
    low = max(head.low, cumulative[-1])
    high = low if head.complete else max(head.high, low)
    reaches_end = head.complete
    if min_p > 0.0:
        num_kept = bisect_right(head.weights, -min_p, key=neg)
        reaches_end = reaches_end or num_kept < len(cumulative)
        del cumulative[num_kept:]
    known = cumulative[-1]
    if top_p < 1.0:
        low = _nucleus(cumulative, top_p * low, max(known, top_p * low))
        high = _nucleus(cumulative, top_p * high, high * (1 + ROUNDING))
    if reaches_end or min_p > 0.0:
        low = min(low, known)
    if reaches_end:
        high = min(high, known)
    index = bisect_right(cumulative, u * low)
    if index == len(cumulative) or index != bisect_right(cumulative, u * high):
        return None
    return index


def _nucleus(cumulative: list[float], wanted: float, otherwise: float) -> float:
    """The mass of the smallest head that has the wanted mass; `otherwise` where none has."""
    cut = bisect_left(cumulative, wanted)
    return cumulative[cut] if cut < len(cumulative) else otherwise
