from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from deploy.local import free_address
from gateway.servicer import GatewayServicer
from tessera.device.v1 import device_pb2
from tessera.gateway.v1 import gateway_pb2 as pb
from tests.fakes.device import FakeDevice
from tests.gateway.harness import (
    Running,
    demo_tokenizer,
    details_of,
    fields_at_fault,
    running_gateway,
)

NAN = math.nan
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest_asyncio.fixture
async def gateway() -> AsyncIterator[Running]:
    async with running_gateway() as running:
        yield running


def endless() -> pb.GenerateRequest:
    return pb.GenerateRequest(text="hello", limits=pb.Limits(max_tokens=2000, ignore_eos=True))


def brief() -> pb.GenerateRequest:
    return pb.GenerateRequest(
        token_ids=pb.TokenIds(ids=[2, 300]), limits=pb.Limits(max_tokens=4, ignore_eos=True)
    )


@dataclass(frozen=True)
class Bad:
    """A request and what must be said to it."""

    request: pb.GenerateRequest
    field: str
    message: str
    code: grpc.StatusCode = INVALID


def ask(**fields: object) -> pb.GenerateRequest:
    return pb.GenerateRequest(**({"text": "hello"} | fields))


def sample(**fields: object) -> pb.GenerateRequest:
    return ask(sampling=pb.Sampling(**fields))


def limit(**fields: object) -> pb.GenerateRequest:
    return pb.GenerateRequest(token_ids=pb.TokenIds(ids=[2, 300]), limits=pb.Limits(**fields))


VOCAB = demo_tokenizer().vocab_size
BAD = [
    Bad(pb.GenerateRequest(), "prompt", "prompt: one of text, chat and token_ids must be set"),
    Bad(ask(text=""), "text", "text: must not be empty"),
    Bad(
        pb.GenerateRequest(chat=pb.Chat()),
        "chat.messages",
        "chat.messages: has 0 messages; at least 1 is needed",
    ),
    Bad(
        pb.GenerateRequest(chat=pb.Chat(messages=[pb.Message(role="x" * 9999)])),
        "chat.messages[0].role",
        "chat.messages[0].role: must be one of system, user, assistant, model, not 'xxx",
    ),
    Bad(
        pb.GenerateRequest(chat=pb.Chat(messages=[pb.Message(role=r) for r in ("user", "system")])),
        "chat.messages",
        "chat.messages: the chat template refused: A system message must come first",
    ),
    Bad(
        pb.GenerateRequest(token_ids=pb.TokenIds()),
        "token_ids.ids",
        "token_ids.ids: has 0 ids; at least 1 is needed",
    ),
    Bad(
        pb.GenerateRequest(token_ids=pb.TokenIds(ids=[2, VOCAB])),
        "token_ids.ids[1]",
        f"token_ids.ids[1]: must be below {VOCAB} (vocab_size), not {VOCAB}",
    ),
    Bad(
        pb.GenerateRequest(token_ids=pb.TokenIds(ids=[2] * 2048)),
        "token_ids.ids",
        "token_ids.ids: the prompt has 2,048 tokens; it must leave room for an answer in the "
        "context of 2,048",
    ),
    Bad(
        ask(text="fox " * 20_000),
        "text",
        "tokens; it must leave room for an answer in the context of 2,048",
    ),
    Bad(
        ask(model="m" * 100_000),
        "model",
        "is not served here; 'fake-model' is",
        grpc.StatusCode.NOT_FOUND,
    ),
    Bad(ask(request_id="é"), "request_id", "request_id: must be printable ASCII, not 'é'"),
    Bad(ask(request_id="x" * 129), "request_id", "must have at most 128 characters, not 129"),
    Bad(ask(priority=-101), "priority", "priority: must be -100 to 100, not -101"),
    Bad(sample(temperature=NAN), "sampling.temperature", "must be a finite number, not nan"),
    Bad(sample(temperature=-0.5), "sampling.temperature", "must be 0 or 0.01 to 100, not -0.5"),
    Bad(sample(temperature=1e-5), "sampling.temperature", "must be 0 or 0.01 to 100, not 1e-05"),
    Bad(sample(top_k=VOCAB + 1), "sampling.top_k", f"0 to {VOCAB} (vocab_size), not {VOCAB + 1}"),
    Bad(sample(top_p=0), "sampling.top_p", "must be above 0, up to 1, not 0"),
    Bad(sample(min_p=1.5), "sampling.min_p", "must be 0 to 1, not 1.5"),
    Bad(sample(repetition_penalty=11), "sampling.repetition_penalty", "up to 10, not 11"),
    Bad(sample(presence_penalty=-3), "sampling.presence_penalty", "must be -2 to 2, not -3"),
    Bad(sample(frequency_penalty=3), "sampling.frequency_penalty", "must be -2 to 2, not 3"),
    Bad(sample(logit_bias={VOCAB: 1}), "sampling.logit_bias", f"below {VOCAB} (vocab_size)"),
    Bad(sample(logit_bias={7: 101}), "sampling.logit_bias", "[7] must be -100 to 100, not 101"),
    Bad(
        sample(logit_bias=dict.fromkeys(range(1025), 1)),
        "sampling.logit_bias",
        "must be at most 1,024 entries, not 1,025",
    ),
    Bad(
        limit(max_tokens=0),
        "limits.max_tokens",
        "must be 1 to 2,046, what a prompt of 2 tokens leaves of the context of 2,048; not 0",
    ),
    Bad(limit(max_tokens=2047), "limits.max_tokens", "not 2,047"),
    Bad(limit(stop=["x"] * 17), "limits.stop", "has 17 strings; at most 16 may be"),
    Bad(limit(stop=["x", ""]), "limits.stop[1]", "must have 1 to 256 characters, not 0"),
    Bad(limit(stop=["x" * 257]), "limits.stop[0]", "must have 1 to 256 characters, not 257"),
    Bad(limit(stop_ids=[1] * 129), "limits.stop_ids", "has 129 ids; at most 128 may be"),
    Bad(limit(stop_ids=[1, VOCAB]), "limits.stop_ids[1]", f"must be below {VOCAB}"),
    Bad(limit(deadline=Duration()), "limits.deadline", "must be above 0 s, not 0 s"),
    Bad(limit(deadline=Duration(seconds=-2)), "limits.deadline", "must be above 0 s, not -2 s"),
    Bad(ask(output=pb.Output(logprobs=65)), "output.logprobs", "must be at most 64, not 65"),
    Bad(ask(resume=pb.Resume(token_ids=[VOCAB])), "resume.token_ids[0]", f"must be below {VOCAB}"),
    Bad(
        ask(resume=pb.Resume(token_ids=[5] * 9), limits=pb.Limits(max_tokens=8)),
        "resume.token_ids",
        "has 9 ids; the whole answer may have 8",
    ),
]


async def test_bad_input_is_refused_by_field_value_and_limit(gateway: Running) -> None:
    for bad in BAD:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await gateway.answer(bad.request)
        error = failure.value
        assert error.code() == bad.code, bad
        assert bad.message in error.details()
        assert len(error.details()) < 1000
        assert fields_at_fault(error) == [bad.field]
    assert gateway.device.commands == []


@pytest.mark.parametrize(
    ("message", "says"),
    [(b"\x12\x02a\xff", "UTF-8"), (b"\xff\xff\xff", "tessera.gateway.v1.GenerateRequest")],
)
async def test_what_is_no_message_is_the_clients_mistake(
    gateway: Running, message: bytes, says: str
) -> None:
    call = gateway.channel.unary_stream("/tessera.gateway.v1.GatewayService/Generate")
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        _ = [event async for event in call(message)]
    assert failure.value.code() == INVALID
    assert says in failure.value.details()


async def test_a_message_over_16_mib_is_refused_with_the_limit(gateway: Running) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await gateway.answer(ask(text="a" * (16 * 2**20)))
    assert failure.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(16 * 2**20) in failure.value.details()


async def test_the_model_and_its_defaults_are_told(gateway: Running) -> None:
    model = await gateway.stub.GetModel(pb.GetModelRequest())
    assert model.name == "fake-model"
    assert model.architecture == "fake"
    assert model.vocab_size == VOCAB
    assert model.context_length == 2048
    assert model.eos_token_ids == [1]
    assert model.chat
    assert model.backend == "fake"
    assert model.precision == "float32"
    assert model.checkpoint_digest == gateway.device.checkpoint_digest
    defaults = model.default_sampling
    assert (defaults.temperature, defaults.top_k) == (1.0, 64)
    assert defaults.top_p == pytest.approx(0.95)
    assert not defaults.HasField("seed")


async def test_absent_sampling_fields_take_the_checkpoints_defaults(gateway: Running) -> None:
    model = await gateway.stub.GetModel(pb.GetModelRequest())
    spelled_out = pb.Sampling(seed=3)
    spelled_out.MergeFrom(model.default_sampling)
    absent = await gateway.answer(ask(sampling=pb.Sampling(seed=3), limits=pb.Limits(max_tokens=9)))
    given = await gateway.answer(ask(sampling=spelled_out, limits=pb.Limits(max_tokens=9)))
    assert absent.text == given.text


async def test_tokenize_and_detokenize_show_what_generate_sees(gateway: Running) -> None:
    ids = (
        await gateway.stub.Tokenize(pb.TokenizeRequest(text="hello fox", add_bos=True))
    ).token_ids
    assert ids[0] == 2
    plain = await gateway.stub.Tokenize(pb.TokenizeRequest(text="hello fox"))
    assert list(plain.token_ids) == list(ids[1:])
    shown = await gateway.stub.Detokenize(
        pb.DetokenizeRequest(token_ids=ids, show_control_tokens=True)
    )
    assert shown.text == "<bos>hello fox"
    assert (await gateway.stub.Detokenize(pb.DetokenizeRequest(token_ids=ids))).text == "hello fox"
    chat = pb.Chat(messages=[pb.Message(role="user", content="hello")])
    laid_out = await gateway.stub.Tokenize(pb.TokenizeRequest(chat=chat))
    started = (
        await gateway.answer(pb.GenerateRequest(chat=chat, limits=pb.Limits(max_tokens=1)))
    ).started
    assert started is not None
    assert len(laid_out.token_ids) == started.prompt_tokens


async def test_bad_tokenize_requests_are_refused_by_field(gateway: Running) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as nothing:
        await gateway.stub.Tokenize(pb.TokenizeRequest())
    assert nothing.value.code() == INVALID
    assert fields_at_fault(nothing.value) == ["input"]
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await gateway.stub.Detokenize(pb.DetokenizeRequest(token_ids=[5, VOCAB]))
    assert unknown.value.code() == INVALID
    assert fields_at_fault(unknown.value) == ["token_ids[1]"]


async def test_a_cancelled_answer_closes_its_sequence(gateway: Running) -> None:
    call = gateway.stub.Generate(endless())
    async for event in call:
        if event.HasField("delta"):
            break
    assert gateway.device.open_sequences
    call.cancel()
    await gateway.device_is_idle()


async def test_an_answer_cancelled_while_it_waits_closes_its_sequence(gateway: Running) -> None:
    gateway.device.delay_seconds = 0.3
    call = gateway.stub.Generate(endless())
    await anext(aiter(call))
    call.cancel()
    await gateway.device_is_idle()
    assert {c.WhichOneof("action") for c in gateway.device.commands} <= {"open", "close"}


async def test_a_grpc_deadline_is_an_error_and_closes_the_sequence(gateway: Running) -> None:
    gateway.device.delay_seconds = 0.01
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await gateway.answer(endless(), timeout=0.2)
    assert failure.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await gateway.device_is_idle()


async def test_a_lost_connection_closes_its_sequences(gateway: Running) -> None:
    async with grpc.aio.insecure_channel(
        gateway.address, [("grpc.use_local_subchannel_pool", 1)]
    ) as channel:
        call = type(gateway.stub)(channel).Generate(endless())
        await anext(aiter(call))
    await gateway.device_is_idle()


async def test_a_storm_of_cancellations_leaves_nothing(gateway: Running) -> None:
    tasks_before = len(asyncio.all_tasks())

    async def cancelled(number: int) -> None:
        call = gateway.stub.Generate(endless())
        num_events = 0
        try:
            async for _ in call:
                num_events += 1
                if num_events > number % 7:
                    break
        finally:
            call.cancel()

    for _ in range(4):
        await asyncio.gather(*(cancelled(number) for number in range(30)))
    await gateway.device_is_idle()
    answered = await gateway.answer(brief())
    assert answered.finished is not None
    text = await gateway.metrics()
    assert value(text, "tessera_num_requests_running") == 0
    assert value(text, "tessera_num_requests_waiting") == 0
    assert value(text, 'tessera_requests_total{outcome="cancelled"}') == 120
    assert len(asyncio.all_tasks()) <= tasks_before + 2


async def test_more_requests_than_may_run_are_refused_with_a_time_to_retry() -> None:
    async with running_gateway(max_concurrent=2) as gateway:
        gateway.device.delay_seconds = 0.05
        calls = [gateway.stub.Generate(endless()) for _ in range(2)]
        for call in calls:
            await anext(aiter(call))
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await gateway.answer(brief())
        assert failure.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "may serve 2 at a time" in failure.value.details()
        (retry,) = details_of(failure.value, error_details_pb2.RetryInfo)
        assert retry.retry_delay.ToMilliseconds() == 1000
        calls[0].cancel()
        await gateway.answer(brief())


async def test_a_full_device_is_told_to_the_client_with_its_time_to_retry(
    gateway: Running,
) -> None:
    gateway.device.refusal = device_pb2.SequenceFailed(
        code=8, field="open", message="64 sequences wait; at most 64 may", retry_after_ms=250
    )
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await gateway.answer(brief())
    assert failure.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert failure.value.details() == (
        f"device {gateway.device.address}: 64 sequences wait; at most 64 may"
    )
    (retry,) = details_of(failure.value, error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToMilliseconds() == 250


async def test_a_command_that_the_device_refuses_is_the_gateways_fault(gateway: Running) -> None:
    gateway.device.refusal = device_pb2.SequenceFailed(
        code=3, field="open.token_ids[0]", message="must be below 7, not 9"
    )
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await gateway.answer(brief())
    assert failure.value.code() == grpc.StatusCode.INTERNAL
    assert "refused open.token_ids[0]: must be below 7, not 9" in failure.value.details()


async def test_a_failure_of_the_gateway_itself_is_internal_and_hides_its_insides(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> str:
        raise KeyError("secret")

    monkeypatch.setattr(GatewayServicer, "_generate", broken)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await gateway.answer(brief())
    assert failure.value.code() == grpc.StatusCode.INTERNAL
    assert "secret" not in failure.value.details()
    assert value(await gateway.metrics(), 'tessera_requests_total{outcome="internal"}') == 1


async def test_metrics_tell_what_happened(gateway: Running) -> None:
    await gateway.answer(brief())
    await gateway.answer(brief())
    with pytest.raises(grpc.aio.AioRpcError):
        await gateway.answer(ask(text=""))
    text = await gateway.metrics()
    assert value(text, 'tessera_requests_total{outcome="ok"}') == 2
    assert value(text, 'tessera_requests_total{outcome="invalid_argument"}') == 1
    assert value(text, 'tessera_request_success_total{finished_reason="length"}') == 2
    assert value(text, 'tessera_request_success_total{finished_reason="stop"}') == 0
    assert value(text, "tessera_prompt_tokens_total") == 2 * 2
    assert value(text, "tessera_generation_tokens_total") == 2 * 4
    assert value(text, "tessera_time_to_first_token_seconds_count") == 2
    assert value(text, "tessera_inter_token_latency_seconds_count") == 2 * 3
    assert value(text, "tessera_e2e_request_latency_seconds_count") == 2
    assert value(text, "tessera_request_queue_time_seconds_count") == 2
    assert value(text, "tessera_num_requests_running") == 0
    assert value(text, "tessera_num_requests_waiting") == 0
    assert value(text, "tessera_full_rows_total") >= 0
    assert value(text, "tessera_device_ready") == 1
    assert value(text, "tessera_asyncio_tasks") > 0


async def test_metrics_count_who_waits_and_who_runs(gateway: Running) -> None:
    gateway.device.delay_seconds = 0.5
    call = gateway.stub.Generate(endless())
    events = aiter(call)
    await anext(events)
    assert value(await gateway.metrics(), "tessera_num_requests_waiting") == 1
    await anext(events)
    text = await gateway.metrics()
    assert value(text, "tessera_num_requests_running") == 1
    assert value(text, "tessera_num_requests_waiting") == 0
    call.cancel()


async def test_reflection_names_the_services(gateway: Running) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(gateway.channel)

    async def question() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    answers = [answer async for answer in stub.ServerReflectionInfo(question())]
    names = {service.name for service in answers[0].list_services_response.service}
    assert {"tessera.gateway.v1.GatewayService", "grpc.health.v1.Health"} <= names


async def test_a_method_that_nobody_has_is_unimplemented(gateway: Running) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await gateway.channel.unary_unary("/tessera.gateway.v1.GatewayService/Sing")(b"")
    assert failure.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_without_a_device_requests_are_unavailable_and_text_is_still_encoded() -> None:
    device = FakeDevice.of(demo_tokenizer(), free_address())
    async with running_gateway(device, start_device=False) as gateway:
        for call in (gateway.answer(brief()), gateway.stub.GetModel(pb.GetModelRequest())):
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await call
            assert failure.value.code() == grpc.StatusCode.UNAVAILABLE
            assert f"no device is ready: {device.address}" in failure.value.details()
            assert details_of(failure.value, error_details_pb2.RetryInfo)
        assert (await gateway.stub.Tokenize(pb.TokenizeRequest(text="fox"))).token_ids


def value(text: str, series: str) -> float:
    """The value of one series."""
    (found,) = re.findall(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    return float(found)
