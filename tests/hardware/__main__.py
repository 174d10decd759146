"""`make test-hardware`: everything that only a card can say, into a report file to send.

    python -m tests.hardware [--simulator SIMULATOR] [--model DIR]…

Runs the doctor, every kernel case whose grid fits the board, a small random checkpoint of every
family, and the real checkpoints that are given or there, each in a process of its own with a time
limit. Without a card it says so in one line and does nothing. With `--simulator` a simulated chip
stands in for the card, so that this program is known to run to its end: its times tell nothing, and
the report says so.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from deploy import chip
from device_service import doctor
from device_service.machine import look
from tests.hardware import report

ROOT = chip.ROOT
OUT = ROOT / ".cache/hardware-report"
GEMMA3 = ROOT / ".cache/models/gemma3-270m"
CASE_SECONDS = 300.0
MODEL_SECONDS = 3600.0

Found = dict[str, Any]


def main() -> int:
    """Returns 0 where all that ran was right, or nothing could run."""
    options = _options()
    try:
        env = _clean() | chip.environment(options.simulator)
    except chip.ChipError as error:
        if chip.has_device(options.simulator):
            print(f"error: {error}", file=sys.stderr)
            return 1
        print(f"skipped: {error}")
        return 0
    real = _real_models(options)
    found: Found = {"simulated": chip.is_simulated(env), "doctor": _doctor(env)}
    board = options.board or doctor.board_to_plan_for(look(env))
    found["board"] = board
    if not found["doctor"]["can_serve"]:
        print(report.doctor_lines(found["doctor"]), file=sys.stderr)
        print("error: the device service could not run here; see above", file=sys.stderr)
        return 1
    found |= {"kernels": {}, "models": []}
    with tempfile.TemporaryDirectory(prefix="tessera-") as folder:
        found["kernels"] = _kernels(board, env, Path(folder), options.kernels)
        _write(found)
        small = [(x, "bf16") for x in _small_models(options, Path(folder))]
        for model, precision in small + [
            (x, y) for x in real for y in options.precision.split(",")
        ]:
            found["models"].append(
                _model(model, precision, board, env, Path(folder), options.steps)
            )
            _write(found)
    failed = report.failures(found)
    print("\n".join(failed) or "all well", flush=True)
    print(f"report: {OUT.with_suffix('.md')} and .json")
    return 1 if failed else 0


def _write(found: Found) -> None:
    """After each part: hours of a card must not be lost with what comes after them."""
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    OUT.with_suffix(".md").write_text(report.markdown(found), encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.hardware", description=__doc__)
    parser.add_argument("--simulator", default="", help="stands in for a card: proves the program")
    parser.add_argument(
        "--board", choices=doctor.BOARDS, help="without it, as its driver says, or p150"
    )
    parser.add_argument("--kernels", help="only cases whose name has this in it")
    parser.add_argument("--families", default="e2b,e4b,12b,31b,gemma3", help="small checkpoints")
    parser.add_argument(
        "--model", action="append", default=[], help="a checkpoint directory; repeatable"
    )
    parser.add_argument("--small", action="store_true", help="small checkpoints only")
    parser.add_argument("--precision", default="bf16,bfp8", help="of the checkpoints' weights")
    parser.add_argument("--steps", type=int, default=50, help="that are timed")
    return parser.parse_args()


def _clean() -> dict[str, str]:
    """This process's environment without what the functional simulator leaves in it."""
    env = {k: v for k, v in os.environ.items() if k not in ("TTLANG_SIM_ONLY", "PYTHONPATH")}
    return env | {"PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}"}


def _doctor(env: dict[str, str]) -> Found:
    command = [chip.PYTHON, "-m", "device_service", "doctor", "--json"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if not done.stdout:
        sys.exit(f"error: {' '.join(map(str, command))}: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _kernels(board: str, env: dict[str, str], folder: Path, only: str | None) -> dict[str, Found]:
    """A row a case: what it is, its error and bound, or why there is none."""
    from kernels import runtime

    runtime.choose("sim")  # this process reads the table only
    from tests.chip import runner
    from tests.kernels.case import all_cases

    fits = "n150" if board in ("n150", "n300") else "p150"
    cases = [x for x in all_cases() if fits in x.boards and (only or "") in x.name]
    print(f"==> {len(cases)} kernel cases", flush=True)
    if not cases:
        return {}
    try:
        # One process at a time: a card has one owner.
        rows = runner.rows(
            chip.PYTHON, "run", [x.name for x in cases], env, folder, CASE_SECONDS, processes=1
        )
    except runner.RunnerError as error:
        sys.exit(f"error: no case could begin: {error}")
    return {x.name: {"kernel": x.kernel, "bound": x.roundings} | rows[x.name] for x in cases}


def _small_models(options: argparse.Namespace, folder: Path) -> list[Path]:
    """Random ones, which rounding moves no more than a trained model."""
    from tests.checkpoints import write_checkpoint

    found = [folder / family for family in options.families.split(",") if family]
    for model in found:
        model.mkdir()
        write_checkpoint(model, model.name, calm=True)
    return found


def _real_models(options: argparse.Namespace) -> list[Path]:
    """Those that are named, or the one that is there; ends the program where a named one is not."""
    from deploy.local import ServiceError, resolve_model  # needs more than a skip does

    if options.small:
        return []
    if not options.model and not (GEMMA3 / "config.json").is_file():
        print("==> no real checkpoint: MODEL=DIR, or make model-gemma3-270m")
        return []
    try:
        return [resolve_model(name) for name in options.model or ["gemma3-270m"]]
    except ServiceError as error:
        sys.exit(f"error: {error}")


def _model(
    model: Path, precision: str, board: str, env: dict[str, str], folder: Path, steps: int
) -> Found:
    print(f"==> {model.name}, {precision}", flush=True)
    out, log = folder / "model.json", folder / "model.log"
    out.unlink(missing_ok=True)
    command = [chip.PYTHON, "-m", "tests.hardware.model_run", out, "--model", model]
    flags = ["--board", board, "--precision", precision, "--steps", str(steps)]
    why = ""
    with log.open("w") as said:
        try:
            code = subprocess.run(
                [*command, *flags],
                cwd=folder,
                env=env,
                stdout=said,
                stderr=said,
                timeout=MODEL_SECONDS,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            code, why = 0, f"no end after {MODEL_SECONDS:.0f} s"
    if code:
        lines = [x for x in log.read_text(errors="replace").splitlines() if "nanobind" not in x]
        errors = [x for x in lines if "Error" in x]
        last = (errors or lines or [""])[-1][-400:]
        why = f"exit {code}: {last}"
        if "PlanError: " in last:
            unfit = {"error": "", "unfit": last.partition("PlanError: ")[2]}
            return {"model": model.name, "precision": precision} | unfit
    measured = json.loads(out.read_text()) if out.is_file() else {}
    return {"model": model.name, "precision": precision} | measured | {"error": why}


if __name__ == "__main__":
    sys.exit(main())
