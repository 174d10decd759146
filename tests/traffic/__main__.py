"""The account of a decode step's DRAM traffic, and what it predicts: make traffic.

    python -m tests.traffic [--out DIR]

Writes traffic.md and traffic.svg beside the kernels, prints the table; the last line is JSON. A few
minutes, on the functional simulator alone.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from kernels import runtime

runtime.choose("sim")

from tests.traffic import page, picture  # noqa: E402
from tests.traffic.rows import Row, all_rows  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "kernels", help="where files go")
    arguments = parser.parse_args()
    start = time.perf_counter()
    rows: list[Row] = []
    print(page.HEADER)
    for some in all_rows():
        rows += some
        print("\n".join(map(page.line, some)), flush=True)
    (arguments.out / "traffic.md").write_text(page.text(rows))
    picture.write(rows, arguments.out / "traffic.svg")
    print(f"{len(rows)} rows in {time.perf_counter() - start:.0f} s; predicted, not measured")
    print(json.dumps({"rows": [row.json() for row in rows]}))


if __name__ == "__main__":
    main()
