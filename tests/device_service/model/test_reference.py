"""The reference against transformers, on every family and spelling."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from device_service.model.architecture import RopeConfig
from device_service.model.checkpoint import Checkpoint
from device_service.model.config import load_config
from device_service.model.reference import ReferenceModel
from device_service.model.rope import rope_tables
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

MAX_FLOAT32_DIFFERENCE = 1e-4
MIN_BFLOAT16_PCC = 0.999


def reference(model_dir: Path, dtype: torch.dtype = torch.float32) -> ReferenceModel:
    config = load_config(model_dir)
    return ReferenceModel(config, Checkpoint.open(model_dir, config), dtype)


@pytest.mark.parametrize("text_config", [True, False], ids=["nested", "alone"])
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_float32_logits_are_those_of_transformers(
    tmp_path: Path, family: Family, spelling: Spelling, text_config: bool
) -> None:
    write_checkpoint(tmp_path, family, spelling=spelling, text_config=text_config)
    ids = random_token_ids(3 * WINDOW + 5)
    expected = huggingface_logits(huggingface_model(tmp_path, torch.float32), ids)
    logits = reference(tmp_path).logits(ids)
    assert (logits - expected).abs().max() < MAX_FLOAT32_DIFFERENCE
    # A test that flat or saturated logits would pass says little.
    assert 1 < expected.std() < 10


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_logits_correlate_with_those_of_transformers(
    tmp_path: Path, family: Family
) -> None:
    write_checkpoint(tmp_path, family, dtype=torch.bfloat16, sharded=True)
    ids = random_token_ids(3 * WINDOW + 5, seed=1)
    expected = huggingface_logits(huggingface_model(tmp_path, torch.bfloat16), ids)
    logits = reference(tmp_path, torch.bfloat16).logits(ids)
    assert logits.dtype is torch.bfloat16
    assert pcc(logits, expected) >= MIN_BFLOAT16_PCC


def test_every_layer_gives_the_hidden_states_of_transformers(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "e2b")
    ids = random_token_ids(2 * WINDOW)
    model = huggingface_model(tmp_path, torch.float32)
    with torch.inference_mode():
        states = model(
            input_ids=torch.tensor([ids]), use_cache=False, output_hidden_states=True
        ).hidden_states
    outputs = reference(tmp_path).run(ids)
    # transformers: the embeddings, each layer but the last, and the normed output of the last.
    ours = (outputs.embeddings, *outputs.layers[:-1], outputs.hidden)
    assert len(states) == len(ours)
    for expected, actual in zip(states, ours, strict=True):
        torch.testing.assert_close(actual, expected[0], atol=1e-5, rtol=1e-5)


def test_a_query_scale_that_is_no_power_of_two_is_followed(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "gemma3", overrides={"query_pre_attn_scalar": 168})
    ids = random_token_ids(2 * WINDOW + 3)
    expected = huggingface_logits(huggingface_model(tmp_path, torch.float32), ids)
    assert (reference(tmp_path).logits(ids) - expected).abs().max() < MAX_FLOAT32_DIFFERENCE


@pytest.mark.parametrize("family", FAMILIES)
def test_a_position_does_not_see_later_ones(tmp_path: Path, family: Family) -> None:
    write_checkpoint(tmp_path, family)
    ids = random_token_ids(2 * WINDOW)
    model = reference(tmp_path)
    torch.testing.assert_close(
        model.logits(ids)[:WINDOW], model.logits(ids[:WINDOW]), atol=1e-4, rtol=0
    )


def test_positions_before_a_sliding_window_are_not_seen(tmp_path: Path) -> None:
    # Sliding layers only, but for the last, which Gemma 4 wants full.
    layer_types = ["sliding_attention", "full_attention"]
    write_checkpoint(
        tmp_path, "31b", overrides={"layer_types": layer_types, "num_hidden_layers": 2}
    )
    ids = random_token_ids(2 * WINDOW)
    other = [*ids[:4], ids[4] - 1, *ids[5:]]
    model = reference(tmp_path)
    changed = (model.layer_outputs(ids)[0] != model.layer_outputs(other)[0]).any(dim=-1)
    assert changed.nonzero().flatten().tolist() == list(range(4, 4 + WINDOW))


def test_rope_tables_leave_unrotated_pairs_alone() -> None:
    cos, sin = rope_tables(RopeConfig(1e6, 2, 1.0), 16, torch.arange(5))
    assert cos.dtype is torch.float32
    assert cos.shape == sin.shape == (5, 16)
    rotated = [0, 1, 8, 9]
    assert (sin[1:, rotated] != 0).all()
    rest = [d for d in range(16) if d not in rotated]
    assert (cos[:, rest] == 1).all()
    assert (sin[:, rest] == 0).all()


def test_rope_exponents_divide_by_the_whole_head() -> None:
    _, sin = rope_tables(RopeConfig(1e4, 2, 8.0), 16, torch.tensor([3]))
    torch.testing.assert_close(sin[0, 1], torch.tensor(3 * 1e4 ** (-2 / 16) / 8).sin())
