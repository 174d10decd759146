"""How the programs of this folder answer tests.chip.runner: as run_cases.py does.

    python -m tests.chip.state.PROGRAM run ROWS.jsonl [QUESTION…]

Two JSON rows a question, when it begins and when it ends. Knows no question.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kernels import runtime

Answer = dict[str, Any]
Table = Mapping[str, Callable[[Any], Answer]]


def answer_all(table: Table) -> None:
    """Answers what the command line asks, or everything."""
    runtime.choose("tt")
    device = runtime.open_device()
    with Path(sys.argv[2]).open("a") as out:
        for name in sys.argv[3:] or table:
            out.write(json.dumps({"name": name, "begun": True}) + "\n")
            out.flush()
            row: Answer = {"name": name}
            start = time.perf_counter()
            try:
                row |= table[name](device)
            except Exception as error:
                row["error"] = f"{type(error).__name__}: {error}"[:3000]
            row["seconds"] = time.perf_counter() - start
            out.write(json.dumps(row) + "\n")
            out.flush()
    runtime.close_device(device)
