"""What a request can fail with, and how a client sees it.

Knows gRPC statuses and their rich details; knows nothing of requests, devices or text.
"""

from __future__ import annotations

from typing import Any, NoReturn, TypeAlias, cast

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

RETRY_SECONDS = 1.0
"""What `RetryInfo` says where nobody knows better."""

_SHOWN_CHARACTERS = 64
_DETAILS_KEY = "grpc-status-details-bin"


def _number(status: grpc.StatusCode) -> int:
    """The status as a google.rpc.Code."""
    return cast(tuple[int, str], status.value)[0]


_STATUS_OF_NUMBER = {_number(status): status for status in grpc.StatusCode}


class RequestError(Exception):
    """A request that can't be served. Every one reaches its client, as a gRPC status.

    Attributes:
        status: the gRPC status.
        message: one sentence with field, value and limit.
        field: the field at fault, e.g. "sampling.top_p"; empty where none is.
        retry_after_seconds: when to try again; None where that would not help.
    """

    def __init__(
        self,
        status: grpc.StatusCode,
        message: str,
        *,
        field: str = "",
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.field = field
        self.retry_after_seconds = retry_after_seconds

    def details(self) -> status_pb2.Status:
        """The error as google.rpc.Status, with BadRequest and RetryInfo where they apply."""
        status = status_pb2.Status(code=_number(self.status), message=self.message)
        if self.field:
            bad_request = error_details_pb2.BadRequest()
            bad_request.field_violations.add(field=self.field, description=self.message)
            status.details.add().Pack(bad_request)
        if self.retry_after_seconds is not None:
            delay = Duration()
            delay.FromMicroseconds(round(self.retry_after_seconds * 1e6))
            status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
        return status


def invalid(field: str, problem: str) -> RequestError:
    """The client's mistake in `field`; `problem` names the value and the limit."""
    return RequestError(grpc.StatusCode.INVALID_ARGUMENT, f"{field}: {problem}", field=field)


def unavailable(message: str, retry_after_seconds: float = RETRY_SECONDS) -> RequestError:
    """Nobody can serve the request now."""
    return RequestError(
        grpc.StatusCode.UNAVAILABLE, message, retry_after_seconds=retry_after_seconds
    )


def device_refusal(
    address: str, code: int, field: str, message: str, retry_after_ms: int
) -> RequestError:
    """What a client is told of a device's `SequenceFailed`.

    A device without room or about to stop says so itself. What the gateway should not have sent is
    the gateway's fault, not the client's.
    """
    match _STATUS_OF_NUMBER.get(code):
        case (grpc.StatusCode.RESOURCE_EXHAUSTED | grpc.StatusCode.UNAVAILABLE) as status:
            return RequestError(
                status,
                f"device {address}: {message}",
                retry_after_seconds=retry_after_ms / 1000 or RETRY_SECONDS,
            )
        case _:
            where = f" {field}" if field else ""
            return RequestError(
                grpc.StatusCode.INTERNAL, f"device {address} refused{where}: {message}"
            )


def shown(value: str) -> str:
    """A client's string in quotes, short enough for a message."""
    if len(value) > _SHOWN_CHARACTERS:
        value = value[:_SHOWN_CHARACTERS] + "…"
    return repr(value)


async def abort(context: Context, error: RequestError) -> NoReturn:
    """Ends the call with the error; never returns."""
    await context.abort(
        error.status,
        error.message,
        trailing_metadata=((_DETAILS_KEY, error.details().SerializeToString()),),
    )
    raise AssertionError("abort returned")
