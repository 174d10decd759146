"""Weights as the kernels read them give the same projections, heads and norms."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from device_service.model.checkpoint import Checkpoint
from device_service.model.config import load_config, parse_config
from device_service.model.tt_weight_reader import (
    TtShapeError,
    WeightReader,
    check_shapes,
    pad_head,
    padded_head,
)
from tests.checkpoints import FAMILIES, Family, write_checkpoint
from tests.device_service.model.released import E2B, E4B, G12B, G31B, GEMMA3_270M


@pytest.mark.parametrize("family", FAMILIES)
def test_q_k_v_side_by_side_are_the_three_projections(family: Family, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, family)
    config = load_config(tmp_path)
    checkpoint = Checkpoint.open(tmp_path, config)
    reader = WeightReader(checkpoint, config)
    x = torch.randn(3, config.hidden_size, dtype=torch.bfloat16)
    for layer in config.layers:
        names = ["q_proj"]
        if layer.owns_kv:
            names += ["k_proj"] if layer.k_eq_v else ["k_proj", "v_proj"]
        wanted = [
            F.linear(x, checkpoint.tensor(f"layers.{layer.index}.self_attn.{n}.weight").bfloat16())
            for n in names
        ]
        got = x @ reader.layer(layer).qkv
        assert got.shape[1] % padded_head(layer.head_dim) == 0
        padded = torch.cat([pad_head(part, layer.head_dim) for part in wanted], dim=1)
        torch.testing.assert_close(got.float(), padded.float(), rtol=0.02, atol=0.02)


def test_a_padded_head_keeps_its_pairs_half_a_head_apart() -> None:
    heads = pad_head(torch.arange(1.0, 65.0), 32).view(2, 128)
    assert heads[0, :16].tolist() == list(range(1, 17))
    assert heads[0, 64:80].tolist() == list(range(17, 33))
    assert not heads[:, 16:64].any()
    assert not heads[:, 80:].any()
    whole = torch.arange(256.0)
    assert pad_head(whole, 128) is whole


@pytest.mark.parametrize("raw", [E2B, E4B, G12B, G31B, GEMMA3_270M])
def test_released_models_fit_the_tiles(raw: dict) -> None:
    check_shapes(parse_config(raw))


def test_a_size_that_tiles_do_not_divide_is_named() -> None:
    with pytest.raises(TtShapeError, match="hidden_size is 1540, and the kernels need a multiple"):
        check_shapes(dataclasses.replace(parse_config(E2B), hidden_size=1540))
