"""From config.json to a `ModelConfig`: the spellings of Gemma 4 and Gemma 3, and what is refused.

Knows JSON fields and released values; knows no tensors and no torch. A value that the forward pass
does not follow is refused by name, and so is a field whose meaning is unknown here: a model that
does not start is better than one that runs wrongly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import cast

from device_service.model.architecture import LayerConfig, LayerKind, ModelConfig, RopeConfig
from device_service.model.config_fields import ConfigError, Fields, UnsupportedModelError
from device_service.model.config_layers import gemma3_layers, gemma4_layers

__all__ = [
    "ConfigError",
    "LayerConfig",
    "LayerKind",
    "ModelConfig",
    "RopeConfig",
    "UnsupportedModelError",
    "load_config",
    "parse_config",
]

FAMILIES: Mapping[str, str] = MappingProxyType(
    {
        "gemma4_text": "gemma4_text",
        "gemma4_unified_text": "gemma4_text",  # the released 12B: the same decoder, never PLE
        "gemma3_text": "gemma3_text",
    }
)
"""The text model types that are served, and the decoder that each is."""

HARMLESS_FIELDS = frozenset(
    {
        "_attn_implementation_autoset", "_name_or_path", "_sliding_window_pattern",
        "architectures", "attention_dropout", "attn_implementation", "cache_implementation",
        "dtype", "initializer_range", "torch_dtype", "transformers_version", "unsloth_fixed",
        "unsloth_version", "use_cache",
    }
)  # fmt: skip
"""Fields of a text configuration that say nothing about its forward pass."""

GEMMA3_DEFAULTS: Mapping[str, object] = MappingProxyType(
    {
        "vocab_size": 262_208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-6,
        "query_pre_attn_scalar": 256,
        "sliding_window_pattern": 6,
        "rope_theta": 1_000_000.0,
        "rope_local_base_freq": 10_000.0,
    }
)
"""What released Gemma 3 configurations leave out where it has its usual value."""


def load_config(model_dir: Path) -> ModelConfig:
    """Reads `config.json`, and the stop ids of `generation_config.json` where there is one.

    Args:
        model_dir: a checkpoint's directory.

    Raises:
        UnsupportedModelError: the model is not served; the message names the field that differs.
        ConfigError: a file is missing or malformed.
    """
    generation_file = model_dir / "generation_config.json"
    generation = _read_json(generation_file) if generation_file.exists() else None
    return parse_config(_read_json(model_dir / "config.json"), generation)


def parse_config(
    raw: Mapping[str, object], generation: Mapping[str, object] | None = None
) -> ModelConfig:
    """Resolves a configuration.

    Args:
        raw: the object in `config.json`, with the text model's fields at the top or under
            `text_config`.
        generation: the object in `generation_config.json`; its stop ids win.

    Raises:
        UnsupportedModelError: the model is not served; the message names the field that differs.
        ConfigError: a field is missing, mistyped, out of range, or contradicts another.
    """
    outer = Fields(raw)
    text = outer.section("text_config") or outer
    model_type = _model_type(outer, text)
    if FAMILIES[model_type] == "gemma3_text":
        text = text.with_defaults(GEMMA3_DEFAULTS)
    elif model_type == "gemma4_unified_text":
        text = text.with_defaults({"hidden_size_per_layer_input": 0})
    _refuse_unserved(outer, text)
    config = _model(FAMILIES[model_type], text, _eos(outer, text, Fields(generation or {})))
    text.refuse_unread(HARMLESS_FIELDS)
    return config


def _read_json(file: Path) -> Mapping[str, object]:
    try:
        raw: object = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{file} is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{file} must hold a JSON object, not {type(raw).__name__}")
    return cast("dict[str, object]", raw)


def _model_type(outer: Fields, text: Fields) -> str:
    name = outer.text("model_type", default="")
    if text is not outer:
        name = text.text("model_type", default=f"{name}_text")
    if name not in FAMILIES:
        raise UnsupportedModelError(text.name_of("model_type"), name, " or ".join(FAMILIES))
    return name


def _eos(outer: Fields, text: Fields, generation: Fields) -> tuple[int, ...]:
    # All three are read, so that each is checked; the most specific that is given wins.
    stops = [fields.token_ids("eos_token_id") for fields in (generation, outer, text)]
    eos = next((ids for ids in stops if ids), ())
    if not eos:
        raise ConfigError("eos_token_id is missing; it must be a token id or a list of them")
    return eos


def _refuse_unserved(outer: Fields, text: Fields) -> None:
    outer.only("quantization_config", "an unquantized checkpoint")
    outer.only("tie_word_embeddings", "true", True)
    text.only("tie_word_embeddings", "true", True)
    text.only("enable_moe_block", "false (no mixture of experts, so not 26B-A4B)", False)
    for name in ("num_experts", "top_k_experts", "moe_intermediate_size"):
        text.only(name, "null (no mixture of experts, so not 26B-A4B)", 0)
    text.only("hidden_activation", "'gelu_pytorch_tanh'", "gelu_pytorch_tanh")
    text.only("attention_bias", "false", False)
    text.only("attn_logit_softcapping", "null")
    # "vision" makes image tokens see each other; text stays causal.
    text.only("use_bidirectional_attention", "null, false or 'vision'", False, "vision")


def _model(family: str, text: Fields, eos: tuple[int, ...]) -> ModelConfig:
    is_gemma4 = family == "gemma4_text"
    vocab_size = text.integer("vocab_size", minimum=1)
    bos = text.integer("bos_token_id", minimum=0, default=2)
    pad = text.integer("pad_token_id", minimum=0, default=0)
    for name, token_id in (("bos", bos), ("pad", pad), *(("eos", token_id) for token_id in eos)):
        if token_id >= vocab_size:
            raise ConfigError(f"{name}_token_id {token_id} is not below vocab_size {vocab_size}")
    per_layer_input_size = per_layer_vocab_size = 0
    if is_gemma4:
        per_layer_input_size = text.integer("hidden_size_per_layer_input", minimum=0)
        # Every id is looked up in both tables. Without per-layer inputs the size says nothing.
        per_layer_vocab_size = text.integer(
            "vocab_size_per_layer_input",
            minimum=vocab_size if per_layer_input_size else 0,
            default=vocab_size,
        )
    return ModelConfig(
        model_type=family,
        hidden_size=text.integer("hidden_size", minimum=1),
        vocab_size=vocab_size,
        per_layer_input_size=per_layer_input_size,
        per_layer_vocab_size=per_layer_vocab_size if per_layer_input_size else 0,
        rms_norm_eps=text.positive("rms_norm_eps"),
        final_logit_softcap=text.optional_positive("final_logit_softcapping"),
        max_position_embeddings=text.integer("max_position_embeddings", minimum=1),
        bos_token_id=bos,
        eos_token_ids=eos,
        pad_token_id=pad,
        has_layer_scalar=is_gemma4,
        norm_weight_offset=0.0 if is_gemma4 else 1.0,
        query_scale=1.0 if is_gemma4 else text.positive("query_pre_attn_scalar") ** -0.5,
        layers=gemma4_layers(text) if is_gemma4 else gemma3_layers(text),
    )
