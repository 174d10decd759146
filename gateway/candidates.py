"""The best of a row of logits, as a device reads it out, and the logprobs that it tells.

Knows a readout's numbers; knows nothing of parameters, randomness or the wire.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

U32 = npt.NDArray[np.uint32]
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Candidates:
    """The best of one row; at least one."""

    ids: U32
    """[C] by descending logit, ties by ascending id."""
    logits: F32
    """[C] finite."""
    logsumexp: float
    """log(sum(exp(logits))) of the whole row."""
    scaled_logsumexp: float
    """log(sum(exp(logits / temperature))) of the whole row, for the request's temperature (1 where
    that is 0). Within `mass_tolerance`, its error changes no token."""
    vocab_size: int

    @property
    def mass_tolerance(self) -> float:
        """How far, relative to it, exp(scaled_logsumexp) may be from the truth."""
        return 1e-4 + 4e-7 * abs(self.scaled_logsumexp)


def logprob(candidates: Candidates, token_id: int) -> float | None:
    """The token's logprob by the model itself: at temperature 1, nothing adjusted.

    None where it is no candidate.
    """
    (found,) = np.nonzero(candidates.ids == token_id)
    return None if not len(found) else float(candidates.logits[found[0]]) - candidates.logsumexp


def top_logprobs(candidates: Candidates, num_top: int) -> list[tuple[int, float]]:
    """(id, logprob) of the best candidates, descending; at most as many as there are."""
    logits = candidates.logits[:num_top].tolist()
    ids = candidates.ids[:num_top].tolist()
    return [(i, logit - candidates.logsumexp) for i, logit in zip(ids, logits, strict=True)]
