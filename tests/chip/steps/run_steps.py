"""Runs scenarios of small checkpoints on a chip, and judges them: the program inside .venv-tt.

    python -m tests.chip.steps.run_steps run ROWS.jsonl FAMILY/WEIGHTS/SCENARIO…

Answers tests.chip.runner as run_cases.py does. Checkpoints are written where it runs.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from kernels import runtime

runtime.choose("tt")

from kernels.runtime import Grid  # noqa: E402
from tests.checkpoints import write_checkpoint  # noqa: E402
from tests.chip.state.answering import Answer, answer_all  # noqa: E402
from tests.chip.steps import judging  # noqa: E402
from tests.chip.steps.decoding import OnChip, on_chip  # noqa: E402
from tests.chip.steps.judging import Wanted, Weights  # noqa: E402
from tests.chip.steps.scenarios import Run, all_runs, wolfpine_runs  # noqa: E402


def answer(run: Run, device: Any) -> Answer:
    """Runs a scenario; the row has each layer's worst of all steps."""
    scenario = run.scenario
    chip = _chip(
        _checkpoint(run), run.weights, device, run.grid, scenario.slots, scenario.context_length
    )
    chip.decoder.clear()
    steps = scenario.steps()
    exact = judging.ExactModel(chip.config, chip.checkpoint)
    rounded = judging.RoundedModel(chip.config, chip.checkpoint, run.weights)
    expected = judging.wanted(exact, rounded, steps)
    layers: list[list[Answer]] = [[] for _ in chip.config.layers]
    logits: list[Answer] = []
    for step, want in zip(steps, expected, strict=True):

        def observe(index: int, h: torch.Tensor, want: Wanted = want) -> None:
            layers[index].append(judging.layer_row(index, h, want))

        got = chip.run(step, observe)
        if got is not None:
            logits.append(judging.logits_row(got, want))
    return {
        "family": run.family,
        "weights": run.weights,
        "scenario": scenario.name,
        "steps": len(steps),
        "rows": sum(step.num_rows for step in steps),
        "most_rows": max(step.num_rows for step in steps),
        "layers": [_worst(rows) for rows in layers],
        "logits": _worst(logits),
    }


def _worst(rows: list[Answer]) -> Answer:
    """Of several rows: the lowest correlations, and sums or maxima of the rest."""
    folds: dict[str, Callable[[list[Any]], Any]] = {
        "same": sum, "ties": sum, "others": sum, "widest_tie": max, "tie_width": max, "layer": max
    }  # fmt: skip
    return {key: folds.get(key, _lowest)([row[key] for row in rows]) for key in rows[0]}


def _lowest(values: list[float]) -> float:
    """NaN counts as the lowest."""
    return min(values, key=lambda value: (value == value, value))


def _checkpoint(run: Run) -> Path:
    folder = Path(f"{run.family}-{len(run.overrides)}")
    if not (folder / "config.json").exists():
        overrides = dict(run.overrides)
        write_checkpoint(folder, run.family, dtype=torch.bfloat16, calm=True, overrides=overrides)
    return folder


@functools.lru_cache(maxsize=1)
def _chip(
    model_dir: Path, weights: Weights, device: Any, grid: Grid, slots: int, context_length: int
) -> OnChip:
    """Kept for the scenarios that follow."""
    sizes = {"slots": slots, "context_length": context_length}
    return on_chip(model_dir, weights, device, grid=grid, **sizes)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(sys.version, flush=True)
    answer_all(
        {run.name: functools.partial(answer, run) for run in (*all_runs(), *wolfpine_runs())}
    )
