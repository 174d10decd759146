"""Runs a large checkpoint's steps on a chip and tells of each layer as it ends: inside .venv-tt.

    python -m tests.chip.steps.whole_steps PLAN.json ROWS.jsonl

The plan: {"model", "weights", "slots", "context_length", "steps"}, where steps are lists of
{"slot", "start", "token_ids", "num_readouts"}. A row is written as soon as its layer has run, so
that a run of half an hour that is ended early has told what it saw.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from kernels import runtime

runtime.choose("tt")

from device_service.model.checkpoint import Checkpoint  # noqa: E402
from device_service.model.config import load_config  # noqa: E402
from device_service.model.interface import Span, StepBatch  # noqa: E402
from tests.chip.steps import judging  # noqa: E402
from tests.chip.steps.decoding import OnChip, on_chip  # noqa: E402
from tests.chip.steps.dram import Bytes, DramCounter  # noqa: E402
from tests.chip.steps.judging import Wanted  # noqa: E402


class Telling:
    """Writes rows, each with its seconds and DRAM bytes since the row before."""

    def __init__(self, rows: Path) -> None:
        self._rows = rows.open("a")
        self._since = time.perf_counter()
        self._moved: Bytes | None = None
        self._counter: DramCounter | None = None

    def count(self) -> None:
        """From here on; a device must be open."""
        self._counter = DramCounter()
        self._moved = self._counter.now()

    def restart(self) -> None:
        """What lies before this is in no row."""
        self._since = time.perf_counter()
        self._moved = self._counter.now() if self._counter else None

    def tell(self, **row: Any) -> None:
        row["seconds"] = time.perf_counter() - self._since
        if self._counter and (moved := self._counter.now()) and self._moved:
            since = moved - self._moved
            row |= {"dram_read": since.read, "dram_written": since.written}
        self._rows.write(json.dumps(row) + "\n")
        self._rows.flush()
        self.restart()


def main(plan_file: str, rows_file: str) -> None:
    plan = json.loads(Path(plan_file).read_text())
    telling = Telling(Path(rows_file))
    steps = [
        StepBatch(tuple(Span(s["slot"], s["start"], tuple(s["token_ids"]), s["num_readouts"])
                        for s in step))
        for step in plan["steps"]
    ]  # fmt: skip
    expected = _expected(Path(plan["model"]), plan["weights"], steps)
    telling.tell(stage="reference")
    device = runtime.open_device()
    telling.count()
    sizes = {"slots": plan["slots"], "context_length": plan["context_length"]}
    chip = on_chip(Path(plan["model"]), plan["weights"], device, **sizes)
    telling.tell(stage="weights on the device")
    for index, (step, want) in enumerate(zip(steps, expected, strict=True)):
        _run(index, step, want, chip, telling)
    telling.tell(stage="done")
    runtime.close_device(device)


def _expected(model_dir: Path, weights: judging.Weights, steps: list[StepBatch]) -> list[Wanted]:
    """Before there is a device: the references take memory."""
    config = load_config(model_dir)
    checkpoint = Checkpoint.open(model_dir, config)
    with torch.inference_mode():
        expected = judging.wanted(config, checkpoint, weights, steps)
    checkpoint.release_pages()
    return expected


def _run(index: int, step: StepBatch, want: Wanted, chip: OnChip, telling: Telling) -> None:
    rows = {"step": index, "rows": step.num_rows}

    def observe(layer: int, h: torch.Tensor) -> None:
        kind = chip.config.layers[layer].kind.value
        telling.tell(**rows, kind=kind, **judging.layer_row(layer, h, want))

    telling.restart()
    got = chip.run(step, observe)
    if got is not None:
        finite = bool(torch.isfinite(got).all())
        telling.tell(**rows, finite=finite, **judging.logits_row(got, want))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], sys.argv[2])
