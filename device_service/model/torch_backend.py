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
from device_service.model.batch_checks import BatchChecks
from device_service.model.checkpoint import Checkpoint, tokenizer_digest
from device_service.model.config import load_config
from device_service.model.host import tune_host
from device_service.model.interface import (
    F32,
    ModelInfo,
    ReadoutOptions,
    ReportProgress,
    Span,
    StepBatch,
    StepReadouts,
)
from device_service.model.kv_cache import KVCache
from device_service.model.readout_columns import columns, no_readouts, temperatures
from device_service.model.step_logits import StepLogits
from device_service.model.torch_decoder import TorchDecoder
from device_service.readout import read_out

Tensor = torch.Tensor
Dtype = Literal["float32", "bfloat16"]

MAX_TOP_CANDIDATES = 1024
"""Beyond this, a full row is the cheaper answer."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class TorchModel:
    """A loaded model with its KV slots; see `interface.Model`."""

    def __init__(
        self, config: ModelConfig, decoder: TorchDecoder, info: ModelInfo, device: torch.device
    ) -> None:
        """Takes parts that fit each other; use `load`."""
        self._softcap = config.final_logit_softcap
        self._decoder = decoder
        self._info = info
        self._device = device
        self._checks = BatchChecks(info)
        self._logits = StepLogits()
        self._caches = [self._new_caches() for _ in range(info.num_slots)]

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
        info = ModelInfo(
            architecture=config.model_type,
            name=model_dir.resolve().name,
            vocab_size=config.vocab_size,
            context_length=context_length,
            num_slots=num_slots,
            max_rows=max_rows,
            max_top_candidates=min(MAX_TOP_CANDIDATES, config.vocab_size),
            ring_size=context_length if window is None else window - 1 + max_rows,
            max_rewind=context_length if window is None else max_rows,
            bos_token_id=config.bos_token_id,
            eos_token_ids=config.eos_token_ids,
            pad_token_id=config.pad_token_id,
            checkpoint_digest=checkpoint.digest(),
            tokenizer_digest=tokenizer_digest(model_dir),
            backend="torch",
            precision=dtype,
            accelerator=_accelerator(target),
        )
        checkpoint.release_pages()
        return cls(config, decoder, info, target)

    @property
    def info(self) -> ModelInfo:
        """Identity and limits; constant."""
        return self._info

    def warm_up(self, report: ReportProgress) -> None:
        """Runs the row counts that serving uses; slots are empty afterwards."""
        info = self._info
        most = min(info.max_rows, info.num_slots)
        options = ReadoutOptions(min(64, info.max_top_candidates))
        for num_rows in sorted({min(x, most) for x in (1, 8, 32, most)}):
            spans = [Span(slot, 0, (info.bos_token_id,), 1, options) for slot in range(num_rows)]
            self.step(StepBatch(tuple(spans)))
            report(f"warmed up steps of {num_rows} sequences")
        length = min(info.max_rows, info.context_length)
        self.step(StepBatch((Span(0, 0, (info.bos_token_id,) * length, 1, options),)))
        report(f"warmed up a prompt of {length}")
        self._caches = [self._new_caches() for _ in range(info.num_slots)]
        self._logits = StepLogits()
        self._checks.reset()

    @torch.inference_mode()
    def step(self, batch: StepBatch) -> StepReadouts:
        """Runs all rows of the batch; see `interface.Model.step`."""
        self._checks.check(batch)
        for span in batch.spans:
            self._checks.record(span)
        hidden = self._decoder.run(batch, self._caches)
        if hidden is None:
            return no_readouts()
        readers = [span for span in batch.spans if span.num_readouts]
        readouts = read_out(
            self._decoder.raw_logits(hidden),
            self._softcap,
            max(span.options.top_candidates for span in readers),
            temperatures(readers, self._device),
        )
        self._logits.keep(readouts.logits, [(x.slot, x.num_readouts) for x in readers])
        return columns(readers, readouts)

    def full_rows(self, slot: int) -> F32:
        """The logits [n, V] behind the slot's last n readouts; see `interface.Model.full_rows`."""
        return self._logits.of(slot).cpu().numpy()

    def release(self, slot: int) -> None:
        """Forgets the slot's kept logits; its KV stays, for a prompt that begins alike."""
        self._logits.forget(slot)

    def close(self) -> None:
        """Gives the memory back."""
        self._caches.clear()
        self._logits = StepLogits()
        del self._decoder
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _new_caches(self) -> dict[int, KVCache]:
        return self._decoder.new_caches(self._info.ring_size, self._info.context_length)


def _accelerator(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
