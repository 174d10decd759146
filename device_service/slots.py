"""KV slots: who holds which, what each still holds, and where a span may start in it.

Pure bookkeeping over ids and positions; no tensors. The rule of `model/interface.py` is kept here:
sliding layers hold only a ring of positions, so a slot that once was longer than its ring may start
a span at most `max_rewind` below the most positions it has held (its mark), or at 0.

A freed slot keeps its ids: a prompt that begins with the same ids runs only the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

MIN_REUSED_TOKENS = 32
"""A shorter common prefix saves nothing (32 rows cost a tile machine what 1 row costs), and taking
its slot would cost another conversation its cache."""


@dataclass(frozen=True, slots=True)
class Placement:
    """A slot for a new sequence; the first `start` ids of its prompt need not run."""

    slot: int
    start: int


@dataclass(slots=True)
class _Slot:
    ids: list[int] = field(default_factory=list[int])
    mark: int = 0


class SlotTable:
    """The slots of one model.

    Args:
        num_slots: how many there are.
        ring_size: positions that the sliding rings hold.
        max_rewind: how far below its mark a slot may start, once it was longer than `ring_size`.
        min_reused_tokens: the shortest common prefix for which a slot is chosen.
    """

    def __init__(
        self,
        num_slots: int,
        ring_size: int,
        max_rewind: int,
        min_reused_tokens: int = MIN_REUSED_TOKENS,
    ) -> None:
        self._slots = [_Slot() for _ in range(num_slots)]
        self._free = list(range(num_slots))  # the least recently used first
        self._ring_size = ring_size
        self._max_rewind = max_rewind
        self._min_reused_tokens = min_reused_tokens

    @property
    def num_free(self) -> int:
        """Slots that nobody holds."""
        return len(self._free)

    def length(self, slot: int) -> int:
        """Positions for which the slot's KV is valid."""
        return len(self._slots[slot].ids)

    def acquire(self, prompt: Sequence[int]) -> Placement | None:
        """Takes the free slot that saves most of the prompt, else the least recently used one.

        At least the last id of the prompt is left to run. None: no slot is free.
        """
        if not self._free:
            return None
        ids = list(prompt)
        best = Placement(self._free[0], 0)
        for slot in self._free:
            start = min(_common_prefix(self._slots[slot].ids, ids), len(ids) - 1)
            enough = start >= max(self._min_reused_tokens, best.start + 1)
            if enough and self.can_start(slot, start):
                best = Placement(slot, start)
        if best.start == 0:
            best = Placement(best.slot, self._unsought_start(best.slot, ids))
        self._free.remove(best.slot)
        return best

    def can_start(self, slot: int, start: int) -> bool:
        """Whether a span may start at `start`: the KV below it is valid, in the rings too."""
        held = self._slots[slot]
        if start > len(held.ids):
            return False
        return start == 0 or held.mark <= self._ring_size or start >= held.mark - self._max_rewind

    def record(self, slot: int, start: int, token_ids: Sequence[int]) -> None:
        """The ids have run at `start`, `start + 1`, …; what was held from there on is gone."""
        assert self.can_start(slot, start), f"slot {slot} cannot start at {start}"
        held = self._slots[slot]
        held.ids[start:] = token_ids
        held.mark = max(held.mark if start else 0, len(held.ids))

    def release(self, slot: int) -> None:
        """Gives the slot back; it keeps its ids for prompts that begin with them."""
        assert slot not in self._free, f"slot {slot} is free already"
        self._free.append(slot)

    def discard(self, slot: int) -> None:
        """Forgets what the slot holds: a step that failed may have left anything in it."""
        self._slots[slot].ids.clear()

    def _unsought_start(self, slot: int, ids: list[int]) -> int:
        """What a slot chosen for its age happens to save."""
        start = min(_common_prefix(self._slots[slot].ids, ids), len(ids) - 1)
        return start if self.can_start(slot, start) else 0


def _common_prefix(left: list[int], right: list[int]) -> int:
    """How many ids are equal from the beginning; halving, as slices compare at C speed."""
    low, high = 0, min(len(left), len(right))
    if left[:high] == right[:high]:
        return high
    while high - low > 1:  # equal below low, not equal below high
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low
