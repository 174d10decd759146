"""Runs whole_steps.py on a simulated chip, shows each row as it comes, and keeps them.

The rows lie under .cache/chip/whole-NAME.jsonl, the first of them about the run: what it ran on,
from which sources. A run that is ended early leaves what it had.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from device_service.model.interface import StepBatch
from tests.chip import environment, results
from tests.chip.environment import CACHE
from tests.chip.steps.judging import Weights

Row = dict[str, Any]


class RunError(Exception):
    """The run ended before its last row; the message is the end of what it said."""


@dataclass(frozen=True)
class Plan:
    """Steps of one checkpoint; see whole_steps.py."""

    name: str
    model: Path
    weights: Weights
    steps: Sequence[StepBatch]
    held: Sequence[int] = ()
    context_length: int = 128

    @property
    def rows_file(self) -> Path:
        return rows_file(f"{self.name}-{self.weights}")

    def text(self) -> str:
        """As the program reads it."""
        steps = [[_spelled(span) for span in step.spans] for step in self.steps]
        told = {"model": str(self.model.resolve()), "weights": self.weights, "steps": steps}
        return json.dumps(told | {"context_length": self.context_length, "held": list(self.held)})


def _spelled(span: Any) -> Row:
    fields = asdict(span)
    return {key: fields[key] for key in ("slot", "start", "token_ids", "num_readouts")}


def rows_file(name: str) -> Path:
    """Where the rows of a run are kept."""
    return CACHE / f"whole-{name}.jsonl"


def read(name: str) -> list[Row]:
    """The rows of the last run of that name, the one about it first; none if there was none."""
    file = rows_file(name)
    if not file.exists():
        return []
    lines = file.read_text().splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]


def run(plan: Plan, simulator: str, show: Callable[[Row], None]) -> list[Row]:
    """Runs a plan to its end.

    Raises:
        RunError: the program ended early.
    """
    env = environment.simulated(simulator)
    folder = CACHE / f"run-{plan.name}-{plan.weights}"
    folder.mkdir(parents=True, exist_ok=True)
    env |= {"TMPDIR": str(folder), "TT_METAL_CACHE": f"{env['TT_METAL_CACHE']}-whole-{plan.name}"}
    (folder / "plan.json").write_text(plan.text())
    about = {"about": results.about(simulator), "sources": results.step_sources()}
    steps = [{"rows": step.num_rows} for step in plan.steps]
    plan.rows_file.write_text(
        json.dumps(about | {"weights": plan.weights, "held": len(plan.held), "steps": steps}) + "\n"
    )
    log = folder / "log.txt"
    command = [environment.python(), "-m", "tests.chip.steps.whole_steps", folder / "plan.json"]
    with log.open("w") as said:
        process = subprocess.Popen(
            [*command, plan.rows_file], cwd=folder, env=env, stdout=said, stderr=said,
            start_new_session=True,
        )  # fmt: skip
    shown = 1
    try:
        while process.poll() is None:
            time.sleep(0.5)
            shown = _show_new(plan, shown, show)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    _show_new(plan, shown, show)
    rows = read(f"{plan.name}-{plan.weights}")
    if rows[-1].get("stage") != "done":
        lines = [x for x in log.read_text(errors="replace").splitlines() if "nanobind" not in x]
        raise RunError(f"exit {process.returncode}, {log}: " + "\n".join(lines[-12:]))
    return rows


def _show_new(plan: Plan, shown: int, show: Callable[[Row], None]) -> int:
    rows = read(f"{plan.name}-{plan.weights}")
    for row in rows[shown:]:
        show(row)
    return max(shown, len(rows))


def line(row: Row) -> str:
    """A row for people."""
    took = f"{row['seconds']:7.1f} s"
    if "dram_read" in row:
        took += (
            f", DRAM {row['dram_read'] / 1e6:.1f} MB read, {row['dram_written'] / 1e6:.1f} written"
        )
    if "stage" in row:
        return f"{row['stage']}: {took}"
    where = f"step {row['step']} of {row['rows']} rows"
    if "layer" in row:
        return (
            f"{where}, layer {row['layer']:2d} ({row['kind']}): PCC {row['pcc']:.6f}, worst row "
            f"{row['row_pcc']:.6f}, rounding alone {row['rounded_pcc']:.6f}; {took}"
        )
    return (
        f"{where}, logits: PCC {row['logits_pcc']:.6f}, rounding alone "
        f"{row['rounded_logits_pcc']:.6f}; best three: {row['same']} rows the same, {row['ties']} "
        f"ties, {row['others']} others; {took}"
    )
