from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator

import grpc
import numpy as np
import pytest
import pytest_asyncio

from deploy.local import free_address
from gateway.sampling import History, SamplingParams, decide_full
from tessera.gateway.v1 import gateway_pb2 as pb
from tests.fakes.device import FakeDevice, scripted, wandering
from tests.gateway.harness import Running, demo_tokenizer, running_gateway

VOCAB_SIZE = demo_tokenizer().vocab_size
STORY = "Once upon a time, there was a café ☕ and a fox 🦊."


@pytest_asyncio.fixture
async def gateway() -> AsyncIterator[Running]:
    async with running_gateway() as running:
        yield running


def story_ids() -> list[int]:
    """The story and the id that ends it."""
    return [*demo_tokenizer().encode(STORY, add_bos=False), 1]


@pytest_asyncio.fixture
async def storyteller() -> AsyncIterator[Running]:
    """A gateway whose greedy answer is the story."""
    device = FakeDevice.of(
        demo_tokenizer(), free_address(), logits=scripted(VOCAB_SIZE, story_ids())
    )
    async with running_gateway(device) as running:
        yield running


def request(**fields: object) -> pb.GenerateRequest:
    defaults = {
        "token_ids": pb.TokenIds(ids=[2, 300]),
        "sampling": pb.Sampling(temperature=1, top_k=0, top_p=1, seed=5),
        "limits": pb.Limits(max_tokens=24, ignore_eos=True),
        "output": pb.Output(token_ids=True),
    }
    if fields.keys() & {"text", "chat"}:
        del defaults["token_ids"]
    return pb.GenerateRequest(**(defaults | fields))


GREEDY = pb.Sampling(temperature=0)


async def test_an_answer_streams_in_order_and_its_deltas_spell_its_ids(gateway: Running) -> None:
    answered = await gateway.answer(request(request_id="mine"))
    assert answered.started is not None
    assert answered.started.request_id == "mine"
    assert answered.started.model == "fake-model"
    assert answered.started.prompt_tokens == 2
    assert answered.started.seed == 5
    assert len(answered.token_ids) == 24
    assert answered.text == demo_tokenizer().decode(answered.token_ids)
    assert answered.finished is not None
    assert answered.finished.reason == pb.FINISH_REASON_LENGTH
    assert answered.finished.usage.prompt_tokens == 2
    assert answered.finished.usage.generated_tokens == 24


async def test_times_are_told(gateway: Running) -> None:
    finished = (await gateway.answer(request())).finished
    assert finished is not None
    timings = finished.timings
    first = timings.time_to_first_token.ToNanoseconds()
    assert 0 < timings.queued.ToNanoseconds() < first < timings.total.ToNanoseconds()
    assert timings.device.ToMicroseconds() == 24 * 2, "the fake device says 1 + 1 µs a step"


async def test_ids_are_left_out_unless_they_are_asked_for(gateway: Running) -> None:
    answered = await gateway.answer(request(output=pb.Output()))
    assert answered.text
    assert answered.token_ids == []


@pytest.mark.parametrize(
    "sampling",
    [
        pb.Sampling(temperature=0),
        pb.Sampling(temperature=1, top_k=0, top_p=1, seed=3),
        pb.Sampling(temperature=1.5, top_k=40, top_p=0.9, min_p=0.02, seed=4),
        pb.Sampling(temperature=0.7, top_k=0, top_p=0.5, seed=2**64 - 1),
        pb.Sampling(
            temperature=1,
            top_k=0,
            top_p=1,
            seed=6,
            repetition_penalty=1.3,
            presence_penalty=0.5,
            frequency_penalty=0.25,
            logit_bias={7: 5.0, 9: -100.0},
        ),
    ],
    ids=["greedy", "plain", "all filters", "top_p", "penalties and bias"],
)
async def test_every_token_is_what_the_full_row_gives(
    gateway: Running, sampling: pb.Sampling
) -> None:
    answered = await gateway.answer(request(sampling=sampling))
    params = SamplingParams(
        vocab_size=VOCAB_SIZE,
        seed=sampling.seed,
        temperature=sampling.temperature,
        top_k=sampling.top_k if sampling.HasField("top_k") else 64,
        top_p=sampling.top_p if sampling.HasField("top_p") else 0.95,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty or 1.0,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        logit_bias=dict(sampling.logit_bias),
    )
    prompt = [2, 300]
    ids = list(prompt)
    history = History(prompt)
    for _ in range(24):
        row = gateway.device.logits(ids)
        ids.append(decide_full(row, params, len(ids), history))
        history.add(ids[-1])
    assert answered.token_ids == ids[2:]


async def test_candidates_that_cannot_decide_are_settled_by_the_full_row(gateway: Running) -> None:
    # Flat logits: 64 candidates of 1,536 hold a small part of the mass.
    gateway.device.logits = wandering(VOCAB_SIZE, scale=0.1)
    answered = await gateway.answer(request(output=pb.Output(token_ids=True, logprobs=2)))
    assert answered.finished is not None
    assert 0 < answered.finished.usage.full_rows <= 24
    inspected = [c for c in gateway.device.commands if c.WhichOneof("action") == "inspect"]
    assert len(inspected) == answered.finished.usage.full_rows
    # A token that is no candidate has a logprob all the same.
    ids = [2, 300, *answered.token_ids]
    for position, logprobs in enumerate(answered.logprobs, start=2):
        row = gateway.device.logits(ids[:position]).astype(np.float64)
        expected = row[ids[position]] - math.log(np.exp(row).sum())
        assert logprobs.chosen.logprob == pytest.approx(expected, abs=1e-4)


async def test_the_same_seed_gives_the_same_text_beside_any_neighbours(gateway: Running) -> None:
    alone = await gateway.answer(request())
    together = await asyncio.gather(
        *(
            gateway.answer(request(sampling=pb.Sampling(temperature=1, top_p=1, top_k=0, seed=s)))
            for s in (5, 6, 7, 5)
        )
    )
    texts = [answered.text for answered in together]
    assert texts[0] == texts[3] == alone.text
    assert len(set(texts)) == 3


async def test_a_seed_that_was_drawn_gives_the_text_again(gateway: Running) -> None:
    sampling = pb.Sampling(temperature=1, top_k=0, top_p=1)
    first = await gateway.answer(request(sampling=sampling))
    other = await gateway.answer(request(sampling=sampling))
    assert first.started is not None
    sampling.seed = first.started.seed
    again = await gateway.answer(request(sampling=sampling))
    assert again.text == first.text != other.text


async def test_the_checkpoints_stop_id_ends_an_answer(storyteller: Running) -> None:
    answered = await storyteller.answer(request(sampling=GREEDY, limits=pb.Limits()))
    assert answered.text == STORY
    assert answered.finished is not None
    assert answered.finished.reason == pb.FINISH_REASON_STOP
    assert answered.finished.stop_id == 1
    assert answered.finished.usage.generated_tokens == len(story_ids())
    assert answered.token_ids == story_ids()[:-1], "a stop id is told in `finished`"


async def test_a_stop_id_of_the_request_ends_an_answer(storyteller: Running) -> None:
    ids = story_ids()
    answered = await storyteller.answer(
        request(sampling=GREEDY, limits=pb.Limits(stop_ids=[ids[3]]))
    )
    first = ids.index(ids[3])
    assert answered.token_ids == ids[:first]
    assert answered.finished is not None
    assert answered.finished.stop_id == ids[3]


async def test_ignored_stop_ids_do_not_end_an_answer(storyteller: Running) -> None:
    limits = pb.Limits(max_tokens=len(story_ids()) + 3, ignore_eos=True)
    answered = await storyteller.answer(request(sampling=GREEDY, limits=limits))
    assert answered.token_ids == [*story_ids(), 1, 1, 1]
    assert answered.text == STORY, "control tokens show nothing"


@pytest.mark.parametrize("stop", ["there", " was a caf", "é ☕", "🦊", "Once upon a time", "."])
async def test_nothing_of_a_stop_string_is_shown(storyteller: Running, stop: str) -> None:
    limits = pb.Limits(stop=["never said", stop])
    answered = await storyteller.answer(
        request(sampling=GREEDY, limits=limits, output=pb.Output(token_ids=True, logprobs=1))
    )
    assert answered.text == STORY[: STORY.index(stop)]
    assert answered.finished is not None
    assert answered.finished.reason == pb.FINISH_REASON_STOP
    assert answered.finished.stop_string == stop
    assert len(answered.logprobs) == len(answered.token_ids)


async def test_text_held_back_for_a_stop_string_is_shown_when_none_comes(
    storyteller: Running,
) -> None:
    limits = pb.Limits(stop=[STORY + "!"])
    answered = await storyteller.answer(request(sampling=GREEDY, limits=limits))
    assert answered.text == STORY
    assert answered.token_ids == story_ids()[:-1]


async def test_max_tokens_cuts_a_character_into_replacement_characters(
    storyteller: Running,
) -> None:
    ids = story_ids()
    for max_tokens in range(1, len(ids)):
        limits = pb.Limits(max_tokens=max_tokens)
        answered = await storyteller.answer(request(sampling=GREEDY, limits=limits))
        assert answered.token_ids == ids[:max_tokens]
        assert answered.text == demo_tokenizer().decode(ids[:max_tokens])


async def test_the_end_of_the_context_ends_an_answer(gateway: Running) -> None:
    prompt = [2] + [300] * 2039
    answered = await gateway.answer(
        request(token_ids=pb.TokenIds(ids=prompt), limits=pb.Limits(ignore_eos=True))
    )
    assert answered.finished is not None
    assert answered.finished.reason == pb.FINISH_REASON_LENGTH
    assert answered.finished.usage.generated_tokens == 8


async def test_echo_shows_the_prompt_first_and_belongs_to_no_ids(gateway: Running) -> None:
    plain = await gateway.answer(request(text="hello fox"))
    echoed = await gateway.answer(
        request(text="hello fox", output=pb.Output(token_ids=True, echo=True))
    )
    assert echoed.deltas[0].text == "hello fox"
    assert echoed.text == "hello fox" + plain.text
    assert echoed.token_ids == plain.token_ids


async def test_a_chat_goes_through_the_template(gateway: Running) -> None:
    messages = [pb.Message(role="user", content="hi"), pb.Message(role="model", content="oh")]
    messages.append(pb.Message(role="user", content="<bos>"))
    answered = await gateway.answer(request(chat=pb.Chat(messages=messages)))
    opened = next(c.open for c in gateway.device.commands if c.WhichOneof("action") == "open")
    text = demo_tokenizer().decode(opened.token_ids, show_control_tokens=True)
    assert text.startswith("<bos><|turn>user\nhi<turn|>\n<|turn>model\noh<turn|>\n<|turn>user\n")
    assert list(opened.token_ids).count(2) == 1, "a control token spelled in a message is text"
    assert answered.started is not None
    assert answered.started.prompt_tokens == len(opened.token_ids)


async def test_logprobs_are_of_the_models_own_distribution(gateway: Running) -> None:
    sampling = pb.Sampling(temperature=0.5, seed=1, logit_bias={11: 3.0})
    answered = await gateway.answer(
        request(sampling=sampling, output=pb.Output(token_ids=True, logprobs=5))
    )
    ids = [2, 300, *answered.token_ids]
    assert len(answered.logprobs) == 24
    for position, logprobs in enumerate(answered.logprobs, start=2):
        row = gateway.device.logits(ids[:position]).astype(np.float64)
        expected = row - math.log(np.exp(row).sum())
        assert logprobs.chosen.token_id == ids[position]
        assert logprobs.chosen.text == demo_tokenizer().token_text(ids[position])
        assert logprobs.chosen.logprob == pytest.approx(expected[ids[position]], abs=1e-4)
        best = np.argsort(-expected, kind="stable")[:5]
        assert [top.token_id for top in logprobs.top] == best.tolist()
        assert [top.logprob for top in logprobs.top] == pytest.approx(expected[best], abs=1e-4)


async def test_logprobs_of_none_and_of_the_token_alone(gateway: Running) -> None:
    assert (await gateway.answer(request())).logprobs == []
    own = await gateway.answer(request(output=pb.Output(logprobs=0)))
    assert len(own.logprobs) == 24
    assert all(logprobs.HasField("chosen") and not logprobs.top for logprobs in own.logprobs)


async def test_more_logprobs_than_candidates_ask_the_device_for_more() -> None:
    async with running_gateway(top_candidates=8) as gateway:
        answered = await gateway.answer(request(output=pb.Output(logprobs=20)))
        assert {len(logprobs.top) for logprobs in answered.logprobs} == {20}


@pytest.mark.parametrize(
    "sampling",
    [
        pb.Sampling(temperature=0, repetition_penalty=1.5),
        pb.Sampling(temperature=1, top_k=0, top_p=1, seed=8, frequency_penalty=0.5),
    ],
    ids=["greedy", "seeded"],
)
async def test_an_answer_resumed_anywhere_is_the_uninterrupted_one(
    gateway: Running, sampling: pb.Sampling
) -> None:
    whole = await gateway.answer(request(sampling=sampling, limits=pb.Limits(max_tokens=16)))
    received: list[int] = []
    texts = [""]
    for delta in whole.deltas:
        received += delta.token_ids
        resumed = await gateway.answer(
            request(
                sampling=sampling,
                limits=pb.Limits(max_tokens=16),
                resume=pb.Resume(token_ids=received),
            )
        )
        texts.append(texts[-1] + delta.text)
        assert texts[-1] + resumed.text == whole.text
        assert received + resumed.token_ids == whole.token_ids
        assert resumed.finished is not None
        assert whole.finished is not None
        assert resumed.finished.reason == whole.finished.reason
        assert resumed.finished.usage.generated_tokens == 16


async def test_a_resumed_answer_stops_where_the_uninterrupted_one_does(
    storyteller: Running,
) -> None:
    limits = pb.Limits(stop=["fox 🦊"])
    whole = await storyteller.answer(request(sampling=GREEDY, limits=limits))
    for size in range(len(whole.deltas) + 1):
        received = [i for delta in whole.deltas[:size] for i in delta.token_ids]
        resumed = await storyteller.answer(
            request(
                sampling=GREEDY,
                limits=limits,
                resume=pb.Resume(token_ids=received),
                output=pb.Output(token_ids=True, echo=True),
            )
        )
        shown = "".join(delta.text for delta in whole.deltas[:size])
        assert shown + resumed.text == whole.text, "and a resumed answer does not echo again"
        assert resumed.finished is not None
        assert resumed.finished.stop_string == "fox 🦊"


async def test_an_answer_that_missed_only_its_end_needs_no_device(gateway: Running) -> None:
    whole = await gateway.answer(request())
    gateway.device.commands.clear()
    resumed = await gateway.answer(request(resume=pb.Resume(token_ids=whole.token_ids)))
    assert resumed.text == ""
    assert resumed.finished is not None
    assert resumed.finished.reason == pb.FINISH_REASON_LENGTH
    assert not [x for x in gateway.device.commands if x.HasField("open")]


async def test_the_limit_on_time_ends_an_answer_with_what_there_is(gateway: Running) -> None:
    gateway.device.delay_seconds = 0.02
    limits = pb.Limits(ignore_eos=True, stop=["\x00never"])
    limits.deadline.FromMilliseconds(400)
    answered = await gateway.answer(request(limits=limits))
    assert answered.finished is not None
    assert answered.finished.reason == pb.FINISH_REASON_DEADLINE
    assert answered.text == demo_tokenizer().decode(answered.token_ids)
    await gateway.device_is_idle()


async def test_the_limit_on_time_counts_while_the_answer_waits(gateway: Running) -> None:
    gateway.device.delay_seconds = 60
    limits = pb.Limits()
    limits.deadline.FromMilliseconds(50)
    answered = await gateway.answer(request(limits=limits))
    assert answered.finished is not None
    assert answered.finished.reason == pb.FINISH_REASON_DEADLINE
    assert answered.finished.usage.generated_tokens == 0
    assert not answered.finished.timings.HasField("time_to_first_token")


async def test_priority_and_candidates_reach_the_device(gateway: Running) -> None:
    await gateway.answer(request(priority=-7, sampling=pb.Sampling(temperature=0.5)))
    opened = next(c.open for c in gateway.device.commands if c.WhichOneof("action") == "open")
    assert opened.priority == -7
    assert opened.readout.top_candidates == 64
    assert opened.readout.temperature == 0.5


async def test_thirty_two_answers_share_messages_to_the_device(gateway: Running) -> None:
    gateway.device.delay_seconds = 0.005
    answers = await asyncio.gather(*(gateway.answer(request(sampling=GREEDY)) for _ in range(32)))
    assert len({answered.text for answered in answers}) == 1
    await gateway.device_is_idle()
    num_commands = len(gateway.device.commands)
    assert num_commands == 32 * (1 + 23 + 1)
    assert gateway.device.num_requests < num_commands / 8


async def test_deltas_that_a_slow_client_has_not_read_are_few(gateway: Running) -> None:
    limits = pb.Limits(max_tokens=1500, ignore_eos=True)
    call = gateway.stub.Generate(request(limits=limits, sampling=GREEDY))
    await anext(aiter(call))
    await gateway.device_is_idle()  # the answer is finished before anyone reads it
    num_messages = 0
    num_ids = 0
    async for event in call:
        num_messages += 1
        num_ids += len(event.delta.token_ids)
    assert num_ids == 1500
    assert num_messages < 1500


async def test_a_row_that_is_not_finite_is_an_internal_error(gateway: Running) -> None:
    flat = wandering(VOCAB_SIZE, scale=0.1)

    def logits(ids: list[int]) -> np.ndarray:
        row = flat(ids)
        row[np.argmin(row)] = -np.inf
        return row

    gateway.device.logits = logits
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await gateway.answer(request())
    assert failure.value.code() == grpc.StatusCode.INTERNAL
    assert gateway.device.address in failure.value.details()
    await gateway.device_is_idle()
