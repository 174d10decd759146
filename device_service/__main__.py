"""`python -m device_service`: settings, logging, signals; then `server` does the work."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from functools import partial
from typing import TYPE_CHECKING

from device_service import doctor
from device_service.errors import HungError, StartError, one_line
from device_service.machine import look
from device_service.settings import Settings, SettingsError, load_settings

if TYPE_CHECKING:
    from device_service.model.interface import Model, ReportProgress

USAGE_ERROR = 2
START_ERROR = 1

DEFAULT_CONTEXT_LENGTH = 8192
"""Where the model allows more: what a slot costs grows with it."""


def main() -> int:
    """Returns the exit code: 0 after an orderly stop, 1 when it can't serve, 2 for bad settings."""
    if sys.argv[1:2] == ["doctor"]:
        return doctor.main(sys.argv[2:])
    try:
        settings = load_settings(sys.argv[1:])
    except SettingsError as error:
        return _fail(error, USAGE_ERROR)
    logging.basicConfig(
        level=settings.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    if settings.backend == "tt":
        machine = look(os.environ)
        if problem := doctor.refusal(doctor.checks(machine)):
            return _fail(f"--backend tt: {problem}", START_ERROR)
        if settings.board != "auto" and (problem := doctor.other_board(machine, settings.board)):
            return _fail(f"--board {settings.board}: {problem}", USAGE_ERROR)
    # Here and not above, so that --help and mistakes in settings are told at once.
    try:
        from uvloop import new_event_loop
    except ImportError:  # where it does not install, asyncio's own loop does
        from asyncio import new_event_loop
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(_serve_until_signal(settings))
    except HungError as error:
        _fail(error, START_ERROR)
        sys.stderr.flush()
        os._exit(START_ERROR)  # an orderly end would wait for the native call that hangs
    except StartError as error:
        return _fail(error, START_ERROR)
    return 0


async def _serve_until_signal(settings: Settings) -> None:
    from device_service.server import serve

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if stop.is_set():  # the second time: at once
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    await serve(settings, partial(load_model, settings), stop, may_end_process=True)


def load_model(settings: Settings, report: ReportProgress) -> Model:
    """Loads the model that the settings name, on the backend that they name."""
    from device_service.model.host import tune_host

    tune_host()  # before torch is imported: its thread library reads the environment once
    from device_service.model.config import load_config

    longest = load_config(settings.model).max_position_embeddings
    context_length = settings.context_length or min(longest, DEFAULT_CONTEXT_LENGTH)
    if settings.backend == "torch":
        from device_service.model.torch_backend import TorchModel

        return TorchModel.load(
            settings.model,
            dtype="bfloat16" if settings.precision == "auto" else settings.precision,
            device=settings.accelerator,
            num_slots=settings.slots,
            context_length=context_length,
            max_rows=settings.row_limit,
            num_threads=settings.threads,
            report=report,
        )
    from device_service.model.tt_backend import TtModel

    # Else ttnn's inspector listens too, at 127.0.0.1:50051: the device service's own default.
    os.environ.setdefault("TT_METAL_INSPECTOR_RPC", "0")
    try:
        return TtModel.load(
            settings.model,
            backend=settings.backend,
            board=board_of(settings),
            precision=None if settings.weights == "auto" else settings.weights,
            bundle_dir=settings.bundle,
            num_slots=settings.slots,
            context_length=context_length,
            max_rows=settings.row_limit,
            report=report,
        )
    except RuntimeError as error:  # of ttnn: whatever kept the device from opening
        perhaps = doctor.warnings(doctor.checks(look(os.environ)))
        if settings.backend != "tt" or not perhaps:
            raise
        raise RuntimeError(f"{one_line(error)}; perhaps {perhaps[0]}") from error


def board_of(settings: Settings) -> str:
    """The board to plan for: the one that is named, or there, or the usual one."""
    if settings.board != "auto":
        return settings.board
    if settings.backend == "tt":
        return doctor.board_to_plan_for(look(os.environ))
    return doctor.BOARDS[0]


def _fail(error: object, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
