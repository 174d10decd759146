"""Staging and caches as plain dictionaries: whatever the steps, a row finds all it must see."""

from __future__ import annotations

import random

import pytest

from device_service.model.tt_staging import STAGED, Staging, cached, length_read
from kernels.runtime import TILE


class Places:
    """One slot's cache and staging: which (sequence, position) lies at each place."""

    def __init__(self, stride: int) -> None:
        self._stride = stride
        self._staging = Staging(1)
        self._cached: dict[int, tuple[int, int]] = {}
        self._staged: dict[int, tuple[int, int]] = {}

    def run(self, sequence: list[int], first: int, count: int, window: int | None) -> None:
        """A step of `count` rows from `first` on; `sequence` tells what each position holds."""
        last = first + count - 1
        moves = self._staging.place([(0, first, last)])
        for move in moves.loads:
            for p in range(TILE * move.tile, TILE * (move.tile + 1)):
                self._staged[p % STAGED] = self._cached.get(p % self._stride, (-1, -1))
        for move in moves.flushes:
            for p in range(TILE * move.tile, TILE * (move.tile + 1)):
                self._cached[p % self._stride] = self._staged[p % STAGED]
        for p in range(first, last + 1):
            self._staged[p % STAGED] = (sequence[p], p)
        for row in range(first, last + 1):
            start = 0 if window is None else max(0, row - window + 1)
            for p in range(start, row + 1):
                place = self._cached if p < cached(row) else self._staged
                at = p % self._stride if p < cached(row) else p % STAGED
                assert place[at] == (sequence[p], p), f"row {row} does not find position {p}"
        assert length_read(last, self._stride) >= min(cached(last), self._stride)


@pytest.mark.parametrize(("window", "stride"), [(None, 640), (65, 64), (100, 128), (512, 512)])
def test_every_row_finds_its_window(window: int | None, stride: int) -> None:
    draw = random.Random(1)
    places = Places(stride)
    sequence, end, mark = [0] * 640, 0, 0
    for version in range(1, 251):
        kind = draw.random()
        if kind < 0.02 or end >= 600:
            first = 0
        elif kind < 0.2:  # back, as far as the model's limits allow
            lowest = 1 if window is None or mark <= stride else max(1, mark - 32)
            first = draw.randint(min(lowest, end), end)
        else:
            first = end
        count = draw.choice((1, 1, 1, 3, 7, 31, 32))
        count = min(count, 640 - first)
        for p in range(first, first + count):
            sequence[p] = version
        places.run(sequence, first, count, window)
        end = first + count
        mark = max(mark if first else 0, end)


def test_only_whole_and_old_tile_rows_move() -> None:
    staging = Staging(2)
    assert not staging.place([(0, 0, 31), (1, 0, 0)]).flushes
    assert not staging.place([(0, 32, 63)]).flushes
    moves = staging.place([(0, 64, 64), (1, 1, 1)])
    assert [(move.slot, move.tile) for move in moves.flushes] == [(0, 0)]
    assert not moves.loads
    assert [(x.slot, x.tile) for x in staging.place([(0, 300, 300)]).loads] == [(0, 8), (0, 9)]
