"""How long a kernel keeps a core's units busy, by wolfpine's timing model, beside its DRAM time.

    python -m tests.chip.cycles [--json FILE] [--limit SECONDS] [CASE…]

Without a case, those at true size of which tests.chip.shares has one core's share: seconds each.

A floor, not a measurement: the model charges what the vendor's documents state (much of the
unpackers' and packers' work is in none), and the instructions are the stand-in compiler's. Busy is
the busiest core's, unit by unit; the span is from a core's first to its last instruction for the
tensor engine, start included. Other cases at their true sizes take minutes here.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from kernels import runtime

runtime.choose("sim")

from tests.chip import environment, runner  # noqa: E402
from tests.chip.shares import SHARES  # noqa: E402
from tests.kernels.case import Case, all_cases  # noqa: E402
from tests.kernels.traffic import account  # noqa: E402

CLOCK = 1.35e9
"""A Blackhole's AI clock, in Hz."""
UNITS = ("Matrix", "Vector", "Unpacker", "Packer", "Scalar", "Config", "Sync")


def busy(case: Case, wolfpine: dict[str, str], folder: Path, limit: float) -> dict[str, Any]:
    """Runs a case on wolfpine with its timing model; cycles by unit, of the busiest core."""
    env = dict(wolfpine)
    chip = folder / "simulator"
    if not chip.exists():
        shutil.copytree(env["TT_METAL_SIMULATOR"], chip)
        server = Path(__file__).with_name("cycles_server.py")
        (chip / "run.sh").write_text(
            f'#!/bin/sh\nexec "{environment.python()}" -u "{server}" "$@"\n'
        )
    told = folder / f"{case.name}.json"
    env |= {
        "TT_METAL_SIMULATOR": str(chip),
        "TT_SIM_COST_MODEL": "1",
        "TESSERA_CYCLES": str(told),
    }
    program = "tests.chip.shares" if case.name in SHARES else "tests.chip.run_cases"
    found = runner.rows(environment.python(), "run", [case.name], env, folder, limit, program)
    row = found[case.name]
    if "error" in row:
        return {"name": case.name, "error": row["error"]}
    return {"name": case.name, "error": None} | summary(json.loads(told.read_text()))


def summary(told: dict[str, Any]) -> dict[str, Any]:
    """Of what the server counted: the busiest core's cycles, and the longest span."""
    units = dict.fromkeys(UNITS, 0)
    for key, cycles in told["busy"].items():
        unit = key.split()[-1]
        units[unit] = max(units.get(unit, 0), cycles)
    span = max((last - first for first, last in told["spans"].values()), default=0)
    return {
        "cores_seen": len(told["spans"]),
        "busy_cycles": units,
        "span_cycles": span,
        "busiest_unit": max(units, key=lambda unit: units[unit]),
        "busy_microseconds": max(units.values()) / CLOCK * 1e6,
        "span_microseconds": span / CLOCK * 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where to write the rows")
    parser.add_argument("--limit", type=float, default=600, help="seconds a case may take")
    parser.add_argument("names", nargs="*", help="names of cases")
    arguments = parser.parse_args()
    cases = {case.name: case for case in all_cases()}
    rows: list[dict[str, Any]] = []
    wolfpine = environment.simulated("wolfpine")
    with tempfile.TemporaryDirectory(prefix="cycles-") as folder:
        for name in arguments.names or SHARES:
            row = busy(cases[name], wolfpine, Path(folder), arguments.limit)
            row["dram_microseconds"] = account(cases[name])["dram_microseconds"]
            rows.append(row)
            print(line(row), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def line(row: dict[str, Any]) -> str:
    """One row for people."""
    if row["error"]:
        return f"{row['name']}: {row['error']}"
    units = ", ".join(f"{unit} {n}" for unit, n in row["busy_cycles"].items() if n)
    return (
        f"{row['name']}: busy cycles at least {units}; span "
        f"{row['span_cycles']}. {row['busiest_unit']} {row['busy_microseconds']:.2f} µs, "
        f"span {row['span_microseconds']:.2f} µs, "
        f"DRAM {row['dram_microseconds']:.2f} µs at the full rate"
    )


if __name__ == "__main__":
    main()
