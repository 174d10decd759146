"""A checkpoint on the chip: the one place of this folder that knows a decoder's insides.

Knows how it is constructed and how its caches lie; knows no scenario and no judgement. Import it
only after `kernels.runtime.choose`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from device_service.model.architecture import ModelConfig
from device_service.model.checkpoint import Checkpoint
from device_service.model.config import load_config
from device_service.model.interface import StepBatch
from device_service.model.tt_decoder import TtDecoder
from device_service.model.tt_operations import Operations
from device_service.model.tt_tensors import Tensors
from device_service.model.tt_weight_reader import pad_head
from device_service.model.tt_weights import CheckpointWeights
from kernels import runtime
from kernels.runtime import P150_GRID, TILE, Grid
from tests.chip.steps.judging import KeysValues, Weights

Observe = Callable[[int, torch.Tensor], None]


@dataclass(frozen=True)
class OnChip:
    """A decoder with the checkpoint that it holds."""

    config: ModelConfig
    checkpoint: Checkpoint
    decoder: TtDecoder

    def run(self, step: StepBatch, observe: Observe | None = None) -> torch.Tensor | None:
        """Logits [R, V] of the rows that are read, after the softcap; None without any."""
        with torch.inference_mode():
            raw = self.decoder.run(step, observe)
        cap = self.config.final_logit_softcap
        return raw if raw is None or cap is None else cap * torch.tanh(raw / cap)


def on_chip(
    model_dir: Path,
    weights: Weights,
    device: Any,
    *,
    slots: int,
    context_length: int,
    grid: Grid = P150_GRID,
) -> OnChip:
    """Loads a checkpoint onto the device, for that many columns and rows of its cores."""
    config = load_config(model_dir)
    checkpoint = Checkpoint.open(model_dir, config)
    tensors = Tensors(device)

    def report(line: str) -> None:
        print(line, flush=True)

    with torch.inference_mode():
        decoder = TtDecoder(
            config,
            CheckpointWeights(checkpoint, config, device, weights, report),
            tensors,
            Operations(grid, tensors),
            slots,
            context_length,
        )
    return OnChip(config, checkpoint, decoder)


@torch.inference_mode()
def hold(chip: OnChip, keys_values: KeysValues, count: int) -> None:
    """Puts the first `count` positions' keys and values into slot 0, the only one.

    As if a prompt had run and its tile rows had all been flushed from staging to the caches.
    """
    for layer in chip.config.layers:
        if not layer.owns_kv:
            continue
        cache = chip.decoder._caches.of(layer)  # pyright: ignore[reportPrivateUsage]
        newest = torch.arange(max(0, count - cache.stride), count)  # a ring has no more
        for target, values in zip((cache.k, cache.v), keys_values[layer.index], strict=True):
            padded = pad_head(values[:, newest].float(), layer.head_dim)
            places = torch.zeros(layer.num_kv_heads, cache.stride, padded.shape[2])
            places[:, newest % cache.stride] = padded
            runtime.write(target, places.flatten(0, 1), "bf16")
    chip.decoder.clear()
    staging = chip.decoder._staging  # pyright: ignore[reportPrivateUsage]
    staging._cached_tiles[0] = max(0, count // TILE - 1)  # pyright: ignore[reportPrivateUsage]
