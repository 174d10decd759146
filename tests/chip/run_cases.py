"""Runs or compiles kernel cases with the real compiler and ttnn: the program inside .venv-tt.

    python -m tests.chip.run_cases {run,compile} ROWS.jsonl CASE…

The environment says on what (see tests.chip.environment): a simulated chip, or a mock card to
compile for. Two JSON rows a case go to ROWS, when it begins and when it ends, so that whoever reads
them (tests.chip.runner) knows which case a dead or hanging process was at.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from kernels import runtime


def main(mode: str, rows: str, names: list[str]) -> None:
    runtime.choose("tt")
    from tests.kernels.case import all_cases, compile_only, run

    cases = {case.name: case for case in all_cases()}
    device = runtime.open_device()
    with Path(rows).open("a") as out:
        for name in names:
            out.write(json.dumps({"name": name, "begun": True}) + "\n")
            out.flush()
            start = time.perf_counter()
            row: dict[str, object] = {"name": name}
            try:
                if mode == "run":
                    row |= asdict(run(cases[name], device))
                else:
                    compile_only(cases[name], device)
            except Exception as error:
                said = str(error).partition("\nbacktrace:")[0]
                row["error"] = f"{type(error).__name__}: {said}"[:2000]
            row["wall_seconds"] = time.perf_counter() - start
            out.write(json.dumps(row) + "\n")
            out.flush()
    runtime.close_device(device)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
