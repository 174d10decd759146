"""The real model through both processes: greedy text is that of transformers, word for word.

The reference reads a served answer as a whole and says at every position which token it would have
chosen after the same beginning. Where that is the served one at every position, the reference's own
greedy answer is the served answer. Where its two best logits are closer than `TIE`, either may be
chosen; such a position is told as a warning.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch

from tessera.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from tests.processes import Services, gateway_stub
from tests.real_model.texts import KNOWN_CONTINUATIONS, PROMPTS, SURVIVING_TEXTS

pytestmark = pytest.mark.real_model

NUM_TOKENS = 48
TIE = 1e-3


@dataclass(frozen=True)
class Answer:
    prompt_tokens: int
    token_ids: list[int]
    text: str


def generate(stub: gateway_pb2_grpc.GatewayServiceStub, prompt: str) -> Answer:
    request = gateway_pb2.GenerateRequest(
        text=prompt,
        sampling=gateway_pb2.Sampling(temperature=0),
        limits=gateway_pb2.Limits(max_tokens=NUM_TOKENS, ignore_eos=True),
        output=gateway_pb2.Output(token_ids=True),
    )
    events = list(stub.Generate(request, timeout=300))
    deltas = [event.delta for event in events if event.HasField("delta")]
    return Answer(
        prompt_tokens=events[0].started.prompt_tokens,
        token_ids=[token_id for delta in deltas for token_id in delta.token_ids],
        text="".join(delta.text for delta in deltas),
    )


@pytest.fixture(scope="module")
def stub(real_services: Services) -> Iterator[gateway_pb2_grpc.GatewayServiceStub]:
    with gateway_stub(real_services) as stub:
        yield stub


@pytest.fixture(scope="module")
def answers(stub: gateway_pb2_grpc.GatewayServiceStub) -> dict[str, Answer]:
    """To all prompts at once, so that they share the device's steps."""
    with ThreadPoolExecutor(len(PROMPTS)) as clients:
        answers = clients.map(lambda prompt: generate(stub, prompt), PROMPTS)
        return dict(zip(PROMPTS, answers, strict=True))


@pytest.fixture(scope="module")
def library(model_dir: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(model_dir / "tokenizer.json"))


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_answers_are_those_of_transformers(
    answers: dict[str, Answer],
    library: tokenizers.Tokenizer,
    transformers_model: Any,
    prompt: str,
) -> None:
    answer = answers[prompt]
    prompt_ids = library.encode(prompt).ids
    assert answer.prompt_tokens == len(prompt_ids)
    assert len(answer.token_ids) == NUM_TOKENS
    assert answer.text == library.decode(answer.token_ids, skip_special_tokens=True)
    with torch.no_grad():
        logits = transformers_model(torch.tensor([prompt_ids + answer.token_ids[:-1]])).logits[0]
    best = logits[-NUM_TOKENS:].topk(2)
    for step, served in enumerate(answer.token_ids):
        first, second = best.indices[step].tolist()
        gap = float(best.values[step, 0] - best.values[step, 1])
        if gap < TIE:
            warnings.warn(
                f"{prompt!r}, token {step}: the two best, {first} and {second}, are {gap:.1e} "
                f"apart; {served} was served",
                stacklevel=1,
            )
            assert served in (first, second)
        else:
            assert served == first, f"token {step}: the reference's best by {gap:.1e}"


@pytest.mark.parametrize(("prompt", "beginning"), KNOWN_CONTINUATIONS.items())
def test_known_prompts_continue_as_known(
    answers: dict[str, Answer], prompt: str, beginning: str
) -> None:
    assert answers[prompt].text.startswith(beginning)


@pytest.mark.parametrize("text", SURVIVING_TEXTS.values(), ids=SURVIVING_TEXTS.keys())
def test_text_comes_back_through_the_gateway(
    stub: gateway_pb2_grpc.GatewayServiceStub, text: str
) -> None:
    token_ids = stub.Tokenize(gateway_pb2.TokenizeRequest(text=text)).token_ids
    shown = stub.Detokenize(gateway_pb2.DetokenizeRequest(token_ids=token_ids)).text
    assert shown.encode() == text.encode()
    echo = gateway_pb2.GenerateRequest(
        text=text,
        limits=gateway_pb2.Limits(max_tokens=1),
        output=gateway_pb2.Output(echo=True),
    )
    streamed = "".join(event.delta.text for event in stub.Generate(echo, timeout=300))
    assert streamed.encode().startswith(text.encode())
