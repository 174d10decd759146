"""Lets an answer run ahead of its reader: deltas that pile up leave as one.

Knows events and asyncio; knows nothing of gRPC or of how an answer comes about.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from gateway.events import Delta, Event

MAX_UNREAD_TOKENS = 1024
"""An answer waits for its reader while this many of its tokens are unread."""


async def coalesce(events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
    """Yields the events; deltas that came while the consumer was busy are one.

    `events` runs in a task of its own, so that a slow write to a client does not keep the device
    waiting. Closing this generator closes `events`.
    """
    unread = _Unread()

    async def produce() -> None:
        try:
            async with aclosing(events):
                async for event in events:
                    await unread.put(event)
        finally:
            unread.end()

    producer = asyncio.create_task(produce())
    try:
        while (event := await unread.take()) is not None:
            yield event
        await producer  # raises what `events` raised
    finally:
        producer.cancel()
        await asyncio.wait((producer,))
        if not producer.cancelled():
            producer.exception()  # whoever closes early does not want to know


class _Unread:
    """The events that nobody has taken yet, between one producer and one consumer."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._num_tokens = 0
        self._ended = False
        self._can_take = asyncio.Event()
        self._can_put = asyncio.Event()

    async def put(self, event: Event) -> None:
        """Adds an event; returns when there is room for another."""
        self._events.append(event)
        self._can_take.set()
        if isinstance(event, Delta):
            self._num_tokens += len(event.token_ids)
            if self._num_tokens >= MAX_UNREAD_TOKENS:
                self._can_put.clear()
                await self._can_put.wait()

    def end(self) -> None:
        """No more events will come."""
        self._ended = True
        self._can_take.set()

    async def take(self) -> Event | None:
        """The next event, or all deltas that are next as one; None at the end."""
        while not self._events:
            if self._ended:
                return None
            self._can_take.clear()
            await self._can_take.wait()
        if not isinstance(self._events[0], Delta):
            return self._events.pop(0)
        deltas: list[Delta] = []
        for event in self._events:
            if not isinstance(event, Delta):
                break
            deltas.append(event)
        del self._events[: len(deltas)]
        self._num_tokens = 0
        self._can_put.set()
        return Delta.joined(deltas)
