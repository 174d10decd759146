"""Runs a large checkpoint's steps on a chip and tells of each layer as it ends: inside .venv-tt.

    python -m tests.chip.steps.whole_steps PLAN.json ROWS.jsonl

The plan: {"model", "weights", "context_length", "held", "steps"}, where steps are lists of
{"slot", "start", "token_ids", "num_readouts"}, all of slot 0. `held` are tokens whose keys and
values the slot holds before the first step: the reference's, so that a decode step has something to
attend to without a prompt's. A row is written as soon as its layer has run, so that a run of half
an hour that is ended early has told what it saw.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from kernels import runtime

runtime.choose("tt")

from device_service.model import reference  # noqa: E402
from device_service.model.checkpoint import Checkpoint  # noqa: E402
from device_service.model.config import load_config  # noqa: E402
from device_service.model.interface import Span, StepBatch  # noqa: E402
from tests.chip.steps import judging  # noqa: E402
from tests.chip.steps.decoding import OnChip, hold, on_chip  # noqa: E402
from tests.chip.steps.dram import Bytes, DramCounter  # noqa: E402
from tests.chip.steps.judging import Wanted  # noqa: E402

Plan = dict[str, Any]


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
    model_dir, weights, held = Path(plan["model"]), plan["weights"], plan["held"]
    expected, keys_values = references(plan, Path(plan_file).with_suffix(".pt"))
    telling.tell(stage="reference")
    device = runtime.open_device()
    telling.count()
    chip = on_chip(model_dir, weights, device, slots=1, context_length=plan["context_length"])
    if held:
        hold(chip, keys_values, len(held))
    telling.tell(stage="weights on the device")
    for index, (step, want) in enumerate(zip(steps_of(plan), expected, strict=True)):
        _run(index, step, want, chip, telling)
    telling.tell(stage="done")
    runtime.close_device(device)


def steps_of(plan: Plan) -> list[StepBatch]:
    """The plan's steps, as the decoder takes them."""
    return [
        StepBatch(tuple(Span(s["slot"], s["start"], tuple(s["token_ids"]), s["num_readouts"])
                        for s in step))
        for step in plan["steps"]
    ]  # fmt: skip


def references(plan: Plan, kept: Path) -> tuple[list[Wanted], judging.KeysValues]:
    """What the steps should give, and the keys and values of what is held; minutes, so it is kept.

    Called before there is a device: the references take memory.
    """
    config = load_config(Path(plan["model"]))
    checkpoint = Checkpoint.open(Path(plan["model"]), config)
    made_from = {"plan": plan, "checkpoint": checkpoint.digest(), "judge": _judge()}
    if kept.exists():
        found = torch.load(kept)
        if found["made_from"] == made_from:
            return [Wanted(**want) for want in found["wanted"]], found["keys_values"]
    exact = judging.ExactModel(config, checkpoint)
    rounded = judging.RoundedModel(config, checkpoint, plan["weights"])
    with torch.inference_mode():
        expected = judging.wanted(exact, rounded, steps_of(plan), {0: plan["held"]})
    checkpoint.release_pages()
    found = {"wanted": [_fields(want) for want in expected], "keys_values": exact.keys_values}
    torch.save({"made_from": made_from, **found}, kept)
    return expected, exact.keys_values


def _judge() -> str:
    """A digest of the references' sources."""
    files = [judging.__file__, reference.__file__]
    return hashlib.sha256(b"".join(Path(file).read_bytes() for file in files)).hexdigest()


def _fields(want: Wanted) -> dict[str, Any]:
    return {field.name: getattr(want, field.name) for field in dataclasses.fields(want)}


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
