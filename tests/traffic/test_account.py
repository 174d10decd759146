"""What is least, what a moved tile row costs a step, and what cycles are priced at."""

from __future__ import annotations

import numpy as np
import pytest

from tests.device_service.model.test_tt_plan import NORMS, READ_PER_TOKEN
from tests.traffic import timing
from tests.traffic.account import least, moving_share
from tests.traffic.rows import config_of


@pytest.mark.parametrize("model", ["E2B", "E4B"])
def test_the_least_weights_are_the_published_parameters(model: str) -> None:
    """But for the per-layer model projection, which the host multiplies."""
    config = config_of(model)
    on_host = config.hidden_size * config.per_layer_input_size * len(config.layers)
    matrices = READ_PER_TOKEN[model] - NORMS[model] - on_host
    assert least(config, "bf16", 1, 128).weights == 2 * matrices
    bf16 = 2 * on_host  # a gate and a projection a layer, as large as that together
    assert least(config, "bfp8", 1, 128).weights == 2 * bf16 + (matrices - bf16) * 17 // 16


@pytest.mark.parametrize(("model", "megabytes"), [("E2B", 132), ("E4B", 272)])
def test_the_least_keys_and_values_are_the_published_ones(model: str, megabytes: int) -> None:
    kv = least(config_of(model), "bf16", 1, 8192).kv
    assert round(kv / 1e6) == megabytes
    assert least(config_of(model), "bf16", 32, 8192).kv == 32 * kv


def test_the_least_activations_are_whole_tile_rows_both_ways() -> None:
    """Of E2B: 4 × 1536 + 256 in each of 35 layers, 2 × 2048 in 28, 2 × 4096 in 7, and GeGLU's."""
    inside = 35 * (4 * 1536 + 256) + 28 * 4096 + 7 * 8192 + 15 * 6144 + 20 * 12288
    outside = 1536 + 35 * 256 + 262144
    for batch in (1, 32):
        told = least(config_of("E2B"), "bf16", batch, 128)
        assert told.activations == 2 * 32 * 2 * (inside + outside)
        assert told.total - told.activations == told.bare - batch * 2 * outside


def test_one_step_in_32_moves_for_one_sequence_and_most_for_many() -> None:
    assert moving_share(1) == pytest.approx(1 / 32)
    assert 0.63 < moving_share(32) < 0.65


def test_prices_are_found_again_and_none_is_negative() -> None:
    generator = np.random.default_rng(0)
    work = generator.integers(0, 100, (30, 5)).astype(float)
    wanted = np.array([64.0, 0.0, 12.5, 0.0, 3.0])
    assert timing._non_negative(work, work @ wanted) == pytest.approx(wanted, abs=1e-6)
    noisy = work @ wanted * generator.uniform(0.8, 1.2, 30)
    assert (timing._non_negative(work, noisy) >= 0).all()


def test_work_without_a_price_is_refused() -> None:
    with pytest.raises(ValueError, match="no price for telepathy"):
        timing.in_kinds({"product": 3, "telepathy": 1})


def test_every_kind_of_work_of_a_step_has_a_price() -> None:
    priced = timing.prices()
    assert priced.of_unit["Matrix"]["product"] > 16
    assert max(priced.worst.values()) < 0.1
