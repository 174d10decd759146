"""Parses requests inside of the call, so that what is no message is refused in words.

Knows gRPC's handlers; knows no service. gRPC itself would say INTERNAL, "Exception deserializing
request!", to a client whose text is not UTF-8.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from gateway.errors import Context, RequestError, abort

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class ParseInHandler(grpc.aio.ServerInterceptor):
    """Refuses unreadable requests with INVALID_ARGUMENT and the parser's reason.

    For handlers that are coroutines and take one request; others are left as they are.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Replaces the handler by one that takes bytes."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            return handler
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(
                _parsing(handler.unary_stream, handler),
                request_deserializer=None,
                response_serializer=handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            _parsing(handler.unary_unary, handler),
            request_deserializer=None,
            response_serializer=handler.response_serializer,
        )


def _parsing(behavior: Any, handler: Handler) -> Any:
    parse: Any = handler.request_deserializer

    async def parse_and_behave(message: bytes, context: Context) -> Any:
        try:
            request = parse(message)
        except DecodeError as error:
            await abort(context, RequestError(grpc.StatusCode.INVALID_ARGUMENT, str(error)))
        return await behavior(request, context)

    return parse_and_behave
