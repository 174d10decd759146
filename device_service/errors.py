"""The faults that reach a client or an operator, and their google.rpc codes.

Knows codes and sentences; imports nothing of the service, of gRPC, or of torch.
"""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """The google.rpc.Code values that this service sends."""

    OK = 0
    INVALID_ARGUMENT = 3
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


class CommandError(Exception):
    """A command that is refused; the client learns all of it.

    Attributes:
        code: what kind of fault.
        field: the field at fault, e.g. "open.token_ids[3]"; empty where none is.
        message: one sentence with field, value and limit.
        retry_after_ms: when to try again, milliseconds; 0: unknown.
    """

    def __init__(self, code: Code, field: str, message: str, retry_after_ms: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.field = field
        self.message = message
        self.retry_after_ms = retry_after_ms


def invalid(field: str, message: str) -> CommandError:
    """An INVALID_ARGUMENT at `field`."""
    return CommandError(Code.INVALID_ARGUMENT, field, message)


class StartError(Exception):
    """The service cannot start; the message is one line that an operator can act on."""


class HungError(StartError):
    """A step of the model does not return: the process has to go, whatever still runs in it."""


def one_line(error: BaseException) -> str:
    """What an error says, in one line.

    Of ttnn's the part after "info:": before it is a place in its sources, after it a backtrace.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if "info:" in lines[:-1]:
        lines = lines[lines.index("info:") + 1 :]
    return lines[0] if lines else type(error).__name__
