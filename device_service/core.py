"""What the engine does, one step at a time: commands in, steps of the model, events out.

Knows sequences, slots, the scheduler and the model; knows no threads, no event loop, no gRPC. Not
thread-safe: the engine's thread owns it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from device_service.errors import Code, CommandError, invalid, one_line
from device_service.event_log import EventLog
from device_service.messages import (
    CloseCommand,
    Command,
    Load,
    OpenCommand,
    ReadoutColumns,
    RefusedCommand,
    Report,
    SequenceKey,
    StepStats,
    StreamEnd,
    StreamEvents,
)
from device_service.model.interface import Model, Span, StepBatch, StepReadouts
from device_service.scheduler import Scheduler, Share
from device_service.sequence import Sequence
from device_service.slots import SlotTable

MAX_FAILED_STEPS = 3
"""So many failed steps in a row, and the engine takes no more work."""

NEWEST_WEIGHT = 0.1
"""Of the newest value in a moving average."""

MIN_RETRY_MS, MAX_RETRY_MS = 100, 60_000

log = logging.getLogger(__name__)


class Core:
    """All sequences of a device.

    Args:
        model: loaded and warm; its slots are empty.
        max_queued: sequences that may wait for a slot.
        clock: seconds, monotonic.
    """

    def __init__(
        self, model: Model, max_queued: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        info = model.info
        self._model = model
        self._max_queued = max_queued
        self._clock = clock
        self._scheduler = Scheduler(info.max_rows)
        self._slots = SlotTable(info.num_slots, info.ring_size, info.max_rewind)
        self._sequences: dict[SequenceKey, Sequence] = {}
        self._holders: dict[int, Sequence] = {}
        self._waiting: list[Sequence] = []
        self._streams: set[int] = set()
        self._ending: set[int] = set()
        self._ordinal = 0
        self._draining = False
        self._broken = ""
        self._failed_steps = 0
        self._step_seconds = 0.0
        self._hold_seconds = 0.0
        self._log = EventLog()

    # --- streams and their commands -------------------------------------------------------------

    def open_stream(self, stream: int) -> None:
        """A client came."""
        self._streams.add(stream)
        if self._draining:
            self._end_if_empty(stream)

    def handle(self, stream: int, commands: Iterable[Command], arrived_at: float) -> None:
        """Carries out or queues the commands, in order; what is refused becomes an event.

        Args:
            stream: whose they are.
            commands: checked against the model's limits.
            arrived_at: when they came, seconds of the clock.
        """
        if stream not in self._streams:
            return
        for command in commands:
            try:
                self._handle(stream, command, arrived_at)
            except CommandError as error:
                key = SequenceKey(stream, command.sequence)
                is_open = key in self._sequences
                opening = isinstance(command, OpenCommand) or (
                    isinstance(command, RefusedCommand) and command.is_open
                )
                self._log.failed(key, error, opening and not is_open)
        self._begin_commands()

    def end_stream(self, stream: int) -> None:
        """The client sends no more: what is unanswered is answered, then the stream ends."""
        if stream not in self._streams:
            return
        self._ending.add(stream)
        for sequence in self._of_stream(stream):
            if sequence.is_idle:
                self._forget(sequence)
        self._end_if_empty(stream)

    def drop_stream(self, stream: int) -> None:
        """The client is gone; so are its sequences."""
        for sequence in self._of_stream(stream):
            self._forget(sequence)
        self._streams.discard(stream)
        self._ending.discard(stream)
        self._log.drop(stream)

    def drain(self) -> None:
        """Opens nothing new; streams end once their sequences are closed."""
        self._draining = True
        for stream in tuple(self._streams):
            self._end_if_empty(stream)

    def fail_all(self, code: Code, message: str) -> None:
        """Every sequence is lost, for this reason."""
        for sequence in tuple(self._sequences.values()):
            self._lose(sequence, CommandError(code, "", message))

    @property
    def is_draining(self) -> bool:
        """Whether nothing new is opened."""
        return self._draining

    @property
    def is_empty(self) -> bool:
        """Whether no sequence is left."""
        return not self._sequences

    def _handle(self, stream: int, command: Command, arrived_at: float) -> None:
        if isinstance(command, RefusedCommand):
            raise command.error
        key = SequenceKey(stream, command.sequence)
        if isinstance(command, OpenCommand):
            self._open(key, command, arrived_at)
            return
        sequence = self._sequences.get(key)
        if sequence is None:
            raise invalid("sequence", f"sequence {key.number} is not open on this stream")
        if isinstance(command, CloseCommand):
            self._answer_inspects(sequence)
            self._forget(sequence)
            self._log.closed(key)
            self._end_if_empty(stream)
        else:
            sequence.accept(command, arrived_at)

    def _open(self, key: SequenceKey, command: OpenCommand, arrived_at: float) -> None:
        if key in self._sequences:
            raise invalid("sequence", f"sequence {key.number} is open already on this stream")
        if self._broken:
            raise CommandError(Code.UNAVAILABLE, "", f"the device has failed: {self._broken}")
        if self._draining:
            raise CommandError(Code.UNAVAILABLE, "", "the device service is stopping")
        if not self._slots.num_free and len(self._waiting) >= self._max_queued:
            raise CommandError(
                Code.RESOURCE_EXHAUSTED,
                "",
                f"all {self._model.info.num_slots} slots are taken and {len(self._waiting)} "
                f"sequences wait, which is the limit of {self._max_queued}",
                self._retry_after_ms(),
            )
        sequence = Sequence(key, command, self._next_ordinal(), arrived_at)
        self._sequences[key] = sequence
        self._waiting.append(sequence)
        self._log.opened += 1
        self._admit()

    def _admit(self) -> None:
        """Gives free slots to those who wait: by priority, then by arrival."""
        self._waiting.sort(key=lambda waiting: (-waiting.priority, waiting.arrival))
        while self._waiting and not self._broken:
            place = self._slots.acquire(self._waiting[0].ids)
            if place is None:
                return
            sequence = self._waiting.pop(0)
            sequence.admit(place.slot, place.start, self._next_ordinal(), self._clock())
            self._holders[place.slot] = sequence
            self._log.reused_tokens += place.start

    def _begin_commands(self) -> None:
        """Starts the next command of every sequence that has none running."""
        for slot, sequence in tuple(self._holders.items()):
            self._answer_inspects(sequence)
            position = sequence.next_position()
            if position is not None:
                # Below the ring's reach the KV is made again, from the ids that the sequence keeps.
                start = position if self._slots.can_start(slot, position) else 0
                sequence.begin(start, self._next_ordinal())
            self._forget_if_ended(sequence)

    def _answer_inspects(self, sequence: Sequence) -> None:
        """Answers each `inspect` whose turn has come."""
        while sequence.pop_inspect():
            self._publish_full_rows(sequence)

    def _forget(self, sequence: Sequence) -> None:
        del self._sequences[sequence.key]
        if sequence.slot is None:
            self._waiting.remove(sequence)
            return
        held = self._clock() - sequence.admitted_at
        self._hold_seconds += (held - self._hold_seconds) * NEWEST_WEIGHT
        del self._holders[sequence.slot]
        self._model.release(sequence.slot)
        self._slots.release(sequence.slot)
        self._admit()

    def _forget_if_ended(self, sequence: Sequence) -> None:
        """Its client sends no more and has all its answers."""
        if sequence.key.stream in self._ending and sequence.is_idle:
            self._forget(sequence)
            self._end_if_empty(sequence.key.stream)

    def _lose(self, sequence: Sequence, error: CommandError) -> None:
        """The sequence is gone through no wish of its client; its slot holds nothing of use."""
        if sequence.slot is not None:
            self._slots.discard(sequence.slot)
        self._forget(sequence)
        self._log.failed(sequence.key, error, True)
        self._end_if_empty(sequence.key.stream)

    # --- steps ------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Runs one step of the model, if there is work. Returns whether there was."""
        requests = [request for held in self._holders.values() if (request := held.request())]
        shares = self._scheduler.plan(requests)
        if not shares:
            self._model.settle()  # under the eyes of whoever watches steps
            return False
        spans = [self._span(share) for share in shares]
        started_at = self._clock()
        for span in spans:
            work = self._holders[span.slot].work
            assert work is not None
            if work.started_at is None:
                work.started_at = started_at
                self._log.queue_seconds.append(started_at - work.arrived_at)
        try:
            readouts = self._model.step(StepBatch(tuple(spans)))
        except Exception as error:
            log.exception("a step of %d sequences failed", len(spans))
            self._fail_step(spans, self._clock() - started_at, error)
        else:
            self._finish_step(spans, readouts, self._clock() - started_at)
        self._begin_commands()
        return True

    def _span(self, share: Share) -> Span:
        sequence = self._holders[share.slot]
        work = sequence.work
        assert work is not None
        end = work.next + share.num_rows
        return Span(
            share.slot,
            work.next,
            tuple(sequence.ids[work.next : end]),
            work.end - work.first_readout if end == work.end else 0,
            sequence.options,
        )

    def _finish_step(self, spans: list[Span], readouts: StepReadouts, seconds: float) -> None:
        self._note_step(spans, seconds, succeeded=True)
        self._step_seconds += (seconds - self._step_seconds) * (
            NEWEST_WEIGHT if self._step_seconds else 1
        )
        finite = np.isfinite(readouts.logsumexps)
        self._publish_readouts(
            [span for span in spans if span.num_readouts], readouts, finite, seconds
        )
        unusable = set(readouts.slots[~finite].tolist())
        for span in spans:
            sequence = self._holders[span.slot]
            if span.slot in unusable:
                self._lose(
                    sequence,
                    CommandError(Code.INTERNAL, "", "the model's logits are not finite numbers"),
                )
                continue
            self._slots.record(span.slot, span.start, span.token_ids)
            answered = sequence.advance_work(len(span.token_ids), seconds)
            if answered and sequence.full:
                self._publish_full_rows(sequence)
            self._forget_if_ended(sequence)
        if finite.any():
            self._failed_steps = 0
        elif finite.size:  # not a sequence's fault, when it goes on
            self._count_failure("logits that are not finite numbers")

    def _note_step(self, spans: list[Span], seconds: float, *, succeeded: bool) -> None:
        prompt_rows = sum(len(x.token_ids) for x in spans if self._runs_prompt(x))
        num_rows = sum(len(x.token_ids) for x in spans)
        self._log.step = StepStats(num_rows - prompt_rows, prompt_rows, seconds, succeeded)

    def _runs_prompt(self, span: Span) -> bool:
        work = self._holders[span.slot].work
        return work is not None and work.is_prompt

    def _publish_readouts(
        self,
        spans: list[Span],
        readouts: StepReadouts,
        finite: npt.NDArray[np.bool_],
        seconds: float,
    ) -> None:
        """Sorts the step's readouts by stream, but for those of sequences that are not all finite.

        `spans` are those that asked for readouts.
        """
        if not spans:
            return
        sequences = [self._holders[span.slot] for span in spans]
        counts = [span.num_readouts for span in spans]
        queued, prefill = zip(*map(_waits_us, sequences), strict=True)
        columns = ReadoutColumns(
            np.repeat([x.key.number for x in sequences], counts).astype(np.uint32),
            readouts.positions,
            readouts.candidate_counts,
            readouts.candidate_ids,
            readouts.candidate_logits,
            readouts.logsumexps,
            readouts.scaled_logsumexps,
            np.repeat(queued, counts).astype(np.uint32),
            np.repeat(prefill, counts).astype(np.uint32),
            np.full(sum(counts), round(seconds * 1e6), np.uint32),
        )
        streams = np.repeat([x.key.stream for x in sequences], counts).astype(np.uint32)
        usable = ~np.isin(readouts.slots, readouts.slots[~finite])
        self._log.readouts(streams[usable], columns.select(usable))

    def _publish_full_rows(self, sequence: Sequence) -> None:
        assert sequence.slot is not None
        rows = self._model.full_rows(sequence.slot)
        for position, row in zip(sequence.answered, rows, strict=True):
            self._log.full_row(sequence.key, position, row.astype("<f4").tobytes())

    def _fail_step(self, spans: list[Span], seconds: float, error: Exception) -> None:
        reason = f"{type(error).__name__}: {one_line(error)}"
        self._note_step(spans, seconds, succeeded=False)
        for span in spans:
            self._lose(
                self._holders[span.slot],
                CommandError(Code.INTERNAL, "", f"a step of the model failed: {reason}"),
            )
        self._count_failure(reason)

    def _count_failure(self, reason: str) -> None:
        self._failed_steps += 1
        if self._failed_steps >= MAX_FAILED_STEPS:
            self._broken = f"{self._failed_steps} steps in a row failed, the last with {reason}"
            self.fail_all(Code.UNAVAILABLE, f"the device has failed: {self._broken}")

    # --- what is told -----------------------------------------------------------------------------

    def take_events(self) -> tuple[dict[int, StreamEvents], Report]:
        """What happened since the last call, by stream; and the state of the engine."""
        log, self._log = self._log, EventLog()
        return log.streams, log.report(self._load(), self._broken)

    def _load(self) -> Load:
        return Load(
            num_slots=self._model.info.num_slots,
            free_slots=self._slots.num_free,
            open_sequences=len(self._sequences),
            waiting_sequences=len(self._waiting),
            queued_rows=sum(x.queued_rows for x in self._sequences.values()),
            kv_tokens=sum(self._slots.length(slot) for slot in self._holders),
            step_time_us=round(self._step_seconds * 1e6),
            accepting=not (self._draining or self._broken),
        )

    def _end_if_empty(self, stream: int) -> None:
        """Ends a stream that was to end once its last sequence is gone."""
        if not (self._draining or stream in self._ending) or self._of_stream(stream):
            return
        stopping = StreamEnd(Code.UNAVAILABLE, "the device service is stopping")
        self._log.end(stream, StreamEnd(Code.OK) if stream in self._ending else stopping)

    def _of_stream(self, stream: int) -> list[Sequence]:
        return [x for x in self._sequences.values() if x.key.stream == stream]

    def _next_ordinal(self) -> int:
        self._ordinal += 1
        return self._ordinal

    def _retry_after_ms(self) -> int:
        """When a slot may be free: the usual time that one is held, spread over all of them."""
        milliseconds = 1000 * self._hold_seconds / self._model.info.num_slots
        return min(max(round(milliseconds), MIN_RETRY_MS), MAX_RETRY_MS)


def _waits_us(sequence: Sequence) -> tuple[int, int]:
    """How long the running command queued and prefilled, microseconds."""
    work = sequence.work
    assert work is not None
    assert work.started_at is not None
    return round((work.started_at - work.arrived_at) * 1e6), round(work.prefill_seconds * 1e6)
