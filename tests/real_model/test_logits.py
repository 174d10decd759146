"""The torch backend has the logits of transformers on real weights, past the sliding window too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from device_service.model.interface import ReadoutOptions, Span, StepBatch
from device_service.model.torch_backend import Dtype, TorchModel
from gateway.tokenizer import Tokenizer
from tests.real_model.conftest import NUM_THREADS
from tests.real_model.texts import LONG_TEXT

pytestmark = pytest.mark.real_model

Tensor = torch.Tensor

CHUNK = 128
DECODED = 24
"""Positions at the end that run one by one, as decoding does."""
MAX_LOGIT_ERROR = 2e-3
MIN_BFLOAT16_PCC = 0.999


@pytest.fixture(scope="module")
def token_ids(model_dir: Path) -> list[int]:
    return Tokenizer.from_directory(model_dir).encode(LONG_TEXT, add_bos=True)


@pytest.fixture(scope="module")
def expected(transformers_model: Any, token_ids: list[int]) -> Tensor:
    """[T, V]"""
    with torch.no_grad():
        return transformers_model(torch.tensor([token_ids])).logits[0]


@contextmanager
def loaded(model_dir: Path, dtype: Dtype, context_length: int) -> Iterator[TorchModel]:
    model = TorchModel.load(
        model_dir,
        dtype=dtype,
        device="cpu",
        num_slots=2,
        context_length=context_length,
        max_rows=CHUNK,
        num_threads=NUM_THREADS,
        report=lambda _: None,
    )
    with closing(model):
        yield model


def served_rows(model: TorchModel, token_ids: list[int]) -> Iterator[tuple[int, Tensor]]:
    """Position and logits row, of chunks first and of single rows at the end."""
    prompt_end = len(token_ids) - DECODED
    ends = [*range(CHUNK, prompt_end, CHUNK), *range(prompt_end, len(token_ids) + 1)]
    start = 0
    for end in ends:
        ids = tuple(token_ids[start:end])
        model.step(StepBatch((Span(1, start, ids, len(ids), ReadoutOptions(4)),)))
        for offset, row in enumerate(torch.from_numpy(model.full_rows(1))):
            yield start + offset, row
        start = end


def correlation(a: Tensor, b: Tensor) -> float:
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    return float((a @ b) / (a.norm() * b.norm()))


def test_float32_logits_are_those_of_transformers_at_every_position(
    model_dir: Path, token_ids: list[int], expected: Tensor
) -> None:
    assert len(token_ids) > 700
    with loaded(model_dir, "float32", len(token_ids)) as model:
        errors = [
            float((row - expected[position]).abs().max())
            for position, row in served_rows(model, token_ids)
        ]
    print(f"largest difference of a logit over {len(errors)} positions: {max(errors):.2e}")
    assert len(errors) == len(token_ids)
    assert max(errors) <= MAX_LOGIT_ERROR


def test_bfloat16_logits_correlate_with_float32_ones_at_every_position(
    model_dir: Path, token_ids: list[int], expected: Tensor
) -> None:
    with loaded(model_dir, "bfloat16", len(token_ids)) as model:
        correlations = [
            correlation(row, expected[position]) for position, row in served_rows(model, token_ids)
        ]
    print(f"smallest PCC of a row over {len(correlations)} positions: {min(correlations):.6f}")
    assert len(correlations) == len(token_ids)
    assert min(correlations) >= MIN_BFLOAT16_PCC
