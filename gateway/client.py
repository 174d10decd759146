"""A Python client of the gateway: text in, events out, and answers that survive a lost gateway.

Knows the text contract; knows nothing of how the gateway keeps it.

    with Client("127.0.0.1:50050") as client:
        for event in client.generate("Once upon a time,", max_tokens=64, temperature=0.7):
            if isinstance(event, Delta):
                print(event.text, end="", flush=True)

A chat is a prompt, too:

    client.generate(Chat((Message("user", "What is a tessera?"),)))
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeAlias, TypedDict, Unpack, cast

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from gateway.events import Delta, Event, Finished, Started, from_proto
from tessera.gateway.v1 import gateway_pb2 as pb
from tessera.gateway.v1 import gateway_pb2_grpc

DEFAULT_SERVER = "127.0.0.1:50050"
MAX_RESUMES = 6
"""How often in a row an answer is taken up again before the error is raised."""

_CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", 16 * 2**20),
    ("grpc.max_send_message_length", 16 * 2**20),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # without it, the keepalive ping has 60 s
)
_MAX_WAIT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation; the role is "system", "user" or "assistant"."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation, laid out by the checkpoint's chat template."""

    messages: tuple[Message, ...]
    enable_thinking: bool = False


Prompt: TypeAlias = str | Chat | Sequence[int]
"""Text to continue, a conversation, or token ids that are used exactly as given."""


class Options(TypedDict, total=False):
    """What a request may say; absent means the gateway's default. See tessera.gateway.v1."""

    model: str
    request_id: str
    priority: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]
    seed: int
    max_tokens: int
    stop: Sequence[str]
    stop_ids: Sequence[int]
    ignore_eos: bool
    deadline_seconds: float
    logprobs: int
    echo: bool


class GatewayError(Exception):
    """A call failed.

    Attributes:
        status: the gRPC status.
        message: what the gateway said, or gRPC in its place.
        fields: the request's fields at fault.
        retry_after_seconds: when to try again; None where nobody said.
        from_gateway: False where no gateway could be reached.
    """

    def __init__(self, error: grpc.RpcError) -> None:
        assert isinstance(error, grpc.Call)
        self.status: grpc.StatusCode = error.code()
        self.message: str = error.details() or self.status.name
        self.fields: tuple[str, ...] = ()
        self.retry_after_seconds: float | None = None
        rich = cast("status_pb2.Status | None", rpc_status.from_call(error))
        self.from_gateway = rich is not None or self.status is not grpc.StatusCode.UNAVAILABLE
        for detail in rich.details if rich is not None else ():
            bad_request, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
            if detail.Unpack(bad_request):
                self.fields = tuple(each.field for each in bad_request.field_violations)
            elif detail.Unpack(retry):
                self.retry_after_seconds = retry.retry_delay.ToNanoseconds() / 1e9
        super().__init__(self.message)


class Client:
    """A connection to a gateway; a context manager. Safe to use from several threads.

    Args:
        server: HOST:PORT of the gateway.
    """

    def __init__(self, server: str = DEFAULT_SERVER) -> None:
        self.server = server
        self._channel = grpc.insecure_channel(server, _CHANNEL_OPTIONS)
        self._stub = gateway_pb2_grpc.GatewayServiceStub(self._channel)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection, and what runs on it."""
        self._channel.close()

    def generate(
        self,
        prompt: Prompt,
        *,
        resume: bool = True,
        timeout_seconds: float | None = None,
        **options: Unpack[Options],
    ) -> Generator[Event]:
        """Yields `Started`, deltas, `Finished`. Closing the generator cancels the request.

        An answer whose stream breaks is taken up again where it broke, at whichever gateway answers
        at the address; the events are as if nothing had happened.

        Args:
            prompt: what to answer.
            resume: False raises instead.
            timeout_seconds: for the whole answer; after it DEADLINE_EXCEEDED is raised.
            options: see `Options`.

        Raises:
            GatewayError: the request was refused or failed, or no gateway was reached.
            TypeError: there is no such option.
            ValueError: an option's field can't hold the value, e.g. a negative seed.
        """
        ends_at = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        request = _request(prompt, options)
        started = False
        failures = 0
        while True:
            try:
                for event in self._events(request, ends_at):
                    failures = 0
                    match event:
                        case Started():
                            request.sampling.seed = event.seed
                            request.request_id = event.request_id
                            if started:
                                continue
                            started = True
                        case Delta():
                            request.resume.SetInParent()
                            request.resume.token_ids.extend(event.token_ids)
                        case Finished():
                            pass
                    yield event
                return
            except GatewayError as error:
                failures += 1
                lost = error.status is grpc.StatusCode.UNAVAILABLE
                if not (resume and started and lost) or failures > MAX_RESUMES:
                    raise
                _wait(failures, error.retry_after_seconds, ends_at)

    def complete(self, prompt: Prompt, **options: Unpack[Options]) -> str:
        """The text of the whole answer. Arguments and errors as for `generate`."""
        return "".join(
            event.text for event in self.generate(prompt, **options) if isinstance(event, Delta)
        )

    def model(self) -> pb.GetModelResponse:
        """The model behind the gateway.

        Raises:
            GatewayError: as for `generate`.
        """
        try:
            return self._stub.GetModel(pb.GetModelRequest())
        except grpc.RpcError as error:
            raise GatewayError(error) from None

    def tokenize(self, prompt: str | Chat, *, add_bos: bool = False) -> list[int]:
        """The ids of a text or a conversation.

        Raises:
            GatewayError: as for `generate`.
        """
        request = (
            pb.TokenizeRequest(text=prompt, add_bos=add_bos)
            if isinstance(prompt, str)
            else pb.TokenizeRequest(chat=_chat(prompt))
        )
        try:
            return list(self._stub.Tokenize(request).token_ids)
        except grpc.RpcError as error:
            raise GatewayError(error) from None

    def detokenize(self, token_ids: Sequence[int], *, show_control_tokens: bool = False) -> str:
        """The text of ids.

        Raises:
            GatewayError: as for `generate`.
        """
        request = pb.DetokenizeRequest(token_ids=token_ids, show_control_tokens=show_control_tokens)
        try:
            return self._stub.Detokenize(request).text
        except grpc.RpcError as error:
            raise GatewayError(error) from None

    def _events(self, request: pb.GenerateRequest, ends_at: float | None) -> Generator[Event]:
        timeout = None if ends_at is None else max(0.0, ends_at - time.monotonic())
        call = self._stub.Generate(request, timeout=timeout)
        try:
            for response in call:
                yield from_proto(response)
        except grpc.RpcError as error:
            raise GatewayError(error) from None
        finally:
            call.cancel()


def _request(prompt: Prompt, options: Options) -> pb.GenerateRequest:
    given: dict[str, Any] = dict(options)
    deadline: float | None = given.pop("deadline_seconds", None)
    request = pb.GenerateRequest(
        sampling=pb.Sampling(**_take(given, pb.Sampling)),
        limits=pb.Limits(**_take(given, pb.Limits)),
        output=pb.Output(**_take(given, pb.Output)),
        **_take(given, pb.GenerateRequest),
    )
    if given:
        raise TypeError(f"generate() got an unexpected option {next(iter(given))!r}")
    request.output.token_ids = True  # the answer can be taken up from them
    if deadline is not None:
        duration = Duration()
        duration.FromNanoseconds(round(deadline * 1e9))
        request.limits.deadline.CopyFrom(duration)
    if isinstance(prompt, str):
        request.text = prompt
    elif isinstance(prompt, Chat):
        request.chat.CopyFrom(_chat(prompt))
    else:
        request.token_ids.ids.extend(prompt)
    return request


def _take(
    given: dict[str, Any],
    message: type[pb.GenerateRequest | pb.Sampling | pb.Limits | pb.Output],
) -> dict[str, Any]:
    """Takes out the options that are fields of the message."""
    names = [name for name in given if name in message.DESCRIPTOR.fields_by_name]
    return {name: given.pop(name) for name in names}


def _chat(chat: Chat) -> pb.Chat:
    return pb.Chat(
        messages=[pb.Message(role=each.role, content=each.content) for each in chat.messages],
        enable_thinking=chat.enable_thinking,
    )


def _wait(failures: int, asked_seconds: float | None, ends_at: float | None) -> None:
    """Waits before the next attempt: as asked, or twice as long each time."""
    seconds = min(max(asked_seconds or 0.0, 0.25 * 2**failures), _MAX_WAIT_SECONDS)
    if ends_at is not None:
        seconds = min(seconds, max(0.0, ends_at - time.monotonic()))
    time.sleep(seconds)
