"""What candidates prove about the order and the mass of their whole row, adjustments included.

Knows candidates, adjustments and bounds; draws nothing. "Seen" ids are candidates, "unseen" ones
are the rest of the vocabulary: of these only a bound is known, the last candidate's logit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

from gateway.adjustments import Adjustments
from gateway.candidates import U32, Candidates
from gateway.nucleus import ROUNDING, Head, weights_of

_MAX_EXPONENT = 700.0
"""exp of more is no float64."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """The seen ids in the order of their adjusted logits."""

    token_ids: Sequence[int] | U32
    """[C] by descending logit, ties by ascending id."""
    logits: list[float]
    """[C]"""
    num_proven: int
    """The first of them, which no unseen id can be among."""
    ceiling: float
    """No unseen id's logit is above."""
    raised: list[float]
    """The most that each unseen id can have whose logit an adjustment may have raised."""
    max_affected: int
    """The most ids whose logits were adjusted at all."""


def rank(candidates: Candidates, adjustments: Adjustments | None) -> Ranking:
    """Ranks the candidates, by their logits or by what adjustments make of them."""
    logits = candidates.logits.tolist()
    unseen_logit = logits[-1]
    if adjustments is None:
        return Ranking(candidates.ids, logits, len(logits), unseen_logit, [], 0)
    seen: list[int] = candidates.ids.tolist()
    ranked = sorted(
        (-logit, token_id)
        for token_id, logit in zip(seen, adjustments.apply(seen, logits), strict=True)
    )
    raised: list[float] = []
    ceiling = -math.inf
    if len(seen) < candidates.vocab_size:
        unseen_raised = set(adjustments.raised()).difference(seen)
        raised = adjustments.apply(unseen_raised, repeat(unseen_logit, len(unseen_raised)))
        ceiling = max([unseen_logit, *raised])
    logits = [-negative for negative, _ in ranked]
    return Ranking(
        token_ids=[token_id for _, token_id in ranked],
        logits=logits,
        # An unseen id with the same logit could be before it: only what is above counts.
        num_proven=sum(logit > ceiling for logit in logits),
        ceiling=ceiling,
        raised=raised,
        max_affected=adjustments.max_affected(),
    )


def head_of(ranking: Ranking, candidates: Candidates, temperature: float, num_kept: int) -> Head:
    """The proven ids' weights, and bounds of the mass of the best `num_kept` ids of the row.

    Args:
        ranking: of the candidates, with at least one proven id.
        candidates: the same.
        temperature: above 0.
        num_kept: what top_k keeps; vocab_size where it is off.
    """
    best = ranking.logits[0]
    proven = ranking.logits[: min(ranking.num_proven, num_kept)]
    weights = weights_of(proven, best, temperature)
    if num_kept == len(weights):
        return Head(weights, 0.0, 0.0, complete=True)

    def weight(logit: float) -> float:
        return math.exp(min((logit - best) / temperature, _MAX_EXPONENT))

    unseen = _unseen_mass(candidates, temperature)
    shift = weight(float(candidates.logits[0]))
    unseen_weight = weight(float(candidates.logits[-1]))
    most = (candidates.vocab_size - len(candidates.ids)) * unseen_weight
    all_proven = len(weights) == len(ranking.logits)
    seen_weights = weights if all_proven else weights_of(ranking.logits, best, temperature)
    seen = sum(seen_weights)
    high = seen + min(unseen.high * shift, most) + sum(map(weight, ranking.raised))
    high = min(high, sum(weights) + (num_kept - len(weights)) * weight(ranking.ceiling))
    if num_kept < candidates.vocab_size:
        low = sum(seen_weights[:num_kept])
    else:
        # Adjustments may have taken everything from each unseen id that they affect.
        low = seen + max(0.0, min(unseen.low * shift, most) - ranking.max_affected * unseen_weight)
    return Head(weights, low * (1 - ROUNDING), high * (1 + ROUNDING), complete=False)


@dataclass(frozen=True, slots=True)
class _Bounds:
    low: float
    high: float


def _unseen_mass(candidates: Candidates, temperature: float) -> _Bounds:
    """Bounds of the mass of all unseen ids as the device saw it; the best candidate's is 1."""
    logits = candidates.logits.tolist()
    total = math.exp(candidates.scaled_logsumexp - logits[0] / temperature)
    seen = sum(weights_of(logits, logits[0], temperature))
    error = total * candidates.mass_tolerance
    return _Bounds(max(0.0, total - error - seen), max(0.0, total + error - seen))
