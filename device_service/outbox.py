"""What waits to be sent on one stream, bounded.

Knows events and asyncio; no gRPC. A client that does not read is first no longer read from; should
what it asked for before still grow beyond the limit, its stream ends, and no other is harmed.
"""

from __future__ import annotations

import asyncio
from collections import deque

from device_service.errors import Code
from device_service.messages import (
    AdvanceCommand,
    Command,
    OpenCommand,
    StreamEnd,
    StreamEvents,
)

MAX_UNSENT_BYTES = 256 * 2**20
"""The stream ends beyond this: as much as 256 full rows of Gemma's vocabulary."""

PAUSE_UNSENT_BYTES = 8 * 2**20
"""Commands are not read while more than this waits to be sent."""

PAUSE_INBOX_WEIGHT = 2**20
"""Commands are not read while the engine has so many ids and commands of the stream to take."""

EVENT_BYTES = 256
"""What a small event is taken to need."""


class Outbox:
    """The events of a stream between the engine and the writer; belongs to the event loop."""

    def __init__(self, max_unsent_bytes: int = MAX_UNSENT_BYTES) -> None:
        self._max_unsent_bytes = max_unsent_bytes
        self._events: deque[StreamEvents] = deque()
        self._unsent_bytes = 0
        self._inbox_weight = 0
        self._has_ended = False
        self._overflow: asyncio.Future[StreamEnd] = asyncio.get_running_loop().create_future()
        self._filled = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()

    def put(self, events: StreamEvents) -> None:
        """Takes events from the engine; after an end, or once too many wait, it takes no more."""
        if self._has_ended:
            return
        # Judged is what was left unread, not the new answer, however large it is.
        is_too_late = self._unsent_bytes > self._max_unsent_bytes
        self._unsent_bytes += _size(events)
        if is_too_late:
            self._events.clear()
            message = (
                f"the client has left more than {self._max_unsent_bytes // 2**20:,} MiB of answers "
                "unread, which is the limit"
            )
            end = StreamEnd(Code.RESOURCE_EXHAUSTED, message)
            self._overflow.set_result(end)
            events = StreamEvents(end=end)
        self._has_ended = events.end is not None
        self._events.append(events)
        self._filled.set()
        self._pause_or_go_on()

    def submitted(self, weight: int) -> None:
        """Commands of this weight are on their way into the engine."""
        self._inbox_weight += weight
        self._pause_or_go_on()

    def taken(self, weight: int) -> None:
        """The engine has them."""
        self._inbox_weight -= weight
        self._pause_or_go_on()

    async def room(self) -> None:
        """Waits until further commands may be read."""
        await self._has_room.wait()

    async def overflow(self) -> StreamEnd:
        """Returns the stream's end once too much was left unread: the writer may be stuck then."""
        return await self._overflow

    async def take(self) -> StreamEvents:
        """The next events to be sent; waits for them. One reader only."""
        while not self._events:
            self._filled.clear()
            await self._filled.wait()
        return self._events.popleft()

    def sent(self, events: StreamEvents) -> None:
        """The client's transport has taken them."""
        self._unsent_bytes -= _size(events)
        self._pause_or_go_on()

    def _pause_or_go_on(self) -> None:
        if (
            self._unsent_bytes > PAUSE_UNSENT_BYTES or self._inbox_weight > PAUSE_INBOX_WEIGHT
        ) and not self._has_ended:
            self._has_room.clear()
        else:
            self._has_room.set()


def weight_of(command: Command) -> int:
    """What a command costs to keep: its ids, and as much as a few of them."""
    return 8 + (len(command.token_ids) if isinstance(command, OpenCommand | AdvanceCommand) else 0)


def _size(events: StreamEvents) -> int:
    size = EVENT_BYTES * (1 + len(events.closed) + len(events.failed))
    size += sum(EVENT_BYTES + len(row.logits) for row in events.full_rows)
    if events.readouts is not None:
        size += EVENT_BYTES * len(events.readouts.sequences)
        size += events.readouts.candidate_ids.nbytes + events.readouts.candidate_logits.nbytes
    return size
