"""The torch backend against transformers, on a small model of every architecture that is served."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import psutil
import pytest
import torch

from device_service.model.interface import StepBatch
from tests.checkpoints import (
    FAMILIES,
    SPELLINGS,
    WINDOW,
    Family,
    Spelling,
    huggingface_logits,
    huggingface_model,
    random_token_ids,
    write_checkpoint,
)
from tests.correlation import pcc
from tests.device_service.model.torch_models import greedy, load_small, logits_of, run, span

LENGTH = 2 * WINDOW + 15
NUM_GREEDY = 64
TOLERANCE = 1e-4
MIN_PCC = 0.999


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("checkpoints")

    @cache
    def checkpoint(family: Family, spelling: Spelling = "released", seed: int = 0) -> Path:
        dtype = torch.bfloat16 if seed else torch.float32
        name = f"{family}-{spelling}-{seed}"
        return write_checkpoint(root / name, family, spelling=spelling, dtype=dtype, seed=seed)

    return checkpoint


def huggingface_greedy(model: torch.nn.Module, prompt: Sequence[int], num_tokens: int) -> list[int]:
    """Without a cache: every token from all ids before it."""
    ids = list(prompt)
    for _ in range(num_tokens):
        ids.append(int(huggingface_logits(model, ids)[-1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_float32_logits_and_greedy_tokens_are_those_of_transformers(
    checkpoints, family: Family, spelling: Spelling
):
    model_dir = checkpoints(family, spelling)
    judge = huggingface_model(model_dir, torch.float32)
    ids = random_token_ids(LENGTH)
    expected = huggingface_logits(judge, ids)
    model = load_small(model_dir)
    for chunk in (LENGTH // 2 + 1, 7, 1):
        got = logits_of(model, 0, ids, chunk=chunk)
        torch.testing.assert_close(got, expected, rtol=0, atol=TOLERANCE)
    if spelling == "released":
        tokens = greedy(model, 1, ids[:20], NUM_GREEDY, chunk=6)
        assert tokens == huggingface_greedy(judge, ids[:20], NUM_GREEDY)


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_logits_follow_float32_and_are_no_further_than_those_of_transformers(
    checkpoints, family: Family
):
    ids = random_token_ids(LENGTH)
    model_dir = checkpoints(family, seed=2)  # stored in bfloat16
    exact = huggingface_logits(huggingface_model(model_dir, torch.float32), ids)
    theirs = huggingface_logits(huggingface_model(model_dir, torch.bfloat16), ids)
    model = load_small(model_dir, "bfloat16")
    for chunk in (LENGTH // 2 + 1, 1):
        ours = pcc(logits_of(model, 0, ids, chunk=chunk), exact)
        assert ours >= MIN_PCC
        assert ours >= pcc(theirs, exact)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_whose_rows_nobody_reads_ends_in_the_same_logits(checkpoints, family: Family):
    ids = random_token_ids(LENGTH)
    model = load_small(checkpoints(family))
    expected = logits_of(model, 0, ids)
    for num_read in (1, 3):
        run(model, span(1, 0, ids[:30], 0))
        run(model, span(1, 30, ids[30:], num_read))
        got = torch.from_numpy(model.full_rows(1))
        torch.testing.assert_close(got, expected[-num_read:], rtol=0, atol=TOLERANCE)


def test_a_step_that_nobody_reads_gives_no_readouts(checkpoints):
    model = load_small(checkpoints("e2b"))
    readouts = model.step(StepBatch((span(0, 0, [2, 107, 108], 0),)))
    assert len(readouts.slots) == len(readouts.candidate_ids) == len(readouts.logsumexps) == 0


def test_the_model_tells_who_it_is_and_its_limits(checkpoints):
    model_dir = checkpoints("e2b")
    info = load_small(model_dir, num_slots=3, context_length=100, max_rows=10).info
    assert (info.architecture, info.name) == ("gemma4_text", model_dir.name)
    assert (info.num_slots, info.context_length, info.max_rows) == (3, 100, 10)
    assert (info.ring_size, info.max_rewind) == (WINDOW - 1 + 10, 10)
    assert (info.backend, info.precision) == ("torch", "float32")
    assert info.vocab_size == info.max_top_candidates == 320
    assert len(info.checkpoint_digest) == 64


@pytest.mark.parametrize(
    ("argument", "value"),
    [("num_slots", 0), ("max_rows", 0), ("context_length", 0), ("context_length", 513)],
)
def test_a_size_out_of_range_is_refused_by_name(checkpoints, argument: str, value: int):
    with pytest.raises(ValueError, match=f"{argument} is {value}"):
        load_small(checkpoints("e2b"), **{argument: value})


def test_weights_stored_in_another_type_are_converted(tmp_path: Path):
    stored = write_checkpoint(tmp_path, "e4b", dtype=torch.float16)
    ids = random_token_ids(20)
    expected = huggingface_logits(huggingface_model(stored, torch.float32), ids)
    got = logits_of(load_small(stored), 0, ids)
    torch.testing.assert_close(got, expected, rtol=0, atol=TOLERANCE)


def test_the_per_layer_table_stays_in_its_file(tmp_path: Path):
    num_rows = 100_000
    model_dir = write_checkpoint(
        tmp_path, "e2b", overrides={"vocab_size_per_layer_input": num_rows}
    )
    table_bytes = num_rows * 8 * 32 * 4
    assert (model_dir / "model.safetensors").stat().st_size > table_bytes
    process = psutil.Process()
    before = process.memory_info().rss
    model = load_small(model_dir)
    logits_of(model, 0, random_token_ids(50))
    assert process.memory_info().rss - before < table_bytes / 2
