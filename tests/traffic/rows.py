"""One row for each model, board, weights, batch and context: what moves, and what time it takes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch

from device_service.model.architecture import ModelConfig
from device_service.model.config import parse_config
from device_service.model.tt_boards import BOARDS, Board
from device_service.model.tt_plan import FORMATS, PlanError, Precision, make_plan
from kernels import runtime
from kernels.runtime import TILE_BYTES
from tests.device_service.model.released import E2B, E4B
from tests.traffic import timing
from tests.traffic.account import Account, account
from tests.traffic.decoder import Step, record

MODELS: Mapping[str, Mapping[str, Any]] = {"E2B": E2B, "E4B": E4B}
WEIGHTS: tuple[Precision, ...] = ("bf16", "bfp8", "mixed")
BATCHES = (1, 32)
CONTEXTS = (128, 8192, 131072)


@dataclass(frozen=True)
class Row:
    """Predicted, not measured. Where `why_not` is told, nothing else is."""

    model: str
    board: str
    weights: str
    batch: int
    context: int
    why_not: str | None = None
    weight_read_ratio: float | None = None
    """Bytes of weight matrices read, over each once."""
    step_ratio: float | None = None
    """All bytes that cross to and from the DRAM, over the least: weights, KV, activations."""
    bare_ratio: float | None = None
    """The same over the least without activations."""
    launches_per_layer: int | None = None
    launches_per_step: int | None = None
    moves_per_step: float | None = None
    """Launches of ttnn's that copy completed tile rows: on average."""
    min_cores: int | None = None
    """The fewest cores that read a matrix in any launch that reads one."""
    l1_bytes: int | None = None
    """The most that a launch takes of a core's memory."""
    step_bytes: int | None = None
    least_bytes: int | None = None
    host_bytes: int | None = None
    dram_ms: float | None = None
    """All launches' bytes at the board's known share of its rate."""
    cycles_ms: float | None = None
    """The busiest core's busiest unit, launch by launch: a floor."""
    binds: str | None = None
    """Which is longer, over a step."""
    launches_bound_by_cycles: int | None = None
    predicted_tokens_per_s: float | None = None
    """With a trace; all sequences together."""
    untraced_tokens_per_s: float | None = None
    ceiling_tokens_per_s: float | None = None

    def json(self) -> dict[str, Any]:
        """For a line of JSON."""
        rounded = {
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }
        return {name: value for name, value in rounded.items() if value is not None or name in MUST}


MUST = (
    "weight_read_ratio",
    "step_ratio",
    "launches_per_layer",
    "min_cores",
    "predicted_tokens_per_s",
    "ceiling_tokens_per_s",
)


@cache
def config_of(model: str) -> ModelConfig:
    """A released model's."""
    return parse_config(dict(MODELS[model]))


@cache
def _recorded(
    model: str, grid: tuple[int, int], weights: Precision, batch: int, context: int
) -> tuple[Step, Account]:
    board = next(board for board in BOARDS.values() if board.grid == grid)
    config = config_of(model)
    step = record(config, board, weights, batch, context)
    return step, account(config, weights, batch, context, step)


def recorded(
    model: str, board: Board, weights: Precision, batch: int, context: int
) -> tuple[Step, Account]:
    """A step and its account. Boards of one grid have the same."""
    return _recorded(model, board.grid, weights, batch, context)


def make_row(model: str, board: Board, weights: Precision, batch: int, context: int) -> Row:
    """One row; what does not fit the board, or no kernel reads, says so."""
    which = (model, board.name, weights, batch, context)
    try:
        make_plan(config_of(model), board, precision=weights, slots=batch, context_length=context)
    except PlanError as refused:
        return Row(*which, why_not=str(refused))
    if unread := {fmt for fmt in FORMATS[weights].values() if fmt not in TILE_BYTES}:
        return Row(*which, why_not=f"no kernel reads {', '.join(unread)} yet")
    step, told = recorded(model, board, weights, batch, context)
    time = timing.predict(step.calls, told, board)
    return Row(
        *which,
        weight_read_ratio=told.weight_read_ratio,
        step_ratio=told.step_ratio,
        bare_ratio=told.bare_ratio,
        launches_per_layer=told.launches_per_layer,
        launches_per_step=told.launches,
        moves_per_step=told.moves,
        min_cores=told.min_cores,
        l1_bytes=told.l1_bytes,
        step_bytes=round(told.step_bytes),
        least_bytes=told.least.total,
        host_bytes=told.host_bytes,
        dram_ms=time.dram * 1e3,
        cycles_ms=time.cycles * 1e3,
        binds="bandwidth" if time.dram >= time.cycles else "cycles",
        launches_bound_by_cycles=sum(time.bound_by_cycles.values()),
        predicted_tokens_per_s=batch / time.seconds(timing.LAUNCH_SECONDS["with trace"]),
        untraced_tokens_per_s=batch / time.seconds(timing.LAUNCH_SECONDS["without trace"]),
        ceiling_tokens_per_s=timing.ceiling(told, board, batch),
    )


def rows_of(model: str, boards: Sequence[str]) -> list[Row]:
    """Every row of a model on boards of one grid, which launch the same."""
    torch.set_num_threads(1)
    return [
        make_row(model, BOARDS[board], weights, batch, context)
        for board in boards
        for weights in WEIGHTS
        for batch in BATCHES
        for context in CONTEXTS
    ]


def all_rows(processes: int = 2) -> Iterator[list[Row]]:
    """Every row, models first; each model and grid in a process of its own."""
    grids: dict[tuple[int, int], list[str]] = {}
    for board in BOARDS.values():
        grids.setdefault(board.grid, []).append(board.name)
    work = [(model, boards) for model in MODELS for boards in grids.values()]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, spawn, runtime.choose, ("sim",)) as pool:
        yield from pool.map(rows_of, *zip(*work, strict=True))
