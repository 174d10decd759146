"""One sequence's life: its ids, the commands it has yet to answer, the rows that run now.

Pure state over plain integers. It waits for a slot, runs commands one after the other, and is idle
in between; when it may run and where, the core decides.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from device_service.errors import Code, CommandError, invalid
from device_service.messages import AdvanceCommand, InspectCommand, OpenCommand, SequenceKey
from device_service.scheduler import RowRequest

MAX_UNANSWERED = 16
"""Commands that a sequence may have accepted and not answered."""


@dataclass(slots=True)
class Work:
    """The rows of the command that a sequence runs now."""

    next: int
    """Position of the next row."""
    end: int
    first_readout: int
    """Rows from here to `end` want readouts and run in one step."""
    of_open: bool
    ready: int
    """Ordinal of the moment when it could first run."""
    arrived_at: float
    started_at: float | None = None
    """When its first step began; seconds of the engine's clock, as `arrived_at`."""
    prefill_seconds: float = 0.0

    @property
    def num_rows(self) -> int:
        """Rows left."""
        return self.end - self.next

    @property
    def is_prompt(self) -> bool:
        """Whether it may be cut into chunks: a prompt, or ids that must run again first."""
        return self.of_open or self.next < self.first_readout


@dataclass(frozen=True, slots=True)
class _Unanswered:
    command: AdvanceCommand | InspectCommand
    arrived_at: float


class Sequence:
    """A sequence from `open` to `close`.

    Attributes:
        key: the stream and the client's number.
        ids: every id, those of the running command included.
        slot: the KV slot held; None while it waits for one.
        work: the running command; None while idle or waiting.
        answered: positions of the last answer.
    """

    __slots__ = (
        "_projected_length",
        "_unanswered",
        "admitted_at",
        "answered",
        "arrival",
        "arrived_at",
        "full",
        "ids",
        "key",
        "options",
        "priority",
        "slot",
        "work",
    )

    def __init__(
        self, key: SequenceKey, command: OpenCommand, arrival: int, arrived_at: float
    ) -> None:
        self.key = key
        self.ids = list(command.token_ids)
        self.options = command.options
        self.full = command.full
        self.priority = command.priority
        self.arrival = arrival
        self.arrived_at = arrived_at
        self.admitted_at = 0.0
        self.slot: int | None = None
        self.work: Work | None = None
        self.answered = range(0)
        self._unanswered: deque[_Unanswered] = deque()
        self._projected_length = len(self.ids)

    @property
    def is_idle(self) -> bool:
        """Whether every command is answered."""
        return self.slot is not None and self.work is None and not self._unanswered

    @property
    def queued_rows(self) -> int:
        """Rows of accepted commands that have not run."""
        queued = sum(
            len(entry.command.token_ids)
            for entry in self._unanswered
            if isinstance(entry.command, AdvanceCommand)
        )
        if self.slot is None:
            return queued + len(self.ids)
        return queued + (self.work.num_rows if self.work else 0)

    def accept(self, command: AdvanceCommand | InspectCommand, arrived_at: float) -> None:
        """Queues a command behind the earlier ones.

        Raises:
            CommandError: its position is beyond what the earlier commands will have run, or too
                many wait already.
        """
        number = self.key.number
        if len(self._unanswered) >= MAX_UNANSWERED:
            raise CommandError(
                Code.RESOURCE_EXHAUSTED,
                "sequence",
                f"sequence {number} has {MAX_UNANSWERED} commands unanswered, which is the limit",
            )
        if isinstance(command, AdvanceCommand):
            if not 1 <= command.position <= self._projected_length:
                raise invalid(
                    "advance.position",
                    f"advance.position is {command.position:,}: sequence {number} has run "
                    f"{self._projected_length:,} positions, so it must be 1 to "
                    f"{self._projected_length:,}",
                )
            self._projected_length = command.position + len(command.token_ids)
        self._unanswered.append(_Unanswered(command, arrived_at))

    def admit(self, slot: int, start: int, ready: int, now: float) -> None:
        """Takes its slot; the prompt runs from `start` on."""
        assert self.slot is None
        self.slot = slot
        self.admitted_at = now
        end = len(self.ids)
        self.work = Work(start, end, end - 1, True, ready, self.arrived_at)

    def pop_inspect(self) -> bool:
        """Takes the next command if it is an `inspect` whose turn has come."""
        if self.slot is None or self.work is not None or not self._unanswered:
            return False
        if not isinstance(self._unanswered[0].command, InspectCommand):
            return False
        self._unanswered.popleft()
        return True

    def next_position(self) -> int | None:
        """Where the next command, an `advance`, wants to start; None: nothing can begin now."""
        if self.work is not None or not self._unanswered:
            return None
        command = self._unanswered[0].command
        assert isinstance(command, AdvanceCommand), "inspects are taken first"
        return command.position

    def begin(self, start: int, ready: int) -> None:
        """Makes the next command the running one.

        Args:
            start: where it starts: its position, or 0 when the KV below must be made again.
            ready: ordinal of this moment.
        """
        entry = self._unanswered.popleft()
        command = entry.command
        assert isinstance(command, AdvanceCommand), "inspects are taken first"
        self.ids[command.position :] = command.token_ids
        self.work = Work(start, len(self.ids), command.position, False, ready, entry.arrived_at)

    def request(self) -> RowRequest | None:
        """What it asks of the next step."""
        if self.work is None or self.slot is None:
            return None
        work = self.work
        return RowRequest(
            self.slot,
            work.num_rows,
            work.end - work.first_readout,
            work.is_prompt,
            self.priority,
            work.ready,
        )

    def advance_work(self, num_rows: int, seconds: float) -> bool:
        """`num_rows` rows have run in a step of `seconds`. Returns whether it was the last."""
        work = self.work
        assert work is not None
        work.next += num_rows
        assert work.next <= work.end
        if work.next < work.end:
            work.prefill_seconds += seconds
            return False
        self.answered = range(work.first_readout, work.end)
        self.work = None
        return True
