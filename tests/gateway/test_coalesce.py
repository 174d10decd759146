from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from gateway.coalesce import MAX_UNREAD_TOKENS, coalesce
from gateway.events import Delta, Event, Started

STARTED = Started("id", "model", 1, 0)


def delta(number: int) -> Delta:
    return Delta(str(number), (number,))


async def test_what_piles_up_leaves_as_one_delta() -> None:
    async def events() -> AsyncGenerator[Event]:
        yield STARTED
        for number in range(5):
            yield delta(number)

    unread = coalesce(events())
    assert await anext(unread) == STARTED
    await asyncio.sleep(0)
    assert await anext(unread) == Delta("01234", (0, 1, 2, 3, 4))
    with pytest.raises(StopAsyncIteration):
        await anext(unread)


async def test_what_is_read_at_once_stays_apart() -> None:
    gate = asyncio.Event()

    async def events() -> AsyncGenerator[Event]:
        yield delta(1)
        await gate.wait()
        yield delta(2)

    unread = coalesce(events())
    assert await anext(unread) == delta(1)
    gate.set()
    assert await anext(unread) == delta(2)


async def test_an_error_comes_after_what_was_made_before_it() -> None:
    async def events() -> AsyncGenerator[Event]:
        yield delta(1)
        raise ValueError("broken")

    unread = coalesce(events())
    assert await anext(unread) == delta(1)
    with pytest.raises(ValueError, match="broken"):
        await anext(unread)


async def test_closing_closes_the_answer_and_leaves_no_task() -> None:
    closed = False

    async def events() -> AsyncGenerator[Event]:
        nonlocal closed
        try:
            while True:
                yield delta(1)
                await asyncio.sleep(0)
        finally:
            closed = True

    tasks_before = asyncio.all_tasks()
    unread = coalesce(events())
    await anext(unread)
    await unread.aclose()
    assert closed
    assert asyncio.all_tasks() == tasks_before


async def test_an_answer_waits_for_a_reader_that_is_far_behind() -> None:
    num_made = 0

    async def events() -> AsyncGenerator[Event]:
        nonlocal num_made
        while num_made < 3 * MAX_UNREAD_TOKENS:
            num_made += 1
            yield delta(num_made)

    unread = coalesce(events())
    assert await anext(unread)
    for _ in range(10):
        await asyncio.sleep(0)
    assert num_made <= 2 * MAX_UNREAD_TOKENS
    total = [event async for event in unread]
    assert num_made == 3 * MAX_UNREAD_TOKENS
    assert sum(len(event.token_ids) for event in total if isinstance(event, Delta)) > 0
