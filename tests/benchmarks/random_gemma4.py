"""A random checkpoint in the very shape of the released Gemma 4 E2B or E4B, or of a small one.

Knows their configurations and how values are scaled so that the model neither dies nor saturates;
knows no measurement. Values repeat one random block at odd offsets: writing takes as long as the
disk does, and no two rows are equal.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from device_service.model.checkpoint_tensors import expected_tensors, unused_tensors
from device_service.model.config import ModelConfig, parse_config
from device_service.safetensors_writer import ReportProgress, Tensor, write_checkpoint

_PREFIX = "model.language_model."
_SHARD_BYTES = 5_000_000_000
_BLOCK_VALUES = 8_388_593  # a prime: rows of any width begin at ever new places
_SLIDING, _FULL = "sliding_attention", "full_attention"

E2B: dict[str, Any] = {
    "model_type": "gemma4_text",
    "vocab_size": 262_144,
    "vocab_size_per_layer_input": 262_144,
    "hidden_size": 1536,
    "hidden_size_per_layer_input": 256,
    "intermediate_size": 6144,
    "num_hidden_layers": 35,
    "layer_types": [*([_SLIDING] * 4), _FULL] * 7,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "num_global_key_value_heads": None,
    "head_dim": 256,
    "global_head_dim": 512,
    "sliding_window": 512,
    "num_kv_shared_layers": 20,
    "use_double_wide_mlp": True,
    "attention_k_eq_v": False,
    "attention_bias": False,
    "enable_moe_block": False,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-6,
    "final_logit_softcapping": 30.0,
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "bos_token_id": 2,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "rope_parameters": {
        _SLIDING: {"rope_type": "default", "rope_theta": 1e4},
        _FULL: {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25},
    },
}

E4B: dict[str, Any] = {
    **E2B,
    "hidden_size": 2560,
    "intermediate_size": 10_240,
    "num_hidden_layers": 42,
    "layer_types": [*([_SLIDING] * 5), _FULL] * 7,
    "num_key_value_heads": 2,
    "num_kv_shared_layers": 18,
    "use_double_wide_mlp": False,
}

SMALL: dict[str, Any] = {
    **E2B,
    "vocab_size": 4096,
    "vocab_size_per_layer_input": 4096,
    "hidden_size": 256,
    "hidden_size_per_layer_input": 32,
    "intermediate_size": 512,
    "head_dim": 64,
    "global_head_dim": 128,
    "max_position_embeddings": 4096,
}
"""For a try of what the large ones are for."""


def checkpoint_bytes(text_config: dict[str, Any]) -> int:
    """The size of its tensors on disk."""
    config = parse_config(text_config)
    shapes = expected_tensors(config) | unused_tensors(config)
    return 2 * sum(math.prod(shape) for shape in shapes.values())


def write_random_checkpoint(
    model_dir: Path, text_config: dict[str, Any], report: ReportProgress
) -> None:
    """Writes config.json and bfloat16 shards under the released names.

    Args:
        model_dir: exists and is empty.
        text_config: E2B, E4B, or a smaller one of their kind.
        report: gets lines of progress.
    """
    config = parse_config(text_config)
    raw = {"model_type": "gemma4", "text_config": text_config, "eos_token_id": [1, 106],
           "vision_config": None, "audio_config": None}  # fmt: skip
    (model_dir / "config.json").write_text(json.dumps(raw, indent=2), encoding="utf-8")
    block = torch.randn(_BLOCK_VALUES, generator=torch.Generator().manual_seed(0))
    shapes = expected_tensors(config) | unused_tensors(config)
    tensors = [
        Tensor(_PREFIX + name, "BF16", shape, _Values(config, name, shape, block))
        for name, shape in shapes.items()
    ]
    write_checkpoint(model_dir, tensors, _SHARD_BYTES, report)


class _Values:
    """The values of one tensor, as bytes in pieces."""

    def __init__(
        self, config: ModelConfig, name: str, shape: tuple[int, ...], block: torch.Tensor
    ) -> None:
        self._num_values = math.prod(shape)
        self._shift = sum(name.encode())  # so that tensors of one size differ
        self._block = block
        self._mean, self._deviation = _scale(config, name, shape)

    def __call__(self) -> Iterator[bytes]:
        block = torch.cat((self._block[self._shift :], self._block[: self._shift]))
        values = block[: self._num_values] * self._deviation + self._mean
        piece = values.bfloat16().view(torch.uint8).numpy().data
        num_bytes = 2 * self._num_values
        for done in range(0, num_bytes, len(piece)):
            yield piece[: num_bytes - done]


def _scale(config: ModelConfig, name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Mean and standard deviation."""
    if name == "layer_scalar" or name.endswith(".layer_scalar"):
        return 0.9, 0.01
    if name.endswith(("q_norm.weight", "k_norm.weight")):
        # Scores are not divided by √H: query and key norms are small instead. Sharper attention, or
        # blocks that add more than below, would enlarge roundings from layer to layer.
        mean = 0.75 * shape[0] ** -0.25
        return mean, 0.2 * mean
    if name == "norm.weight":
        return 3.0, 0.6
    if "post_" in name and len(shape) == 1:
        return 0.5, 0.1
    if len(shape) == 1:
        return 1.0, 0.2
    if name == "embed_tokens_per_layer.weight":
        return 0.0, config.per_layer_input_size**-0.5
    return 0.0, shape[1] ** -0.5
