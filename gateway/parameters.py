"""The sampling parameters of a request: what the client gave, and the checkpoint's for the rest.

Knows the `Sampling` message and its defaults; knows nothing of how a token is drawn.
"""

from __future__ import annotations

import secrets

from gateway.errors import RequestError, invalid
from gateway.sampling import InvalidParameter, SamplingParams
from gateway.tokenizer import GenerationDefaults
from tessera.gateway.v1 import gateway_pb2 as pb


def read_sampling(
    sampling: pb.Sampling, vocab_size: int, defaults: GenerationDefaults
) -> SamplingParams:
    """The complete parameters; a seed is drawn where none is given.

    Raises:
        RequestError: a value is outside of its limits.
    """
    complete = write_defaults(defaults)
    # A default may exceed a small vocabulary: then it keeps everything, as it should.
    complete.top_k = min(complete.top_k, vocab_size)
    complete.seed = secrets.randbits(64)
    complete.MergeFrom(sampling)
    try:
        return SamplingParams(
            vocab_size=vocab_size,
            seed=complete.seed,
            temperature=complete.temperature,
            top_k=complete.top_k,
            top_p=complete.top_p,
            min_p=complete.min_p,
            repetition_penalty=complete.repetition_penalty,
            presence_penalty=complete.presence_penalty,
            frequency_penalty=complete.frequency_penalty,
            logit_bias=complete.logit_bias,
        )
    except InvalidParameter as error:
        raise _refusal(error) from None


def write_defaults(defaults: GenerationDefaults) -> pb.Sampling:
    """What absent fields mean, as `GetModel` shows it."""
    return pb.Sampling(
        temperature=defaults.temperature,
        top_k=defaults.top_k,
        top_p=defaults.top_p,
        min_p=defaults.min_p,
        repetition_penalty=defaults.repetition_penalty,
        presence_penalty=0.0,
        frequency_penalty=0.0,
    )


def _refusal(error: InvalidParameter) -> RequestError:
    """Names the field as `Sampling` does, and the entry of a map in the message."""
    field, bracket, entry = error.field.partition("[")
    # As the client wrote it: 0.1, not the float32 that is nearest to it.
    value = f"{error.value:g}" if isinstance(error.value, float) else error.value
    return invalid(
        f"sampling.{field}", f"{bracket}{entry} must be {error.limit}, not {value}".strip()
    )
