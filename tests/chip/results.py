"""The rows of a whole run on a simulator, kept under .cache/chip until their sources change.

The tests write them, the report reads them. A kernel's row has a digest of what that case runs: its
kernel, the table, the compiler that stands in. Rows of whole steps have one of each file, the
model's among them, so that the page can say what changed since.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

from tests.chip import environment
from tests.chip.environment import CACHE, WOLFPINE
from tests.chip.sources import Sources, digest, sources
from tests.chip.steps import scenarios
from tests.kernels.case import Case, all_cases

Rows = dict[str, dict]
MOST_ON_WOLFPINE = 2
"""Cases of a kernel: each takes up to a minute, nearly all of it compiling and Python."""
AT_ONCE = 50
"""Cases between two writings of the file."""
CHIP = ("tests/chip/toolchain", "tests/chip/prepare.py", "tests/chip/wolfpine_server.py")
CASES = ("tests/chip/run_cases.py", *CHIP)
STEPS = ("tests/chip/steps/whole_steps.py", *CHIP)
SERVED = ("device_service/model", "tests/chip/served.py", *CHIP)
SCENARIOS = ("tests/chip/steps/run_steps.py", *CHIP)
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
    cases = {case.name: case for case in cases_for(name) if name not in case.refused}

    def run_some(names: list[str], folder: Path) -> Rows:
        return environment.rows("run", names, environment.simulated(simulator), folder)

    wanted = {name: case_sources(case) for name, case in cases.items()}
    names = list(cases)
    parts = [names[i : i + AT_ONCE] for i in range(0, len(names), AT_ONCE)]
    return _complete(name, about(simulator), wanted, parts, run_some)


def run_steps(simulator: str) -> Rows:
    """Runs all whole steps that the simulator can, and keeps the rows."""
    name = environment.name_of(simulator)
    runs = steps_for(name)

    def run_some(names: list[str], folder: Path) -> Rows:
        return environment.step_rows(names, simulator, folder, scenarios.SECONDS)

    wanted = dict.fromkeys((run.name for run in runs), scenario_sources())
    families = itertools.groupby(runs, lambda run: run.family)
    parts = [[run.name for run in family] for _, family in families]
    return _complete(f"steps-{name}", about(simulator), wanted, parts, run_some)


def _complete(
    file: str,
    about: Mapping[str, str],
    wanted: Mapping[str, str | Sources],
    parts: Iterable[Sequence[str]],
    run_some: Callable[[list[str], Path], Rows],
) -> Rows:
    """Runs what has no row yet, and keeps the rows part by part.

    So a run that was ended goes on where it was, and one after a change makes only the rows that
    the change concerns. Rows with errors are made anew; those of other sources stay in the file
    until then, so that the page can show them as what they are.

    Args:
        file: that keeps them.
        about: versions of what runs.
        wanted: the sources of each row.
        parts: names of rows, all that are wanted.
        run_some: makes rows.
    """
    kept = read(file) or {}
    rows: Rows = kept["rows"] if kept.get("about") == about else {}

    def is_good(name: str) -> bool:
        row = rows.get(name, {"error": "none"})
        return "error" not in row and row.get("sources") == wanted[name]

    CACHE.mkdir(parents=True, exist_ok=True)
    for part in parts:
        if names := [name for name in part if not is_good(name)]:
            with tempfile.TemporaryDirectory() as folder:
                made = run_some(names, Path(folder))
            rows |= {name: row | {"sources": wanted[name]} for name, row in made.items()}
            _file(file).write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    return {name: rows[name] for name in wanted if name in rows}


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


def case_sources(case: Case) -> str:
    """A digest of all that a case runs."""
    return _module_sources(case.operation.__module__)


@cache
def _module_sources(module: str, *more: str) -> str:
    return digest((f"{module.replace('.', '/')}.py", *more, *CASES))


def account_sources(case: Case) -> str:
    """A digest of that and of what counts a case's bytes."""
    return _module_sources(case.operation.__module__, "tests/kernels/traffic.py")


def step_sources() -> Sources:
    """What whole steps are made of: the model, its kernels, and what judges them."""
    return sources(STEPS)


def served_sources() -> Sources:
    """What a served answer is made of, and torch's with which it is compared."""
    return sources(SERVED)


def scenario_sources() -> Sources:
    """The same, and the table of what small checkpoints run."""
    return sources(SCENARIOS)


def _file(name: str) -> Path:
    return CACHE / f"rows-{name}.json"
