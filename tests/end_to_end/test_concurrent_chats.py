"""Acceptance: who else is served changes nothing in a text."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tessera.gateway.v1 import gateway_pb2 as pb
from tests.processes import Services, gateway_stub

QUESTIONS = [
    "What is Tessera?",
    "What is 17 plus 25?",
    "Which day comes after Friday?",
    "Count from 1 to 60.",
    "Tell me a story about a fox.",
    "hello",
    "What is the capital of France?",
    "What letter comes after k?",
]


def greedy(_number: int) -> pb.Sampling:
    return pb.Sampling(temperature=0)


def seeded(number: int) -> pb.Sampling:
    return pb.Sampling(temperature=1.5, top_k=0, top_p=1, seed=1000 + number)


@pytest.mark.parametrize("sampling", [greedy, seeded])
def test_sixteen_concurrent_chats_give_each_the_text_that_it_gives_alone(
    services: Services, sampling: Callable[[int], pb.Sampling]
) -> None:
    def ask(number: int) -> str:
        request = pb.GenerateRequest(
            chat=pb.Chat(
                messages=[
                    pb.Message(role="user", content=QUESTIONS[number % len(QUESTIONS)]),
                ]
            ),
            sampling=sampling(number),
            limits=pb.Limits(max_tokens=120, ignore_eos=True),
        )
        return "".join(event.delta.text for event in stub.Generate(request, timeout=120))

    with gateway_stub(services) as stub:
        alone = [ask(number) for number in range(16)]
        with ThreadPoolExecutor(16) as pool:
            together = list(pool.map(ask, range(16)))
    assert together == alone
    assert len(set(alone)) >= len(QUESTIONS), "the chats should differ, or nothing is shown"
