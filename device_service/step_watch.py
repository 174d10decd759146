"""Whether a step of the model still runs after its time: a device that hangs returns from nothing.

Knows clocks and threads; knows no model, no event loop, no gRPC.
"""

from __future__ import annotations

import faulthandler
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager

GRACE_SECONDS = 15.0
"""After the limit, for the service to end by itself before the process is ended."""


class StepWatch:
    """Watches one thread's steps.

    Args:
        limit_seconds: what a step may take; None: any time, and nothing is watched.
        may_end_process: whether to end the process, with all threads' tracebacks on stderr and
            exit code 1, where even the event loop got no turn: a native call may hang with Python's
            lock held.
    """

    def __init__(self, limit_seconds: float | None, *, may_end_process: bool = False) -> None:
        self.limit_seconds = limit_seconds
        self._stderr = sys.__stderr__ if may_end_process and limit_seconds is not None else None
        self._began: float | None = None

    def times(self, factor: float) -> StepWatch:
        """Another watch, for what may take so many times as long."""
        limit = None if self.limit_seconds is None else factor * self.limit_seconds
        return StepWatch(limit, may_end_process=self._stderr is not None)

    def go_on(self) -> None:
        """The running step has shown that it lives: its time begins anew. For its own thread."""
        self._began = time.monotonic()
        if self._stderr is not None:
            assert self.limit_seconds is not None
            seconds = self.limit_seconds + GRACE_SECONDS
            faulthandler.dump_traceback_later(seconds, exit=True, file=self._stderr)

    @contextmanager
    def step(self) -> Generator[None]:
        """What the thread does inside is one step."""
        self.go_on()
        try:
            yield
        finally:
            self._began = None
            if self._stderr is not None:
                faulthandler.cancel_dump_traceback_later()

    def overdue_seconds(self) -> float | None:
        """How long the running step runs, where that is beyond the limit; for any thread."""
        began = self._began
        if began is None or self.limit_seconds is None:
            return None
        seconds = time.monotonic() - began
        return seconds if seconds > self.limit_seconds else None
