"""What `attention_out`'s config takes and refuses, and how it shares K."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kernels import runtime
from kernels.attention_out import AttentionOutConfig
from kernels.limits import WEIGHTS
from kernels.runtime import N150_GRID, P150_GRID, Format, Grid
from tests.kernels.case import all_cases
from tests.kernels.traffic import account

LAYERS = {
    "E2B sliding": (8, 1, 256, 1536),
    "E2B full": (8, 1, 512, 1536),
    "E4B sliding": (8, 2, 256, 2560),
    "E4B full": (8, 2, 512, 2560),
    "12B sliding": (16, 8, 256, 3840),
    "12B full": (16, 1, 512, 3840),
    "31B sliding": (32, 16, 256, 5376),
    "31B full": (32, 4, 512, 5376),
}


@pytest.mark.parametrize("grid", [P150_GRID, N150_GRID])
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("layer", LAYERS)
def test_every_models_layers_fit(layer: str, weights: Format, grid: Grid) -> None:
    heads, kv_heads, head_dim, n = LAYERS[layer]
    one = AttentionOutConfig(heads, kv_heads, head_dim, 1, n, grid, weights)
    for chunks in range(1, 33):
        config = replace(one, chunks=chunks)
        assert config.l1_bytes <= runtime.L1_BYTES
        assert config.shares == one.shares  # else a row's bits would depend on its neighbours
        assert config.shares * n // 32 >= 64
        assert config.units % config.unit_block == 0


@pytest.mark.parametrize("layer", ["E2B full", "E4B full"])
def test_k_is_shared_where_columns_are_few(layer: str) -> None:
    heads, kv_heads, head_dim, n = LAYERS[layer]
    config = AttentionOutConfig(heads, kv_heads, head_dim, 1, n, P150_GRID)
    assert config.shares == (2 if layer == "E2B full" else 1)


@pytest.mark.parametrize("label", ["one-unit", "two-shares", "one-share", "blocks-of-units"])
def test_its_l1_is_what_the_simulator_counts_or_more(label: str) -> None:
    (case,) = [c for c in all_cases() if c.name == f"attention_out-{label}-bfp8"]
    sizes = {
        "one-unit": (4, 1, 64, 1, 64),
        "two-shares": (4, 2, 64, 8, 64),
        "one-share": (4, 2, 64, 3, 160),
        "blocks-of-units": (4, 2, 64, 9, 96),
    }
    config = AttentionOutConfig(*sizes[label], case.grid, "bfp8")
    counted = account(case)["l1_bytes"]
    spare = 2 * (16 - config.unit_block) * (config.columns_each + 1) * 2048
    assert config.l1_bytes == counted + spare


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chunks": 0}, "chunks = 0: 1 to 512"),
        ({"chunks": 513}, "chunks = 513: 1 to 512"),
        ({"n": 100}, "n = 100 is no multiple of 32"),
        ({"head_dim": 100}, "head_dim = 100 is no multiple of 32"),
        ({"kv_heads": 3}, "heads = 8, kv_heads = 3: a group must divide 32"),
        ({"weights": "f32"}, "weights = 'f32': only bf16, bfp8, bfp4"),
        ({"grid": (1, 10)}, "at least 2 × 2"),
        ({"head_dim": 32}, "at least 2 × 2"),
        ({"heads": 8, "head_dim": 2**18}, "no share of 8 heads' K fits the L1"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes: dict[str, object], message: str) -> None:
    config = AttentionOutConfig(8, 2, 256, 4, 2560, P150_GRID)
    with pytest.raises(ValueError, match=message):
        replace(config, **changes)  # type: ignore[arg-type]
