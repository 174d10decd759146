"""The thread that owns the model: commands in, schedule, step, publish.

Handlers enqueue and await; everything about sequences happens in `core`, on this one thread. Knows
threads and the event loop that it publishes to; knows no gRPC and no protobuf.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from device_service.core import Core
from device_service.errors import Code, StartError
from device_service.messages import Command, Report, StreamEnd, StreamEvents
from device_service.model.interface import (
    Model,
    ModelInfo,
    ReadoutOptions,
    ReportProgress,
    Span,
    StepBatch,
)
from device_service.step_watch import StepWatch

Deliver = Callable[[StreamEvents], None]
LoadModel = Callable[[ReportProgress], Model]

WATCH_SECONDS = 1.0
"""How often it is asked whether a step hangs; more often where its limit is short."""

START_TIMES = 6
"""What loading and warm-up may take between two lines of progress, in times of a step's limit."""

MAX_STEP_SECONDS = 20.0
"""How long a stop waits for the running step."""

log = logging.getLogger(__name__)


class Engine:
    """Runs a model on a thread of its own. All methods are for the event loop's thread.

    Args:
        load_model: called on the engine's thread.
        max_queued: sequences that may wait for a slot.
        on_report: called on the event loop after everything that changed the load.
        report_progress: gets lines about loading and warm-up, on the engine's thread.
        watch: of the steps; without it, a step may take any time.
    """

    def __init__(
        self,
        load_model: LoadModel,
        max_queued: int,
        on_report: Callable[[Report], None],
        report_progress: ReportProgress = log.info,
        watch: StepWatch | None = None,
    ) -> None:
        self._load_model = load_model
        self._max_queued = max_queued
        self._on_report = on_report
        self._report_progress = report_progress
        self._watch = watch or StepWatch(None)
        self._start_watch = self._watch.times(START_TIMES)
        self._hung = ""
        self._loop = asyncio.get_running_loop()
        self._inbox: queue.SimpleQueue[Callable[[Core], None]] = queue.SimpleQueue()
        self._streams: dict[int, Deliver] = {}
        self._numbers = itertools.count(1)
        self._stopped = threading.Event()
        self._ready: asyncio.Future[ModelInfo] = self._loop.create_future()
        self._empty = asyncio.Event()
        self._ended = asyncio.Event()
        # Callbacks of commands that left the inbox; the engine's thread alone touches it.
        self._taken: list[Callable[[], None]] = []
        # A daemon: a model that does not return from a step must not keep the process.
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    async def start(self) -> ModelInfo:
        """Loads the model, warms it up, runs a first step, and returns what it is.

        Raises:
            StartError: the first step gave no finite logits.
            Exception: whatever loading or the warm-up raised.
        """
        self._thread.start()
        return await self._ready

    async def ended(self) -> None:
        """Returns once the thread runs no more: after `stop`, or after a fault of its own."""
        await self._ended.wait()

    async def hung(self) -> str:
        """Returns once a step, or the start, has hung, and how; streams are told.

        The thread is lost then: there is no way to end a native call. Only the process can go.
        """
        limit = self._watch.limit_seconds
        if limit is None:
            await asyncio.Future[None]()  # never
        assert limit is not None
        while not (hung := self._overdue()):  # noqa: ASYNC110 who hangs tells not
            await asyncio.sleep(min(limit / 4, WATCH_SECONDS))
        self._hung = hung
        end = StreamEvents(end=StreamEnd(Code.UNAVAILABLE, f"the device hangs: {self._hung}"))
        for deliver in self._streams.values():
            deliver(end)
        return self._hung

    def _overdue(self) -> str:
        """What takes longer than it may, or nothing."""
        watches = {
            "a step of the model has run": self._watch,
            "the start of the model has shown no progress": self._start_watch,
        }
        for what, watch in watches.items():
            if (seconds := watch.overdue_seconds()) is not None:
                return f"{what} for {seconds:.0f} s, and may take {watch.limit_seconds:g}"
        return ""

    def open_stream(self, deliver: Deliver) -> int:
        """A new stream; `deliver` is called on the event loop with what happens to it."""
        stream = next(self._numbers)
        self._streams[stream] = deliver
        if self._hung:
            end = StreamEnd(Code.UNAVAILABLE, f"the device hangs: {self._hung}")
            self._loop.call_soon(deliver, StreamEvents(end=end))
        self._inbox.put(lambda core: core.open_stream(stream))
        return stream

    @property
    def num_streams(self) -> int:
        """Open streams."""
        return len(self._streams)

    def submit(
        self, stream: int, commands: Sequence[Command], on_taken: Callable[[], None]
    ) -> None:
        """Hands over commands of a stream; `on_taken` is called once they have left the inbox."""
        arrived_at = time.monotonic()

        def handle(core: Core) -> None:
            core.handle(stream, commands, arrived_at)
            self._taken.append(on_taken)

        self._inbox.put(handle)

    def end_stream(self, stream: int) -> None:
        """The client sends no more commands."""
        self._inbox.put(lambda core: core.end_stream(stream))

    def drop_stream(self, stream: int) -> None:
        """Nobody listens to the stream any more: its sequences end before the next step."""
        del self._streams[stream]
        self._inbox.put(lambda core: core.drop_stream(stream))

    async def drain(self, seconds: float) -> bool:
        """Opens nothing new and waits for the last sequence.

        Returns:
            Whether it came within `seconds`; the sequences left then are told, and lost.
        """
        self._inbox.put(lambda core: core.drain())
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            message = f"the device service stopped; draining took more than {seconds:g} s"
            self._inbox.put(lambda core: core.fail_all(Code.UNAVAILABLE, message))
            return False
        return True

    async def stop(self) -> None:
        """Ends the thread after the running step, and gives the model back.

        A step that does not return is left behind: the thread does not keep the process.
        """
        self._stopped.set()
        self._inbox.put(lambda _: None)
        try:
            async with asyncio.timeout(MAX_STEP_SECONDS):
                await self._ended.wait()
        except TimeoutError:
            log.error("a step still runs after %g s; leaving it behind", MAX_STEP_SECONDS)

    # --- the engine's thread --------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with self._start_watch.step():
                model = self._load_model(self._report_start)
                model.warm_up(self._report_start)
                run_first_step(model)
            core = Core(model, self._max_queued)
        except BaseException as error:
            self._call(self._fail_start, error)
            return
        try:
            self._publish(core)
            self._call(self._set_ready, model.info)
            while not self._stopped.is_set():
                with self._watch.step():
                    has_worked = core.step()
                self._handle_inbox(core, wait=not has_worked)
                self._publish(core)
            # What was put just before the stop, such as the end of all sequences, is still told.
            self._handle_inbox(core, wait=False)
            self._publish(core)
            model.close()
        except Exception:
            log.exception("the engine has a fault of its own and ends")
        finally:
            self._call(self._ended.set)

    def _report_start(self, line: str) -> None:
        self._start_watch.go_on()
        self._report_progress(line)

    def _handle_inbox(self, core: Core, *, wait: bool) -> None:
        """Does all that came in; with `wait`, at least one thing."""
        try:
            self._inbox.get(block=wait)(core)
            while True:
                self._inbox.get_nowait()(core)
        except queue.Empty:
            pass

    def _publish(self, core: Core) -> None:
        taken, self._taken = self._taken, []
        events, report = core.take_events()
        self._call(self._deliver, events, report, taken, core.is_empty and core.is_draining)

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop has been closed: nobody is left to tell
            self._stopped.set()

    # --- back on the event loop -----------------------------------------------------------------

    def _deliver(
        self,
        events: dict[int, StreamEvents],
        report: Report,
        taken: list[Callable[[], None]],
        empty: bool,
    ) -> None:
        for on_taken in taken:
            on_taken()
        for stream, happened in events.items():
            if deliver := self._streams.get(stream):
                deliver(happened)
        if empty:
            self._empty.set()
        self._on_report(report)

    def _set_ready(self, info: ModelInfo) -> None:
        if not self._ready.done():  # it is when nobody waits any more
            self._ready.set_result(info)

    def _fail_start(self, error: BaseException) -> None:
        if not self._ready.done():
            self._ready.set_exception(error)
        self._ended.set()


def run_first_step(model: Model) -> None:
    """Runs one row, so that SERVING means that a step has run.

    Raises:
        StartError: its logits are not finite numbers.
    """
    info = model.info
    options = ReadoutOptions(top_candidates=min(64, info.max_top_candidates))
    span = Span(0, 0, (info.bos_token_id,), 1, options)
    readouts = model.step(StepBatch((span,)))
    model.release(0)
    if not np.isfinite(readouts.logsumexps).all():
        raise StartError("the model's first step gave logits that are not finite numbers")
