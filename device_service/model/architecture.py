"""What a model is: every size and switch of it, and every per-layer variant, settled once.

Knows the values that the forward pass needs; knows no file spelling (that is `config.py`), no
tensors and no torch. Sizes use the key of `model/README.md`: D hidden, N query heads, K kv heads,
H head dim, F feed-forward, V vocabulary, P per-layer-input width.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class LayerKind(Enum):
    """Which keys a layer's queries see."""

    SLIDING = "sliding_attention"
    FULL = "full_attention"


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary embedding of one layer kind: pairs (d, d + H/2), angles position · inv_freq[d].

    inv_freq[d] = theta^(-2d/H) / factor for d < num_rotated_pairs, and 0 beyond.
    """

    theta: float
    num_rotated_pairs: int
    factor: float


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """Everything in which one layer may differ from another."""

    index: int
    kind: LayerKind
    num_heads: int
    """N"""
    num_kv_heads: int
    """K"""
    head_dim: int
    """H"""
    window: int | None
    """Positions a query sees, itself included; None: all."""
    rope: RopeConfig
    kv_source: int
    """The layer whose KV cache is read: `index` itself, or an earlier layer of the same kind."""
    k_eq_v: bool
    """There is no v_proj: values come from the raw k_proj output."""
    value_norm: bool
    """Values are RMS-normalized (without a weight). Gemma 3: no."""
    intermediate_size: int
    """F"""

    @property
    def owns_kv(self) -> bool:
        """Whether this layer writes a KV cache of its own."""
        return self.kv_source == self.index


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The whole model."""

    model_type: str
    """"gemma4_text" or "gemma3_text"."""
    hidden_size: int
    """D"""
    vocab_size: int
    """V"""
    per_layer_input_size: int
    """P; 0: no per-layer embeddings (PLE)."""
    per_layer_vocab_size: int
    rms_norm_eps: float
    final_logit_softcap: float | None
    max_position_embeddings: int
    bos_token_id: int
    eos_token_ids: tuple[int, ...]
    pad_token_id: int
    has_layer_scalar: bool
    norm_weight_offset: float
    """Added to every RMSNorm weight at load: 0 for Gemma 4, 1 for Gemma 3."""
    query_scale: float
    """Folded into q_norm's weight at load: 1 for Gemma 4; query_pre_attn_scalar^-0.5 for Gemma 3, a
    power of two in all released sizes but 27B."""
    layers: tuple[LayerConfig, ...]

    @property
    def first_shared_layer(self) -> int:
        """The first layer that writes no KV; `len(layers)` where all write."""
        return next((x.index for x in self.layers if not x.owns_kv), len(self.layers))
