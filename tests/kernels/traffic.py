"""What each kernel moves: DRAM bytes over the least possible, cores at work, L1.

    python -m tests.kernels.traffic [--size full] [--json FILE] [NAME…]

Counted transfer by transfer in the functional simulator, not from a formula. The least is every
weight whole, and of any other tensor each touched tile, once. Parts of a case's name choose cases;
without any, every production kernel at its true size.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from kernels import runtime

runtime.choose("sim")

from kernels import simulator  # noqa: E402
from tests.kernels.case import Case, all_cases, least_bytes, run  # noqa: E402

Account = dict[str, Any]
BANDWIDTH = {"p150": 512e9, "n150": 288e9}
"""DRAM bytes a second, as the boards' maker states them."""


def account(case: Case) -> Account:
    """Runs a case in the functional simulator, once a process, and accounts for its transfers."""
    if case.name not in _known:
        with simulator.counting() as traffic:
            result = run(case, runtime.open_device())
        said = {"roundings": result.roundings, "bound": result.bound, "good": result.good}
        _known[case.name] = told(case, traffic) | said
    return _known[case.name]


_known: dict[str, Account] = {}


def told(case: Case, traffic: simulator.Traffic) -> Account:
    """The account of one run of a case."""
    read, written = sum(traffic.read_bytes.values()), sum(traffic.written_bytes.values())
    least_read = sum(traffic.tiles_read.values())
    least_written = sum(traffic.tiles_written.values())
    weights = {name: traffic.read_bytes.get(name, 0) for name in case.weights}
    least_weights = sum(least_bytes(case).values())
    readers = [len(traffic.readers.get(name, ())) for name in case.weights]
    board = "p150" if "p150" in case.boards else "n150"
    return {
        "name": case.name,
        "kernel": case.kernel,
        "shapes": case.shapes,
        "grid": list(case.grid),
        "nodes": traffic.nodes,
        "working_nodes": len(traffic.working),
        "weight_readers": min(readers, default=0),
        "launches": traffic.launches,
        "dram_read_bytes": read,
        "dram_written_bytes": written,
        "dram_bytes": read + written,
        "least_bytes": least_read + least_written,
        "read_ratio": read / least_read if least_read else 1.0,
        "write_ratio": written / least_written if least_written else 1.0,
        "ratio": (read + written) / max(1, least_read + least_written),
        "weight_bytes": sum(weights.values()),
        "weight_read_ratio": sum(weights.values()) / least_weights if least_weights else None,
        "l1_bytes": traffic.l1_bytes,
        "dram_microseconds": (read + written) / BANDWIDTH[board] * 1e6,
        "times_read": {n: traffic.read_bytes[n] / least for n, least in traffic.tiles_read.items()},
        "times_written": {
            n: traffic.written_bytes[n] / least for n, least in traffic.tiles_written.items()
        },
        "readers": {name: len(nodes) for name, nodes in traffic.readers.items()},
    }


COLUMNS = ("MB read", "over least", "MB written", "weights", "readers", "nodes", "L1 KB", "µs DRAM")


def line(row: Account) -> str:
    """A row of the table, in the order of COLUMNS."""
    weights = row["weight_read_ratio"]
    cells = [
        f"{row['dram_read_bytes'] / 1e6:.3f}",
        f"{row['read_ratio']:.3f}",
        f"{row['dram_written_bytes'] / 1e6:.3f}",
        "–" if weights is None else f"{weights:.3f}",
        str(row["weight_readers"] or "–"),
        f"{row['working_nodes']}/{row['nodes']}",
        f"{row['l1_bytes'] / 1024:.0f}",
        f"{row['dram_microseconds']:.1f}",
    ]
    return f"{row['name']:42s}" + "".join(f"{cell:>12s}" for cell in cells)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=("small", "full"), default="full")
    parser.add_argument("--json", type=Path, help="where to write the rows")
    parser.add_argument("names", nargs="*", help="parts of cases' names")
    arguments = parser.parse_args()
    chosen = [
        case
        for case in all_cases()
        if case.size == arguments.size
        and (not arguments.names or any(part in case.name for part in arguments.names))
    ]
    print(f"{'case':42s}" + "".join(f"{name:>12s}" for name in COLUMNS))
    rows: list[Account] = []
    start = time.perf_counter()
    for case in chosen:
        rows.append(account(case))
        print(line(rows[-1]), flush=True)
    print(f"{len(rows)} cases in {time.perf_counter() - start:.0f} s; µs at the boards' full rate")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
