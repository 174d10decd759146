"""The published configurations, as their files spell them."""

from __future__ import annotations

from typing import Any

_SLIDING, _FULL = "sliding_attention", "full_attention"


def gemma4(
    hidden: int,
    pattern: int,
    periods: int,
    intermediate: int,
    heads: tuple[int, int, int | None],
    window: int,
    **differences: Any,
) -> dict[str, Any]:
    """A released Gemma 4: periods of pattern - 1 sliding layers and a full one."""
    text = {
        "model_type": "gemma4_text",
        "hidden_size": hidden,
        "num_hidden_layers": pattern * periods,
        "layer_types": ([_SLIDING] * (pattern - 1) + [_FULL]) * periods,
        "intermediate_size": intermediate,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "num_global_key_value_heads": heads[2],
        "head_dim": 256,
        "global_head_dim": 512,
        "sliding_window": window,
        "num_kv_shared_layers": 0,
        "use_double_wide_mlp": False,
        "hidden_size_per_layer_input": 0,
        "attention_k_eq_v": heads[2] is not None,
        "max_position_embeddings": 262144,
        "vocab_size": 262144,
        "vocab_size_per_layer_input": 262144,
        "rms_norm_eps": 1e-6,
        "final_logit_softcapping": 30.0,
        "hidden_activation": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "enable_moe_block": False,
        "num_experts": None,
        "top_k_experts": None,
        "moe_intermediate_size": None,
        "use_bidirectional_attention": None,
        "initializer_range": 0.02,
        "use_cache": True,
        "dtype": "bfloat16",
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "rope_parameters": {
            _SLIDING: {"rope_type": "default", "rope_theta": 10000.0},
            _FULL: {
                "rope_type": "proportional",
                "rope_theta": 1000000.0,
                "partial_rotary_factor": 0.25,
            },
        },
        **differences,
    }
    outer_type = text["model_type"].removesuffix("_text")
    return {
        "model_type": outer_type,
        "eos_token_id": [1, 106],
        "tie_word_embeddings": True,
        "text_config": text,
        "vision_config": {"model_type": "gemma4_vision"},
    }


_PLE = {"hidden_size_per_layer_input": 256, "max_position_embeddings": 131072}

E2B = gemma4(
    1536, 5, 7, 6144, (8, 1, None), 512, num_kv_shared_layers=20, use_double_wide_mlp=True, **_PLE
)
E4B = gemma4(2560, 6, 7, 10240, (8, 2, None), 512, num_kv_shared_layers=18, **_PLE)
G12B = gemma4(3840, 6, 8, 15360, (16, 8, 1), 1024, model_type="gemma4_unified_text")
G31B = gemma4(5376, 6, 10, 21504, (32, 16, 4), 1024, use_bidirectional_attention="vision")
G26B_A4B = gemma4(
    2816, 6, 5, 2112, (16, 8, 2), 1024,
    enable_moe_block=True, num_experts=128, top_k_experts=8, moe_intermediate_size=704,
)  # fmt: skip

GEMMA3_270M: dict[str, Any] = {
    "model_type": "gemma3_text",
    "_sliding_window_pattern": 6,
    "attention_bias": False,
    "attn_logit_softcapping": None,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 640,
    "intermediate_size": 2048,
    "layer_types": ([_SLIDING] * 5 + [_FULL]) * 3,
    "max_position_embeddings": 32768,
    "num_attention_heads": 4,
    "num_hidden_layers": 18,
    "num_key_value_heads": 1,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-6,
    "rope_local_base_freq": 10000.0,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": 512,
    "torch_dtype": "bfloat16",
    "use_bidirectional_attention": False,
    "use_cache": True,
    "vocab_size": 262144,
}
GEMMA3_4B: dict[str, Any] = {
    "model_type": "gemma3",
    "eos_token_id": [1, 106],
    "text_config": {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "vision_config": {"model_type": "siglip_vision_model"},
}
GEMMA3_27B: dict[str, Any] = {
    **GEMMA3_4B,
    "text_config": {
        **GEMMA3_4B["text_config"],
        "hidden_size": 5376,
        "head_dim": 128,
        "intermediate_size": 21504,
        "num_attention_heads": 32,
        "num_hidden_layers": 62,
        "num_key_value_heads": 16,
        "query_pre_attn_scalar": 168,
    },
}
