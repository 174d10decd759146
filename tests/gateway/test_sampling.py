"""The sampler against one that is plainly right: rank the whole row, keep, draw."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.randomness import uniform
from gateway.sampling import (
    Candidates,
    History,
    SamplingParams,
    decide,
    decide_full,
    logprob,
    top_logprobs,
)

F32 = npt.NDArray[np.float32]


def distribution(
    row: F32, params: SamplingParams, history: History
) -> tuple[list[int], list[float]]:
    """The ids that may be drawn, best first, and their cumulative weights."""
    logits = [float(logit) for logit in row]
    for token_id in range(len(logits)):
        count = history.generated.get(token_id, 0)
        if params.repetition_penalty != 1 and (count or token_id in history.prompt):
            if logits[token_id] > 0:
                logits[token_id] /= params.repetition_penalty
            else:
                logits[token_id] *= params.repetition_penalty
        if count:
            logits[token_id] -= params.presence_penalty + params.frequency_penalty * count
        logits[token_id] += params.logit_bias.get(token_id, 0.0)
    ranked = sorted(range(len(logits)), key=lambda token_id: (-logits[token_id], token_id))
    best = logits[ranked[0]]
    if params.temperature == 0:
        return ranked[:1], [1.0]
    if params.top_k:
        ranked = ranked[: params.top_k]
    weights = [math.exp((logits[token_id] - best) / params.temperature) for token_id in ranked]
    cumulative = list(accumulate(weights))
    num_kept = len(ranked)
    if params.top_p < 1:
        wanted = params.top_p * cumulative[-1]
        num_kept = next(n for n, mass in enumerate(cumulative, 1) if mass >= wanted)
    num_kept = min(num_kept, sum(weight >= params.min_p for weight in weights))
    return ranked[:num_kept], cumulative[:num_kept]


def brute_force(row: F32, params: SamplingParams, position: int, history: History) -> int:
    ranked, cumulative = distribution(row, params, history)
    target = uniform(params.seed, position) * cumulative[-1]
    return ranked[next(n for n, mass in enumerate(cumulative) if mass > target)]


def read_out(row: F32, num_candidates: int, temperature: float) -> Candidates:
    """What a device says of the row, computed in float32 as devices do."""
    ids = np.lexsort((np.arange(len(row)), -row))[:num_candidates]

    def logsumexp(scale: float) -> float:
        scaled = row / np.float32(scale)
        return float(scaled.max() + np.log(np.exp(scaled - scaled.max()).sum()))

    return Candidates(
        ids=ids.astype(np.uint32),
        logits=row[ids],
        logsumexp=logsumexp(1.0),
        scaled_logsumexp=logsumexp(temperature or 1.0),
        vocab_size=len(row),
    )


@st.composite
def rows(draw: st.DrawFn, max_size: int = 120) -> F32:
    """Flat, peaked and tied rows."""
    size = draw(st.integers(2, max_size))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    row = rng.standard_normal(size) * draw(st.sampled_from([0.0, 0.05, 1.0, 3.0, 10.0]))
    step = draw(st.sampled_from([0.0, 0.125, 1.0, 4.0]))
    if step:
        row = np.round(row / step) * step  # ties
    return (row + draw(st.sampled_from([0.0, -20.0, 12.5]))).astype(np.float32)


def on_grid_or(low: int, high: int) -> st.SearchStrategy[float]:
    """Also whole numbers, which make adjusted logits tie with others."""
    return st.one_of(st.integers(max(low, -8), min(high, 8)).map(float), st.floats(low, high))


@st.composite
def cases(draw: st.DrawFn) -> tuple[F32, Candidates, SamplingParams, History]:
    row = draw(rows())
    size = len(row)
    token_ids = st.integers(0, size - 1)

    def off_or(off: float, values: st.SearchStrategy[float]) -> st.SearchStrategy[float]:
        return st.one_of(st.just(off), values)

    parameters: dict[str, Any] = {
        "seed": draw(st.integers(0, 2**64 - 1)),
        "temperature": draw(st.one_of(st.sampled_from([0.0, 0.125, 1.0]), st.floats(0.02, 50))),
        "top_k": draw(off_or(0, st.integers(1, size))),
        "top_p": draw(off_or(1.0, st.floats(0.01, 1))),
        "min_p": draw(off_or(0.0, st.floats(0, 1))),
    }
    history = History(())
    if draw(st.booleans()):
        history = History(draw(st.lists(token_ids, max_size=20)), draw(st.lists(token_ids)))
        parameters |= {
            "repetition_penalty": draw(off_or(1.0, st.floats(0.125, 4))),
            "presence_penalty": draw(off_or(0.0, on_grid_or(-2, 2))),
            "frequency_penalty": draw(off_or(0.0, on_grid_or(-2, 2))),
            "logit_bias": draw(st.dictionaries(token_ids, on_grid_or(-100, 100), max_size=4)),
        }
    params = SamplingParams(size, **parameters)
    num_candidates = draw(st.integers(1, min(32, size)))
    return row, read_out(row, num_candidates, params.temperature), params, history


@settings(max_examples=500, deadline=None)
@given(case=cases(), first_position=st.integers(0, 200_000))
def test_candidates_decide_as_the_full_row_which_decides_as_brute_force(
    case: tuple[F32, Candidates, SamplingParams, History], first_position: int
) -> None:
    row, candidates, params, history = case
    ranked, cumulative = distribution(row, params, history)
    for position in range(first_position, first_position + 20):
        target = uniform(params.seed, position) * cumulative[-1]
        expected = ranked[next(n for n, mass in enumerate(cumulative) if mass > target)]
        assert decide(candidates, params, position, history) in (None, expected)
    assert decide_full(row, params, position, history) == expected


@settings(max_examples=80, deadline=None)
@given(
    row=rows(max_size=3000),
    seed=st.integers(0, 2**64 - 1),
    top_k=st.sampled_from([0, 1, 40, 2000]),
    top_p=st.sampled_from([1.0, 0.95, 0.3]),
    min_p=st.sampled_from([0.0, 0.1]),
)
def test_a_large_row_is_decided_the_same_whether_or_not_all_of_it_is_ranked(
    row: F32, seed: int, top_k: int, top_p: float, min_p: float
) -> None:
    params = SamplingParams(len(row), seed, top_k=min(top_k, len(row)), top_p=top_p, min_p=min_p)
    expected = brute_force(row, params, 3, History(()))
    assert decide_full(row, params, 3, History(())) == expected
    candidates = read_out(row, min(64, len(row)), 1.0)
    assert decide(candidates, params, 3, History(())) in (None, expected)


def assert_agrees(
    row: F32, candidates: Candidates, params: SamplingParams, num_positions: int
) -> None:
    """Decides many positions of one row; at least some must be decided."""
    history = History(())
    ranked, cumulative = distribution(row, params, history)
    num_decided = 0
    for position in range(num_positions):
        token_id = decide(candidates, params, position, history)
        target = uniform(params.seed, position) * cumulative[-1]
        assert token_id in (None, ranked[bisect_right(cumulative, target)])
        num_decided += token_id is not None
    assert num_decided > 0


@pytest.mark.parametrize("error", [-0.9e-4, 0.0, 0.9e-4])
def test_a_logsumexp_that_is_wrong_within_its_tolerance_changes_no_token(error: float) -> None:
    row = np.array([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3], np.float32)
    exact = read_out(row, 5, 1.0)
    candidates = replace(exact, scaled_logsumexp=exact.scaled_logsumexp + error)
    assert_agrees(row, candidates, SamplingParams(8, 5), 20_000)


def test_a_candidate_that_falls_to_the_last_ones_logit_may_be_behind_unseen_ids() -> None:
    row = np.array([3.0, 3.0, 3.0, 4.0], np.float32)
    params = SamplingParams(4, 5, top_k=2, logit_bias={3: -1.0})
    # Now all are at 3: top_k keeps 0 and 1, and the candidates are 3 and 0.
    assert {decide_full(row, params, p, History(())) for p in range(50)} == {0, 1}
    assert {decide(read_out(row, 2, 1.0), params, p, History(())) for p in range(50)} <= {
        0,
        1,
        None,
    }


def test_the_mass_of_raised_ids_that_are_no_candidates_counts() -> None:
    row = np.array([2.0, 1.0, 0.0, 0.0], np.float32)
    params = SamplingParams(4, 5, logit_bias={3: 0.9})
    assert_agrees(row, read_out(row, 2, 1.0), params, 2000)


def gemma_like_row(seed: int, size: int = 20_000) -> F32:
    """A peak, a shoulder and a long flat tail, below the softcap of 30."""
    rng = np.random.default_rng(seed)
    row = rng.standard_normal(size) * 2 - 8
    row[rng.choice(size, 200, replace=False)] += rng.gamma(2.0, 4.0, 200)
    return (30 * np.tanh(row / 30)).astype(np.float32)


def unanswered(parameters: dict[str, Any], num_rows: int = 80) -> float:
    """The share of rows whose 64 candidates leave the token open."""
    num_open = 0
    for seed in range(num_rows):
        row = gemma_like_row(seed)
        params = SamplingParams(len(row), seed, **parameters)
        history = History(range(0, 20_000, 10), range(50))
        token_id = decide(read_out(row, 64, params.temperature), params, seed, history)
        num_open += token_id is None
        assert token_id in (None, decide_full(row, params, seed, history))
    return num_open / num_rows


@pytest.mark.parametrize(
    "parameters",
    [
        {"top_k": 64, "top_p": 0.95},
        {"top_k": 64, "top_p": 0.95, "temperature": 0.7, "min_p": 0.05},
        {"temperature": 0.0},
        {"top_k": 1},
        {"min_p": 0.2},
    ],
)
def test_64_candidates_always_suffice_for_the_usual_parameters(parameters: dict[str, Any]) -> None:
    assert unanswered(parameters) == 0


@pytest.mark.parametrize(
    "parameters",
    [
        {"top_k": 64, "top_p": 0.95, "repetition_penalty": 1.1},
        {"top_k": 64, "frequency_penalty": 0.5, "presence_penalty": 0.5},
        {"top_k": 64, "logit_bias": {7: -100.0, 8: 1.0}},
        {"top_p": 0.9, "temperature": 0.5},
        {"temperature": 0.0, "repetition_penalty": 1.2},
    ],
)
def test_64_candidates_nearly_always_suffice_beyond_them(parameters: dict[str, Any]) -> None:
    assert unanswered(parameters) <= 0.05


def test_samples_follow_the_distribution() -> None:
    row = np.array([2.0, 1.0, 0.5, 0.5, -1.0, -3.0], np.float32)
    params = SamplingParams(6, 42, temperature=0.8)
    candidates = read_out(row, 6, 0.8)
    num_samples = 20_000
    samples = [decide(candidates, params, position, History(())) for position in range(num_samples)]
    assert None not in samples
    weights = np.exp(row.astype(np.float64) / 0.8)
    expected = weights / weights.sum() * num_samples
    counts = np.bincount(np.array(samples), minlength=6)
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < 20.5  # 5 degrees of freedom: one in a thousand is above


def test_top_p_and_min_p_keep_what_they_say() -> None:
    probabilities = np.array([0.5, 0.25, 0.125, 0.0625, 0.0625])
    row = np.log(probabilities).astype(np.float32)
    candidates = read_out(row, 5, 1.0)

    def seen(**parameters: Any) -> set[int | None]:
        params = SamplingParams(5, 1, **parameters)
        return {decide(candidates, params, position, History(())) for position in range(400)}

    assert seen() == {0, 1, 2, 3, 4}
    assert seen(top_p=0.7) == {0, 1}
    assert seen(top_p=0.8) == {0, 1, 2}
    assert seen(min_p=0.2) == {0, 1, 2}
    assert seen(top_k=2) == {0, 1}
    assert seen(top_k=3, top_p=0.85) == {0, 1}, "top_p is of what top_k left"
    assert seen(top_k=4, min_p=0.4) == {0, 1}


def test_greedy_takes_the_smaller_id_of_equal_logits() -> None:
    row = np.array([1.0, 3.0, 3.0, 3.0], np.float32)
    params = SamplingParams(4, 1, temperature=0.0)
    assert decide(read_out(row, 2, 0.0), params, 0, History(())) == 1
    assert decide_full(row, params, 0, History(())) == 1


def test_a_raised_id_that_is_no_candidate_leaves_the_token_open() -> None:
    row = np.array([5.0, 4.0, 3.0, 2.0], np.float32)
    params = SamplingParams(4, 1, temperature=0.0, logit_bias={3: 4.0})
    assert decide(read_out(row, 2, 0.0), params, 0, History(())) is None
    assert decide_full(row, params, 0, History(())) == 3
    # At most 4 + 0.5, since the last candidate has 4: the best one can't be beaten.
    params = SamplingParams(4, 1, temperature=0.0, logit_bias={3: 0.5})
    assert decide(read_out(row, 2, 0.0), params, 0, History(())) == 0


def test_penalties_count_the_prompt_only_for_repetition() -> None:
    row = np.array([2.0, 1.5, -1.0], np.float32)
    prompt = History([0])
    greedy: dict[str, Any] = {"temperature": 0.0}
    assert decide_full(row, SamplingParams(3, 1, repetition_penalty=2.0, **greedy), 0, prompt) == 1
    assert decide_full(row, SamplingParams(3, 1, presence_penalty=2.0, **greedy), 0, prompt) == 0
    answer = History([], [0])
    assert decide_full(row, SamplingParams(3, 1, presence_penalty=2.0, **greedy), 0, answer) == 1
    twice = History([], [0, 0])
    params = SamplingParams(3, 1, frequency_penalty=0.3, **greedy)
    assert decide_full(row, params, 0, answer) == 0
    assert decide_full(row, params, 0, twice) == 1


def test_a_row_with_a_logit_that_is_not_finite_is_refused() -> None:
    row = np.array([1.0, np.nan], np.float32)
    assert decide(read_out(row, 2, 1.0), SamplingParams(2, 1), 0, History(())) is None
    with pytest.raises(ValueError, match="not finite"):
        decide_full(row, SamplingParams(2, 1), 0, History(()))


def test_logprobs_are_the_models_own() -> None:
    row = np.array([1.0, 3.0, 2.0, -1.0], np.float32)
    candidates = read_out(row, 3, 0.5)
    expected = row - np.log(np.exp(row.astype(np.float64)).sum())
    assert top_logprobs(candidates, 2) == [
        (1, pytest.approx(expected[1], abs=1e-6)),
        (2, pytest.approx(expected[2], abs=1e-6)),
    ]
    assert logprob(candidates, 0) == pytest.approx(expected[0], abs=1e-6)
    assert logprob(candidates, 3) is None
