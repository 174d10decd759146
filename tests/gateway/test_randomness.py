from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.randomness import MAX_SEED, philox4x32, uniform

# Random123's kat_vectors for "philox4x32 10": counter, key, result.
KNOWN_ANSWERS = [
    (
        (0, 0, 0, 0),
        (0, 0),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN_ANSWERS)
def test_philox_gives_the_known_answers_of_its_authors(
    counter: tuple[int, int, int, int], key: tuple[int, int], result: tuple[int, ...]
) -> None:
    assert philox4x32(counter, key) == result


@settings(deadline=None)
@given(seed=st.integers(0, MAX_SEED), position=st.integers(0, MAX_SEED))
def test_a_uniform_number_is_a_multiple_of_2_to_the_minus_53_below_one(
    seed: int, position: int
) -> None:
    number = uniform(seed, position)
    assert 0.0 <= number < 1.0
    assert (number * 2**53).is_integer()
    assert number == uniform(seed, position)


def test_a_known_answer_becomes_a_known_uniform_number() -> None:
    assert uniform(0, 0) == (0xE169C58D_6627E8D5 >> 11) / 2**53


def test_uniform_numbers_fill_their_range_evenly_over_positions_and_over_seeds() -> None:
    over_positions = [uniform(7, position) for position in range(20_000)]
    over_seeds = [uniform(seed, 7) for seed in range(20_000)]
    for numbers in (over_positions, over_seeds):
        counts = np.histogram(numbers, bins=100, range=(0, 1))[0]
        chi_square = float(((counts - 200) ** 2 / 200).sum())
        assert chi_square < 149  # 99 degrees of freedom: one in a thousand is above


def test_neighbouring_positions_and_seeds_are_not_correlated() -> None:
    grid = np.array([[uniform(seed, position) for position in range(100)] for seed in range(100)])
    flat = grid - 0.5
    assert abs(float((flat[:, 1:] * flat[:, :-1]).mean()) * 12) < 0.04
    assert abs(float((flat[1:] * flat[:-1]).mean()) * 12) < 0.04
