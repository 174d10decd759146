"""What wolfpine's timing model charges for small cases: tests/traffic/cycles.json.

    python -m tests.traffic.cycles [--limit SECONDS] [CASE…]        (make traffic-cycles)

Needs .venv-tt. A row a case: what the busiest core's compute thread did, in tiles, as
`tests.traffic.threads` counts it, and for how many cycles each of its units was busy. `timing.py`
makes a price of each kind of work from them, and so a floor for any launch at any size. Rows are
added to those that are there; a case whose work is no longer what its row says is run again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from kernels import runtime

runtime.choose("sim")

from tests.chip import environment  # noqa: E402
from tests.chip.cycles import CLOCK, busy  # noqa: E402
from tests.chip.shares import SHARES, share  # noqa: E402
from tests.kernels.case import Case, all_cases  # noqa: E402
from tests.traffic import threads  # noqa: E402

OUT = Path(__file__).with_name("cycles.json")
CASES = (
    "linear_hp-one-node-bf16",
    "linear_hp-uneven-bf16",
    "linear-three-blocks-bf16",
    "norm_linear-one-node-bf16",
    "rms_norm-one-node",
    "residual_norm-one-node",
    "gelu_mul-one-node",
    "attention-one-unit",
    "residual_add-one-node",
    "elementwise_mul-one-node",
    "copy-one-node",
    "softcap-one-node",
    "geglu_mlp-two-nodes-bf16",
    "kv_append-edges",
    "ple-two-nodes",
    "qkv_units-two-passes",
    "attention-nothing-cached",
    "attention-bucket-edge",
    "geglu_mlp-one-share-bf16",
    "residual_norm-scaled-uneven",
    "gelu_mul-e4b",
    "norm_linear-e2b-qkv-full-bf16",
    "linear_hp-e2b-gate-bf16",
)
"""Small shapes of the kernels that a step is made of, some plain ones, one core's shares of three
at their true sizes."""


def work_of(case: Case) -> dict[str, int]:
    """Tiles by kind of work, of the core that has the most of that kind."""
    made = case.operands(torch.Generator().manual_seed(0))
    sized = [threads.Sized(*o.tensor.shape, o.fmt) for o in made]
    return threads.most_work(*threads.run(case.operation(), sized))


def read() -> dict[str, Any]:
    """The file, empty where there is none."""
    return json.loads(OUT.read_text()) if OUT.exists() else {"about": {}, "rows": {}}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--limit", type=float, default=900, help="seconds a case may take")
    parser.add_argument("names", nargs="*", default=CASES, help="names of cases")
    arguments = parser.parse_args()
    cases = {case.name: case for case in all_cases()}
    shares = {name: share(name) for name in SHARES}
    kept = read()
    wolfpine = environment.simulated("wolfpine")
    with tempfile.TemporaryDirectory(prefix="cycles-") as folder:
        for name in arguments.names:
            work = work_of((cases | shares)[name])
            if kept["rows"].get(name, {}).get("tiles") == work:
                continue
            row = busy(cases[name], wolfpine, Path(folder), arguments.limit)
            if row["error"]:
                print(f"{name}: {row['error']}", flush=True)
                continue
            kept["rows"][name] = {
                "tiles": work,
                "busy_cycles": {unit: n for unit, n in row["busy_cycles"].items() if n},
                "span_cycles": row["span_cycles"],
            }
            kept["about"] = {
                "simulator": "wolfpine 2.2, Blackhole, TT_SIM_COST_MODEL=1",
                "clock_hz": CLOCK,
            }
            OUT.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
            print(f"{name}: {kept['rows'][name]['busy_cycles']}", flush=True)


if __name__ == "__main__":
    main()
