"""What `SlotTable` promises to be held really is, by a model that keeps every ring's cells."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from device_service.slots import Placement, SlotTable

Ids = tuple[int, ...]
SLOW_MACHINE = [HealthCheck.too_slow]


@dataclass
class BruteSlot:
    """One slot's memory: a cell holds the ids up to and including its position."""

    full: dict[int, Ids] = field(default_factory=dict[int, Ids])
    ring: dict[int, Ids] = field(default_factory=dict[int, Ids])

    def write(self, prefix: Ids, token_ids: Ids, ring_size: int) -> None:
        for end in range(len(prefix) + 1, len(prefix) + len(token_ids) + 1):
            history = (prefix + token_ids)[:end]
            self.full[end - 1] = history
            self.ring[(end - 1) % ring_size] = history

    def holds(self, prefix: Ids, window: int, ring_size: int) -> bool:
        """Whether rows right after the prefix find all that they attend to."""
        start = len(prefix)
        return all(self.full.get(p) == prefix[: p + 1] for p in range(start)) and all(
            self.ring.get(p % ring_size) == prefix[: p + 1]
            for p in range(max(0, start - window + 1), start)
        )


class SlotMachine(RuleBasedStateMachine):
    """Sequences come, run in chunks, rewind, go and fail; few ids, so prefixes are often equal."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, Ids] = {}
        """Ids by slot taken: those whose KV the slot's holder counts on."""
        self.kept: dict[int, Ids] = {}
        """Ids by slot that was given back or never used."""

    @initialize(
        num_slots=st.integers(1, 4),
        window=st.integers(1, 6),
        max_rows=st.integers(1, 4),
        min_reused=st.integers(1, 4),
    )
    def begin(self, num_slots: int, window: int, max_rows: int, min_reused: int) -> None:
        self.window, self.max_rows, self.min_reused = window, max_rows, min_reused
        self.ring_size = window - 1 + max_rows
        self.table = SlotTable(num_slots, self.ring_size, max_rows, min_reused)
        self.brute = [BruteSlot() for _ in range(num_slots)]
        self.kept = dict.fromkeys(range(num_slots), ())

    def is_held(self, slot: int, prefix: Ids) -> bool:
        return self.brute[slot].holds(prefix, self.window, self.ring_size)

    def run(self, slot: int, start: int, token_ids: Ids) -> None:
        """In chunks, as the scheduler would."""
        for first in range(0, len(token_ids), self.max_rows):
            chunk = token_ids[first : first + self.max_rows]
            prefix = self.held[slot][: start + first]
            assert self.table.can_start(slot, len(prefix)), "rows may go on where they stopped"
            assert self.is_held(slot, prefix)
            self.brute[slot].write(prefix, chunk, self.ring_size)
            self.table.record(slot, len(prefix), chunk)
            self.held[slot] = prefix + chunk

    @rule(data=st.data(), tail=st.lists(st.integers(0, 1), min_size=1, max_size=8))
    def acquire(self, data: st.DataObject, tail: list[int]) -> None:
        known = data.draw(st.sampled_from([(), *self.kept.values()]))
        prompt = known[: data.draw(st.integers(0, len(known)))] + tuple(tail)
        before = dict(self.kept)
        usable = {
            slot: common
            for slot, ids in before.items()
            if (common := min(common_prefix(ids, prompt), len(prompt) - 1)) >= self.min_reused
            and self.table.can_start(slot, common)
        }
        place = self.table.acquire(prompt)
        if not before:
            assert place is None
            return
        assert place is not None
        assert place.slot in before, "only a free slot is given away"
        assert 0 <= place.start < len(prompt), "at least the last id is left to run"
        assert self.is_held(place.slot, prompt[: place.start])
        if usable:
            assert place.start == max(usable.values()), "the slot that saves most"
        else:
            assert place.slot == next(iter(before)), "the least recently used slot"
        del self.kept[place.slot]
        self.held[place.slot] = prompt[: place.start]
        self.run(place.slot, place.start, prompt[place.start :])

    @precondition(lambda self: self.held)
    @rule(data=st.data(), token_ids=st.lists(st.integers(0, 1), min_size=1, max_size=4))
    def advance(self, data: st.DataObject, token_ids: list[int]) -> None:
        """At any position; where the rings forbid it, the ids before it run again."""
        slot = data.draw(st.sampled_from(sorted(self.held)))
        ids = self.held[slot]
        position = data.draw(st.integers(min(1, len(ids)), len(ids)))
        if self.table.can_start(slot, position):
            assert self.is_held(slot, ids[:position])
            self.run(slot, position, tuple(token_ids))
        else:
            self.run(slot, 0, ids[:position] + tuple(token_ids))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.held)))
        self.table.release(slot)
        self.kept[slot] = self.held.pop(slot)  # dicts keep the order: the oldest first

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        """A step failed: anything may be in the slot's memory."""
        slot = data.draw(st.sampled_from(sorted(self.held)))
        self.brute[slot] = BruteSlot()
        self.table.discard(slot)
        self.held[slot] = ()

    @invariant()
    def whatever_may_start_is_held(self) -> None:
        for slot, ids in (self.held | self.kept).items():
            assert self.table.length(slot) == len(ids)
            assert self.table.can_start(slot, 0)
            assert not self.table.can_start(slot, len(ids) + 1)
            for start in range(len(ids) + 1):
                if self.table.can_start(slot, start):
                    assert self.is_held(slot, ids[:start])

    @invariant()
    def a_slot_may_always_go_on_at_its_end(self) -> None:
        for slot, ids in (self.held | self.kept).items():
            assert self.table.can_start(slot, len(ids))

    @invariant()
    def the_free_slots_are_counted(self) -> None:
        assert self.table.num_free == len(self.kept)


def common_prefix(left: Ids, right: Ids) -> int:
    """Id by id."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(left), len(right)))


def test_whatever_may_start_is_held_in_any_history_of_a_table():
    run_state_machine_as_test(
        SlotMachine,
        settings=settings(
            max_examples=100,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=SLOW_MACHINE,
        ),
    )


def filled(table: SlotTable, ids: Ids) -> int:
    """A slot that ran the ids and was given back."""
    place = table.acquire(ids)
    assert place is not None
    table.record(place.slot, place.start, ids[place.start :])
    table.release(place.slot)
    return place.slot


def test_slots_are_given_in_the_order_in_which_they_were_given_back():
    table = SlotTable(3, ring_size=100, max_rewind=8)
    places = [table.acquire((i,)) for i in range(3)]
    assert [place.slot for place in places if place] == [0, 1, 2]
    assert table.acquire((9,)) is None
    for slot in (1, 2, 0):
        table.release(slot)
    again = [table.acquire((9,)) for _ in range(3)]
    assert [place.slot for place in again if place] == [1, 2, 0]


def test_a_long_common_prefix_brings_a_conversation_back_to_its_slot():
    table = SlotTable(3, ring_size=100, max_rewind=8, min_reused_tokens=4)
    filled(table, (1, 1, 1, 1, 1, 1))
    filled(table, (2, 2, 2, 2, 2, 2))
    filled(table, (3, 3, 3, 3, 3, 3))
    assert table.acquire((2, 2, 2, 2, 2, 9, 9)) == Placement(1, 5)


def test_a_short_common_prefix_takes_no_conversation_its_slot():
    table = SlotTable(2, ring_size=100, max_rewind=8, min_reused_tokens=4)
    filled(table, (1,) * 6)
    filled(table, (2,) * 6)
    assert table.acquire((2, 2, 2, 9)) == Placement(0, 0)


def test_the_oldest_slot_still_saves_what_it_happens_to_hold():
    table = SlotTable(2, ring_size=100, max_rewind=8, min_reused_tokens=4)
    filled(table, (1,) * 6)
    filled(table, (2,) * 6)
    assert table.acquire((1, 1, 9)) == Placement(0, 2)


def test_a_repeated_prompt_runs_its_last_id_again():
    table = SlotTable(1, ring_size=100, max_rewind=8, min_reused_tokens=1)
    filled(table, (1, 2, 3))
    assert table.acquire((1, 2, 3)) == Placement(0, 2)


def test_a_ring_allows_its_rewind_and_not_one_position_more():
    table = SlotTable(1, ring_size=10, max_rewind=4)
    assert table.acquire((0,))
    table.record(0, 0, tuple(range(20)))
    assert [start for start in range(22) if table.can_start(0, start)] == [0, *range(16, 21)]
    table.record(0, 16, (7,))
    assert [start for start in range(22) if table.can_start(0, start)] == [0, 16, 17], (
        "a rewind does not move the mark"
    )
    table.record(0, 0, (1, 2, 3))
    assert [start for start in range(22) if table.can_start(0, start)] == [0, 1, 2, 3]


def test_a_ring_that_never_overflowed_allows_any_rewind():
    table = SlotTable(1, ring_size=10, max_rewind=4)
    assert table.acquire((0,))
    table.record(0, 0, tuple(range(10)))
    assert all(table.can_start(0, start) for start in range(11))
    table.record(0, 10, (1,))
    assert [start for start in range(12) if table.can_start(0, start)] == [0, *range(7, 12)]


def test_what_a_failed_step_left_is_never_reused():
    table = SlotTable(1, ring_size=100, max_rewind=8, min_reused_tokens=1)
    ids = (1, 2, 3, 4)
    slot = filled(table, ids)
    assert table.acquire(ids) == Placement(slot, 3)
    table.discard(slot)
    table.release(slot)
    assert table.length(slot) == 0
    assert table.acquire(ids) == Placement(slot, 0)


def test_a_slot_is_not_given_back_twice():
    table = SlotTable(2, ring_size=100, max_rewind=8)
    with pytest.raises(AssertionError, match="slot 1 is free already"):
        table.release(1)


def test_rows_never_run_where_a_slot_cannot_start():
    table = SlotTable(1, ring_size=100, max_rewind=8)
    with pytest.raises(AssertionError, match="slot 0 cannot start at 3"):
        table.record(0, 3, (1,))
