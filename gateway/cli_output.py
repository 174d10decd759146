"""How the `tessera` command shows things: streamed text, JSON lines, one-line errors.

Knows the terminal; knows nothing of requests.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from enum import Enum
from typing import Any

from gateway.client import GatewayError
from gateway.events import Delta, Event, Finished

REQUEST_FAILED = 1
NOT_REACHED = 3


def show_text(events: Iterable[Event], *, stats: bool) -> str:
    """Writes the answer as it comes, and counts to stderr if asked; returns the answer."""
    text = ""
    for event in events:
        match event:
            case Delta():
                write(event.text)
                text += event.text
            case Finished():
                write("" if text.endswith("\n") else "\n")
                if stats:
                    print(_stats(event), file=sys.stderr)
            case _:
                pass
    return text


def show_json(events: Iterable[Event]) -> None:
    """Writes one JSON object a line: the event's fields, and its name as "event"."""
    for event in events:
        write_json({"event": type(event).__name__.lower()} | asdict(event))


def write_json(value: dict[str, Any]) -> None:
    """Writes a JSON object on a line of its own."""
    write(json.dumps(value, ensure_ascii=False, default=_plain) + "\n")


def write(text: str) -> None:
    """Writes to stdout, at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def show_error(message: object) -> None:
    """Writes one line to stderr."""
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr, flush=True)


def show_failure(error: GatewayError, server: str) -> int:
    """Writes what went wrong, in one line; returns the exit code."""
    if error.from_gateway:
        show_error(error.message)
        return REQUEST_FAILED
    show_error(
        f"no gateway answers at {server}: start one (make serve), or name another with --server "
        f"or TESSERA_SERVER"
    )
    return NOT_REACHED


def _stats(finished: Finished) -> str:
    usage, timings = finished.usage, finished.timings
    parts = [
        f"{finished.reason.value}",
        f"{usage.prompt_tokens} prompt tokens",
        f"{usage.generated_tokens} generated in {timings.total:.2f} s",
    ]
    if timings.time_to_first_token is not None:
        parts.append(f"first after {timings.time_to_first_token:.3f} s")
    if usage.full_rows:
        parts.append(f"{usage.full_rows} full rows")
    return f"[{', '.join(parts)}]"


def _plain(value: object) -> str:
    assert isinstance(value, Enum)
    return str(value.value)
