"""A checkpoint's weights as the kernels read them: transposed, joined, heads padded to whole tiles.

Pure torch over a `Checkpoint`; knows no device. Every matrix is [K, N] (x @ w), q, k and v side by
side in one. A head of D values that is no multiple of 128 is padded so that rotary's pairs
(d, d + D/2) stay half a padded head apart; what is padded is zero, so nothing else sees it but the
mean of squares, which divides by the true D. Shapes use the key of `README.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F

from device_service.model.architecture import LayerConfig, ModelConfig
from device_service.model.checkpoint import Checkpoint, CheckpointError
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
    head_norms: Tensor
    """float32 [96, H] of a padded head: 32 rows each of q_norm, k_norm and 1, for v; as
    `kernels.qkv_units` wants them. Ones for k too where the layer has no keys of its own."""
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

    def present(self) -> Mapping[str, Tensor]:
        """By name, without those that the layer lacks."""
        found: dict[str, Tensor | None] = {x.name: getattr(self, x.name) for x in fields(self)}
        return {name: tensor for name, tensor in found.items() if tensor is not None}


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


def padded_head(head_dim: int) -> int:
    """Values of a head as the kernels see it: two whole tiles or more in each half."""
    return -(-head_dim // (4 * TILE)) * 4 * TILE


def qkv_width(layer: LayerConfig) -> int:
    """Columns of `LayerWeights.qkv`."""
    own = (1 if layer.k_eq_v else 2) * layer.num_kv_heads if layer.owns_kv else 0
    return (layer.num_heads + own) * padded_head(layer.head_dim)


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
    """Reads a checkpoint layer by layer.

    Everything it gives was looked through: a value that is not finite is a CheckpointError with the
    tensor's name. Matrices may be transposed views of what is stored.
    """

    def __init__(self, checkpoint: Checkpoint, config: ModelConfig) -> None:
        check_shapes(config)
        self._checkpoint = checkpoint
        self._config = config

    def layer(self, layer: LayerConfig) -> LayerWeights:
        """One layer's weights."""
        prefix = f"layers.{layer.index}"
        attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
        has_per_layer = bool(self._config.per_layer_input_size)
        q_norm = self._head_norm(layer, f"{attention}.q_norm")
        k_norm = self._head_norm(layer, f"{attention}.k_norm") if layer.owns_kv else None
        ones = torch.ones_like(q_norm)
        return LayerWeights(
            input_norm=self.norm(f"{prefix}.input_layernorm"),
            qkv=self._qkv(layer, attention),
            head_norms=torch.cat((q_norm, ones if k_norm is None else k_norm, ones)),
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

    def head(self) -> Mapping[str, Tensor]:
        """What comes after the layers: "norm" [32, D] float32, "lm_head" [D, V] bfloat16."""
        return {"norm": self.norm("norm"), "lm_head": self.matrix("embed_tokens")}

    def host(self, name: str) -> Tensor:
        """A table that a step reads on the host, mapped where it is stored as bfloat16.

        Args:
            name: "embed_tokens" [V, D] as stored, "embed_tokens_per_layer" [V, L · P] as stored,
                "per_layer_model_projection" [L · P, D] bfloat16 or "per_layer_projection_norm" [P]
                float32.
        """
        if name == "per_layer_projection_norm":
            return self._norm_weight(name)
        if name == "per_layer_model_projection":
            return self._weight(name)
        return self._checkpoint.tensor(f"{name}.weight")

    def check_host(self) -> None:
        """Looks through the tables of `host`, which else nobody reads from end to end.

        Raises:
            CheckpointError: a value is not finite.
        """
        if self._config.per_layer_input_size:
            self.host("per_layer_projection_norm")
            self.host("per_layer_model_projection")
            name = "embed_tokens_per_layer.weight"
            table = self._checkpoint.tensor(name)
            at_once = max(1, _PART // table.shape[1])
            bad = 0
            for first in range(0, len(table), at_once):
                bad += _not_finite(table[first : first + at_once])
                self._checkpoint.release_pages()
            _refuse(name, bad)

    def matrix(self, name: str) -> Tensor:
        """A projection as [K, N], bfloat16: a view."""
        return self._weight(name).T

    def norm(self, name: str) -> Tensor:
        """An RMSNorm's weight as [32, D], float32: the device rounds it to its format."""
        return rows(self._norm_weight(name))

    def _weight(self, name: str) -> Tensor:
        stored = self._checkpoint.tensor(f"{name}.weight")
        weight = stored.to(torch.bfloat16)
        _refuse(f"{name}.weight", _not_finite(weight))
        return weight

    def _norm_weight(self, name: str) -> Tensor:
        weight = norm_weight(self._checkpoint, self._config, f"{name}.weight")
        _refuse(f"{name}.weight", _not_finite(weight))
        return weight

    def _qkv(self, layer: LayerConfig, attention: str) -> Tensor:
        names = ["q_proj"]
        if layer.owns_kv:
            names += ["k_proj"] if layer.k_eq_v else ["k_proj", "v_proj"]
        return torch.cat([self._heads(layer, f"{attention}.{name}") for name in names]).T

    def _heads(self, layer: LayerConfig, name: str) -> Tensor:
        """[n · H, D] with padded heads."""
        return pad_head(self.matrix(name), layer.head_dim).T

    def _o(self, layer: LayerConfig, name: str) -> Tensor:
        return pad_head(self._weight(name), layer.head_dim).T

    def _head_norm(self, layer: LayerConfig, name: str) -> Tensor:
        return rows(pad_head(self._norm_weight(name), layer.head_dim))

    def _scalar(self, prefix: str) -> Tensor:
        if not self._config.has_layer_scalar:
            return torch.ones(TILE, TILE)
        name = f"{prefix}.layer_scalar"
        scalar = self._checkpoint.tensor(name).float()
        _refuse(name, _not_finite(scalar))
        return scalar.expand(TILE, TILE)


_PART = 1 << 26
"""Values of a table that are looked through at a time."""


def _not_finite(values: Tensor) -> int:
    """How many are NaN or infinite."""
    if all(bool(end.isfinite()) for end in torch.aminmax(values)):  # NaN gets through both
        return 0
    return int((~values.isfinite()).sum())


def _refuse(name: str, count: int) -> None:
    if count:
        raise CheckpointError(
            f"tensor {name} holds {count} values that are NaN or infinite in bfloat16: the"
            " checkpoint is damaged or no trained model"
        )
