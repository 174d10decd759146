"""How each token is chosen: the parameters of one request, checked.

Knows the limits of `tessera.gateway.v1.Sampling`; knows nothing of protobuf, logits or text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from gateway.randomness import MAX_SEED

MAX_TEMPERATURE = 100.0
MIN_TEMPERATURE = float(np.float32(0.01))
MAX_REPETITION_PENALTY = 10.0
MAX_PENALTY = 2.0
MAX_BIAS = 100.0
MAX_BIASES = 1024

_NO_BIAS: Mapping[int, float] = MappingProxyType({})


class InvalidParameter(ValueError):  # noqa: N818 (it says what it is)
    """A sampling parameter outside of its limits.

    Attributes:
        field: its name in `Sampling`, e.g. "top_p" or "logit_bias[7]".
        value: what was given.
        limit: what is allowed, e.g. "above 0, up to 1".
    """

    def __init__(self, field: str, value: object, limit: str) -> None:
        super().__init__(f"{field} must be {limit}, not {value}")
        self.field = field
        self.value = value
        self.limit = limit


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Parameters of `Sampling`, complete and within their limits.

    Numbers are held as the wire holds them, rounded to float32: a default read from a file and the
    same number sent by a client give the same text.

    Raises:
        InvalidParameter: a value is outside of its limits.
    """

    vocab_size: int
    seed: int
    """0 to 2^64 - 1."""
    temperature: float = 1.0
    """0 is greedy."""
    top_k: int = 0
    """0 is off."""
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=lambda: _NO_BIAS)

    def __post_init__(self) -> None:
        for name in _FLOAT_FIELDS:
            object.__setattr__(self, name, _float32(name, getattr(self, name)))
        bias = {i: _float32(f"logit_bias[{i}]", b) for i, b in self.logit_bias.items()}
        object.__setattr__(self, "logit_bias", MappingProxyType(bias))
        self._check()

    @property
    def adjusts_logits(self) -> bool:
        """Whether penalties or biases change any logit."""
        return bool(
            self.repetition_penalty != 1.0
            or self.presence_penalty
            or self.frequency_penalty
            or self.logit_bias
        )

    @property
    def max_kept(self) -> int:
        """The most ids that top_k keeps: all of the vocabulary where it is off."""
        return self.top_k or self.vocab_size

    def _check(self) -> None:
        temperature = self.temperature
        _require(
            temperature == 0 or MIN_TEMPERATURE <= temperature <= MAX_TEMPERATURE,
            "temperature",
            temperature,
            "0 or 0.01 to 100",
        )
        _require(
            0 <= self.top_k <= self.vocab_size,
            "top_k",
            self.top_k,
            f"0 to {self.vocab_size} (vocab_size)",
        )
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0, up to 1")
        _require(0 <= self.min_p <= 1, "min_p", self.min_p, "0 to 1")
        _require(
            0 < self.repetition_penalty <= MAX_REPETITION_PENALTY,
            "repetition_penalty",
            self.repetition_penalty,
            "above 0, up to 10",
        )
        for name in ("presence_penalty", "frequency_penalty"):
            value: float = getattr(self, name)
            _require(abs(value) <= MAX_PENALTY, name, value, "-2 to 2")
        _require(0 <= self.seed <= MAX_SEED, "seed", self.seed, "0 to 2^64 - 1")
        num_biases = len(self.logit_bias)
        _require(num_biases <= MAX_BIASES, "logit_bias", f"{num_biases:,}", "at most 1,024 entries")
        for token_id, bias in self.logit_bias.items():
            name = f"logit_bias[{token_id}]"
            _require(
                0 <= token_id < self.vocab_size,
                name,
                token_id,
                f"of an id below {self.vocab_size} (vocab_size)",
            )
            _require(abs(bias) <= MAX_BIAS, name, bias, "-100 to 100")


_FLOAT_FIELDS = (
    "temperature",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)


def _float32(name: str, value: float) -> float:
    """The value as float32 holds it, printed short; refuses NaN and infinities."""
    _require(math.isfinite(value), name, value, "a finite number")
    with np.errstate(over="ignore"):
        rounded = float(np.float32(value))
    # What float32 cannot hold is outside of every limit: leave the value for the message.
    return rounded if math.isfinite(rounded) else value


def _require(condition: bool, name: str, value: object, limit: str) -> None:
    if not condition:
        raise InvalidParameter(name, value, limit)
