"""Small random checkpoints in the spellings of released files, and transformers' reading of them.

Every kind of layer that a family has is there: sliding and full, shared KV, double-wide MLP, keys
as values, fewer global KV heads, per-layer embeddings. Sizes are multiples of 32, so that they fit
the kernels' tiles. Weights are scaled as trained ones are: logits and attention neither flat nor
saturated. Written without transformers, so that transformers can judge them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from safetensors.torch import save_file

from device_service.model.checkpoint_tensors import expected_tensors, unused_tensors
from device_service.model.config import ModelConfig, parse_config

Family = Literal["e2b", "e4b", "12b", "31b", "gemma3"]
Spelling = Literal["released", "transformers"]

FAMILIES: tuple[Family, ...] = ("e2b", "e4b", "12b", "31b", "gemma3")
SPELLINGS: tuple[Spelling, ...] = ("released", "transformers")

WINDOW = 16
VOCAB_SIZE = 320
BOS, PAD, EOS = 2, 0, (1, 106, 50)

_KINDS = {"s": "sliding_attention", "f": "full_attention"}
_NUM_SHARDS = 3

_GEMMA4: Mapping[str, Any] = MappingProxyType(
    {
        "vocab_size": VOCAB_SIZE,
        "vocab_size_per_layer_input": VOCAB_SIZE,
        "hidden_size": 64,
        "hidden_size_per_layer_input": 0,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_global_key_value_heads": None,
        "head_dim": 32,
        "global_head_dim": 64,
        "sliding_window": WINDOW,
        "num_kv_shared_layers": 0,
        "use_double_wide_mlp": False,
        "attention_k_eq_v": False,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "enable_moe_block": False,
        "num_experts": None,
        "top_k_experts": None,
        "moe_intermediate_size": None,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "final_logit_softcapping": 30.0,
        "hidden_activation": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
        "use_bidirectional_attention": None,
        "use_cache": True,
        "initializer_range": 0.02,
        "bos_token_id": BOS,
        "pad_token_id": PAD,
        "eos_token_id": 1,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": {
                "rope_type": "proportional",
                "rope_theta": 1e6,
                "partial_rotary_factor": 0.25,
            },
        },
    }
)
_GEMMA3: Mapping[str, Any] = MappingProxyType(
    {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 64,
        "query_pre_attn_scalar": 64,
        "sliding_window": WINDOW,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": None,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "final_logit_softcapping": None,
        "hidden_activation": "gelu_pytorch_tanh",
        "use_bidirectional_attention": False,
        "use_cache": True,
        "initializer_range": 0.02,
        "bos_token_id": BOS,
        "pad_token_id": PAD,
        "eos_token_id": 1,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    }
)
_MODEL_TYPES: Mapping[Family, str] = MappingProxyType(
    {
        "e2b": "gemma4",
        "e4b": "gemma4",
        "12b": "gemma4_unified",
        "31b": "gemma4",
        "gemma3": "gemma3",
    }
)
_LAYERS: Mapping[Family, str] = MappingProxyType(
    {"e2b": "ssfsfssf", "e4b": "sssfsfsf", "12b": "ssfssf", "31b": "sssfsf", "gemma3": "ssfssf"}
)
_DIFFERENCES: Mapping[Family, Mapping[str, Any]] = MappingProxyType(
    {
        "e2b": {
            "hidden_size_per_layer_input": 32,
            "num_key_value_heads": 1,
            "num_kv_shared_layers": 3,
            "use_double_wide_mlp": True,
        },
        "e4b": {
            "hidden_size": 96,
            "hidden_size_per_layer_input": 32,
            "num_kv_shared_layers": 2,
        },
        "12b": {"attention_k_eq_v": True, "num_global_key_value_heads": 1},
        "31b": {
            "hidden_size": 96,
            "attention_k_eq_v": True,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "num_global_key_value_heads": 2,
        },
        "gemma3": {},
    }
)


def write_checkpoint(
    model_dir: Path,
    family: Family,
    *,
    spelling: Spelling = "released",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    sharded: bool = False,
    text_config: bool = True,
    calm: bool = False,
    overrides: Mapping[str, Any] = MappingProxyType({}),
) -> Path:
    """Writes a small random checkpoint and returns its directory.

    Args:
        model_dir: made if it is not there.
        family: whose architecture it has, in little.
        spelling: the names that released files use, or those that transformers writes.
        dtype: of the stored tensors.
        seed: of the weights.
        sharded: three files and an index, instead of one file.
        text_config: nested as in multimodal files, tensors of other modalities and unused ones
            included; or a text model standing alone.
        calm: attention is less sharp and blocks add less to the residual stream. Otherwise the
            small model enlarges a rounding several times from layer to layer, and a correlation
            tells little of who rounded.
        overrides: fields of the text configuration to replace; tensors follow.
    """
    model_dir.mkdir(parents=True, exist_ok=True)
    raw = raw_config(family, spelling=spelling, text_config=text_config, overrides=overrides)
    config = parse_config(raw)
    _write_json(model_dir / "config.json", raw)
    _write_json(
        model_dir / "generation_config.json",
        {"bos_token_id": BOS, "eos_token_id": list(EOS), "pad_token_id": PAD, "do_sample": True,
         "temperature": 1.0, "top_p": 0.95, "top_k": 64},
    )  # fmt: skip
    prefix = "model.language_model." if text_config else "model."
    tensors = {
        prefix + name: tensor.to(dtype)
        for name, tensor in _random_tensors(config, seed, with_unused=text_config, calm=calm)
    }
    if text_config:
        tensors["model.vision_tower.patch_embedder.input_proj.weight"] = torch.zeros(4, 4)
    _write_tensors(model_dir, tensors, _NUM_SHARDS if sharded else 1)
    return model_dir


def raw_config(
    family: Family,
    *,
    spelling: Spelling = "released",
    text_config: bool = True,
    overrides: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """The object of such a checkpoint's config.json."""
    is_gemma3 = family == "gemma3"
    base = _GEMMA3 if is_gemma3 else _GEMMA4
    kinds = [_KINDS[letter] for letter in _LAYERS[family]]
    text: dict[str, Any] = {
        "model_type": f"{_MODEL_TYPES[family]}_text",
        "num_hidden_layers": len(kinds),
        "layer_types": kinds,
        **base,
        **_DIFFERENCES[family],
        **overrides,
    }
    if spelling == "transformers":
        (_respell_gemma3 if is_gemma3 else _respell_gemma4)(text)
    if not text_config:
        return text
    return {
        "model_type": _MODEL_TYPES[family],
        "eos_token_id": [1, 106],
        "text_config": text,
        "vision_config": _TINY_SIGLIP if is_gemma3 else None,
        **({} if is_gemma3 else {"audio_config": None}),
    }


def huggingface_model(model_dir: Path, dtype: torch.dtype) -> Any:
    """The same checkpoint as transformers loads it, with eager attention.

    Asserts that every text weight was found: a class that does not fit the files loads nothing and
    runs random weights, with a warning only.
    """
    from transformers import AutoModelForCausalLM, logging

    logging.set_verbosity_error()  # its report is judged here
    logging.disable_progress_bar()
    model, report = AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=dtype, attn_implementation="eager", output_loading_info=True
    )
    missing = [
        name
        for name in report["missing_keys"]
        if "vision_tower" not in name and "multi_modal_projector" not in name
    ]
    assert not missing, missing
    assert not report["mismatched_keys"], report["mismatched_keys"]
    return model.eval()


def huggingface_logits(model: Any, token_ids: Sequence[int]) -> torch.Tensor:
    """Logits [T, V] of every position, in the model's dtype, without a cache."""
    with torch.inference_mode():
        return model(input_ids=torch.tensor([token_ids]), use_cache=False).logits[0]


def random_token_ids(length: int, seed: int = 0, vocab_size: int = VOCAB_SIZE) -> list[int]:
    """A prompt: bos, then random ids that are not special."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(107, vocab_size, (length - 1,), generator=generator)
    return [BOS, *ids.tolist()]


_TINY_SIGLIP = {
    "model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 16,
    "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 28, "patch_size": 14,
    "vision_use_head": False,
}  # fmt: skip


def _respell_gemma4(text: dict[str, Any]) -> None:
    head = {"head_dim": text.pop("global_head_dim")}
    num_global_kv_heads = text.pop("num_global_key_value_heads")
    if text["attention_k_eq_v"] and num_global_kv_heads is not None:
        head["num_key_value_heads"] = num_global_kv_heads
    text["per_layer_config"] = {
        str(index): head
        for index, kind in enumerate(text["layer_types"])
        if kind == "full_attention"
    }


def _respell_gemma3(text: dict[str, Any]) -> None:
    scaling = text.pop("rope_scaling") or {"rope_type": "default"}
    text["rope_parameters"] = {
        "full_attention": {"rope_theta": text.pop("rope_theta"), **scaling},
        "sliding_attention": {
            "rope_type": "default",
            "rope_theta": text.pop("rope_local_base_freq"),
        },
    }


def _random_tensors(
    config: ModelConfig, seed: int, *, with_unused: bool, calm: bool
) -> Iterator[tuple[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    shapes = expected_tensors(config)
    if with_unused:
        shapes |= unused_tensors(config)
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        scaled = _scaled(config, name, noise)
        yield name, _calmed(config, name, scaled) if calm else scaled


def _calmed(config: ModelConfig, name: str, scaled: torch.Tensor) -> torch.Tensor:
    offset = config.norm_weight_offset
    if "post_" in name and name.endswith("norm.weight"):
        return (scaled + offset) * 0.5 - offset
    if name.endswith(("q_norm.weight", "k_norm.weight")) and not offset:
        return scaled * 0.5
    return scaled


def _scaled(config: ModelConfig, name: str, noise: torch.Tensor) -> torch.Tensor:
    if name.endswith("layer_scalar"):
        return 0.9 + 0.1 * noise.clamp(-3, 3)
    if name.endswith(("q_norm.weight", "k_norm.weight")) and not config.norm_weight_offset:
        # Scores are not divided by √H in Gemma 4: its query and key norms are small instead.
        return (1 + 0.2 * noise) * 1.5 * noise.shape[0] ** -0.25
    if name == "norm.weight":
        return 3 * (1 + 0.2 * noise) - config.norm_weight_offset
    if noise.ndim == 1:
        return 1 + 0.2 * noise - config.norm_weight_offset
    if name == "embed_tokens.weight":
        return noise * config.hidden_size**-0.5
    if name == "embed_tokens_per_layer.weight":
        return noise * config.per_layer_input_size**-0.5
    return noise * noise.shape[1] ** -0.5


def _write_tensors(model_dir: Path, tensors: Mapping[str, torch.Tensor], num_files: int) -> None:
    if num_files == 1:
        save_file(dict(tensors), model_dir / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map: dict[str, str] = {}
    names = list(tensors)
    for index in range(num_files):
        shard = f"model-{index + 1:05}-of-{num_files:05}.safetensors"
        part = {name: tensors[name] for name in names[index::num_files]}
        save_file(part, model_dir / shard, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, shard)
    total_size = sum(tensor.nbytes for tensor in tensors.values())
    _write_json(
        model_dir / "model.safetensors.index.json",
        {"metadata": {"total_size": total_size}, "weight_map": weight_map},
    )


def _write_json(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, indent=2), encoding="utf-8")
