"""One decoder layer in torch: its weights, and what it does to the rows of a step.

Knows the layer's formulas; knows no batch and no slots but through `StepRows`. The residual
stream, norms and rotations are in float32 (which halves the error of the reference in bfloat16),
linears and attention in the model's dtype. Shapes use the key of `README.md`: B rows, D hidden,
N query heads, K kv heads, H head dim, F feed-forward, P per-layer-input width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from device_service.model.architecture import LayerConfig, ModelConfig
from device_service.model.attention import attend
from device_service.model.checkpoint import Checkpoint
from device_service.model.kv_cache import KVCache
from device_service.model.linear import Linear, make_linear
from device_service.model.torch_rows import KindRows, StepRows
from device_service.model.weights import norm_weight

Tensor = torch.Tensor
SlotCaches = Sequence[Mapping[int, KVCache]]
"""For each slot, the KV caches of the layers that own one, by layer index."""


@dataclass(frozen=True, slots=True)
class WeightLoader:
    """Where weights come from, and in which form they are wanted."""

    checkpoint: Checkpoint
    config: ModelConfig
    dtype: torch.dtype
    device: torch.device

    def linear(self, *names: str) -> Linear:
        """The matrices of these names (without `.weight`), stacked into one."""
        weights = [self.checkpoint.tensor(f"{name}.weight") for name in names]
        return make_linear(weights, self.dtype, self.device)

    def norm(self, name: str) -> Tensor:
        """An RMSNorm's weight, float32, with the foldings of `weights.py`."""
        return norm_weight(self.checkpoint, self.config, f"{name}.weight").to(self.device)


class TorchLayer:
    """A layer's weights and formulas."""

    def __init__(self, layer: LayerConfig, loader: WeightLoader) -> None:
        config, prefix = loader.config, f"layers.{layer.index}"
        self.layer = layer
        self._eps = config.rms_norm_eps
        self._dtype = loader.dtype
        self._input_norm = loader.norm(f"{prefix}.input_layernorm")
        self._query = loader.linear(f"{prefix}.self_attn.q_proj")
        self._query_norm = loader.norm(f"{prefix}.self_attn.q_norm")
        self._key_value: Linear | None = None
        if layer.owns_kv:
            projections = ("k_proj",) if layer.k_eq_v else ("k_proj", "v_proj")
            self._key_value = loader.linear(*(f"{prefix}.self_attn.{x}" for x in projections))
            self._key_norm = loader.norm(f"{prefix}.self_attn.k_norm")
        self._output = loader.linear(f"{prefix}.self_attn.o_proj")
        self._post_attention_norm = loader.norm(f"{prefix}.post_attention_layernorm")
        self._pre_mlp_norm = loader.norm(f"{prefix}.pre_feedforward_layernorm")
        self._gate_up = loader.linear(f"{prefix}.mlp.gate_proj", f"{prefix}.mlp.up_proj")
        self._down = loader.linear(f"{prefix}.mlp.down_proj")
        self._post_mlp_norm = loader.norm(f"{prefix}.post_feedforward_layernorm")
        self._per_layer_gate: Linear | None = None
        if config.per_layer_input_size:
            self._per_layer_gate = loader.linear(f"{prefix}.per_layer_input_gate")
            self._per_layer_projection = loader.linear(f"{prefix}.per_layer_projection")
            self._post_per_layer_norm = loader.norm(f"{prefix}.post_per_layer_input_norm")
        self._scalar: float | None = None
        if config.has_layer_scalar:
            self._scalar = float(loader.checkpoint.tensor(f"{prefix}.layer_scalar"))

    def attention_input(self, h: Tensor) -> Tensor:
        """`x = RMS(h)`: [B, D] in the model's dtype."""
        return self._norm(h, self._input_norm).to(self._dtype)

    def write_keys_values(self, x: Tensor, rows: StepRows, caches: SlotCaches) -> None:
        """Puts the rows' keys and values into their slots' caches; nothing where KV is shared.

        Args:
            x: [B, D] from `attention_input`.
            rows: their places.
            caches: of all slots.
        """
        if self._key_value is None:
            return
        layer = self.layer
        raw = self._heads(self._key_value(x))
        unit = F.rms_norm(raw, (layer.head_dim,), eps=self._eps)
        normed = unit if layer.value_norm else raw
        values = normed if layer.k_eq_v else normed[:, layer.num_kv_heads :]
        keys = unit[:, : layer.num_kv_heads] * self._key_norm
        keys = self._rotate(keys, rows.by_kind[layer.kind]).transpose(0, 1)
        values = values.transpose(0, 1)
        for span in rows.spans:
            cache = caches[span.slot][layer.index]
            cache.write(span.start, keys[:, span.rows], values[:, span.rows])

    def advance(
        self,
        h: Tensor,
        x: Tensor,
        per_layer_input: Tensor | None,
        rows: StepRows,
        caches: SlotCaches,
    ) -> Tensor:
        """The residual stream after this layer.

        Args:
            h: float32 [B, D], before it.
            x: [B, D] from `attention_input`.
            per_layer_input: [B, P], where the model has them.
            rows: the places of the B rows, whose keys and values are in the caches.
            caches: of all slots.
        """
        a = self._output(self._attend(x, rows, caches))
        h = h + self._norm(a, self._post_attention_norm)
        gate, up = self._gate_up(self._norm(h, self._pre_mlp_norm).to(self._dtype)).chunk(2, dim=1)
        m = self._down(_gelu(gate).mul_(up))
        h += self._norm(m, self._post_mlp_norm)
        if self._per_layer_gate is not None and per_layer_input is not None:
            p = _gelu(self._per_layer_gate(h.to(self._dtype))).mul_(per_layer_input)
            h += self._norm(self._per_layer_projection(p), self._post_per_layer_norm)
        return h if self._scalar is None else h.mul_(self._scalar)

    def _attend(self, x: Tensor, rows: StepRows, caches: SlotCaches) -> Tensor:
        """[B, D] → [B, N · H]."""
        layer, kind = self.layer, rows.by_kind[self.layer.kind]
        queries = self._rotate(self._norm(self._heads(self._query(x)), self._query_norm), kind)
        queries = queries.to(self._dtype)
        heads = [
            attend(queries[seen.rows], caches[slot][layer.kv_source], seen, layer.num_kv_heads)
            for slot, seen in kind.sights
        ]
        return heads[0] if len(heads) == 1 else torch.cat(heads)

    def _heads(self, x: Tensor) -> Tensor:
        """[B, n · H] → float32 [B, n, H]."""
        return x.view(len(x), -1, self.layer.head_dim).float()

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """`x · (mean(x²) + eps)^-0.5 · w` over the last dimension, in float32."""
        return F.rms_norm(x.float(), weight.shape, weight, self._eps)

    def _rotate(self, x: Tensor, kind: KindRows) -> Tensor:
        """Rotary embedding of [B, n, H]."""
        return torch.addcmul(x * kind.cos, x.roll(self.layer.head_dim // 2, -1), kind.sin)


def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")
