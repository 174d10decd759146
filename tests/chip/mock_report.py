"""Writes device_service/model/mock-cards.md: every served model on every board's mock.

    python -m tests.chip.mock_report

Runs tests.chip.mock_card for each board, and types no number of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from device_service.model.tt_boards import BOARDS, GIB
from tests.chip import environment

OUT = environment.ROOT / "device_service/model/mock-cards.md"
HEAD = """\
# Models on mock cards

Written by `make mock-cards`; no number is typed by hand. Every tensor of a plan (weights, norms, KV
at 4,096 positions a slot, activations) is allocated, empty, by ttnn's own allocator on a mock card.
Slots: as many as the plan says fit beside a reserve of 1 GiB; the allocator agrees, and one more
would not leave that reserve. No card was there.

| board | model | weights | slots | plan, GiB | allocated, GiB | DRAM, GiB | why not |
|---|---|---|---|---|---|---|---|
"""


def main() -> None:
    lines: list[str] = []
    for board in BOARDS:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "rows.json"
            program = [environment.python(), "-m", "tests.chip.mock_card", board, out]
            env = environment.mock(board)
            done = subprocess.run(program, cwd=folder, env=env, capture_output=True, check=False)
            if done.returncode:
                sys.exit(done.stderr.decode(errors="replace")[-2000:])
            lines += map(_line, json.loads(out.read_text()))
    OUT.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"wrote {OUT.relative_to(environment.ROOT)}")


def _line(row: dict) -> str:
    placed = f"{row['placed_bytes'] / GIB:.3f}" if row["placed_bytes"] else "refused"
    why = ""
    if not row["slots"]:
        why = "one slot leaves less than the reserve" if row["placed_bytes"] else "the allocator"
    cells = (row["board"], row["model"], row["weights"], row["slots"] or "–")
    sizes = (f"{row['plan_bytes'] / GIB:.3f}", placed, f"{row['bank_bytes'] / GIB:.3f}", why)
    return "| " + " | ".join(map(str, (*cells, *sizes))) + " |"


if __name__ == "__main__":
    main()
