"""Collects what happens between two publications: events by stream, and counts for the metrics.

Knows the messages only. The core begins a new log whenever what happened is taken.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from device_service.errors import Code, CommandError
from device_service.messages import (
    FailedEvent,
    FullRowEvent,
    Load,
    ReadoutColumns,
    Report,
    SequenceKey,
    StepStats,
    StreamEnd,
    StreamEvents,
)
from device_service.model.interface import U32


@dataclass(slots=True)
class EventLog:
    """Events and counts since the last publication."""

    streams: dict[int, StreamEvents] = field(default_factory=dict[int, StreamEvents])
    step: StepStats | None = None
    queue_seconds: list[float] = field(default_factory=list[float])
    reused_tokens: int = 0
    opened: int = 0
    failed_codes: list[Code] = field(default_factory=list[Code])

    def readouts(self, streams: U32, columns: ReadoutColumns) -> None:
        """Readouts of a step; `streams` [R] tells whose each is."""
        for stream in np.unique(streams).tolist():
            assert self._of(stream).readouts is None, "events are taken after every step"
            self._of(stream).readouts = columns.select(streams == stream)

    def full_row(self, key: SequenceKey, position: int, logits: bytes) -> None:
        """All logits of one position."""
        self._of(key.stream).full_rows.append(FullRowEvent(key.number, position, logits))

    def closed(self, key: SequenceKey) -> None:
        """The client closed the sequence."""
        self._of(key.stream).closed.append(key.number)

    def failed(self, key: SequenceKey, error: CommandError, closed: bool) -> None:
        """A command was refused, or (`closed`) the sequence is gone."""
        self._of(key.stream).failed.append(FailedEvent(key.number, error, closed))
        self.failed_codes.append(error.code)

    def end(self, stream: int, end: StreamEnd) -> None:
        """Nothing follows on this stream."""
        self._of(stream).end = end

    def drop(self, stream: int) -> None:
        """Nobody is there to be told."""
        self.streams.pop(stream, None)

    def report(self, load: Load, broken: str) -> Report:
        """The counts, with the state that they led to."""
        return Report(
            load,
            self.step,
            tuple(self.queue_seconds),
            self.reused_tokens,
            self.opened,
            tuple(self.failed_codes),
            broken,
        )

    def _of(self, stream: int) -> StreamEvents:
        return self.streams.setdefault(stream, StreamEvents())
