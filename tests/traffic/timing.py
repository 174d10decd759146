"""How long a step would take: DRAM at a share of its rate, cycles of the busiest core, launches.

Nothing here is measured on silicon. A launch takes as long as its bytes or as its busiest core's
busiest unit, whichever is longer. Cycles are priced: tests/traffic/cycles.json has what wolfpine's
timing model charged small cases of every kernel, and how many tiles of each kind of work these
were; a price of each kind is the non-negative least-squares fit. They are a floor: the model
charges what the vendor's documents state, much of the unpackers' and packers' work is in none, and
units wait for each other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from device_service.model.tt_boards import Board
from tests.traffic.account import Account, count
from tests.traffic.decoder import Call

CYCLES = Path(__file__).with_name("cycles.json")
CLOCK_HZ: Mapping[str, float] = {"p150": 1.35e9, "p100": 1.35e9, "n150": 1.0e9, "n300": 1.0e9}
LAUNCH_SECONDS: Mapping[str, float] = {"with trace": 5e-6, "without trace": 15e-6}
"""Between the end of a launch and the beginning of the next. Assumed: 15 µs from the 12 to 18 ms a
step known of untraced models of a thousand launches; 5 µs of a trace."""
HOST_BYTES_PER_SECOND = 12e9
"""Of a step's inputs and its logits. Assumed."""

_ADDED = ("add", "sub", "max", "min")
KINDS: Mapping[str, tuple[str, ...]] = {
    "product": ("product",),
    "in the matrix engine": ("add", "sub", "mul", "add product"),
    "added": (*(f"{name} after" for name in _ADDED), "max", "min", "neg", "abs", "sign", "signbit"),
    "multiplied": ("mul after", "square"),
    "exp": ("exp",),
    "reciprocal": ("recip", "rsqrt", "sqrt"),
    "tanh": ("tanh", "sigmoid"),
    "broadcast": ("broadcast",),
    "transpose": ("transpose",),
    "reduce": ("reduce",),
    "fill": ("fill",),
    "store": ("store", "typecast"),
}
"""Kinds of work that have one price, in tiles."""


@dataclass(frozen=True)
class Prices:
    """Cycles a tile of each kind of work, of each unit."""

    of_unit: Mapping[str, Mapping[str, float]]
    num_cases: int
    worst: Mapping[str, float]
    """Of each unit, the largest relative error over the cases in which it is busiest, for a
    thousand cycles or more."""

    def busy(self, work: Mapping[str, int]) -> tuple[str, float]:
        """The busiest unit and its cycles."""
        kinds = in_kinds(work)
        cycles = {
            unit: sum(price * kinds[kind] for kind, price in prices.items())
            for unit, prices in self.of_unit.items()
        }
        unit = max(cycles, key=lambda name: cycles[name])
        return unit, cycles[unit]


def in_kinds(work: Mapping[str, int]) -> dict[str, int]:
    """Work by priced kind.

    Raises:
        ValueError: a kind has no price.
    """
    known = {name: kind for kind, names in KINDS.items() for name in names}
    if unknown := work.keys() - known.keys():
        raise ValueError(f"no price for {', '.join(sorted(unknown))}")
    found = dict.fromkeys(KINDS, 0)
    for name, tiles in work.items():
        found[known[name]] += tiles
    return found


@cache
def prices() -> Prices:
    """From the file of cycles."""
    rows: dict[str, Any] = json.loads(CYCLES.read_text())["rows"]
    work = np.array([list(in_kinds(row["tiles"]).values()) for row in rows.values()], dtype=float)
    units = sorted({unit for row in rows.values() for unit in row["busy_cycles"]})
    of_unit: dict[str, dict[str, float]] = {}
    worst: dict[str, float] = {}
    for unit in units:
        charged = np.array([row["busy_cycles"].get(unit, 0) for row in rows.values()], dtype=float)
        fitted = _non_negative(work, charged)
        of_unit[unit] = dict(zip(KINDS, fitted.tolist(), strict=True))
        busiest = [max(r["busy_cycles"], key=lambda u: r["busy_cycles"][u]) for r in rows.values()]
        mine = np.array([name == unit for name in busiest]) & (charged >= 1000)
        if mine.any():
            error = abs(work[mine] @ fitted - charged[mine]) / charged[mine]
            worst[unit] = float(error.max())
    return Prices(of_unit, len(rows), worst)


def _non_negative(work: Any, charged: Any) -> Any:
    """Least squares, relative to what was charged, without negative prices: Lawson and Hanson."""
    scale = 1 / (charged + charged.mean() / 10)
    a, b = work * scale[:, None], charged * scale
    x, used = np.zeros(a.shape[1]), np.zeros(a.shape[1], dtype=bool)
    for _ in range(10 * a.shape[1]):
        gradient = a.T @ (b - a @ x)
        gradient[used] = -np.inf
        best = int(gradient.argmax())
        if gradient[best] < 1e-9:
            break
        used[best] = True
        while True:
            solved = np.zeros_like(x)
            solved[used] = np.linalg.lstsq(a[:, used], b, rcond=None)[0]
            if (solved[used] > 0).all():
                x = solved
                break
            below = used & (solved <= 0)
            step = (x[below] / (x[below] - solved[below])).min()
            x = x + step * (solved - x)
            used &= x > 1e-12
            x[~used] = 0
    return x


@dataclass(frozen=True)
class Prediction:
    """Seconds of one step."""

    launches: float
    """Each as long as its bytes or its cycles."""
    dram: float
    """All bytes of all launches at the board's known share of its rate."""
    cycles: float
    """The busiest units' cycles of all launches."""
    bound_by_cycles: Mapping[str, int]
    """Launches by kernel that take longer for their cycles than for their bytes."""
    moves: float
    host: float
    num_launches: float

    def seconds(self, a_launch: float) -> float:
        """Of a step, with so many seconds between launches."""
        return self.launches + self.moves + self.host + a_launch * self.num_launches


def predict(calls: Iterable[Call], told: Account, board: Board) -> Prediction:
    """The account and the cycles as time on a board."""
    rate = board.dram_bytes_per_second * board.bandwidth_share
    clock, priced = CLOCK_HZ[board.name], prices()
    launches = dram = cycles = 0.0
    bound: dict[str, int] = {}
    for call in calls:
        counted = count(call)
        by_bytes = counted.num_bytes / rate
        by_cycles = priced.busy(counted.most_work)[1] / clock
        launches += max(by_bytes, by_cycles)
        dram, cycles = dram + by_bytes, cycles + by_cycles
        if by_cycles > by_bytes:
            bound[call.kernel] = bound.get(call.kernel, 0) + 1
    return Prediction(
        launches=launches,
        dram=dram,
        cycles=cycles,
        bound_by_cycles=bound,
        moves=told.move_bytes / rate,
        host=told.host_bytes / HOST_BYTES_PER_SECOND,
        num_launches=told.launches + told.moves,
    )


@dataclass
class Kernel:
    """All launches of one kernel in a step."""

    launches: int = 0
    num_bytes: int = 0
    matrix_bytes: int = 0
    """Of them, read of weight matrices."""
    cores: int = 1 << 30
    """The fewest that move anything."""
    l1_bytes: int = 0
    dram: float = 0.0
    """Seconds."""
    cycles: float = 0.0
    """Seconds."""
    unit: str = ""
    """The busiest."""


def by_kernel(calls: Iterable[Call], board: Board) -> Mapping[str, Kernel]:
    """A step, kernel by kernel, in the order of their first launches."""
    found: dict[str, Kernel] = {}
    for call in calls:
        counted, one = count(call), found.setdefault(call.kernel, Kernel())
        unit, cycles = prices().busy(counted.most_work)
        one.launches += 1
        one.num_bytes += counted.num_bytes
        one.matrix_bytes += sum(
            operand.read_bytes
            for handle, operand in zip(call.operands, counted.operands, strict=True)
            if handle.role == "weights"
        )
        one.cores = min(one.cores, counted.working)
        one.l1_bytes = max(one.l1_bytes, counted.l1_bytes)
        one.dram += counted.num_bytes / board.dram_bytes_per_second / board.bandwidth_share
        one.cycles += cycles / CLOCK_HZ[board.name]
        one.unit = unit
    return found


def ceiling(told: Account, board: Board, batch: int) -> float:
    """Tokens a second if the bare least came at the board's full rate and all else were free."""
    return batch * board.dram_bytes_per_second / told.least.bare
