"""Small Gemma 3 GGUF files, made from released weights the way that converters do it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from device_service.gguf_file import Gemma3Config, tensor_shapes
from device_service.import_gguf import released_name

TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "▁", "  ", "a")
VOCAB_SIZE = 48


@dataclass
class GgufRecipe:
    """What goes into the file; a test changes what it is about."""

    num_layers: int = 7
    hidden_size: int = 64
    num_heads: int = 2
    architecture: str = "gemma3"
    metadata: dict[str, Any] = field(default_factory=dict)
    """Values by key, over the usual ones; None leaves a key out."""
    tensors: dict[str, tuple[np.ndarray, gguf.GGMLQuantizationType] | None] = field(
        default_factory=dict
    )
    """Data and type by GGUF name, over the float32 weights; None leaves a tensor out."""

    @property
    def config(self) -> Gemma3Config:
        return Gemma3Config(
            num_layers=self.num_layers,
            hidden_size=self.hidden_size,
            intermediate_size=96,
            num_heads=self.num_heads,
            num_kv_heads=1,
            head_dim=32,
            vocab_size=VOCAB_SIZE,
            context_length=256,
            sliding_window=8,
            sliding_window_pattern=6,
            rms_norm_eps=1e-6,
            rope_theta=1e6,
            rope_local_theta=1e4,
            rope_linear_factor=None,
            final_logit_softcap=None,
            query_pre_attn_scalar=32,
        )

    def vocabulary(self) -> list[str]:
        return [*TOKENS, *(f"t{index}" for index in range(len(TOKENS), VOCAB_SIZE))]

    def released_weights(self) -> dict[str, np.ndarray]:
        """float32 weights that bfloat16 holds exactly, by GGUF name; norms as w, without the 1."""
        random = np.random.default_rng(0)
        weights: dict[str, np.ndarray] = {}
        for name, shape in tensor_shapes(self.config).items():
            values = random.normal(0, 0.2, shape).astype(np.float32)
            weights[name] = (values.view(np.uint32) & 0xFFFF0000).view(np.float32)
        return weights

    def write(self, path: Path) -> Path:
        writer = gguf.GGUFWriter(path, self.architecture)
        for key, value in (self._usual_metadata() | self.metadata).items():
            _add(writer, key, value)
        for name, values in self.released_weights().items():
            stored = values + np.float32(1) if name.endswith("norm.weight") else values
            entry = self.tensors.get(name, (stored, gguf.GGMLQuantizationType.F32))
            if entry is not None:
                writer.add_tensor(name, entry[0], raw_dtype=entry[1])
        for name in self.tensors.keys() - self.released_weights().keys():
            entry = self.tensors[name]
            assert entry is not None
            writer.add_tensor(name, entry[0], raw_dtype=entry[1])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def write_tokenizer(self, path: Path, **changed: int) -> Path:
        """A tokenizer.json of the vocabulary, with the ids of `changed` tokens replaced."""
        ids = {token.replace(" ", "▁"): index for index, token in enumerate(self.vocabulary())}
        value = {"model": {"type": "BPE", "vocab": ids | changed}, "added_tokens": []}
        path.write_text(json.dumps(value), encoding="utf-8")
        return path

    def _usual_metadata(self) -> dict[str, Any]:
        config = self.config
        return {
            "gemma3.block_count": config.num_layers,
            "gemma3.context_length": config.context_length,
            "gemma3.embedding_length": config.hidden_size,
            "gemma3.feed_forward_length": config.intermediate_size,
            "gemma3.attention.head_count": config.num_heads,
            "gemma3.attention.head_count_kv": config.num_kv_heads,
            "gemma3.attention.key_length": config.head_dim,
            "gemma3.attention.value_length": config.head_dim,
            "gemma3.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
            "gemma3.attention.sliding_window": config.sliding_window,
            "gemma3.rope.freq_base": config.rope_theta,
            "tokenizer.ggml.tokens": self.vocabulary(),
            "tokenizer.ggml.bos_token_id": 2,
            "tokenizer.ggml.eos_token_id": 1,
            "tokenizer.ggml.padding_token_id": 0,
            "tokenizer.ggml.unknown_token_id": 3,
        }


def released(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same weights by released name."""
    return {released_name(name): values for name, values in weights.items()}


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    match value:
        case None:
            return
        case str():
            writer.add_string(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case _:
            writer.add_array(key, value)
