"""The two foldings by which Gemma 3 runs as Gemma 4: both are in the norms' weights.

Gemma 3 scales a normalized vector by 1 + w, and attention scores by query_pre_attn_scalar^-0.5.
Every backend takes its norm weights from here, so that neither appears in a forward pass.
"""

from __future__ import annotations

import torch

from device_service.model.architecture import ModelConfig
from device_service.model.checkpoint import Checkpoint


def norm_weight(checkpoint: Checkpoint, config: ModelConfig, name: str) -> torch.Tensor:
    """The weight of an RMSNorm as `x̂ · w` uses it.

    Float32 always: 1 + w has no room in bfloat16. Scaling q_norm by a power of two is exact; by any
    other query_scale (27B's 168^-0.5) scores differ from scaling them afterwards by one rounding.

    Args:
        checkpoint: where the weight is.
        config: its model.
        name: without prefix, such as "layers.3.self_attn.q_norm.weight".

    Returns:
        float32, of the stored shape.
    """
    weight = checkpoint.tensor(name).float() + config.norm_weight_offset
    if name.endswith("self_attn.q_norm.weight"):
        weight = weight * config.query_scale
    return weight
