"""What every backend provides, and the plain values that cross to it.

Knows shapes and limits; knows no torch, no sockets, no scheduler. Shapes use the key of
`model/README.md`: R readouts, B rows, V vocabulary, C candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

U32 = npt.NDArray[np.uint32]
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The model's identity and limits, as `GetModel` tells them."""

    architecture: str
    name: str
    vocab_size: int
    context_length: int
    """Positions a sequence may have."""
    num_slots: int
    """KV slots: sequences that may be in flight."""
    max_rows: int
    """Rows one step may have."""
    max_top_candidates: int
    ring_size: int
    """Positions that the sliding rings hold; `context_length` where no layer slides."""
    max_rewind: int
    """How far below its high-water mark (the most positions it has held since it last started at
    0) a slot may start a span. A mark of at most `ring_size` has overwritten nothing: then any
    start will do."""
    bos_token_id: int
    eos_token_ids: tuple[int, ...]
    pad_token_id: int
    checkpoint_digest: str
    tokenizer_digest: str
    backend: str
    precision: str
    accelerator: str


@dataclass(frozen=True, slots=True)
class ReadoutOptions:
    """What a readout holds."""

    top_candidates: int = 64
    temperature: float = 1.0
    """Of `scaled_logsumexp`; above 0."""


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive rows of one sequence in one step.

    The KV of `slot` is valid for positions below `start`; the ids run at `start`, `start + 1`, ….
    """

    slot: int
    start: int
    token_ids: tuple[int, ...]
    num_readouts: int
    """Readouts wanted: of the last `num_readouts` ids. 0 for a prompt chunk in the middle."""
    options: ReadoutOptions = field(default_factory=ReadoutOptions)


@dataclass(frozen=True, slots=True)
class StepBatch:
    """The work of one step: at most one span a slot, at most `max_rows` rows in all."""

    spans: tuple[Span, ...]

    @property
    def num_rows(self) -> int:
        """Rows B of the step."""
        return sum(len(span.token_ids) for span in self.spans)


@dataclass(frozen=True, slots=True)
class StepReadouts:
    """R readouts as columns, in the order of the batch's spans and of the ids in each span.

    Candidates of readout r are `candidate_ids[offsets[r]:offsets[r + 1]]` where `offsets` are the
    cumulative `candidate_counts`; by descending logit, ties by ascending id.
    """

    slots: U32
    """[R]"""
    positions: U32
    """[R] position of the id that the readout belongs to."""
    candidate_counts: U32
    """[R]"""
    candidate_ids: U32
    """[sum of candidate_counts]"""
    candidate_logits: F32
    """[sum of candidate_counts]"""
    logsumexps: F32
    """[R] at temperature 1."""
    scaled_logsumexps: F32
    """[R] at the span's temperature."""


ReportProgress = Callable[[str], None]


class Model(Protocol):
    """A loaded model with its KV slots. Not thread-safe: one thread owns it."""

    @property
    def info(self) -> ModelInfo:
        """Identity and limits; constant."""
        ...

    def warm_up(self, report: ReportProgress) -> None:
        """Runs steps of the shapes that serving will use; slots are empty afterwards."""
        ...

    def step(self, batch: StepBatch) -> StepReadouts:
        """Runs all rows of the batch and advances the slots' KV.

        A result depends only on the slot's own ids, not on the rest of the batch.

        Raises:
            ValueError: the batch breaks a limit of `info` (the engine's fault, not a user's).
        """
        ...

    def settle(self) -> None:
        """Returns when no step runs any more: one without readouts may, when `step` returns."""
        ...

    def full_rows(self, slot: int) -> F32:
        """The logits [n, V] behind the slot's last n readouts, the values they were taken from.

        Valid until the slot's next span that wants readouts, or `release`.
        """
        ...

    def release(self, slot: int) -> None:
        """Forgets the slot's kept logits; its KV may be reused as a prefix or overwritten."""
        ...

    def close(self) -> None:
        """Gives memory and devices back. The model is not usable afterwards."""
        ...
