"""Acceptance: bad input is refused by name, and a healthy neighbour never notices.

Each row is sent while a healthy answer streams over the same connection (on the device: the same
`Decode` stream); the answer must come out as it does alone.
"""

from __future__ import annotations

import math
import queue
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2
from grpc_status import rpc_status

from tessera.device.v1 import device_pb2 as device
from tessera.device.v1 import device_pb2_grpc
from tessera.gateway.v1 import gateway_pb2 as gateway
from tessera.gateway.v1 import gateway_pb2_grpc
from tests.processes import Services

NAN = math.nan
UNKNOWN_ID = 300_000


# --- the gateway ------------------------------------------------------------------------------


def chat(*roles: str) -> gateway.Chat:
    return gateway.Chat(messages=[gateway.Message(role=role, content="hello") for role in roles])


def sampled(**parameters: object) -> gateway.GenerateRequest:
    return gateway.GenerateRequest(text="hello", sampling=gateway.Sampling(**parameters))


def limited(**limits: object) -> gateway.GenerateRequest:
    return gateway.GenerateRequest(text="hello", limits=gateway.Limits(**limits))


def request(**fields: object) -> gateway.GenerateRequest:
    return gateway.GenerateRequest(**({"text": "hello"} | fields))


@dataclass(frozen=True)
class Refusal:
    """What the gateway must say to a request."""

    name: str
    request: gateway.GenerateRequest
    field: str
    says: tuple[str, ...] = ()
    """Fragments of the message beside the field: the value and the limit."""
    code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT


GATEWAY_ROWS = [
    Refusal("no prompt", gateway.GenerateRequest(), "prompt", ("text", "chat", "token_ids")),
    Refusal("empty text", gateway.GenerateRequest(text=""), "text", ("empty",)),
    Refusal("empty chat", gateway.GenerateRequest(chat=gateway.Chat()), "chat.messages"),
    Refusal("empty ids", gateway.GenerateRequest(token_ids=gateway.TokenIds()), "token_ids.ids"),
    Refusal(
        "unknown id",
        gateway.GenerateRequest(token_ids=gateway.TokenIds(ids=[2, UNKNOWN_ID])),
        "token_ids.ids[1]",
        (str(UNKNOWN_ID),),
    ),
    Refusal("too long", gateway.GenerateRequest(text="a b " * 40_000), "text", ("context",)),
    Refusal(
        "unknown role",
        gateway.GenerateRequest(chat=chat("user", "wizard")),
        "chat.messages[1].role",
        ("wizard", "system, user"),
    ),
    Refusal(
        "another model", request(model="gpt-2"), "model", ("gpt-2",), grpc.StatusCode.NOT_FOUND
    ),
    Refusal("request id", request(request_id="é"), "request_id"),
    Refusal("priority", request(priority=101), "priority", ("101", "100")),
    Refusal("temperature NaN", sampled(temperature=NAN), "sampling.temperature", ("nan",)),
    Refusal("temperature < 0", sampled(temperature=-1), "sampling.temperature", ("-1",)),
    Refusal("temperature inf", sampled(temperature=math.inf), "sampling.temperature", ("inf",)),
    Refusal("temperature > 100", sampled(temperature=101), "sampling.temperature", ("101", "100")),
    Refusal("top_k", sampled(top_k=UNKNOWN_ID), "sampling.top_k", (str(UNKNOWN_ID),)),
    Refusal("top_p 0", sampled(top_p=0), "sampling.top_p", ("0", "1")),
    Refusal("top_p 1.5", sampled(top_p=1.5), "sampling.top_p", ("1.5", "1")),
    Refusal("top_p NaN", sampled(top_p=NAN), "sampling.top_p", ("nan",)),
    Refusal("min_p", sampled(min_p=-0.5), "sampling.min_p", ("-0.5",)),
    Refusal(
        "repetition", sampled(repetition_penalty=0), "sampling.repetition_penalty", ("0", "10")
    ),
    Refusal("presence", sampled(presence_penalty=2.5), "sampling.presence_penalty", ("2.5", "2")),
    Refusal("frequency", sampled(frequency_penalty=NAN), "sampling.frequency_penalty", ("nan",)),
    Refusal(
        "bias of an unknown id",
        sampled(logit_bias={UNKNOWN_ID: 1.0}),
        "sampling.logit_bias",
        (str(UNKNOWN_ID),),
    ),
    Refusal("bias NaN", sampled(logit_bias={5: NAN}), "sampling.logit_bias", ("nan",)),
    Refusal(
        "too many biases",
        sampled(logit_bias=dict.fromkeys(range(1025), 1.0)),
        "sampling.logit_bias",
        ("1,025", "1,024"),
    ),
    Refusal("max_tokens 0", limited(max_tokens=0), "limits.max_tokens", ("0", "1")),
    Refusal("max_tokens", limited(max_tokens=9_999_999), "limits.max_tokens", ("9,999,999",)),
    Refusal("17 stops", limited(stop=["x"] * 17), "limits.stop", ("17", "16")),
    Refusal("empty stop", limited(stop=["x", ""]), "limits.stop[1]"),
    Refusal("long stop", limited(stop=["x" * 257]), "limits.stop[0]", ("257", "256")),
    Refusal("stop id", limited(stop_ids=[UNKNOWN_ID]), "limits.stop_ids[0]", (str(UNKNOWN_ID),)),
    Refusal("129 stop ids", limited(stop_ids=[5] * 129), "limits.stop_ids", ("129", "128")),
    Refusal("deadline", limited(deadline=Duration(seconds=-1)), "limits.deadline", ("-1",)),
    Refusal(
        "logprobs", request(output=gateway.Output(logprobs=65)), "output.logprobs", ("65", "64")
    ),
    Refusal(
        "resume",
        request(resume=gateway.Resume(token_ids=[5, UNKNOWN_ID])),
        "resume.token_ids[1]",
        (str(UNKNOWN_ID),),
    ),
    Refusal(
        "resume longer than the answer",
        request(resume=gateway.Resume(token_ids=[5] * 9), limits=gateway.Limits(max_tokens=8)),
        "resume.token_ids",
        ("9", "8"),
    ),
]

HEALTHY = gateway.GenerateRequest(
    text="Once upon a time,",
    sampling=gateway.Sampling(temperature=1, seed=7),
    limits=gateway.Limits(max_tokens=40, ignore_eos=True),
)


@pytest.fixture(scope="module")
def gateway_channel(services: Services) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(services.gateway_address) as channel:
        yield channel


def text_of(events: Iterator[gateway.GenerateResponse]) -> str:
    return "".join(event.delta.text for event in events)


@pytest.fixture(scope="module")
def healthy_text(gateway_channel: grpc.Channel) -> str:
    """The neighbour's text when it is alone."""
    return text_of(gateway_pb2_grpc.GatewayServiceStub(gateway_channel).Generate(HEALTHY))


@pytest.mark.parametrize("row", GATEWAY_ROWS, ids=lambda row: row.name)
def test_the_gateway_refuses_by_field_value_and_limit(
    gateway_channel: grpc.Channel, healthy_text: str, row: Refusal
) -> None:
    stub = gateway_pb2_grpc.GatewayServiceStub(gateway_channel)
    neighbour = stub.Generate(HEALTHY, timeout=60)
    next(neighbour)
    with pytest.raises(grpc.RpcError) as failure:
        list(stub.Generate(row.request, timeout=60))
    error = failure.value
    assert error.code() == row.code, error.details()
    for fragment in (row.field, *row.says):
        assert fragment in error.details()
    if row.code == grpc.StatusCode.INVALID_ARGUMENT:
        assert [violation.field for violation in bad_request(error).field_violations] == [row.field]
    assert text_of(neighbour) == healthy_text


def bad_request(error: grpc.RpcError) -> error_details_pb2.BadRequest:
    """The BadRequest among the details of a gRPC error."""
    status = rpc_status.from_call(error)
    assert status is not None, "the error carries no details"
    found = error_details_pb2.BadRequest()
    assert any(detail.Unpack(found) for detail in status.details), status
    return found


@pytest.mark.parametrize(
    ("message", "code", "says"),
    [
        # Field 2 (`text`) with a byte that no UTF-8 text has.
        (b"\x12\x02a\xff", grpc.StatusCode.INVALID_ARGUMENT, "UTF-8"),
        (b"\xff\xff\xff", grpc.StatusCode.INVALID_ARGUMENT, "GenerateRequest"),
        (
            gateway.GenerateRequest(text="a" * (17 * 2**20)).SerializeToString(),
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            str(16 * 2**20),
        ),
    ],
    ids=["invalid UTF-8", "not a message", "oversized"],
)
def test_the_gateway_refuses_what_is_no_message(
    gateway_channel: grpc.Channel,
    healthy_text: str,
    message: bytes,
    code: grpc.StatusCode,
    says: str,
) -> None:
    neighbour = gateway_pb2_grpc.GatewayServiceStub(gateway_channel).Generate(HEALTHY, timeout=60)
    next(neighbour)
    call = gateway_channel.unary_stream("/tessera.gateway.v1.GatewayService/Generate")
    with pytest.raises(grpc.RpcError) as failure:
        list(call(message, timeout=60))
    assert failure.value.code() == code, failure.value.details()
    assert says in failure.value.details()
    assert text_of(neighbour) == healthy_text


# --- the device -------------------------------------------------------------------------------


class DecodeStream:
    """A `Decode` stream, a command and an answer at a time."""

    def __init__(self, stub: device_pb2_grpc.DeviceServiceStub) -> None:
        self._outgoing: queue.SimpleQueue[device.DecodeRequest | None] = queue.SimpleQueue()
        self._responses = stub.Decode(iter(self._outgoing.get, None), timeout=60)

    def send(self, *commands: device.Command) -> None:
        self._outgoing.put(device.DecodeRequest(commands=commands))

    def receive(self) -> device.DecodeResponse:
        return next(self._responses)

    def close(self) -> None:
        self._outgoing.put(None)


@dataclass
class GreedyNeighbour:
    """A healthy sequence, decoded greedily by hand."""

    stream: DecodeStream
    number: int = 1
    ids: list[int] = field(default_factory=lambda: [2, 107, 107, 107])
    failures: list[device.SequenceFailed] = field(default_factory=list)

    def run(self, num_tokens: int, disturbed_by: Sequence[device.Command] = ()) -> list[int]:
        """Opens, lets others disturb, decodes; keeps the failures that arrive meanwhile."""
        self.stream.send(open_command(self.number, self.ids), *disturbed_by)
        for _ in range(num_tokens):
            while self.number not in (readouts := self._receive()):
                pass
            self.ids.append(readouts[self.number])
            self.stream.send(advance_command(self.number, len(self.ids) - 1, self.ids[-1:]))
        self.stream.send(device.Command(sequence=self.number, close=device.Close()))
        return self.ids

    def _receive(self) -> dict[int, int]:
        response = self.stream.receive()
        self.failures += response.failed
        readouts = response.readouts
        first = np.cumsum([0, *np.frombuffer(readouts.candidate_counts, "<u4")])[:-1]
        best = np.frombuffer(readouts.candidate_ids, "<u4")[first]
        return dict(
            zip(np.frombuffer(readouts.sequences, "<u4").tolist(), best.tolist(), strict=True)
        )


def open_command(number: int, ids: list[int], **fields: object) -> device.Command:
    return device.Command(sequence=number, open=device.Open(token_ids=ids, **fields))


def advance_command(number: int, position: int, ids: list[int]) -> device.Command:
    return device.Command(sequence=number, advance=device.Advance(position=position, token_ids=ids))


def readout_command(**options: object) -> device.Command:
    return open_command(9, [2], readout=device.ReadoutOptions(**options))


@dataclass(frozen=True)
class Failure:
    """What the device must say to commands of sequence 9."""

    name: str
    commands: list[device.Command]
    field: str
    says: tuple[str, ...]
    closed: bool
    code: int = code_pb2.INVALID_ARGUMENT


OPEN = open_command(9, [2, 107])

DEVICE_ROWS = [
    Failure("no action", [device.Command(sequence=9)], "action", ("open", "close"), closed=False),
    Failure("empty prompt", [open_command(9, [])], "open.token_ids", ("0", "1"), closed=True),
    Failure(
        "unknown id",
        [open_command(9, [2, 5, UNKNOWN_ID])],
        "open.token_ids[2]",
        (str(UNKNOWN_ID),),
        closed=True,
    ),
    Failure(
        "too long", [open_command(9, [5] * 200_000)], "open.token_ids", ("200,000",), closed=True
    ),
    Failure(
        "candidates",
        [readout_command(top_candidates=100_000)],
        "open.readout.top_candidates",
        ("100,000",),
        closed=True,
    ),
    Failure(
        "temperature NaN",
        [readout_command(temperature=NAN)],
        "open.readout.temperature",
        ("nan",),
        closed=True,
    ),
    Failure(
        "temperature < 0",
        [readout_command(temperature=-2)],
        "open.readout.temperature",
        ("-2",),
        closed=True,
    ),
    Failure(
        "priority", [open_command(9, [2], priority=-101)], "open.priority", ("-101",), closed=True
    ),
    Failure(
        "prediction",
        [open_command(9, [2], prediction=device.Prediction(greedy=device.GreedyRule()))],
        "open.prediction",
        (),
        closed=True,
        code=code_pb2.UNIMPLEMENTED,
    ),
    Failure("two opens", [OPEN, OPEN], "sequence", ("9",), closed=False),
    Failure(
        "two opens with the neighbour", [open_command(1, [2])], "sequence", ("1",), closed=False
    ),
    Failure("advance unknown", [advance_command(9, 1, [5])], "sequence", ("9",), closed=False),
    Failure("advance at 0", [OPEN, advance_command(9, 0, [5])], "advance.position", ("0",), False),
    Failure(
        "advance too far", [OPEN, advance_command(9, 7, [5])], "advance.position", ("7", "2"), False
    ),
    Failure(
        "advance nothing", [OPEN, advance_command(9, 2, [])], "advance.token_ids", ("0",), False
    ),
    Failure(
        "advance an unknown id",
        [OPEN, advance_command(9, 2, [UNKNOWN_ID])],
        "advance.token_ids[0]",
        (str(UNKNOWN_ID),),
        closed=False,
    ),
    Failure(
        "advance too many",
        [OPEN, advance_command(9, 2, [5] * 5000)],
        "advance.token_ids",
        ("5,000",),
        closed=False,
    ),
    Failure(
        "inspect unknown",
        [device.Command(sequence=9, inspect=device.Inspect())],
        "sequence",
        ("9",),
        closed=False,
    ),
    Failure(
        "close unknown",
        [device.Command(sequence=9, close=device.Close())],
        "sequence",
        ("9",),
        closed=False,
    ),
]


@pytest.fixture(scope="module")
def device_channel(services: Services) -> Iterator[grpc.Channel]:
    options = [("grpc.max_receive_message_length", 64 * 2**20)]
    with grpc.insecure_channel(services.device_address, options) as channel:
        yield channel


@pytest.fixture(scope="module")
def healthy_ids(device_channel: grpc.Channel) -> list[int]:
    """The neighbour's ids when it is alone."""
    stream = DecodeStream(device_pb2_grpc.DeviceServiceStub(device_channel))
    ids = GreedyNeighbour(stream).run(12)
    stream.close()
    return ids


@pytest.mark.parametrize("row", DEVICE_ROWS, ids=lambda row: row.name)
def test_the_device_refuses_by_field_value_and_limit(
    device_channel: grpc.Channel, healthy_ids: list[int], row: Failure
) -> None:
    stream = DecodeStream(device_pb2_grpc.DeviceServiceStub(device_channel))
    neighbour = GreedyNeighbour(stream)
    assert neighbour.run(12, disturbed_by=row.commands) == healthy_ids
    stream.close()
    (failure,) = neighbour.failures
    assert failure.field == row.field
    assert failure.code == row.code
    assert failure.closed == row.closed
    for fragment in row.says:
        assert fragment in failure.message
