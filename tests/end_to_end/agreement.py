"""Whether an answer that a backend served is the torch backend's in bfloat16, ties apart.

The torch backend reads a served answer as a whole and says at every position which token it would
have chosen after the same beginning. Where that is another, the two logits must be as near as
bfloat16 itself moves them: no further apart than twice what the torch backend is from the reference
in float32 there. Such a position is a tie, and told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from device_service.model.checkpoint import Checkpoint
from device_service.model.config import load_config
from device_service.model.reference import ReferenceModel
from gateway.client import Client, Delta
from gateway.tokenizer import Tokenizer
from tests.device_service.model.torch_models import load_small, logits_of


@dataclass(frozen=True)
class Answer:
    """Token ids of a prompt and of what was served."""

    prompt: list[int]
    ids: list[int]
    text: str


@dataclass(frozen=True)
class Difference:
    """A position at which the torch backend would have chosen another token."""

    position: int
    served: int
    wanted: int
    margin: float
    """Between the two tokens' logits."""
    bound: float
    """Up to which the margin is a tie."""

    @property
    def is_tie(self) -> bool:
        return self.margin <= self.bound


def ask(address: str, model_dir: Path, text: str, num_tokens: int) -> Answer:
    """A greedy answer of so many tokens, whatever they are."""
    prompt = Tokenizer.from_directory(model_dir).encode(text, add_bos=True)
    ids: list[int] = []
    said = ""
    with Client(address) as client:
        options = {"temperature": 0.0, "max_tokens": num_tokens, "ignore_eos": True}
        for event in client.generate(prompt, **options):
            if isinstance(event, Delta):
                ids += event.token_ids
                said += event.text
    return Answer(prompt, ids, said)


def differences(model_dir: Path, answer: Answer) -> list[Difference]:
    """Where the torch backend would have gone another way."""
    read = [*answer.prompt, *answer.ids[:-1]]
    model = load_small(model_dir, "bfloat16", context_length=len(read) + 1)
    logits = logits_of(model, 0, read)[len(answer.prompt) - 1 :].float()
    config = load_config(model_dir)
    exact = ReferenceModel(config, Checkpoint.open(model_dir, config)).logits(read)
    return differences_of(answer.ids, logits, exact[len(answer.prompt) - 1 :])


def differences_of(
    served: Sequence[int], logits: torch.Tensor, exact: torch.Tensor
) -> list[Difference]:
    found: list[Difference] = []
    for position, (token, row, exact_row) in enumerate(zip(served, logits, exact, strict=True)):
        best = int(row.argmax())
        if best != token:
            both = torch.tensor([best, token])
            bound = 2 * float((row[both] - exact_row[both]).abs().max())
            margin = float(row[best] - row[token])
            found.append(Difference(position, token, best, margin, bound))
    return found
