"""`python -m gateway`: settings, logging, signals; then `server` does the work."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

from gateway.devices import DeviceMismatchError
from gateway.server import StartError, Stop, serve
from gateway.settings import Settings, SettingsError, load_settings
from gateway.tokenizer import Tokenizer, TokenizerError

try:
    from uvloop import new_event_loop
except ImportError:  # where it does not install, asyncio's own loop does
    from asyncio import new_event_loop

USAGE_ERROR = 2
START_ERROR = 1


def main() -> int:
    """Returns the exit code: 0 after an orderly stop, 1 when it can't start, 2 for bad settings."""
    try:
        settings = load_settings(sys.argv[1:])
    except SettingsError as error:
        return _fail(error, USAGE_ERROR)
    logging.basicConfig(
        level=settings.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    try:
        tokenizer = Tokenizer.from_directory(settings.tokenizer)
    except TokenizerError as error:
        return _fail(f"--tokenizer: {error}", START_ERROR)
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(_serve_until_signal(settings, tokenizer))
    except (StartError, DeviceMismatchError) as error:
        return _fail(error, START_ERROR)
    return 0


async def _serve_until_signal(settings: Settings, tokenizer: Tokenizer) -> None:
    stop = Stop()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.wish)
    await serve(settings, tokenizer, stop)


def _fail(error: object, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
