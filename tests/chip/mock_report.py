"""Writes device_service/model/mock-cards.md: every served model on every board's mock.

    python -m tests.chip.mock_report

Runs tests.chip.mock_card and mock_step, and types no number of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from device_service.model.tt_boards import BOARDS, GIB
from tests.chip import environment

OUT = environment.ROOT / "device_service/model/mock-cards.md"
HEAD = """\
# Models on mock cards

Written by `make mock-cards`; no number is typed by hand. The real decoder allocates all that it
keeps (weights, which hold nothing, norms, keys and values at 4,096 positions a slot) by ttnn's own
allocator on a mock card. Slots: as many as the plan says fit, at most 32, beside what steps bring
and a reserve of 1 GiB; where they are fewer, one more would not leave that. No card was there.

| board | model | weights | slots | plan, GiB | of it kept | allocated, GiB | DRAM, GiB | why not |
|---|---|---|---|---|---|---|---|---|
"""


STEP_HEAD = """
## A decode step, enqueued

The real decoder's step of one sequence, at a slot of 4,096 positions: every program compiled by
TT-Lang, checked and enqueued by ttnn. A mock executes nothing: seconds are the host's, on a machine
that also did other things, and there is no result.

| board | model | weights | plan, GiB | allocated, GiB | programs | first step, s | second, s |
|---|---|---|---|---|---|---|---|
"""
STEPS = (
    ("p150", "E4B", "bfp8"),
    ("p150", "E2B", "bf16"),
    ("p150", "12B", "bfp8"),
    ("p150", "31B", "mixed"),
    ("p100", "E4B", "bfp8"),
    ("n150", "E4B", "bfp8"),
    ("n150", "E2B", "bf16"),
    ("n300", "E4B", "bfp8"),
)


def main() -> None:
    lines = [_line(row) for board in BOARDS for row in _run("mock_card", board)]
    steps = [_step(step, _run("mock_step", *step)) for step in STEPS]
    OUT.write_text(HEAD + "".join(lines) + STEP_HEAD + "".join(steps), encoding="utf-8")
    print(f"wrote {OUT.relative_to(environment.ROOT)}")


def _run(program: str, board: str, *arguments: str) -> Any:
    """What a program of tests.chip writes, on a board's mock; or, of a step, why it did not."""
    is_step = program == "mock_step"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        command = [environment.python(), "-m", f"tests.chip.{program}", board, *arguments, out]
        env = environment.mock(board, compile_only=False)
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, check=False)
        if done.returncode == 0:
            return json.loads(out.read_text())
        said = done.stderr.decode(errors="replace")
    if not is_step:
        sys.exit(said[-2000:])
    lines = [line for line in said.splitlines() if "Error: " in line or line.startswith("info:")]
    return {"error": (lines or said.splitlines() or ["no word"])[-1][:200]}


def _step(step: tuple[str, str, str], row: dict) -> str:
    cells = [step[0], step[1], step[2]]
    if "error" in row:
        cells += [row["error"], "", "", "", ""]
    else:
        cells += [f"{row[key] / GIB:.3f}" for key in ("plan_bytes", "used_bytes")]
        cells += [str(row["programs"]), f"{row['first_seconds']:.1f}"]
        cells.append(f"{row['second_seconds']:.2f}")
    return "| " + " | ".join(cells) + " |\n"


def _line(row: dict) -> str:
    placed = f"{row['placed_bytes'] / GIB:.3f}" if row["placed_bytes"] else "refused"
    why = ""
    if not row["slots"]:
        why = "one slot leaves less than the reserve" if row["placed_bytes"] else "the allocator"
    cells = (row["board"], row["model"], row["weights"], row["slots"] or "–")
    plan = (f"{row[key] / GIB:.3f}" for key in ("plan_bytes", "plan_kept_bytes"))
    sizes = (*plan, placed, f"{row['bank_bytes'] / GIB:.3f}", why)
    return "| " + " | ".join(map(str, (*cells, *sizes))) + " |\n"


if __name__ == "__main__":
    main()
