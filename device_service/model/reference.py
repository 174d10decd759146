"""The oracle: a plain, slow Gemma forward pass over one whole sequence, without a cache.

Reads like the formulas: one short function for each. Knows the configuration and the checkpoint;
knows no steps, slots or devices. Faster backends are judged against it, so it shares with them only
what holds no arithmetic of the forward pass: the weights' foldings and the rotary tables.

Shapes use the key of `README.md`: T positions, D hidden, N query heads, K kv heads, H head dim,
F feed-forward, V vocabulary, P per-layer-input width, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from device_service.model.architecture import LayerConfig, ModelConfig
from device_service.model.checkpoint import Checkpoint
from device_service.model.rope import rope_tables
from device_service.model.weights import norm_weight

Tensor = torch.Tensor


@dataclass(frozen=True, slots=True)
class ReferenceOutputs:
    """All that a forward pass over T positions makes."""

    embeddings: Tensor
    """[T, D]: what the first layer reads."""
    layers: tuple[Tensor, ...]
    """[T, D] each: the residual stream after each layer."""
    hidden: Tensor
    """[T, D]: after the final norm."""
    logits: Tensor
    """[T, V]"""


class ReferenceModel:
    """Runs a checkpoint in one dtype, weights cast layer by layer as they are used.

    Linears, residuals and rotations are in `dtype`; norms and softmax compute in float32 and round
    once.
    """

    def __init__(
        self, config: ModelConfig, checkpoint: Checkpoint, dtype: torch.dtype = torch.float32
    ) -> None:
        self.config = config
        self.dtype = dtype
        self.checkpoint = checkpoint

    def logits(self, token_ids: Sequence[int]) -> Tensor:
        """Logits of every position: [T, V] in the model's dtype."""
        return self.run(token_ids).logits

    def layer_outputs(self, token_ids: Sequence[int]) -> tuple[Tensor, ...]:
        """The residual stream after each layer: [T, D] each, in the model's dtype."""
        return self.run(token_ids).layers

    @torch.inference_mode()
    def run(self, token_ids: Sequence[int]) -> ReferenceOutputs:
        """A whole forward pass.

        Args:
            token_ids: T ids, at positions 0 … T - 1.
        """
        ids = torch.tensor(token_ids, dtype=torch.int64)
        embeddings = self._embed(ids)
        per_layer_inputs = self._per_layer_inputs(ids, embeddings)
        keys_values: dict[int, tuple[Tensor, Tensor]] = {}
        outputs: list[Tensor] = []
        h = embeddings
        for layer in self.config.layers:
            h = self._layer(layer, h, per_layer_inputs, keys_values)
            outputs.append(h)
        hidden = self._norm(h, "norm")
        return ReferenceOutputs(embeddings, tuple(outputs), hidden, self._lm_head(hidden))

    def _embed(self, ids: Tensor) -> Tensor:
        """`e = E[id] · dtype(√D)`."""
        rows = self.checkpoint.tensor("embed_tokens.weight")[ids].to(self.dtype)
        return rows * torch.tensor(self.config.hidden_size**0.5, dtype=self.dtype)

    def _per_layer_inputs(self, ids: Tensor, e: Tensor) -> Tensor | None:
        """`pli = (ctx + tok) / √2`: [T, L, P]; None where the model has no per-layer inputs."""
        size = self.config.per_layer_input_size
        if not size:
            return None
        shape = (len(ids), len(self.config.layers), size)
        rows = self.checkpoint.tensor("embed_tokens_per_layer.weight")[ids].to(self.dtype)
        tok = (rows * torch.tensor(size**0.5, dtype=self.dtype)).view(shape)
        ctx = self._linear(e, "per_layer_model_projection") * self.config.hidden_size**-0.5
        ctx = self._norm(ctx.view(shape), "per_layer_projection_norm")
        return (ctx + tok) * 2.0**-0.5

    def _layer(
        self,
        layer: LayerConfig,
        h: Tensor,
        per_layer_inputs: Tensor | None,
        keys_values: dict[int, tuple[Tensor, Tensor]],
    ) -> Tensor:
        prefix = f"layers.{layer.index}"
        x = self._norm(h, f"{prefix}.input_layernorm")
        if layer.owns_kv:
            keys_values[layer.index] = self._keys_values(layer, x)
        a = self._attention(layer, x, *keys_values[layer.kv_source])
        h = h + self._norm(a, f"{prefix}.post_attention_layernorm")
        y = self._norm(h, f"{prefix}.pre_feedforward_layernorm")
        h = h + self._norm(self._mlp(layer, y), f"{prefix}.post_feedforward_layernorm")
        if per_layer_inputs is not None:
            p = self._per_layer_block(layer, h, per_layer_inputs[:, layer.index])
            h = h + self._norm(p, f"{prefix}.post_per_layer_input_norm")
        if self.config.has_layer_scalar:
            h = h * self.checkpoint.tensor(f"{prefix}.layer_scalar").to(self.dtype)
        return h

    def _keys_values(self, layer: LayerConfig, x: Tensor) -> tuple[Tensor, Tensor]:
        """`k = rope(RMS(k_proj x))`, `v = RMS0(v_proj x)`: [K, T, H] each."""
        prefix = f"layers.{layer.index}.self_attn"
        raw = self._heads(self._linear(x, f"{prefix}.k_proj"), layer)
        k = _rotate(self._norm(raw, f"{prefix}.k_norm"), layer)
        v = raw if layer.k_eq_v else self._heads(self._linear(x, f"{prefix}.v_proj"), layer)
        if layer.value_norm:
            v = _rms_norm(v, None, self.config.rms_norm_eps)
        return k, v

    def _attention(self, layer: LayerConfig, x: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """`o_proj · softmax(q · kᵀ + mask) · v`: [T, D]."""
        prefix = f"layers.{layer.index}.self_attn"
        q = self._heads(self._linear(x, f"{prefix}.q_proj"), layer)
        q = _rotate(self._norm(q, f"{prefix}.q_norm"), layer)
        group_size = layer.num_heads // layer.num_kv_heads
        k, v = k.repeat_interleave(group_size, dim=0), v.repeat_interleave(group_size, dim=0)
        scores = (q @ k.transpose(1, 2)).masked_fill(~_visible(layer, len(x)), -torch.inf)
        probabilities = scores.softmax(dim=-1, dtype=torch.float32).to(self.dtype)
        heads = (probabilities @ v).transpose(0, 1).reshape(len(x), -1)
        return self._linear(heads, f"{prefix}.o_proj")

    def _mlp(self, layer: LayerConfig, y: Tensor) -> Tensor:
        """`down(gelu(gate y) ⊙ up y)`: [T, D]."""
        prefix = f"layers.{layer.index}.mlp"
        gate = _gelu(self._linear(y, f"{prefix}.gate_proj"))
        return self._linear(gate * self._linear(y, f"{prefix}.up_proj"), f"{prefix}.down_proj")

    def _per_layer_block(self, layer: LayerConfig, h: Tensor, per_layer_input: Tensor) -> Tensor:
        """`per_layer_projection(gelu(per_layer_input_gate h) ⊙ pli)`: [T, D]."""
        prefix = f"layers.{layer.index}"
        gate = _gelu(self._linear(h, f"{prefix}.per_layer_input_gate"))
        return self._linear(gate * per_layer_input, f"{prefix}.per_layer_projection")

    def _lm_head(self, hidden: Tensor) -> Tensor:
        """`c · tanh(E · hidden / c)`: [T, V]; where there is no cap c, without it."""
        logits = self._linear(hidden, "embed_tokens")
        cap = self.config.final_logit_softcap
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.checkpoint.tensor(f"{name}.weight").to(self.dtype))

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight = norm_weight(self.checkpoint, self.config, f"{name}.weight")
        return _rms_norm(x, weight, self.config.rms_norm_eps)

    @staticmethod
    def _heads(x: Tensor, layer: LayerConfig) -> Tensor:
        """[T, n · H] → [n, T, H]."""
        return x.view(len(x), -1, layer.head_dim).transpose(0, 1)


def _rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """`cast(x · (mean(x²) + eps)^-0.5 · w)`, float32 inside; without w where it is None."""
    wide = x.float()
    normed = wide * (wide.pow(2).mean(-1, keepdim=True) + eps).pow(-0.5)
    return (normed if weight is None else normed * weight).to(x.dtype)


def _rotate(x: Tensor, layer: LayerConfig) -> Tensor:
    """Rotary embedding of [n, T, H] at positions 0 … T - 1: x · cos + rotate_half(x) · sin."""
    cos, sin = rope_tables(layer.rope, layer.head_dim, torch.arange(x.shape[1]))
    first, second = x.chunk(2, dim=-1)
    half_rotated = torch.cat((-second, first), dim=-1)
    return x * cos.to(x.dtype) + half_rotated * sin.to(x.dtype)


def _visible(layer: LayerConfig, num_positions: int) -> Tensor:
    """[T, T]: the positions (columns) that a query (row) sees: itself and its window before."""
    distance = torch.arange(num_positions)[:, None] - torch.arange(num_positions)
    visible = distance >= 0
    return visible if layer.window is None else visible & (distance < layer.window)


def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")
