from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import grpc
import pytest

from deploy.local import free_address
from gateway.client import Chat, Client, GatewayError, Message
from gateway.events import Delta, Event, Finished, FinishReason, Started
from tests.fakes.device import FakeDevice
from tests.gateway.harness import PATIENCE_SECONDS, Running, demo_tokenizer, running_gateway

PROMPT = [2, 300]


class GatewayThread:
    """A gateway and its fake device in a thread of their own, for a client that blocks."""

    def __init__(self) -> None:
        self.device = FakeDevice.of(demo_tokenizer(), free_address())
        self.running: Running | None = None
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._main, daemon=True)

    def _main(self) -> None:
        self._loop.run_until_complete(self._run())

    async def _run(self) -> None:
        async with running_gateway(self.device) as self.running:
            self._up.set()
            await self._end.wait()

    def __enter__(self) -> GatewayThread:
        self._thread.start()
        assert self._up.wait(PATIENCE_SECONDS), "the gateway does not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()
        self._loop.close()

    @property
    def address(self) -> str:
        assert self.running is not None
        return self.running.address

    def restart_device(self) -> None:
        """Breaks every answer, as a device's death does."""

        async def restart() -> None:
            await self.device.stop()
            await self.device.start()

        asyncio.run_coroutine_threadsafe(restart(), self._loop).result(PATIENCE_SECONDS)


@pytest.fixture
def gateway() -> Iterator[GatewayThread]:
    with GatewayThread() as running:
        yield running


@pytest.fixture
def client(gateway: GatewayThread) -> Iterator[Client]:
    with Client(gateway.address) as connected:
        yield connected


def test_an_answer_is_started_deltas_finished(client: Client) -> None:
    events = list(client.generate(PROMPT, max_tokens=5, ignore_eos=True, seed=7, logprobs=2))
    started, *deltas, finished = events
    assert isinstance(started, Started)
    assert started.seed == 7
    assert started.prompt_tokens == 2
    assert all(isinstance(delta, Delta) for delta in deltas)
    ids = [i for delta in deltas if isinstance(delta, Delta) for i in delta.token_ids]
    logprobs = [each for delta in deltas if isinstance(delta, Delta) for each in delta.logprobs]
    assert len(ids) == 5
    assert [each.chosen.token_id for each in logprobs] == ids
    assert all(len(each.top) == 2 for each in logprobs)
    assert isinstance(finished, Finished)
    assert finished.reason is FinishReason.LENGTH
    assert finished.usage.generated_tokens == 5
    assert finished.timings.time_to_first_token is not None
    assert 0 < finished.timings.time_to_first_token < finished.timings.total


def test_every_kind_of_prompt_is_taken(client: Client) -> None:
    chat = Chat((Message("user", "hello"),))
    for prompt in ("hello", chat, PROMPT):
        assert client.complete(prompt, max_tokens=3, ignore_eos=True)
    assert client.tokenize(chat)[0] == 2
    assert client.detokenize(client.tokenize("hello fox")) == "hello fox"
    assert client.model().name == "fake-model"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_that_breaks_is_taken_up_where_it_broke(
    gateway: GatewayThread, client: Client, temperature: float
) -> None:
    def ask() -> Iterator[Event]:
        return client.generate(
            PROMPT,
            max_tokens=40,
            ignore_eos=True,
            temperature=temperature,
            seed=1,
            frequency_penalty=0.5,
        )

    whole = list(ask())
    gateway.device.delay_seconds = 0.01
    seen: list[Event] = []
    for event in ask():
        seen.append(event)
        if len(seen) in (8, 20):
            gateway.restart_device()
    assert isinstance(seen[0], Started)
    assert isinstance(seen[-1], Finished)
    assert not any(isinstance(event, Started | Finished) for event in seen[1:-1])

    def ids(events: list[Event]) -> list[int]:
        return [i for event in events if isinstance(event, Delta) for i in event.token_ids]

    assert ids(seen) == ids(whole)
    assert seen[-1].usage.generated_tokens == 40


def test_without_resume_a_broken_answer_is_an_error(gateway: GatewayThread, client: Client) -> None:
    gateway.device.delay_seconds = 0.01
    events = client.generate(PROMPT, resume=False, max_tokens=1000, ignore_eos=True)
    next(events)
    gateway.restart_device()
    with pytest.raises(GatewayError) as failure:
        list(events)
    assert failure.value.status is grpc.StatusCode.UNAVAILABLE
    assert failure.value.from_gateway
    assert failure.value.retry_after_seconds == 1


def test_a_refusal_names_its_fields_and_is_not_tried_again(client: Client) -> None:
    with pytest.raises(GatewayError, match=r"sampling\.top_p: must be above 0") as failure:
        client.complete("hello", top_p=2)
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


def test_a_timeout_ends_the_whole_answer(gateway: GatewayThread, client: Client) -> None:
    gateway.device.delay_seconds = 0.05
    with pytest.raises(GatewayError) as failure:
        list(client.generate(PROMPT, timeout_seconds=0.3, ignore_eos=True))
    assert failure.value.status is grpc.StatusCode.DEADLINE_EXCEEDED


def test_an_answer_that_is_let_go_is_cancelled(gateway: GatewayThread, client: Client) -> None:
    events = client.generate(PROMPT, max_tokens=2000, ignore_eos=True)
    next(events)
    events.close()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while gateway.device.open_sequences and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not gateway.device.open_sequences
