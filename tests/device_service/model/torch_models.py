"""Small models on the torch backend, driven as the engine drives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from device_service.model.interface import ReadoutOptions, Span, StepBatch
from device_service.model.torch_backend import Dtype, TorchModel

OPTIONS = ReadoutOptions(top_candidates=8)
CONTEXT_LENGTH = 192
MAX_ROWS = 32

Loader = Callable[..., TorchModel]


def load_small(
    model_dir: Path,
    dtype: Dtype = "float32",
    *,
    device: str = "cpu",
    num_slots: int = 4,
    context_length: int = CONTEXT_LENGTH,
    max_rows: int = MAX_ROWS,
) -> TorchModel:
    return TorchModel.load(
        model_dir,
        dtype=dtype,
        device=device,
        num_slots=num_slots,
        context_length=context_length,
        max_rows=max_rows,
        num_threads=1,
        report=lambda line: None,
    )


def span(slot: int, start: int, ids: Sequence[int], num_readouts: int | None = None) -> Span:
    """A span that wants readouts of all its ids, or of the last `num_readouts`."""
    wanted = len(ids) if num_readouts is None else num_readouts
    return Span(slot, start, tuple(ids), wanted, OPTIONS)


def run(model: TorchModel, *spans: Span) -> None:
    model.step(StepBatch(spans))


def logits_of(
    model: TorchModel, slot: int, ids: Sequence[int], *, start: int = 0, chunk: int = MAX_ROWS
) -> torch.Tensor:
    """Runs ids in chunks and returns the logits [n, V] of every one."""
    rows: list[torch.Tensor] = []
    for first in range(0, len(ids), chunk):
        run(model, span(slot, start + first, ids[first : first + chunk]))
        rows.append(torch.from_numpy(model.full_rows(slot)))
    return torch.cat(rows)


def greedy(
    model: TorchModel, slot: int, prompt: Sequence[int], num_tokens: int, *, chunk: int = MAX_ROWS
) -> list[int]:
    """The prompt, in chunks of which only the last is read, then tokens one by one."""
    for first in range(0, len(prompt), chunk):
        part = prompt[first : first + chunk]
        is_last = first + chunk >= len(prompt)
        readouts = model.step(StepBatch((span(slot, first, part, int(is_last)),)))
    tokens = [int(readouts.candidate_ids[0])]
    while len(tokens) < num_tokens:
        position = len(prompt) + len(tokens) - 1
        readouts = model.step(StepBatch((span(slot, position, tokens[-1:]),)))
        tokens.append(int(readouts.candidate_ids[0]))
    return tokens
