"""The rows of a whole run on a simulator, kept under .cache/chip until a source changes.

The tests write them, the report reads them. Rows are kept with a digest of all that they depend on:
kernels, cases, the compiler that stands in, the simulator. Rows of whole steps have one of each
file, the model's among them, so that the page can say what changed since.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.chip import environment
from tests.chip.environment import CACHE, ROOT, WOLFPINE
from tests.chip.steps import scenarios
from tests.kernels.case import Case, all_cases

Rows = dict[str, dict]
Sources = dict[str, str]
"""Digests by file."""
DIGITS = 16
MOST_ON_WOLFPINE = 2
"""Cases of a kernel: each takes up to a minute, nearly all of it compiling and Python."""
AT_ONCE = 50
"""Cases between two writings of the file."""
CHIP = ("tests/chip/toolchain", "tests/chip/prepare.py", "tests/chip/wolfpine_server.py")
KERNELS = ("kernels", "tests/kernels", "tests/chip/run_cases.py", *CHIP)
SCENARIOS = (
    "tests/checkpoints.py",
    "tests/chip/steps/run_steps.py",
    "tests/chip/steps/scenarios.py",
)
STEPS = ("kernels", "device_service/model", "tests/chip/steps", *CHIP, *SCENARIOS)
PACKAGES = ("tt-lang", "ttnn", "wolfpine")
VERSIONS = f"import importlib.metadata as m; print(*(m.version(n) for n in {PACKAGES}))"


def cases_for(name: str) -> list[Case]:
    """What runs on a simulator: wolfpine, written in Python, has few small ones of each kernel."""
    if name == WOLFPINE:
        of_kernel: dict[str, list[Case]] = {}
        for case in all_cases():
            if case.size == "small" and WOLFPINE not in case.refused:
                of_kernel.setdefault(case.kernel, []).append(case)
        return [case for cases in of_kernel.values() for case in cases[:MOST_ON_WOLFPINE]]
    if name == "wormhole":
        return [case for case in all_cases() if "n150" in case.boards]
    return all_cases()


def steps_for(name: str) -> list[scenarios.Run]:
    """What runs of whole steps on a simulator: one small run on wolfpine, all on another."""
    return scenarios.wolfpine_runs() if name == WOLFPINE else list(scenarios.all_runs())


def run(simulator: str) -> Rows:
    """Runs all cases that the simulator can, and keeps the rows."""
    name = environment.name_of(simulator)
    cases = [case.name for case in cases_for(name) if name not in case.refused]
    made_from = {
        "depends_on": depends_on(simulator),
        "sources": depends_on(WOLFPINE),
        "about": about(simulator),
    }

    def run_some(names: list[str], folder: Path) -> Rows:
        return environment.rows("run", names, environment.simulated(simulator), folder)

    parts = [cases[i : i + AT_ONCE] for i in range(0, len(cases), AT_ONCE)]
    return _complete(name, made_from, parts, run_some)


def run_steps(simulator: str) -> Rows:
    """Runs all whole steps that the simulator can, and keeps the rows."""
    name = environment.name_of(simulator)
    made_from = {"sources": scenario_sources(), "about": about(simulator)}

    def run_some(names: list[str], folder: Path) -> Rows:
        return environment.step_rows(names, simulator, folder, scenarios.SECONDS)

    families = itertools.groupby(steps_for(name), lambda run: run.family)
    parts = [[run.name for run in family] for _, family in families]
    return _complete(f"steps-{name}", made_from, parts, run_some)


def _complete(
    file: str,
    made_from: Mapping[str, Any],
    parts: Iterable[Sequence[str]],
    run_some: Callable[[list[str], Path], Rows],
) -> Rows:
    """Runs what has no row yet, and keeps the rows part by part.

    So a run that was ended goes on where it was, while all that it is made from is the same. Rows
    with errors are made anew.
    """
    kept = read(file) or {}
    found: Rows = kept["rows"] if made_from.items() <= kept.items() else {}
    rows = {name: row for name, row in found.items() if "error" not in row}
    CACHE.mkdir(parents=True, exist_ok=True)
    for part in parts:
        if names := [name for name in part if name not in rows]:
            with tempfile.TemporaryDirectory() as folder:
                rows |= run_some(names, Path(folder))
            _file(file).write_text(json.dumps({**made_from, "rows": rows}, indent=1) + "\n")
    return rows


def read(name: str) -> dict | None:
    """What the last run on a simulator kept."""
    return json.loads(_file(name).read_text()) if _file(name).exists() else None


def about(simulator: str) -> dict[str, str]:
    """Versions of what ran."""
    tt_lang, ttnn, wolfpine = subprocess.run(
        [environment.python(), "-c", VERSIONS], capture_output=True, text=True, check=True
    ).stdout.split()
    if simulator == WOLFPINE:
        which, digest = f"wolfpine {wolfpine}", ""
    else:
        chip = {"ttsim": "Blackhole", "wormhole": "Wormhole"}[environment.name_of(simulator)]
        which = f"ttsim (tenstorrent/ttsim), {chip}"
        digest = hashlib.sha256(Path(simulator).read_bytes()).hexdigest()
    return {"tt-lang": tt_lang, "ttnn": ttnn, "simulator": which, "sha256": digest}


def depends_on(simulator: str) -> str:
    """A digest of the sources and of the simulator."""
    digest = hashlib.sha256(json.dumps(_digests(KERNELS)).encode())
    digest.update(simulator.encode() if simulator == WOLFPINE else Path(simulator).read_bytes())
    return digest.hexdigest()


def step_sources() -> Sources:
    """What whole steps are made of: the model, its kernels, and what judges them."""
    return _digests(STEPS, without=SCENARIOS)


def scenario_sources() -> Sources:
    """The same, and the table of what small checkpoints run."""
    return _digests(STEPS)


def _digests(names: Sequence[str], without: Sequence[str] = ()) -> Sources:
    found = [f for name in names for f in (ROOT / name, *(ROOT / name).rglob("*")) if f.is_file()]
    return {
        name: hashlib.sha256(file.read_bytes()).hexdigest()[:DIGITS]
        for file in sorted(found)
        if file.suffix in (".py", ".h", ".s", "") and "__pycache__" not in file.parts
        if (name := str(file.relative_to(ROOT))) not in without
    }


def _file(name: str) -> Path:
    return CACHE / f"rows-{name}.json"
