"""What enters a step from the host: embeddings, per-layer inputs, and the step's tables.

Everything goes into buffers of one address each, so that a step reads no host memory once it has
begun. Token ids come from the host anyway, and embedding tables are larger than a device: so the
host looks them up. Shapes use the key of `README.md`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from device_service.model.architecture import ModelConfig
from device_service.model.tt_step import KindStep
from device_service.model.tt_tensors import Tensor, Tensors
from device_service.model.tt_weights import TtWeights
from kernels.runtime import Format


@dataclass(frozen=True, slots=True)
class DeviceKindStep:
    """A `KindStep`, uploaded."""

    sizes: KindStep
    """Its host side."""
    tables: Mapping[str, Tensor]
    """And `mask`, `mask_staged`."""


class Embeddings:
    """Rows of the embedding tables, which stay mapped on the host."""

    def __init__(self, config: ModelConfig, weights: TtWeights) -> None:
        self._config = config
        self._table = weights.host("embed_tokens")
        self._scale = float(torch.tensor(config.hidden_size**0.5, dtype=torch.bfloat16))
        if config.per_layer_input_size:
            self._per_layer_table = weights.host("embed_tokens_per_layer")
            self._projection = weights.host("per_layer_model_projection").bfloat16()
            self._norm = weights.host("per_layer_projection_norm").float()

    def of(self, ids: Sequence[int]) -> torch.Tensor:
        """`e = E[id] · dtype(√D)`: float32 [B, D]."""
        return self._table[torch.tensor(ids)].float() * self._scale

    def per_layer(self, ids: Sequence[int], e: torch.Tensor) -> torch.Tensor:
        """`pli = (ctx + tok) / √2`: float32 [L, B, P]; of models that have them."""
        config, size = self._config, self._config.per_layer_input_size
        shape = (len(ids), len(config.layers), size)
        tok = self._per_layer_table[torch.tensor(ids)].float().view(shape) * size**0.5
        ctx = torch.nn.functional.linear(e.bfloat16(), self._projection)
        ctx = ctx.view(shape).float() * config.hidden_size**-0.5
        ctx = torch.nn.functional.rms_norm(ctx, (size,), self._norm, config.rms_norm_eps)
        return ((ctx + tok) * 2.0**-0.5).transpose(0, 1)


def upload_kind(name: str, step: KindStep, tensors: Tensors, masks: Format) -> DeviceKindStep:
    """A step of layers of one shape, into the buffers of that name; masks in their own format."""
    tables = {key: tensors.upload(f"{name} {key}", host) for key, host in step.tables.items()}
    tables["mask_staged"] = tensors.upload(f"{name} mask_staged", step.mask_staged, masks)
    tables["mask"] = tensors.upload_new(
        f"{name} mask", step.mask_shape, step.views, step.mask, masks
    )
    return DeviceKindStep(step, tables)
