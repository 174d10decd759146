"""Decides tokens from a small readout, exactly as the same sampler would from the full logits row.

Knows logits, parameters and counter-based randomness; knows no gRPC, no torch, no text. The device
may import it, to predict with the very sampler that decides.

A decision is a pure function of (logits row, parameters, position, history). `decide` sees the
best candidates of the row, and answers only where every row that they could come from gives the
same token. `decide_full` sees the row. Both rank ids, weigh them relative to the best one, and
draw; what `decide` does not see enters as bounds.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from gateway.adjustments import Adjustments, History
from gateway.candidates import Candidates, logprob, top_logprobs
from gateway.nucleus import ROUNDING, Head, draw, weights_of
from gateway.randomness import uniform
from gateway.ranking import head_of, rank
from gateway.sampling_params import InvalidParameter, SamplingParams

__all__ = [
    "Candidates",
    "History",
    "InvalidParameter",
    "SamplingParams",
    "decide",
    "decide_full",
    "logprob",
    "top_logprobs",
]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

_HEAD_SIZES = (1024, 32 * 1024)
"""Ids of a full row that are ranked before all of them are: most draws end among the first."""


def decide(
    candidates: Candidates, params: SamplingParams, position: int, history: History
) -> int | None:
    """The token of a position, from its candidates.

    Args:
        candidates: of the readout before the position.
        params: the request's.
        position: any number that is the token's own in its sequence, whichever gateway decides it:
            with the seed, it selects the randomness.
        history: the ids before the position.

    Returns:
        What `decide_full` returns for the whole row; None where the candidates leave it open, and
        where logits are not finite, which `decide_full` refuses.
    """
    if not math.isfinite(candidates.scaled_logsumexp):
        return None
    ranking = rank(candidates, Adjustments(params, history) if params.adjusts_logits else None)
    if not ranking.num_proven:
        return None
    if params.temperature == 0.0:
        return int(ranking.token_ids[0])
    head = head_of(ranking, candidates, params.temperature, params.max_kept)
    index = draw(head, params.top_p, params.min_p, uniform(params.seed, position))
    return None if index is None else int(ranking.token_ids[index])


def decide_full(row: F32, params: SamplingParams, position: int, history: History) -> int:
    """The token of a position, from all logits [V] behind its readout. Arguments as for `decide`.

    Raises:
        ValueError: a logit is not finite.
    """
    values = row.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("the row has logits that are not finite")
    if params.adjusts_logits:
        adjustments = Adjustments(params, history)
        affected = list(adjustments.affected())
        values[affected] = adjustments.apply(affected, values[affected].tolist())
    if params.temperature == 0.0:
        return int(values.argmax())
    temperature, top_p, min_p = params.temperature, params.top_p, params.min_p
    u = uniform(params.seed, position)
    best = float(values.max())
    if params.max_kept == len(values):
        mass = float(np.exp((values - best) / temperature).sum())
        low, high = mass * (1 - ROUNDING), mass * (1 + ROUNDING)
        for head_size in _HEAD_SIZES:
            ids = _best_ids(values, head_size)
            weights = weights_of(values[ids].tolist(), best, temperature)
            index = draw(Head(weights, low, high, complete=False), top_p, min_p, u)
            if index is not None:
                return int(ids[index])
    ids = _best_ids(values, params.max_kept)
    weights = weights_of(values[ids].tolist(), best, temperature)
    index = draw(Head(weights, 0.0, 0.0, complete=True), top_p, min_p, u)
    assert index is not None, "a draw from a whole distribution has a result"
    return int(ids[index])


def _best_ids(values: F64, count: int) -> npt.NDArray[np.int64]:
    """The first `count` ids in the order (descending value, ascending id)."""
    if count >= len(values):
        return np.argsort(-values, kind="stable")
    threshold = np.partition(values, len(values) - count)[len(values) - count]
    (ids,) = np.nonzero(values >= threshold)
    return ids[np.argsort(-values[ids], kind="stable")][:count]
