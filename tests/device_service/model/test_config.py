"""Configurations: what is read from released files, and what is refused by name."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from device_service.model.checkpoint_tensors import expected_tensors, unused_tensors
from device_service.model.config import (
    ConfigError,
    LayerConfig,
    LayerKind,
    ModelConfig,
    RopeConfig,
    UnsupportedModelError,
    load_config,
    parse_config,
)
from tests.checkpoints import FAMILIES, raw_config
from tests.device_service.model import released

SLIDING_ROPE = RopeConfig(theta=1e4, num_rotated_pairs=128, factor=1.0)
FULL_ROPE = RopeConfig(theta=1e6, num_rotated_pairs=64, factor=1.0)


def gemma4_layer(
    index: int, is_full: bool, heads: tuple[int, int, int], window: int, k_eq_v: bool, **rest: int
) -> LayerConfig:
    num_heads, num_kv_heads, num_global_kv_heads = heads
    return LayerConfig(
        index=index,
        kind=LayerKind.FULL if is_full else LayerKind.SLIDING,
        num_heads=num_heads,
        num_kv_heads=num_global_kv_heads if is_full else num_kv_heads,
        head_dim=512 if is_full else 256,
        window=None if is_full else window,
        rope=FULL_ROPE if is_full else SLIDING_ROPE,
        k_eq_v=k_eq_v and is_full,
        value_norm=True,
        **rest,
    )


def num_parameters(config: ModelConfig) -> int:
    shapes = [*expected_tensors(config).values(), *unused_tensors(config).values()]
    return sum(math.prod(shape) for shape in shapes)


def test_e2b_resolves_as_published() -> None:
    config = parse_config(released.E2B)
    assert (config.hidden_size, config.per_layer_input_size, config.vocab_size) == (
        1536, 256, 262144,
    )  # fmt: skip
    assert config.max_position_embeddings == 131072
    assert config.final_logit_softcap == 30.0
    assert (config.bos_token_id, config.pad_token_id) == (2, 0)
    assert config.eos_token_ids == (1, 106)
    assert (config.has_layer_scalar, config.norm_weight_offset, config.query_scale) == (True, 0, 1)
    assert config.first_shared_layer == 15
    assert config.layers == tuple(
        gemma4_layer(
            i, i % 5 == 4, (8, 1, 1), 512, False,
            kv_source=i if i < 15 else 14 if i % 5 == 4 else 13,
            intermediate_size=6144 if i < 15 else 12288,
        )
        for i in range(35)
    )  # fmt: skip


def test_e4b_resolves_as_published() -> None:
    config = parse_config(released.E4B)
    assert config.first_shared_layer == 24
    assert config.layers == tuple(
        gemma4_layer(
            i, i % 6 == 5, (8, 2, 2), 512, False,
            kv_source=i if i < 24 else 23 if i % 6 == 5 else 22,
            intermediate_size=10240,
        )
        for i in range(42)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "num_layers", "heads", "intermediate_size"),
    [(released.G12B, 48, (16, 8, 1), 15360), (released.G31B, 60, (32, 16, 4), 21504)],
    ids=["12b", "31b"],
)
def test_dense_models_resolve_as_published(
    raw: dict[str, Any], num_layers: int, heads: tuple[int, int, int], intermediate_size: int
) -> None:
    config = parse_config(raw)
    assert config.model_type == "gemma4_text"
    assert (config.per_layer_input_size, config.per_layer_vocab_size) == (0, 0)
    assert config.first_shared_layer == num_layers
    assert config.layers == tuple(
        gemma4_layer(
            i, i % 6 == 5, heads, 1024, True, kv_source=i, intermediate_size=intermediate_size
        )
        for i in range(num_layers)
    )


def test_parameter_totals_are_the_published_ones() -> None:
    e2b, e4b = parse_config(released.E2B), parse_config(released.E4B)
    # The published totals are of GGUF files, which store the 256 rotary frequencies too.
    num_rope_freqs = 256
    assert num_parameters(e2b) + num_rope_freqs == 4_647_450_147
    assert num_parameters(e4b) + num_rope_freqs == 7_518_069_290
    assert (len(unused_tensors(e2b)), len(unused_tensors(e4b))) == (60, 54)


@pytest.mark.parametrize("name", ["E2B", "E4B", "G31B"])
def test_expected_tensors_are_the_parameters_of_transformers(name: str) -> None:
    from transformers import Gemma4ForCausalLM, Gemma4TextConfig

    raw = getattr(released, name)
    with torch.device("meta"):
        model = Gemma4ForCausalLM(Gemma4TextConfig(**copy.deepcopy(raw["text_config"])))
    shapes = {
        name.removeprefix("model."): tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    assert expected_tensors(parse_config(raw)) == shapes


def test_gemma3_270m_resolves_as_published() -> None:
    config = parse_config(released.GEMMA3_270M)
    rotations = {LayerKind.SLIDING: 1e4, LayerKind.FULL: 1e6}
    kinds = [LayerKind.FULL if i % 6 == 5 else LayerKind.SLIDING for i in range(18)]
    assert config.layers == tuple(
        LayerConfig(
            index=i, kind=kind, num_heads=4, num_kv_heads=1, head_dim=256,
            window=512 if kind is LayerKind.SLIDING else None,
            rope=RopeConfig(rotations[kind], 128, 1.0),
            kv_source=i, k_eq_v=False, value_norm=False, intermediate_size=2048,
        )
        for i, kind in enumerate(kinds)
    )  # fmt: skip
    assert (config.has_layer_scalar, config.norm_weight_offset) == (False, 1)
    assert config.query_scale == 1 / 16
    assert config.final_logit_softcap is None
    assert num_parameters(config) == 268_098_176


def test_sparse_gemma3_files_mean_the_usual_values() -> None:
    config = parse_config(released.GEMMA3_4B)
    assert (config.vocab_size, config.max_position_embeddings) == (262208, 131072)
    assert config.eos_token_ids == (1, 106)
    assert [x.index for x in config.layers if x.kind is LayerKind.FULL] == [5, 11, 17, 23, 29]
    assert config.layers[5].rope == RopeConfig(1e6, 128, 8.0)
    assert config.layers[0].rope == RopeConfig(1e4, 128, 1.0)
    assert (config.layers[0].num_heads, config.layers[0].num_kv_heads) == (8, 4)


def test_gemma3_27b_scales_queries_by_its_own_scalar() -> None:
    assert parse_config(released.GEMMA3_27B).query_scale == 168**-0.5


def test_gemma3_sliding_window_pattern_stands_in_for_layer_types() -> None:
    raw = {**released.GEMMA3_270M, "sliding_window_pattern": 3}
    del raw["layer_types"]
    full = [x.index for x in parse_config(raw).layers if x.kind is LayerKind.FULL]
    assert full == [2, 5, 8, 11, 14, 17]


@pytest.mark.parametrize("family", FAMILIES)
def test_all_spellings_resolve_alike(family: Any) -> None:
    configs = [
        parse_config(
            raw_config(family, spelling=spelling, text_config=nested), {"eos_token_id": 1}
        )
        for spelling in ("released", "transformers")
        for nested in (True, False)
    ]  # fmt: skip
    assert all(config == configs[0] for config in configs)


def test_what_transformers_saves_is_read_back() -> None:
    from transformers import Gemma4TextConfig

    text = copy.deepcopy(released.G31B["text_config"])
    saved = json.loads(Gemma4TextConfig(**text).to_json_string())
    assert "global_head_dim" not in saved
    assert parse_config(saved).layers == parse_config(released.G31B).layers


def test_global_kv_heads_count_only_where_keys_are_values() -> None:
    config = parse_config(changed(released.E4B, num_global_key_value_heads=1))
    assert config.layers[5].num_kv_heads == 2


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        (None, (1, 106)),
        ({"eos_token_id": [1, 106, 50]}, (1, 106, 50)),
        ({"eos_token_id": 7}, (7,)),
        ({"temperature": 1.0}, (1, 106)),
        ({"eos_token_id": [1, 106, 1]}, (1, 106)),
    ],
)
def test_generation_config_stop_ids_win(
    tmp_path: Path, generation: dict[str, Any] | None, expected: tuple[int, ...]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(released.E2B))
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert load_config(tmp_path).eos_token_ids == expected


def changed(raw: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """The configuration with fields of its text part replaced; ... removes one."""
    result = copy.deepcopy(raw)
    text = result.get("text_config", result)
    for name, value in fields.items():
        if value is ...:
            del text[name]
        else:
            text[name] = value
    return result


def rope(kind: str, **fields: Any) -> dict[str, Any]:
    parameters = copy.deepcopy(released.E2B["text_config"]["rope_parameters"])
    parameters[kind].update(fields)
    return parameters


UNSUPPORTED: list[tuple[dict[str, Any], str, Any]] = [
    (released.G26B_A4B, "text_config.enable_moe_block", True),
    (changed(released.E2B, num_experts=128), "text_config.num_experts", 128),
    (changed(released.E2B, hidden_activation="silu"), "text_config.hidden_activation", "silu"),
    (changed(released.E2B, attention_bias=True), "text_config.attention_bias", True),
    (
        changed(released.E2B, tie_word_embeddings=False),
        "text_config.tie_word_embeddings",
        False,
    ),
    ({**released.E2B, "tie_word_embeddings": False}, "tie_word_embeddings", False),
    ({**released.E2B, "quantization_config": {"bits": 4}}, "quantization_config", {"bits": 4}),
    (
        changed(released.E2B, use_bidirectional_attention="all"),
        "text_config.use_bidirectional_attention",
        "all",
    ),
    (changed(released.GEMMA3_270M, attn_logit_softcapping=50.0), "attn_logit_softcapping", 50.0),
    (
        changed(released.GEMMA3_270M, use_bidirectional_attention=True),
        "use_bidirectional_attention",
        True,
    ),
    (changed(released.GEMMA3_270M, model_type="gemma2"), "model_type", "gemma2"),
    (changed(released.E2B, model_type="gemma3n_text"), "text_config.model_type", "gemma3n_text"),
    ({"model_type": "gemma4"}, "model_type", "gemma4"),
    (
        changed(released.E2B, layer_types=["linear_attention"] * 35),
        "text_config.layer_types[0]",
        "linear_attention",
    ),
    (
        changed(released.E2B, layer_types=["full_attention"] * 34 + ["sliding_attention"]),
        "text_config.layer_types[34]",
        "sliding_attention",
    ),
    (
        changed(released.E2B, rope_parameters=rope("full_attention", rope_type="yarn")),
        "text_config.rope_parameters.full_attention.rope_type",
        "yarn",
    ),
    (
        changed(released.E2B, rope_parameters=rope("full_attention", beta_fast=32)),
        "text_config.rope_parameters.full_attention.beta_fast",
        32,
    ),
    (
        changed(released.E2B, rope_parameters=rope("sliding_attention", factor=8.0)),
        "text_config.rope_parameters.sliding_attention.factor",
        8.0,
    ),
    (
        changed(released.E2B, rope_parameters=rope("sliding_attention", partial_rotary_factor=0.5)),
        "text_config.rope_parameters.sliding_attention.partial_rotary_factor",
        0.5,
    ),
    (
        changed(released.E2B, per_layer_config={"4": {"head_dim": 512}, "9": {"head_dim": 128}}),
        "text_config.per_layer_config.9",
        "head_dim 128, num_key_value_heads 1",
    ),
    (
        changed(released.E2B, per_layer_config={"4": {"sliding_window": 9}}),
        "text_config.per_layer_config.4.sliding_window",
        9,
    ),
    (changed(released.E2B, mystery_gate=2), "text_config.mystery_gate", 2),
]


@pytest.mark.parametrize(("raw", "field", "value"), UNSUPPORTED, ids=[x[1] for x in UNSUPPORTED])
def test_what_is_not_served_is_refused_by_name(
    raw: dict[str, Any], field: str, value: object
) -> None:
    with pytest.raises(UnsupportedModelError) as refusal:
        parse_config(raw)
    assert (refusal.value.field, refusal.value.value) == (field, value)
    assert refusal.value.supported
    assert "\n" not in str(refusal.value)


MALFORMED: list[tuple[dict[str, Any], str]] = [
    ({}, "model_type"),
    (changed(released.E2B, hidden_size=...), "hidden_size is missing"),
    (changed(released.E2B, hidden_size=None), "hidden_size is missing"),
    (changed(released.E2B, hidden_size="1536"), "hidden_size must be an integer"),
    (changed(released.E2B, hidden_size=True), "hidden_size must be an integer"),
    (changed(released.E2B, hidden_size=-1536), "at least 1, not -1536"),
    (changed(released.E2B, global_head_dim=...), "global_head_dim is missing"),
    (changed(released.E2B, head_dim=255), "head_dim 255"),
    (changed(released.E2B, rms_norm_eps=0), "rms_norm_eps must be a number above 0"),
    (changed(released.E2B, rms_norm_eps=math.inf), "rms_norm_eps must be a number above 0"),
    (changed(released.E2B, final_logit_softcapping=-1), "final_logit_softcapping"),
    (changed(released.E2B, use_double_wide_mlp="yes"), "use_double_wide_mlp must be true or false"),
    (changed(released.E2B, sliding_window=0), "sliding_window"),
    (changed(released.E2B, num_attention_heads=0), "num_attention_heads"),
    (changed(released.E4B, num_attention_heads=7), "not a multiple of the 2 key-value heads"),
    (changed(released.E2B, layer_types=...), "layer_types is missing"),
    (changed(released.E2B, layer_types=["full_attention"]), "has 1 entries"),
    (changed(released.E2B, layer_types="full_attention"), "must be a list of strings"),
    (changed(released.E2B, layer_types=[1, 2]), "must be a list of strings"),
    (changed(released.E2B, num_kv_shared_layers=35), "without an earlier sliding_attention layer"),
    (changed(released.E2B, num_kv_shared_layers=99), "without an earlier sliding_attention layer"),
    (changed(released.E2B, num_kv_shared_layers=31), "without an earlier full_attention layer"),
    (changed(released.E2B, rope_parameters=...), "rope_parameters is missing"),
    (changed(released.E2B, rope_parameters={}), "sliding_attention is missing"),
    (changed(released.E2B, rope_parameters=[]), "rope_parameters must be an object"),
    (changed(released.E2B, vocab_size_per_layer_input=100), "at least 262144"),
    (changed(released.E2B, bos_token_id=262144), "bos_token_id 262144 is not below"),
    ({**released.E2B, "eos_token_id": ["</s>"]}, "eos_token_id must be a token id"),
    ({**changed(released.E2B, eos_token_id=...), "eos_token_id": None}, "eos_token_id is missing"),
    ({**released.E2B, "text_config": 3}, "text_config must be an object"),
    (changed(released.GEMMA3_270M, query_pre_attn_scalar=0), "query_pre_attn_scalar"),
    (changed(released.GEMMA3_270M, rope_scaling={"rope_type": "linear"}), "factor is missing"),
]


@pytest.mark.parametrize(("raw", "message"), MALFORMED, ids=[x[1] for x in MALFORMED])
def test_malformed_fields_are_named(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_config(raw)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), ("{", "is not JSON"), ("[]", "must hold a JSON object")],
)
def test_a_bad_file_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"config\.json") as error:
        load_config(tmp_path)
    assert message in str(error.value)
