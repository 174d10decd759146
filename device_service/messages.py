"""The plain values that cross between the servicer, the engine and its core.

Knows what a command and an event hold; knows neither protobuf nor asyncio nor torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from device_service.errors import Code, CommandError
from device_service.model.interface import F32, U32, ReadoutOptions


class SequenceKey(NamedTuple):
    """Which sequence: the engine's number of the stream, the client's number on it."""

    stream: int
    number: int


# --- commands, checked against the limits of the model ------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenCommand:
    """Starts a sequence with a prompt."""

    sequence: int
    token_ids: tuple[int, ...]
    options: ReadoutOptions
    full: bool
    """Whether every readout is followed by its full row."""
    priority: int


@dataclass(frozen=True, slots=True)
class AdvanceCommand:
    """Runs ids at `position`, `position + 1`, …."""

    sequence: int
    position: int
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class InspectCommand:
    """Asks for the full rows behind the last answer."""

    sequence: int


@dataclass(frozen=True, slots=True)
class CloseCommand:
    """Forgets the sequence."""

    sequence: int


@dataclass(frozen=True, slots=True)
class RefusedCommand:
    """A command that broke a limit; it keeps its place among the others."""

    sequence: int
    is_open: bool
    error: CommandError


Command = OpenCommand | AdvanceCommand | InspectCommand | CloseCommand | RefusedCommand


# --- events -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReadoutColumns:
    """R readouts of one stream; the columns of `tessera.device.v1.Readouts`."""

    sequences: U32
    positions: U32
    candidate_counts: U32
    candidate_ids: U32
    candidate_logits: F32
    logsumexps: F32
    scaled_logsumexps: F32
    queued_us: U32
    prefill_us: U32
    compute_us: U32

    def select(self, rows: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> ReadoutColumns:
        """The readouts where the mask `rows` [R] is true."""
        if rows.all():
            return self
        candidates = np.repeat(rows, self.candidate_counts)
        return ReadoutColumns(
            self.sequences[rows],
            self.positions[rows],
            self.candidate_counts[rows],
            self.candidate_ids[candidates],
            self.candidate_logits[candidates],
            self.logsumexps[rows],
            self.scaled_logsumexps[rows],
            self.queued_us[rows],
            self.prefill_us[rows],
            self.compute_us[rows],
        )


@dataclass(frozen=True, slots=True)
class FullRowEvent:
    """All logits of one position."""

    sequence: int
    position: int
    logits: bytes
    """float32 column [V], little-endian."""


@dataclass(frozen=True, slots=True)
class FailedEvent:
    """A command was refused (`closed` false) or a sequence was lost (`closed` true)."""

    sequence: int
    error: CommandError
    closed: bool


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """How a stream ends: OK after the client ended it, else the reason."""

    code: Code
    message: str = ""


@dataclass(slots=True)
class StreamEvents:
    """What happened to the sequences of one stream since the last time."""

    readouts: ReadoutColumns | None = None
    full_rows: list[FullRowEvent] = field(default_factory=list[FullRowEvent])
    closed: list[int] = field(default_factory=list[int])
    failed: list[FailedEvent] = field(default_factory=list[FailedEvent])
    end: StreamEnd | None = None


# --- what the engine tells of itself ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Load:
    """The load at one moment."""

    num_slots: int
    free_slots: int
    open_sequences: int
    """Those that wait for a slot included."""
    waiting_sequences: int
    queued_rows: int
    """Rows of accepted commands that no step has run yet."""
    kv_tokens: int
    """Positions that open sequences hold in the KV cache."""
    step_time_us: int
    """Moving average; 0 before the first step."""
    accepting: bool
    """Whether new sequences may be opened."""


@dataclass(frozen=True, slots=True)
class StepStats:
    """One step of the model."""

    decode_rows: int
    prompt_rows: int
    seconds: float
    succeeded: bool


@dataclass(frozen=True, slots=True)
class Report:
    """What happened in the engine since the last report; feeds metrics and WatchLoad."""

    load: Load
    step: StepStats | None
    queue_seconds: tuple[float, ...]
    """For each command whose first row ran: how long it had waited."""
    reused_tokens: int
    """Prompt ids that need not run because a slot still held them."""
    opened: int
    """Sequences accepted."""
    failed_codes: tuple[Code, ...]
    """Of the `FailedEvent`s."""
    broken: str
    """Why the engine gave up; empty while it works."""
