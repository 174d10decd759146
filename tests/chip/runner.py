"""Runs many cases in few processes, and lets none of them spoil the rest.

A case that kills its process (some inputs abort the compiler, a simulator ends the program at an
instruction that it does not know) or hangs it costs its own row; the cases after it go on in a new
process. Two processes share the cases. Knows nothing of kernels: the other side is run_cases.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

Row = dict
START_SECONDS = 120.0
"""For ttnn to load and the device to open."""
CASE_SECONDS = 300.0
"""For one case: far above the slowest, a large lm_head of 100 s on the vendor's simulator."""
PROCESSES = 2


class RunnerError(Exception):
    """No case could begin; the message is the end of what the process said."""


def rows(
    python: Path,
    mode: str,
    names: Sequence[str],
    env: Mapping[str, str],
    folder: Path,
    case_seconds: float = CASE_SECONDS,
    program: str = "tests.chip.run_cases",
    processes: int = PROCESSES,
) -> dict[str, Row]:
    """One row a name, as the program wrote it, or with "error" where there is none."""
    command = [str(python), "-m", program, mode]
    workers = [
        _Worker(command, names[i::processes], env, folder / f"{mode}-{i}", case_seconds)
        for i in range(min(processes, len(names)))
    ]
    try:
        while sum(worker.goes_on() for worker in workers):
            time.sleep(0.1)
    finally:
        for worker in workers:
            worker.stop()
    return {name: row for worker in workers for name, row in worker.found.items()}


class _Worker:
    """One share of the cases: a process at a time, as many as it takes."""

    def __init__(
        self,
        command: list[str],
        names: Sequence[str],
        env: Mapping[str, str],
        folder: Path,
        case_seconds: float,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.found: dict[str, Row] = {}
        self._names = names
        self._command = command
        self._env = {**env, "TMPDIR": str(folder)}  # TT-Lang writes its C++ there
        if "TT_METAL_CACHE" in env:
            self._env["TT_METAL_CACHE"] += f"-{folder.name}"
        self._folder, self._case_seconds = folder, case_seconds
        self._out, self._log = folder / "rows.jsonl", folder / "log.txt"
        self._process: subprocess.Popen[bytes] | None = None

    def goes_on(self) -> bool:
        """Looks after the process; false when every name has its row."""
        if self._process is None:
            return self._start()
        self._read()
        silent = time.monotonic() - self._since
        if self._process.poll() is not None:
            code = self._process.returncode
            self._lost(f"exit {code}" if code >= 0 else signal.Signals(-code).name)
        elif silent > (self._case_seconds if self._begun else START_SECONDS):
            self._lost(f"no end after {silent:.0f} s")
        return True

    def stop(self) -> None:
        """Ends the process and what it started (wolfpine's server follows by itself)."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _start(self) -> bool:
        left = [name for name in self._names if name not in self.found]
        if not left:
            return False
        self._out.write_text("")
        with self._log.open("w") as said:  # a file: a server would hold a pipe open
            self._process = subprocess.Popen(
                [*self._command, str(self._out), *left],
                cwd=self._folder,
                env=self._env,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        self._lines, self._since = 0, time.monotonic()
        self._begun: str | None = None
        return True

    def _read(self) -> None:
        lines = self._out.read_text().splitlines()
        for row in map(json.loads, (line for line in lines[self._lines :] if line.endswith("}"))):
            self._lines, self._since = self._lines + 1, time.monotonic()
            self._begun = row["name"]
            if "begun" not in row:
                self.found[row["name"]] = row

    def _lost(self, how: str) -> None:
        self._read()
        self.stop()
        said = self._log.read_text(errors="replace").strip().splitlines()
        why = f"{how}: {' / '.join(said[-3:])[-800:]}"
        if self._begun is None:
            if not self.found:
                raise RunnerError(why)
            # A device that does not open again: what was found stays.
            left = [name for name in self._names if name not in self.found]
            self.found |= {name: {"name": name, "error": f"not begun: {why}"} for name in left}
        elif self._begun not in self.found:
            self.found[self._begun] = {"name": self._begun, "error": why}
