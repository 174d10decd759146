"""The gateway's service: gRPC on one side, generation on the other.

Knows admission, errors, cancellation and deadlines of calls; knows nothing of tokens or devices'
streams.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator
from contextlib import aclosing, contextmanager
from typing import Any, TypeVar

import grpc

from gateway.coalesce import coalesce
from gateway.devices import DevicePool
from gateway.errors import RETRY_SECONDS, Context, RequestError, abort, unavailable
from gateway.events import Finished, to_proto
from gateway.generation import Generation
from gateway.metrics import Metrics, RequestMeter
from gateway.parameters import write_defaults
from gateway.requests import read_request, read_text, read_token_ids
from gateway.tokenizer import Tokenizer
from tessera.gateway.v1 import gateway_pb2 as pb
from tessera.gateway.v1 import gateway_pb2_grpc

log = logging.getLogger(__name__)

_LARGE_REQUEST_BYTES = 16_384
"""A larger request is encoded in a thread, so that others don't wait for it."""

T = TypeVar("T")


class GatewayServicer(gateway_pb2_grpc.GatewayServiceServicer):
    """Serves `tessera.gateway.v1`.

    Args:
        pool: the devices.
        tokenizer: of the model that they serve.
        metrics: takes what happens.
        max_concurrent: Generate requests at a time; further ones are RESOURCE_EXHAUSTED.
        top_candidates: asked of a device for each token.
    """

    def __init__(
        self,
        pool: DevicePool,
        tokenizer: Tokenizer,
        metrics: Metrics,
        max_concurrent: int,
        top_candidates: int,
    ) -> None:
        self._pool = pool
        self._tokenizer = tokenizer
        self._metrics = metrics
        self._max_concurrent = max_concurrent
        self._top_candidates = top_candidates
        self._num_active = 0
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    # A coroutine that writes, and no generator: when a call is cancelled, gRPC ends a coroutine,
    # and forgets a generator. The stubs know only the latter.
    async def Generate(  # noqa: N802  # pyright: ignore[reportIncompatibleMethodOverride]
        self, request: pb.GenerateRequest, context: Context
    ) -> None:
        """Generates text: writes `started`, deltas, `finished`."""
        meter = RequestMeter(self._metrics)
        outcome, reason = "cancelled", None
        try:
            with self._admitted():
                reason = await self._generate(request, context, meter)
            outcome = "ok"
        except RequestError as error:
            outcome = error.status.name.lower()
            log.info("request %s: %s: %s", request.request_id or "-", outcome, error)
            await abort(context, error)
        except asyncio.CancelledError:
            if _is_overdue(context):
                outcome = "deadline_exceeded"
            raise
        except Exception:
            outcome = "internal"
            log.exception("request %s failed", request.request_id or "-")
            await abort(context, _INTERNAL)
        finally:
            meter.end(outcome, reason)

    async def Tokenize(  # noqa: N802
        self, request: pb.TokenizeRequest, context: Context
    ) -> pb.TokenizeResponse:
        """Text to ids."""
        try:
            token_ids = await _off_loop(request, lambda: read_text(request, self._tokenizer))
        except RequestError as error:
            await abort(context, error)
        return pb.TokenizeResponse(token_ids=token_ids)

    async def Detokenize(  # noqa: N802
        self, request: pb.DetokenizeRequest, context: Context
    ) -> pb.DetokenizeResponse:
        """Ids to text."""
        try:
            text = await _off_loop(request, lambda: read_token_ids(request, self._tokenizer))
        except RequestError as error:
            await abort(context, error)
        return pb.DetokenizeResponse(text=text)

    async def GetModel(  # noqa: N802
        self,
        request: pb.GetModelRequest,  # noqa: ARG002 (it says nothing yet)
        context: Context,
    ) -> pb.GetModelResponse:
        """The model and its defaults."""
        try:
            model = self._pool.choose().model
        except RequestError as error:
            await abort(context, error)
        return pb.GetModelResponse(
            name=model.name,
            architecture=model.architecture,
            vocab_size=model.vocab_size,
            context_length=model.context_length,
            eos_token_ids=model.eos_token_ids,
            default_sampling=write_defaults(self._tokenizer.defaults),
            chat=self._tokenizer.has_chat_template,
            backend=model.backend,
            precision=model.precision,
            checkpoint_digest=model.checkpoint_digest,
        )

    def start_draining(self) -> None:
        """Refuses new requests; running ones go on."""
        self._draining = True

    async def idle(self) -> None:
        """Returns when no request runs."""
        await self._idle.wait()

    async def _generate(
        self, message: pb.GenerateRequest, context: Context, meter: RequestMeter
    ) -> str:
        """Returns the reason of the answer's end."""
        device = self._pool.choose()
        request = await _off_loop(
            message, lambda: read_request(message, device.model, self._tokenizer)
        )
        generation = Generation(request, device, self._tokenizer, meter, self._top_candidates)
        async with aclosing(coalesce(generation.events())) as events:
            async for event in events:
                await context.write(to_proto(event, with_token_ids=request.with_token_ids))
                if isinstance(event, Finished):
                    log.info(
                        "request %s: %s after %d + %d tokens, %.3f s",
                        request.request_id,
                        event.reason.value,
                        event.usage.prompt_tokens,
                        event.usage.generated_tokens,
                        event.timings.total,
                    )
                    return event.reason.value
        raise AssertionError("an answer ends with Finished, or with an error")

    @contextmanager
    def _admitted(self) -> Generator[None]:
        """Counts a request in, or refuses it."""
        if self._draining:
            raise unavailable("the gateway is stopping and takes no new requests")
        if self._num_active >= self._max_concurrent:
            raise RequestError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"the gateway serves {self._num_active:,} requests, and may serve "
                f"{self._max_concurrent:,} at a time",
                retry_after_seconds=RETRY_SECONDS,
            )
        self._num_active += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._num_active -= 1
            if not self._num_active:
                self._idle.set()


_INTERNAL = RequestError(
    grpc.StatusCode.INTERNAL, "the gateway failed; its log tells more under the request's id"
)


def _is_overdue(context: Context) -> bool:
    remaining: Any = context.time_remaining()  # None without a deadline, though its type denies it
    return remaining is not None and remaining <= 0


async def _off_loop(
    message: pb.GenerateRequest | pb.TokenizeRequest | pb.DetokenizeRequest, read: Callable[[], T]
) -> T:
    """Reads a message here, or in a thread where that takes long."""
    if message.ByteSize() <= _LARGE_REQUEST_BYTES:
        return read()
    return await asyncio.to_thread(read)
