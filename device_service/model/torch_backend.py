"""The torch backend: Gemma on a CPU or a CUDA device, as fast as torch allows.

Wires checkpoint, decoder, KV slots and readouts into a `Model`; the formulas are in
`torch_decoder.py` and `torch_layer.py`.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Literal

import torch

from device_service.model.architecture import ModelConfig
from device_service.model.checkpoint import Checkpoint
from device_service.model.config import load_config
from device_service.model.host import tune_host
from device_service.model.interface import ModelInfo, ReportProgress, Span, StepBatch
from device_service.model.step_logits import StepLogits
from device_service.model.stepped_model import SteppedModel, model_info
from device_service.model.torch_decoder import TorchDecoder

Tensor = torch.Tensor
Dtype = Literal["float32", "bfloat16"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class TorchModel(SteppedModel):
    """A loaded model with its KV slots; see `interface.Model`."""

    def __init__(
        self, config: ModelConfig, decoder: TorchDecoder, info: ModelInfo, device: torch.device
    ) -> None:
        """Takes parts that fit each other; use `load`."""
        super().__init__(info, config.final_logit_softcap, device)
        self._decoder = decoder
        self._device = device
        self._empty_slots()

    @classmethod
    def load(
        cls,
        model_dir: Path,
        *,
        dtype: Dtype,
        device: str,
        num_slots: int,
        context_length: int,
        max_rows: int,
        num_threads: int | None,
        report: ReportProgress,
    ) -> TorchModel:
        """Loads a checkpoint.

        Args:
            model_dir: config.json and safetensors files.
            dtype: of linears, attention and KV; the rest is in float32.
            device: "cpu", "cuda", "cuda:1", …
            num_slots: sequences that may be in flight.
            context_length: positions a sequence may have.
            max_rows: rows of a step.
            num_threads: of torch on the CPU, in the whole process; None: torch's own choice.
            report: gets lines of progress.

        Raises:
            ConfigError: config.json is wrong or not served.
            CheckpointError: a file or tensor is missing or wrong.
            ValueError: an argument is out of range.
        """
        tune_host()
        config = load_config(model_dir)
        for name, value in (("num_slots", num_slots), ("max_rows", max_rows)):
            if value < 1:
                raise ValueError(f"{name} is {value}, not at least 1")
        if not 1 <= context_length <= config.max_position_embeddings:
            raise ValueError(
                f"context_length is {context_length}, not 1 to {config.max_position_embeddings}"
            )
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        target = torch.device(device)
        checkpoint = Checkpoint.open(model_dir, config)
        with torch.inference_mode():
            decoder = TorchDecoder(config, checkpoint, _DTYPES[dtype], target, report)
        window = next((x.window for x in config.layers if x.window is not None), None)
        info = model_info(
            config,
            checkpoint,
            model_dir,
            num_slots=num_slots,
            context_length=context_length,
            max_rows=max_rows,
            backend="torch",
            precision=dtype,
            accelerator=_accelerator(target),
            ring_size=context_length if window is None else window - 1 + max_rows,
            max_rewind=context_length if window is None else max_rows,
        )
        checkpoint.release_pages()
        return cls(config, decoder, info, target)

    def warm_up(self, report: ReportProgress) -> None:
        """Runs the row counts that serving uses; slots are empty afterwards."""
        info = self._info
        self._warm_sequences((1, 8, 32, info.max_rows), report)
        length = min(info.max_rows, info.context_length)
        prompt = Span(0, 0, (info.bos_token_id,) * length, 1, self._warm_options())
        self.step(StepBatch((prompt,)))
        report(f"warmed up a prompt of {length}")
        self._start_empty()

    def settle(self) -> None:
        """Returns when no step runs any more."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def close(self) -> None:
        """Gives the memory back."""
        self._caches.clear()
        self._logits = StepLogits()
        del self._decoder
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _raw_logits(self, batch: StepBatch) -> Tensor | None:
        hidden = self._decoder.run(batch, self._caches)
        return None if hidden is None else self._decoder.raw_logits(hidden)

    def _empty_slots(self) -> None:
        ring_size, context_length = self._info.ring_size, self._info.context_length
        self._caches = [
            self._decoder.new_caches(ring_size, context_length) for _ in range(self._info.num_slots)
        ]


def _accelerator(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
