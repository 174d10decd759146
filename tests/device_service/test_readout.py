"""Readouts against the plain definition: sort all, sum all."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from device_service.readout import RowReadouts, read_out


def definition(logits: torch.Tensor, num_candidates: int) -> list[list[int]]:
    """Ids by descending logit, ties by ascending id."""
    return [
        np.lexsort((np.arange(len(row)), -row))[:num_candidates].tolist()
        for row in logits.double().numpy()
    ]


def read(raw: torch.Tensor, num_candidates: int, softcap: float | None = None) -> RowReadouts:
    return read_out(raw, softcap, num_candidates, torch.ones(len(raw)))


def random_rows(num_rows: int, vocab_size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(num_rows, vocab_size, generator=torch.Generator().manual_seed(seed)) * 5


@pytest.mark.parametrize("vocab_size", [1, 63, 64, 65, 320, 1000, 4096])
def test_candidates_are_the_first_of_all_ids_in_order(vocab_size: int):
    logits = random_rows(9, vocab_size)
    for num_candidates in {1, min(7, vocab_size), min(200, vocab_size), vocab_size}:
        readouts = read(logits, num_candidates)
        assert readouts.candidate_ids.tolist() == definition(logits, num_candidates)
        assert torch.equal(readouts.candidate_logits, logits.gather(1, readouts.candidate_ids))


@pytest.mark.parametrize("num_candidates", [1, 5, 64, 100, 700])
def test_of_equal_logits_the_smallest_ids_win_also_at_the_last_place(num_candidates: int):
    coarse = random_rows(6, 1000).mul(0.2).round()  # many ids share few values
    one_value = torch.zeros(1, 1000)
    two_blocks = torch.zeros(1, 1000)
    two_blocks[0, 900:] = 1.0
    logits = torch.cat((coarse, one_value, two_blocks))
    assert read(logits, num_candidates).candidate_ids.tolist() == definition(logits, num_candidates)


def test_minus_zero_ties_with_zero():
    logits = torch.tensor([[-1.0, -0.0, 0.0, -0.0]])
    assert read(logits, 3).candidate_ids.tolist() == [[1, 2, 3]]


def test_ties_that_the_softcap_makes_go_by_id():
    raw = torch.tensor([[400.0, 500.0, 900.0, 1.0]])  # tanh rounds all of the first three to 1
    readouts = read(raw, 3, softcap=30.0)
    assert readouts.candidate_ids.tolist() == [[0, 1, 2]]
    assert readouts.candidate_logits.tolist() == [[30.0, 30.0, 30.0]]


def test_bfloat16_rows_are_capped_in_float32():
    raw = random_rows(3, 500).bfloat16()
    readouts = read(raw, 10, softcap=30.0)
    assert readouts.logits.dtype == torch.float32
    expected = 30 * torch.tanh(raw.double() / 30)
    torch.testing.assert_close(readouts.logits.double(), expected, rtol=1e-6, atol=1e-6)
    assert readouts.candidate_ids.tolist() == definition(readouts.logits, 10)


@pytest.mark.parametrize("vocab_size", [1, 65, 320, 5000])
def test_logsumexps_are_those_of_the_whole_row(vocab_size: int):
    logits = random_rows(9, vocab_size)
    temperatures = torch.linspace(0.1, 3, 9)
    readouts = read_out(logits, None, 1, temperatures)
    wide = logits.double()
    torch.testing.assert_close(
        readouts.logsumexps.double(), wide.logsumexp(1), rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(
        readouts.scaled_logsumexps.double(),
        (wide / temperatures[:, None].double()).logsumexp(1),
        rtol=1e-6,
        atol=1e-5,
    )


def test_logsumexps_do_not_overflow():
    logits = torch.tensor([[1e4, 1e4, -1e4]])
    readouts = read_out(logits, None, 1, torch.tensor([0.01]))
    assert readouts.logsumexps.item() == pytest.approx(1e4 + np.log(2))
    assert readouts.scaled_logsumexps.item() == pytest.approx(1e6 + np.log(2))


def test_at_temperature_one_both_logsumexps_are_the_same():
    readouts = read(random_rows(5, 300), 4)
    assert torch.equal(readouts.logsumexps, readouts.scaled_logsumexps)


def test_a_row_reads_the_same_alone_and_among_others():
    raw = random_rows(11, 70_000)
    temperatures = torch.linspace(0.5, 1.5, 11)
    together = read_out(raw, 30.0, 64, temperatures)
    for row in range(11):
        alone = read_out(raw[row : row + 1], 30.0, 64, temperatures[row : row + 1])
        assert torch.equal(alone.logits[0], together.logits[row])
        assert torch.equal(alone.candidate_ids[0], together.candidate_ids[row])
        assert torch.equal(alone.logsumexps[0], together.logsumexps[row])
        assert torch.equal(alone.scaled_logsumexps[0], together.scaled_logsumexps[row])


def test_the_raw_rows_are_left_as_they_were():
    raw = random_rows(2, 100)
    before = raw.clone()
    read(raw, 5, softcap=30.0)
    assert torch.equal(raw, before)
