"""A checkpoint on the chip: the one place of this folder that builds a decoder.

Knows how the decoder is constructed; knows no scenario and no judgement. Import it only after
`kernels.runtime.choose`.
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
from kernels.runtime import P150_GRID
from tests.chip.steps.judging import Weights

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
    model_dir: Path, weights: Weights, device: Any, *, slots: int, context_length: int
) -> OnChip:
    """Loads a checkpoint onto the device."""
    if weights != "bf16":
        raise NotImplementedError(f"the decoder takes no {weights} weights")
    config = load_config(model_dir)
    checkpoint = Checkpoint.open(model_dir, config)
    operations = Operations(P150_GRID, device)

    def report(line: str) -> None:
        print(line, flush=True)

    with torch.inference_mode():
        decoder = TtDecoder(config, checkpoint, device, operations, slots, context_length, report)
    return OnChip(config, checkpoint, decoder)
