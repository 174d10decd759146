from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TypeVar

import grpc
import pytest
import pytest_asyncio

from deploy.local import free_address
from gateway.client import Chat, Client, GatewayError, Message
from gateway.events import Delta, Event, Finished, FinishReason, Started
from tests.gateway.harness import PATIENCE_SECONDS, Running, running_gateway

PROMPT = [2, 300]

T = TypeVar("T")


@pytest_asyncio.fixture
async def gateway() -> AsyncIterator[Running]:
    async with running_gateway() as running:
        yield running


async def using_client(gateway: Running, use: Callable[[Client], T]) -> T:
    """Uses a client, which blocks, in a thread."""

    def connect_and_use() -> T:
        with Client(gateway.address) as client:
            return use(client)

    return await asyncio.to_thread(connect_and_use)


def device_restarter(gateway: Running) -> Callable[[], None]:
    """What breaks every answer, as a device's death does; for a thread."""
    loop = asyncio.get_running_loop()

    async def restart() -> None:
        await gateway.device.stop()
        await gateway.device.start()

    return lambda: asyncio.run_coroutine_threadsafe(restart(), loop).result(PATIENCE_SECONDS)


def ids_of(events: list[Event]) -> list[int]:
    return [i for event in events if isinstance(event, Delta) for i in event.token_ids]


async def test_an_answer_is_started_deltas_finished(gateway: Running) -> None:
    events = await using_client(
        gateway,
        lambda client: list(
            client.generate(PROMPT, max_tokens=5, ignore_eos=True, seed=7, logprobs=2)
        ),
    )
    started, *deltas, finished = events
    assert isinstance(started, Started)
    assert started.seed == 7
    assert started.prompt_tokens == 2
    assert all(isinstance(delta, Delta) for delta in deltas)
    logprobs = [each for delta in deltas if isinstance(delta, Delta) for each in delta.logprobs]
    assert len(logprobs) == 5
    assert [each.chosen.token_id for each in logprobs] == ids_of(events)
    assert all(len(each.top) == 2 for each in logprobs)
    assert isinstance(finished, Finished)
    assert finished.reason is FinishReason.LENGTH
    assert finished.usage.generated_tokens == 5
    assert finished.timings.time_to_first_token is not None
    assert 0 < finished.timings.time_to_first_token < finished.timings.total


async def test_every_kind_of_prompt_is_taken(gateway: Running) -> None:
    chat = Chat((Message("user", "hello"),))

    def use(client: Client) -> None:
        for prompt in ("hello", chat, PROMPT):
            assert client.complete(prompt, max_tokens=3, ignore_eos=True)
        assert client.tokenize(chat)[0] == 2
        assert client.detokenize(client.tokenize("hello fox")) == "hello fox"
        assert client.model().name == "fake-model"

    await using_client(gateway, use)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_an_answer_that_breaks_is_taken_up_where_it_broke(
    gateway: Running, temperature: float
) -> None:
    restart_device = device_restarter(gateway)

    def ask(client: Client) -> Iterator[Event]:
        return client.generate(
            PROMPT,
            max_tokens=40,
            ignore_eos=True,
            temperature=temperature,
            seed=1,
            frequency_penalty=0.5,
        )

    def ask_and_break(client: Client) -> list[Event]:
        seen: list[Event] = []
        for event in ask(client):
            seen.append(event)
            if len(seen) in (8, 20):
                restart_device()
        return seen

    whole = await using_client(gateway, lambda client: list(ask(client)))
    gateway.device.delay_seconds = 0.01
    seen = await using_client(gateway, ask_and_break)
    assert isinstance(seen[0], Started)
    assert isinstance(seen[-1], Finished)
    assert not any(isinstance(event, Started | Finished) for event in seen[1:-1])
    assert ids_of(seen) == ids_of(whole)
    assert seen[-1].usage.generated_tokens == 40
    openings = [c.open for c in gateway.device.commands if c.WhichOneof("action") == "open"]
    assert len(openings) == 4, "twice it broke"


async def test_without_resume_a_broken_answer_is_an_error(gateway: Running) -> None:
    gateway.device.delay_seconds = 0.01
    restart_device = device_restarter(gateway)

    def use(client: Client) -> None:
        events = client.generate(PROMPT, resume=False, max_tokens=1000, ignore_eos=True)
        next(events)
        restart_device()
        list(events)

    with pytest.raises(GatewayError) as failure:
        await using_client(gateway, use)
    assert failure.value.status is grpc.StatusCode.UNAVAILABLE
    assert failure.value.from_gateway
    assert failure.value.retry_after_seconds == 1


async def test_a_refusal_names_its_fields_and_is_not_tried_again(gateway: Running) -> None:
    with pytest.raises(GatewayError, match=r"sampling\.top_p: must be above 0") as failure:
        await using_client(gateway, lambda client: client.complete("hello", top_p=2))
    assert failure.value.status is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.value.fields == ("sampling.top_p",)


def test_an_unknown_option_is_named() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(TypeError, match="'temprature'"):
        client.complete("hello", temprature=1)  # pyright: ignore[reportCallIssue]


def test_nobody_there_is_an_error_at_once() -> None:
    with Client(free_address()) as client, pytest.raises(GatewayError) as failure:
        client.complete("hello")
    assert failure.value.status is grpc.StatusCode.UNAVAILABLE
    assert not failure.value.from_gateway


async def test_a_timeout_ends_the_whole_answer(gateway: Running) -> None:
    gateway.device.delay_seconds = 0.05
    with pytest.raises(GatewayError) as failure:
        await using_client(
            gateway,
            lambda client: list(client.generate(PROMPT, timeout_seconds=0.3, ignore_eos=True)),
        )
    assert failure.value.status is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_an_answer_that_is_let_go_is_cancelled(gateway: Running) -> None:
    gateway.device.delay_seconds = 0.01

    def use(client: Client) -> None:
        events = client.generate(PROMPT, max_tokens=2000, ignore_eos=True)
        next(events)
        next(events)
        events.close()

    await using_client(gateway, use)
    await gateway.device_is_idle()
    assert len(gateway.device.commands) < 2000
