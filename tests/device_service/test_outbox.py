from __future__ import annotations

import asyncio

from device_service.errors import Code
from device_service.messages import FullRowEvent, StreamEnd, StreamEvents
from device_service.outbox import PAUSE_INBOX_WEIGHT, PAUSE_UNSENT_BYTES, Outbox


def rows(num_bytes: int) -> StreamEvents:
    return StreamEvents(full_rows=[FullRowEvent(1, 0, bytes(num_bytes))])


def is_open(outbox: Outbox) -> bool:
    """Whether further commands may be read at once."""
    waiting = outbox.room()
    try:
        waiting.send(None)
    except StopIteration:
        return True
    waiting.close()
    return False


async def test_events_leave_in_the_order_in_which_they_came() -> None:
    outbox = Outbox()
    first, second = rows(1), rows(2)
    outbox.put(first)
    outbox.put(second)
    assert [await outbox.take(), await outbox.take()] == [first, second]


async def test_commands_are_not_read_while_the_client_does_not_read() -> None:
    outbox = Outbox()
    outbox.put(large := rows(PAUSE_UNSENT_BYTES))
    assert not is_open(outbox)
    await outbox.take()
    assert not is_open(outbox)
    outbox.sent(large)
    assert is_open(outbox)


async def test_commands_are_not_read_faster_than_the_engine_takes_them() -> None:
    outbox = Outbox()
    outbox.submitted(PAUSE_INBOX_WEIGHT + 1)
    assert not is_open(outbox)
    outbox.taken(PAUSE_INBOX_WEIGHT + 1)
    assert is_open(outbox)


async def test_a_client_that_leaves_too_much_unread_loses_its_stream() -> None:
    outbox = Outbox(max_unsent_bytes=2**20)
    for _ in range(5):
        outbox.put(rows(300_000))
    end = (await outbox.take()).end
    assert end is not None
    assert end.code == Code.RESOURCE_EXHAUSTED
    assert "1 MiB" in end.message


async def test_nothing_follows_the_end() -> None:
    outbox = Outbox()
    outbox.put(StreamEvents(end=StreamEnd(Code.OK)))
    outbox.put(rows(1))
    assert (await outbox.take()).end == StreamEnd(Code.OK)
    waiting = asyncio.ensure_future(outbox.take())
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()
