"""How far a step is from the reference that read the same tokens: layers, logits, the best three.

Every row of a step belongs to a sequence; the reference reads that sequence whole, whatever the
device made of it (teacher forcing). Knows torch and the reference; knows no device.

Two logits are a tie where the exact reference has them nearer to each other than `TIE` times what
rounding alone moves a logit: the root mean square, over the row's vocabulary, between the reference
in bfloat16 with the device's weights and the exact one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import torch
import torch.nn.functional as F

from device_service.model.architecture import LayerConfig, ModelConfig
from device_service.model.checkpoint import Checkpoint
from device_service.model.interface import Span, StepBatch
from device_service.model.reference import ReferenceModel, ReferenceOutputs
from kernels.block_float import BFP8_BITS, round_to_block_float
from tests.correlation import pcc

Weights = Literal["bf16", "bfp8"]
Tensor = torch.Tensor
KeysValues = Mapping[int, tuple[Tensor, Tensor]]
"""[K, T, H] of each layer that owns any."""
_PART = 1 << 14
"""Outputs of a matrix at a time: lm_head is large."""
TIE = 4.0
TOP = 3


class RoundedModel(ReferenceModel):
    """The reference in bfloat16, its matrices as the device stores them.

    Products are added up in float32: many CPUs have no bfloat16 and are slow there.
    """

    def __init__(self, config: ModelConfig, checkpoint: Checkpoint, weights: Weights) -> None:
        super().__init__(config, checkpoint, torch.bfloat16)
        self._bfp8 = weights == "bfp8"

    def _linear(self, x: Tensor, name: str) -> Tensor:
        parts = torch.split(self.checkpoint.tensor(f"{name}.weight"), _PART)
        sums = [F.linear(x.float(), self._stored(part)) for part in parts]
        return torch.cat(sums, dim=-1).to(self.dtype)

    def _stored(self, weight: Tensor) -> Tensor:
        """[n, K], rounded; neighbours along N, the outputs, share an exponent in bfp8."""
        if not self._bfp8:
            return weight.to(self.dtype).float()
        return round_to_block_float(weight.float().T.contiguous(), BFP8_BITS).T


class ExactModel(ReferenceModel):
    """The reference in float32, a part of lm_head at a time; keeps the keys and values it made."""

    def __init__(self, config: ModelConfig, checkpoint: Checkpoint) -> None:
        super().__init__(config, checkpoint)
        self.keys_values: dict[int, tuple[Tensor, Tensor]] = {}
        """[K, T, H] of each layer that owns any, of the sequence read last."""

    def _keys_values(self, layer: LayerConfig, x: Tensor) -> tuple[Tensor, Tensor]:
        self.keys_values[layer.index] = super()._keys_values(layer, x)
        return self.keys_values[layer.index]

    def _linear(self, x: Tensor, name: str) -> Tensor:
        parts = torch.split(self.checkpoint.tensor(f"{name}.weight"), _PART)
        return torch.cat([F.linear(x, part.float()) for part in parts], dim=-1)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a step's rows should be."""

    layers: tuple[Tensor, ...]
    """[B, D] each."""
    rounded_layers: tuple[Tensor, ...]
    """The same of the reference in the device's formats."""
    logits: Tensor
    """[R, V] of the rows that are read, after the softcap."""
    rounded_logits: Tensor


@dataclass(slots=True)
class _Sequence:
    ids: list[int] = field(default_factory=list[int])


@dataclass(frozen=True, slots=True)
class _Place:
    sequence: _Sequence
    span: Span


def wanted(
    exact: ReferenceModel,
    rounded: ReferenceModel,
    steps: Sequence[StepBatch],
    held: Mapping[int, Sequence[int]] = MappingProxyType({}),
) -> list[Wanted]:
    """What every step should give, each sequence read once by each reference.

    Args:
        exact: in float32.
        rounded: in the device's formats.
        steps: to be run one after the other.
        held: token ids that slots hold before the first step.
    """

    @functools.cache
    def read(ids: tuple[int, ...]) -> tuple[ReferenceOutputs, ReferenceOutputs]:
        return exact.run(ids), rounded.run(ids)

    return [_of_step(places, read) for places in _places(steps, held)]


def _places(
    steps: Sequence[StepBatch], held_ids: Mapping[int, Sequence[int]]
) -> list[list[_Place]]:
    """Each span with its sequence, as long as that gets; going back begins another."""
    held = {slot: _Sequence(list(ids)) for slot, ids in held_ids.items()}
    places: list[list[_Place]] = []
    for step in steps:
        places.append([])
        for span in step.spans:
            sequence = held.setdefault(span.slot, _Sequence())
            if span.start < len(sequence.ids):
                sequence = held[span.slot] = _Sequence(sequence.ids[: span.start])
            assert span.start == len(sequence.ids), "a span begins behind what its slot holds"
            sequence.ids.extend(span.token_ids)
            places[-1].append(_Place(sequence, span))
    return places


def _of_step(
    places: Sequence[_Place],
    read: Callable[[tuple[int, ...]], tuple[ReferenceOutputs, ReferenceOutputs]],
) -> Wanted:
    found: list[list[list[Tensor]]] = [[], []]
    logits: list[list[Tensor]] = [[], []]
    for place in places:
        end = place.span.start + len(place.span.token_ids)
        for which, outputs in enumerate(read(tuple(place.sequence.ids))):
            found[which].append([layer[place.span.start : end].float() for layer in outputs.layers])
            logits[which].append(outputs.logits[end - place.span.num_readouts : end].float())
    layers = [tuple(torch.cat(rows) for rows in zip(*parts, strict=True)) for parts in found]
    return Wanted(layers[0], layers[1], torch.cat(logits[0]), torch.cat(logits[1]))


def worst_row(a: Tensor, b: Tensor) -> float:
    """The lowest correlation of a row of [n, V] with the other's; 1 without rows."""
    return min((pcc(x, y) for x, y in zip(a, b, strict=True)), default=1.0)


def layer_row(index: int, got: Tensor, want: Wanted) -> dict[str, Any]:
    """What is told of a layer: its residual stream, [B, D], and how near rounding alone is."""
    exact = want.layers[index]
    return {
        "layer": index,
        "pcc": pcc(got, exact),
        "row_pcc": worst_row(got, exact),
        "rounded_pcc": pcc(want.rounded_layers[index], exact),
    }


def logits_row(got: Tensor, want: Wanted) -> dict[str, Any]:
    """What is told of the logits [R, V], after the softcap."""
    return {
        "logits_pcc": worst_row(got, want.logits),
        "rounded_logits_pcc": worst_row(want.rounded_logits, want.logits),
    } | best(got, want.logits, want.rounded_logits)


def best(got: Tensor, exact: Tensor, rounded: Tensor, top: int = TOP) -> dict[str, Any]:
    """How many rows have the same best tokens in the same order, and how far apart the others are.

    Returns:
        "same", "ties" and "others" (rows); of the ties "widest_tie", in logits, and of them all
        "tie_width", the largest distance that counted as one.
    """
    counts = {"same": 0, "ties": 0, "others": 0, "widest_tie": 0.0, "tie_width": 0.0}
    for row, want, near in zip(got, exact, rounded, strict=True):
        width = TIE * float((near - want).square().mean().sqrt())
        distance = float((want.topk(top).values - want[row.topk(top).indices]).abs().max())
        counts["tie_width"] = max(counts["tie_width"], width)
        if torch.equal(row.topk(top).indices, want.topk(top).indices):
            counts["same"] += 1
        elif distance <= width:
            counts["ties"] += 1
            counts["widest_tie"] = max(counts["widest_tie"], distance)
        else:
            counts["others"] += 1
    return counts
