"""Steps of the torch backend: neighbours, chunks, rewinds, reuse of slots, limits, kept rows."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from device_service.model.interface import ReadoutOptions, Span, StepBatch
from device_service.model.linear import can_pack
from device_service.model.torch_backend import TorchModel
from tests.checkpoints import FAMILIES, Family, random_token_ids, write_checkpoint
from tests.device_service.model.torch_models import (
    CONTEXT_LENGTH,
    MAX_ROWS,
    greedy,
    load_small,
    logits_of,
    run,
    span,
)

TOLERANCE = 1e-5
"""Between two ways to the same result; logits are of the order of 10."""


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("e2b"), "e2b")


@pytest.fixture
def model(model_dir: Path) -> TorchModel:
    return load_small(model_dir)


def assert_close(got: torch.Tensor, expected: torch.Tensor, scale: float = 1.0) -> None:
    torch.testing.assert_close(got, expected, rtol=0, atol=scale * TOLERANCE)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sequence_decodes_alone_as_it_does_among_fifteen_others(tmp_path: Path, family: Family):
    model = load_small(write_checkpoint(tmp_path, family), num_slots=16)
    prompts = [random_token_ids(2 + 2 * slot, seed=slot) for slot in range(16)]
    alone_tokens = greedy(model, 7, prompts[7], 40)
    alone = torch.from_numpy(model.full_rows(7))

    tokens: list[list[int]] = []
    for slot in range(16):
        readouts = model.step(StepBatch((span(slot, 0, prompts[slot], 1),)))
        tokens.append([int(readouts.candidate_ids[0])])
    for _ in range(39):
        spans = [
            span(slot, len(prompts[slot]) + len(tokens[slot]) - 1, tokens[slot][-1:])
            for slot in range(16)
        ]
        readouts = model.step(StepBatch(tuple(spans)))
        assert readouts.slots.tolist() == list(range(16))
        for slot, best in enumerate(readouts.candidate_ids.reshape(16, -1)[:, 0]):
            tokens[slot].append(int(best))
    assert tokens[7] == alone_tokens
    assert_close(torch.from_numpy(model.full_rows(7)), alone)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_decode_rows_are_the_same_to_the_bit_whatever_runs_beside_them(model_dir: Path, dtype):
    if not can_pack(torch.device("cpu"), getattr(torch, dtype)):
        pytest.skip("only packed weights promise it")
    model = load_small(model_dir, dtype)
    ids = random_token_ids(60)
    for slot in (0, 1):
        run(model, span(slot, 0, ids[:30], 0))
    for position in range(30, 50):
        run(model, span(0, position, ids[position : position + 1]))
        beside = span(2, 0, random_token_ids(1 + position % 20, seed=position), 0)
        more = span(3, 0, random_token_ids(1 + position % 3))
        run(model, beside, span(1, position, ids[position : position + 1]), more)
        assert np.array_equal(model.full_rows(0), model.full_rows(1))


@pytest.mark.skipif(
    not can_pack(torch.device("cpu"), torch.bfloat16), reason="packed weights only promise it"
)
def test_a_last_chunk_of_one_row_ends_in_the_same_bits(model_dir: Path):
    model = load_small(model_dir, dtype="bfloat16")
    prompt = random_token_ids(30)
    model.step(StepBatch((span(0, 0, prompt, 1),)))
    model.step(StepBatch((span(1, 0, prompt[:-1], 0),)))
    model.step(StepBatch((span(1, 29, prompt[-1:], 1),)))
    assert np.array_equal(model.full_rows(1), model.full_rows(0))


def test_a_prompt_in_one_chunk_in_many_and_beside_decode_rows_ends_alike(model: TorchModel):
    ids = random_token_ids(90)
    expected = logits_of(model, 0, ids)
    for chunk in (1, 5, 16, 31):
        assert_close(logits_of(model, 1, ids, chunk=chunk), expected, scale=10)
    run(model, span(2, 0, ids[:40][:MAX_ROWS], 0))
    run(model, span(2, MAX_ROWS, ids[MAX_ROWS:40], 0))
    start = 40
    for first in range(0, 90, 9):  # slot 3 prefills while slot 2 decodes
        run(
            model,
            span(2, start, ids[start : start + 1]),
            span(3, first, ids[first : first + 9]),
        )
        assert_close(torch.from_numpy(model.full_rows(2)), expected[start : start + 1], scale=10)
        rows = torch.from_numpy(model.full_rows(3))
        assert_close(rows, expected[first : first + 9], scale=10)
        start += 1


def test_rejected_drafts_leave_no_trace_even_where_the_ring_wraps(model: TorchModel):
    ids = random_token_ids(150)
    expected = logits_of(model, 0, ids)
    wrong = random_token_ids(150, seed=9)
    position = 0
    step = 0
    while position + 8 <= 150:
        accepted = 1 + step % 7  # the rest of the 8 drafts is wrong and is run over later
        drafts = [*ids[position : position + accepted], *wrong[accepted:8]]
        run(model, span(1, position, drafts))
        rows = torch.from_numpy(model.full_rows(1))[:accepted]
        assert_close(rows, expected[position : position + accepted], scale=10)
        position += accepted
        step += 1


def test_a_slot_rewinds_as_far_as_its_rings_allow_and_no_further(model: TorchModel):
    ids = random_token_ids(120)
    expected = logits_of(model, 0, ids)
    lowest = 120 - model.info.max_rewind
    with pytest.raises(ValueError, match=f"from {lowest} on"):
        run(model, span(0, lowest - 1, ids[lowest - 1 : lowest]))
    got = logits_of(model, 0, ids[lowest:], start=lowest)
    assert_close(got, expected[lowest:], scale=10)


def test_a_short_sequence_rewinds_to_any_position(model: TorchModel):
    length = model.info.ring_size
    ids = random_token_ids(length)
    expected = logits_of(model, 0, ids)
    for start in (length - 1, 20, 3, 1, 0):
        got = logits_of(model, 0, ids[start:], start=start)
        assert_close(got, expected[start:], scale=10)


def test_a_released_slot_serves_the_next_sequence_as_a_fresh_one_would(model: TorchModel):
    long, short = random_token_ids(150, seed=1), random_token_ids(70, seed=2)
    logits_of(model, 0, long)
    model.release(0)
    assert_close(logits_of(model, 0, short), logits_of(model, 1, short))


def test_a_released_slot_serves_a_prompt_that_begins_alike(model: TorchModel):
    ids = random_token_ids(40)
    run(model, span(0, 0, ids[:30], 0))
    model.release(0)
    other = [*ids[:25], *random_token_ids(15, seed=5)]
    got = logits_of(model, 0, other[25:], start=25)
    assert_close(got, logits_of(model, 1, other)[25:], scale=10)


def test_full_rows_are_what_the_candidates_were_taken_from(model: TorchModel):
    ids = random_token_ids(20)
    options = ReadoutOptions(top_candidates=50, temperature=0.7)
    spans = (
        Span(2, 0, tuple(ids), 3, options),
        Span(0, 0, tuple(ids[:3]), 0, options),
        Span(1, 0, tuple(ids[:9]), 1, ReadoutOptions(top_candidates=4)),
    )
    readouts = model.step(StepBatch(spans))
    assert readouts.slots.tolist() == [2, 2, 2, 1]
    assert readouts.positions.tolist() == [17, 18, 19, 8]
    assert readouts.candidate_counts.tolist() == [50, 50, 50, 4]
    rows = np.concatenate((model.full_rows(2), model.full_rows(1)))
    first = 0
    for row, count, logsumexp, scaled, temperature in zip(
        rows,
        readouts.candidate_counts,
        readouts.logsumexps,
        readouts.scaled_logsumexps,
        (0.7, 0.7, 0.7, 1.0),
        strict=True,
    ):
        order = np.lexsort((np.arange(len(row)), -row))[:count]
        assert readouts.candidate_ids[first : first + count].tolist() == order.tolist()
        assert np.array_equal(readouts.candidate_logits[first : first + count], row[order])
        assert logsumexp == pytest.approx(np.logaddexp.reduce(row), abs=1e-5)
        assert scaled == pytest.approx(np.logaddexp.reduce(row / temperature), abs=1e-5)
        first += int(count)
    with pytest.raises(ValueError, match="slot 0 has no readouts"):
        model.full_rows(0)


def test_kept_rows_last_until_the_slots_next_readouts_or_release(model: TorchModel):
    ids = random_token_ids(30)
    run(model, span(0, 0, ids[:10]), span(1, 0, ids[:10]))
    kept = model.full_rows(0).copy()
    run(model, span(1, 10, ids[10:20]))
    run(model, span(0, 10, ids[10:20], 0), span(1, 20, ids[20:21]))
    assert np.array_equal(model.full_rows(0), kept)
    assert len(model.full_rows(1)) == 1
    model.release(0)
    with pytest.raises(ValueError, match="slot 0 has no readouts"):
        model.full_rows(0)


def test_after_warm_up_the_slots_are_empty(model_dir: Path):
    model = load_small(model_dir)
    lines: list[str] = []
    model.warm_up(lines.append)
    assert lines
    for slot in range(4):
        with pytest.raises(ValueError, match="holds 0 positions"):
            run(model, span(slot, 1, [107]))
        with pytest.raises(ValueError, match="no readouts"):
            model.full_rows(slot)


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([span(4, 0, [2])], "slot 4 is not among 4"),
        ([span(0, 1, [2])], "slot 0 holds 0 positions, so 1 is no start"),
        ([span(0, -1, [2])], "-1 is no start"),
        ([span(0, 0, [])], "slot 0 has no ids"),
        ([span(0, 0, [2, 320])], "token id 320 is not below 320"),
        ([span(0, 0, [2, -1])], "token id -1"),
        ([span(0, 0, [2] * (MAX_ROWS + 1))], "36 rows, at most 32"),
        ([span(0, 0, [2]), span(0, 1, [3])], "at most one span a slot"),
        ([span(0, 0, [2], 2)], "2 readouts of 1 rows"),
        ([Span(0, 0, (2,), 1, ReadoutOptions(0))], "0 candidates, not 1 to 320"),
        ([Span(0, 0, (2,), 1, ReadoutOptions(321))], "321 candidates, not 1 to 320"),
        ([Span(0, 0, (2,), 1, ReadoutOptions(5, 0.0))], "temperature 0.0"),
        ([Span(0, 0, (2,), 1, ReadoutOptions(5, math.nan))], "temperature nan"),
    ],
)
def test_a_batch_beyond_a_limit_is_refused_and_nothing_of_it_runs(
    model: TorchModel, spans: list[Span], message: str
):
    healthy = span(3, 0, [2, 107, 108])
    with pytest.raises(ValueError, match=message):
        run(model, healthy, *spans)
    with pytest.raises(ValueError, match="slot 3 holds 0 positions"):
        run(model, span(3, 3, [109]))


def test_a_sequence_fills_the_context_and_no_more(model: TorchModel):
    ids = random_token_ids(CONTEXT_LENGTH)
    logits_of(model, 0, ids)
    with pytest.raises(ValueError, match=f"{CONTEXT_LENGTH + 1} positions, at most"):
        run(model, span(0, CONTEXT_LENGTH, [107]))
