"""A checkpoint's weights as the kernels read them: transposed, joined, heads padded to whole tiles.

Pure torch over a `Checkpoint`; knows no device. Every matrix is [K, N] (x @ w), q, k and v side by
side in one. A head of D values that is no multiple of 128 is padded so that rotary's pairs
(d, d + D/2) stay half a padded head apart; what is padded is zero, so nothing else sees it but the
mean of squares, which divides by the true D. Shapes use the key of `README.md`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from device_service.model.architecture import LayerConfig, ModelConfig
from device_service.model.checkpoint import Checkpoint
from device_service.model.weights import norm_weight
from kernels.runtime import TILE

Tensor = torch.Tensor


class TtShapeError(ValueError):
    """A size that the kernels' tiles do not divide."""


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer, bfloat16 but for the head norms; what a layer lacks is None."""

    input_norm: Tensor
    """[32, D], as every norm: its weight in each of 32 rows."""
    qkv: Tensor
    """[D, (N + 2K) · H] with padded heads; [D, N · H] without own keys and values, without v's part
    where v is k."""
    v: Tensor | None
    """[D, K · H] where values are not normalized (Gemma 3), and so not in `qkv`."""
    q_norm: Tensor
    """float32 [32, H] of a padded head."""
    k_norm: Tensor | None
    o: Tensor
    """[N · H, D]"""
    post_attention_norm: Tensor
    pre_feedforward_norm: Tensor
    gate: Tensor
    """[D, F]"""
    up: Tensor
    """[D, F]"""
    down: Tensor
    """[F, D]"""
    post_feedforward_norm: Tensor
    per_layer_gate: Tensor | None
    """[D, P]"""
    per_layer_projection: Tensor | None
    """[P, D]"""
    post_per_layer_norm: Tensor | None
    scalar: Tensor
    """[32, 32], filled with layer_scalar; ones where the model has none."""


def check_shapes(config: ModelConfig) -> None:
    """Raises TtShapeError, naming the size, where the kernels' tiles do not divide a model."""
    sizes = {"hidden_size": config.hidden_size, "vocab_size": config.vocab_size}
    if config.per_layer_input_size:
        sizes["hidden_size_per_layer_input"] = config.per_layer_input_size
    sizes |= {f"layer {x.index}'s feed-forward": x.intermediate_size for x in config.layers}
    for name, size in sizes.items():
        if size % TILE:
            raise TtShapeError(f"{name} is {size}, and the kernels need a multiple of {TILE}")
    for layer in config.layers:
        group = layer.num_heads // layer.num_kv_heads
        if TILE % group:
            raise TtShapeError(
                f"layer {layer.index} has {group} query heads a kv head, which must divide {TILE}"
            )


def values_apart(layer: LayerConfig) -> bool:
    """Whether `qkv` has no part of its own for v: v is k's, or is not normalized."""
    return layer.k_eq_v or not layer.value_norm


def padded_head(head_dim: int) -> int:
    """Values of a head as the kernels see it: two whole tiles or more in each half."""
    return -(-head_dim // (4 * TILE)) * 4 * TILE


def pad_head(x: Tensor, head_dim: int) -> Tensor:
    """[..., n · H] → [..., n · padded H], each half of a head padded with zeros behind."""
    room = (padded_head(head_dim) - head_dim) // 2
    if not room:
        return x
    halves = x.reshape(*x.shape[:-1], -1, 2, head_dim // 2)
    return F.pad(halves, (0, room)).flatten(-3)


def rows(weight: Tensor) -> Tensor:
    """[n] → [32, n]: the same in every row."""
    return weight.expand(TILE, -1).contiguous()


class WeightReader:
    """Reads a checkpoint layer by layer."""

    def __init__(self, checkpoint: Checkpoint, config: ModelConfig) -> None:
        check_shapes(config)
        self._checkpoint = checkpoint
        self._config = config

    def layer(self, layer: LayerConfig) -> LayerWeights:
        """One layer's weights."""
        prefix = f"layers.{layer.index}"
        attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
        has_per_layer = bool(self._config.per_layer_input_size)
        return LayerWeights(
            input_norm=self.norm(f"{prefix}.input_layernorm"),
            qkv=self._qkv(layer, attention),
            v=None if layer.value_norm else self._heads(layer, f"{attention}.v_proj"),
            q_norm=self._head_norm(layer, f"{attention}.q_norm"),
            k_norm=self._head_norm(layer, f"{attention}.k_norm") if layer.owns_kv else None,
            o=self._o(layer, f"{attention}.o_proj"),
            post_attention_norm=self.norm(f"{prefix}.post_attention_layernorm"),
            pre_feedforward_norm=self.norm(f"{prefix}.pre_feedforward_layernorm"),
            gate=self.matrix(f"{mlp}.gate_proj"),
            up=self.matrix(f"{mlp}.up_proj"),
            down=self.matrix(f"{mlp}.down_proj"),
            post_feedforward_norm=self.norm(f"{prefix}.post_feedforward_layernorm"),
            per_layer_gate=self.matrix(f"{prefix}.per_layer_input_gate") if has_per_layer else None,
            per_layer_projection=self.matrix(f"{prefix}.per_layer_projection")
            if has_per_layer
            else None,
            post_per_layer_norm=self.norm(f"{prefix}.post_per_layer_input_norm")
            if has_per_layer
            else None,
            scalar=self._scalar(prefix),
        )

    def matrix(self, name: str) -> Tensor:
        """A projection as [K, N], bfloat16."""
        return self._weight(name).T.contiguous()

    def norm(self, name: str) -> Tensor:
        """An RMSNorm's weight as [32, D], float32: the device rounds it to its format."""
        return rows(norm_weight(self._checkpoint, self._config, f"{name}.weight"))

    def _weight(self, name: str) -> Tensor:
        return self._checkpoint.tensor(f"{name}.weight").to(torch.bfloat16)

    def _qkv(self, layer: LayerConfig, attention: str) -> Tensor:
        names = ["q_proj"]
        if layer.owns_kv:
            names += ["k_proj"] if values_apart(layer) else ["k_proj", "v_proj"]
        return torch.cat([self._heads(layer, f"{attention}.{name}") for name in names], dim=1)

    def _heads(self, layer: LayerConfig, name: str) -> Tensor:
        return pad_head(self.matrix(name), layer.head_dim)

    def _o(self, layer: LayerConfig, name: str) -> Tensor:
        return pad_head(self._weight(name), layer.head_dim).T.contiguous()

    def _head_norm(self, layer: LayerConfig, name: str) -> Tensor:
        weight = norm_weight(self._checkpoint, self._config, f"{name}.weight")
        return rows(pad_head(weight, layer.head_dim))

    def _scalar(self, prefix: str) -> Tensor:
        if not self._config.has_layer_scalar:
            return torch.ones(TILE, TILE)
        return self._checkpoint.tensor(f"{prefix}.layer_scalar").float().expand(TILE, TILE)
