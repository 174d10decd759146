"""Which tensors a checkpoint of a model holds, and their shapes.

Knows names as the forward pass uses them, without a file's prefix; opens no file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from device_service.model.architecture import LayerConfig, ModelConfig

Shape = tuple[int, ...]

PREFIXES = ("model.language_model.", "language_model.model.", "model.")
"""Before a text tensor's name: in released Gemma 4, in multimodal Gemma 3, in text-only files."""

_OTHER_MODALITIES = re.compile(
    r"(model\.)?(vision_tower|embed_vision|vision_embedder|audio_tower|embed_audio"
    r"|multi_modal_projector)\."
)
_COMPUTED = re.compile(r"rotary_emb.*inv_freq$|\.v_norm\.weight$")


def expected_tensors(config: ModelConfig) -> dict[str, Shape]:
    """Every tensor that the forward pass reads, by name without prefix, with its shape."""
    D, P, L = config.hidden_size, config.per_layer_input_size, len(config.layers)  # noqa: N806
    tensors: dict[str, Shape] = {
        "embed_tokens.weight": (config.vocab_size, D),
        "norm.weight": (D,),
    }
    if P:
        tensors["embed_tokens_per_layer.weight"] = (config.per_layer_vocab_size, L * P)
        tensors["per_layer_model_projection.weight"] = (L * P, D)
        tensors["per_layer_projection_norm.weight"] = (P,)
    for layer in config.layers:
        for name, shape in _layer_tensors(config, layer).items():
            tensors[f"layers.{layer.index}.{name}"] = shape
    return tensors


def unused_tensors(config: ModelConfig) -> dict[str, Shape]:
    """Tensors that released files hold and the forward pass never reads, with their shapes.

    These are the key and value weights of layers that read another layer's KV cache.
    """
    return {
        f"layers.{layer.index}.{name}": shape
        for layer in config.layers
        if not layer.owns_kv
        for name, shape in _kv_tensors(config, layer).items()
    }


def text_name(stored_name: str) -> str | None:
    """A stored name without its prefix; None for tensors of another modality.

    A name with no known prefix comes back as it is.
    """
    if _OTHER_MODALITIES.match(stored_name):
        return None
    for prefix in PREFIXES:
        if stored_name.startswith(prefix):
            return stored_name.removeprefix(prefix)
    return stored_name


def is_computed(name: str) -> bool:
    """Whether a text tensor is one that some writers store although it follows from the rest."""
    return _COMPUTED.search(name) is not None


def _layer_tensors(config: ModelConfig, layer: LayerConfig) -> Mapping[str, Shape]:
    D, P = config.hidden_size, config.per_layer_input_size  # noqa: N806
    query_size, F = layer.num_heads * layer.head_dim, layer.intermediate_size  # noqa: N806
    tensors: dict[str, Shape] = {
        "input_layernorm.weight": (D,),
        "post_attention_layernorm.weight": (D,),
        "pre_feedforward_layernorm.weight": (D,),
        "post_feedforward_layernorm.weight": (D,),
        "self_attn.q_proj.weight": (query_size, D),
        "self_attn.q_norm.weight": (layer.head_dim,),
        "self_attn.o_proj.weight": (D, query_size),
        "mlp.gate_proj.weight": (F, D),
        "mlp.up_proj.weight": (F, D),
        "mlp.down_proj.weight": (D, F),
    }
    if layer.owns_kv:
        tensors |= _kv_tensors(config, layer)
    if P:
        tensors["per_layer_input_gate.weight"] = (P, D)
        tensors["per_layer_projection.weight"] = (D, P)
        tensors["post_per_layer_input_norm.weight"] = (D,)
    if config.has_layer_scalar:
        tensors["layer_scalar"] = (1,)
    return tensors


def _kv_tensors(config: ModelConfig, layer: LayerConfig) -> Mapping[str, Shape]:
    kv_size = layer.num_kv_heads * layer.head_dim
    tensors: dict[str, Shape] = {
        "self_attn.k_proj.weight": (kv_size, config.hidden_size),
        "self_attn.k_norm.weight": (layer.head_dim,),
    }
    if not layer.k_eq_v:
        tensors["self_attn.v_proj.weight"] = (kv_size, config.hidden_size)
    return tensors
