"""The checkpoint's dimensions, and its files in the spelling of released Gemma 4 checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from build_tokenizer import VOCAB_SIZE, write_json
from safetensors.torch import save_file
from transformers import Gemma4ForCausalLM, Gemma4TextConfig

TEXT_CONFIG: dict[str, Any] = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attention_k_eq_v": False,
    "bos_token_id": 2,
    "dtype": "bfloat16",
    "enable_moe_block": False,
    "eos_token_id": 1,
    "final_logit_softcapping": 30.0,
    "global_head_dim": 64,
    "head_dim": 32,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 160,
    "hidden_size_per_layer_input": 32,
    "initializer_range": 0.02,
    "intermediate_size": 320,
    "layer_types": (["sliding_attention"] * 3 + ["full_attention"]) * 2,
    "max_position_embeddings": 2048,
    "model_type": "gemma4_text",
    "num_attention_heads": 4,
    "num_global_key_value_heads": None,
    "num_hidden_layers": 8,
    "num_key_value_heads": 1,
    "num_kv_shared_layers": 3,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-06,
    "rope_parameters": {
        "full_attention": {
            "partial_rotary_factor": 0.25,
            "rope_theta": 1000000.0,
            "rope_type": "proportional",
        },
        "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
    },
    "sliding_window": 32,
    "tie_word_embeddings": True,
    "use_bidirectional_attention": None,
    "use_cache": True,
    "use_double_wide_mlp": True,
    "vocab_size": VOCAB_SIZE,
    "vocab_size_per_layer_input": VOCAB_SIZE,
}
CONFIG: dict[str, Any] = {
    "architectures": ["Gemma4ForConditionalGeneration"],
    "audio_config": None,
    "dtype": "bfloat16",
    "eos_token_id": [1, 106],
    "model_type": "gemma4",
    "text_config": TEXT_CONFIG,
    "tie_word_embeddings": True,
    "vision_config": None,
}
GENERATION_CONFIG: dict[str, Any] = {
    "bos_token_id": 2,
    "do_sample": True,
    "eos_token_id": [1, 106, 50],
    "pad_token_id": 0,
    "temperature": 1.0,
    "top_k": 64,
    "top_p": 0.95,
}


def new_model() -> Gemma4ForCausalLM:
    """The model before training, with trainable layer scalars."""
    model = Gemma4ForCausalLM(Gemma4TextConfig(**TEXT_CONFIG)).float()
    with torch.no_grad():
        model.model.embed_tokens_per_layer.weight.normal_(
            std=TEXT_CONFIG["hidden_size_per_layer_input"] ** -0.5
        )
        for layer in model.model.layers:
            # Attention has no scaling of its own: query and key norms start at its usual value.
            attention = layer.self_attn
            attention.q_norm.weight.fill_(attention.head_dim**-0.25)
            if not attention.is_kv_shared_layer:
                attention.k_norm.weight.fill_(attention.head_dim**-0.25)
            del layer.layer_scalar
            layer.layer_scalar = torch.nn.Parameter(torch.full((1,), 0.9))
    return model


def released_tensors(model: Gemma4ForCausalLM) -> dict[str, torch.Tensor]:
    """All tensors in bfloat16 under their released names."""
    tensors = {
        name.replace("model.", "model.language_model.", 1): tensor.detach().to(torch.bfloat16)
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"  # tied
    }
    # Released files carry the keys and values of shared layers, which nothing reads.
    unused = torch.Generator().manual_seed(0)
    for i, layer in enumerate(model.model.layers):
        attention = layer.self_attn
        if attention.is_kv_shared_layer:
            prefix = f"model.language_model.layers.{i}.self_attn"
            shape = (attention.head_dim, model.config.hidden_size)  # one KV head
            for name in ("k_proj", "v_proj"):
                noise = 0.02 * torch.randn(shape, generator=unused)
                tensors[f"{prefix}.{name}.weight"] = noise.to(torch.bfloat16)
            tensors[f"{prefix}.k_norm.weight"] = torch.ones(
                attention.head_dim, dtype=torch.bfloat16
            )
    return {name: tensors[name].contiguous() for name in sorted(tensors)}


def save(model: Gemma4ForCausalLM, directory: Path) -> None:
    """Writes the weights and both configurations."""
    weights = directory / "model.safetensors"
    save_file(released_tensors(model), weights, metadata={"format": "pt"})
    weights.chmod(0o644)
    write_json(directory / "config.json", CONFIG)
    write_json(directory / "generation_config.json", GENERATION_CONFIG)
