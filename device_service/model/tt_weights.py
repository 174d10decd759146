"""A model's weights on the device: what there is, in which format, and loading a checkpoint's.

    weights = CheckpointWeights(checkpoint, config, device, "bfp8", report)
    weights.layer(config.layers[0])["qkv"]

`tt_bundle.BundleWeights` gives the same tensors, bit for bit, from files that
`python -m device_service.prepare` wrote, and converts nothing. `kernels.runtime` was chosen before
a device tensor is asked for. Shapes use the key of `README.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from device_service.model.architecture import LayerConfig, ModelConfig
from device_service.model.checkpoint import Checkpoint
from device_service.model.interface import ReportProgress
from device_service.model.tt_plan import FORMATS, Group, Precision
from device_service.model.tt_tensors import Tensor
from device_service.model.tt_weight_reader import WeightReader, padded_head, qkv_width
from kernels import runtime
from kernels.runtime import TILE, Format


class TtWeights(Protocol):
    """Every weight that a step reads."""

    @property
    def precision(self) -> Precision:
        """Of the matrices; see `tt_plan.FORMATS`."""
        ...

    def layer(self, layer: LayerConfig) -> Mapping[str, Tensor]:
        """A layer's tensors on the device, by the names of `layer_tensors`; new ones each time.

        Raises:
            CheckpointError: a weight is not finite.
            BundleError: a prepared file is damaged.
        """
        ...

    def head(self) -> Mapping[str, Tensor]:
        """The tensors of `head_tensors`: "norm" and "lm_head"; raises what `layer` raises."""
        ...

    def host(self, name: str) -> torch.Tensor:
        """A table on the host; see `WeightReader.host`."""
        ...


@dataclass(frozen=True, slots=True)
class DeviceTensor:
    """A tensor that the device holds."""

    name: str
    shape: tuple[int, int]
    fmt: Format

    def __str__(self) -> str:
        rows, columns = self.shape
        return f"{self.name} {rows} × {columns} {self.fmt}"


def layer_tensors(
    config: ModelConfig, layer: LayerConfig, precision: Precision
) -> tuple[DeviceTensor, ...]:
    """What a layer has on the device: `LayerWeights`' names, and a format for each."""
    formats = FORMATS[precision]
    d, f, p = config.hidden_size, layer.intermediate_size, config.per_layer_input_size
    head = padded_head(layer.head_dim)
    found: list[DeviceTensor] = []

    def norm(name: str) -> None:
        found.append(DeviceTensor(name, (TILE, d), "bf16"))

    def matrix(name: str, group: Group, k: int, n: int) -> None:
        found.append(DeviceTensor(name, (k, n), formats[group]))

    norm("input_norm")
    matrix("qkv", "attention", d, qkv_width(layer))
    found.append(DeviceTensor("head_norms", (3 * TILE, head), "f32"))
    matrix("o", "attention", layer.num_heads * head, d)
    norm("post_attention_norm")
    norm("pre_feedforward_norm")
    matrix("gate", "mlp", d, f)
    matrix("up", "mlp", d, f)
    matrix("down", "mlp", f, d)
    norm("post_feedforward_norm")
    if p:
        matrix("per_layer_gate", "per_layer", d, p)
        matrix("per_layer_projection", "per_layer", p, d)
        norm("post_per_layer_norm")
    found.append(DeviceTensor("scalar", (TILE, TILE), "bf16"))
    return tuple(found)


def head_tensors(config: ModelConfig, precision: Precision) -> tuple[DeviceTensor, ...]:
    """What comes after the layers."""
    d, v = config.hidden_size, config.vocab_size
    return (
        DeviceTensor("norm", (TILE, d), "bf16"),
        DeviceTensor("lm_head", (d, v), FORMATS[precision]["lm_head"]),
    )


def in_format(values: torch.Tensor, fmt: Format) -> torch.Tensor:
    """Values as they go into a conversion to `fmt`: rounded by torch where torch can.

    Loading and preparing must give the same bits, whoever converts.
    """
    return values.float() if fmt == "f32" else values.bfloat16()


def report_layer(config: ModelConfig, layer: LayerConfig, report: ReportProgress) -> None:
    """Tells of a layer that was loaded: of every tenth and of the last."""
    count = len(config.layers)
    if (layer.index + 1) % 10 == 0 or layer.index + 1 == count:
        report(f"loaded {layer.index + 1} of {count} layers")


class CheckpointWeights:
    """Converts a checkpoint as it is loaded: minutes for billions of block floats."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: ModelConfig,
        device: Tensor,
        precision: Precision,
        report: ReportProgress,
    ) -> None:
        """Looks through the tables that stay on the host.

        Raises:
            TtShapeError: the kernels' tiles do not divide the model.
            CheckpointError: a value of a table is not finite.
        """
        self._reader = WeightReader(checkpoint, config)
        self._reader.check_host()
        self._checkpoint = checkpoint
        self._config = config
        self._device = device
        self._precision: Precision = precision
        self._report = report

    @property
    def precision(self) -> Precision:
        """See `TtWeights`."""
        return self._precision

    def layer(self, layer: LayerConfig) -> Mapping[str, Tensor]:
        """See `TtWeights`."""
        tensors = layer_tensors(self._config, layer, self._precision)
        loaded = self._put(tensors, self._reader.layer(layer).present())
        report_layer(self._config, layer, self._report)
        return loaded

    def head(self) -> Mapping[str, Tensor]:
        """See `TtWeights`."""
        return self._put(head_tensors(self._config, self._precision), self._reader.head())

    def host(self, name: str) -> torch.Tensor:
        """See `TtWeights`."""
        return self._reader.host(name)

    def _put(
        self, tensors: tuple[DeviceTensor, ...], values: Mapping[str, torch.Tensor]
    ) -> Mapping[str, Tensor]:
        loaded = {
            x.name: runtime.put(in_format(values[x.name], x.fmt), x.fmt, self._device)
            for x in tensors
        }
        self._checkpoint.release_pages()
        return loaded
