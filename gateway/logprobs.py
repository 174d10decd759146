"""Logprobs of a token, by the model's own distribution (temperature 1, nothing adjusted).

Knows readouts and rows; knows nothing of requests or of how the token was chosen.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.events import Logprob, TokenLogprobs
from gateway.readouts import F32
from gateway.sampling import Candidates, logprob, top_logprobs


def token_logprobs(
    token_id: int,
    candidates: Candidates,
    row: F32 | None,
    num_top: int,
    text_of: Callable[[int], str],
) -> TokenLogprobs:
    """The logprob of the chosen id, and of the `num_top` best ones.

    Args:
        token_id: the chosen id.
        candidates: of its position.
        row: all logits [vocab_size], where the id may be no candidate.
        num_top: at most as many as there are candidates.
        text_of: what an id alone decodes to.
    """
    own = logprob(candidates, token_id)
    if own is None:
        assert row is not None, "only a full row decides for an id that is no candidate"
        own = float(row[token_id]) - candidates.logsumexp
    return TokenLogprobs(
        Logprob(token_id, own, text_of(token_id)),
        tuple(
            Logprob(top_id, value, text_of(top_id))
            for top_id, value in top_logprobs(candidates, num_top)
        ),
    )
