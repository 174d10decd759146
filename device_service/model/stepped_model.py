"""A model whose backend turns a step's rows into logits: all that two such backends have alike.

Knows limits, readouts and the logits that are kept for full rows; knows no weights and no device
but where the logits lie.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path

import torch

from device_service.model.architecture import ModelConfig
from device_service.model.batch_checks import BatchChecks
from device_service.model.checkpoint import Checkpoint, tokenizer_digest
from device_service.model.interface import (
    F32,
    ModelInfo,
    ReadoutOptions,
    ReportProgress,
    Span,
    StepBatch,
    StepReadouts,
)
from device_service.model.readout_columns import columns, no_readouts, temperatures
from device_service.model.step_logits import StepLogits
from device_service.readout import read_out

MAX_TOP_CANDIDATES = 1024
"""Beyond this, a full row is the cheaper answer."""


def model_info(
    config: ModelConfig,
    checkpoint: Checkpoint,
    model_dir: Path,
    *,
    num_slots: int,
    context_length: int,
    max_rows: int,
    backend: str,
    precision: str,
    accelerator: str,
    ring_size: int,
    max_rewind: int,
) -> ModelInfo:
    """A loaded model's identity, from its files, and limits, from its configuration."""
    return ModelInfo(
        architecture=config.model_type,
        name=model_dir.resolve().name,
        vocab_size=config.vocab_size,
        context_length=context_length,
        num_slots=num_slots,
        max_rows=max_rows,
        max_top_candidates=min(MAX_TOP_CANDIDATES, config.vocab_size),
        ring_size=ring_size,
        max_rewind=max_rewind,
        bos_token_id=config.bos_token_id,
        eos_token_ids=config.eos_token_ids,
        pad_token_id=config.pad_token_id,
        checkpoint_digest=checkpoint.digest(),
        tokenizer_digest=tokenizer_digest(model_dir),
        backend=backend,
        precision=precision,
        accelerator=accelerator,
    )


class SteppedModel(ABC):
    """What is alike in every backend's `interface.Model`."""

    def __init__(self, info: ModelInfo, softcap: float | None, logits_on: torch.device) -> None:
        """`logits_on`: where the backend leaves its logits."""
        self._info = info
        self._softcap = softcap
        self._logits_on = logits_on
        self._checks = BatchChecks(info)
        self._logits = StepLogits()

    @abstractmethod
    def _raw_logits(self, batch: StepBatch) -> torch.Tensor | None:
        """Runs a step that is within the limits.

        Returns:
            Logits [R, V] of the rows that are read, before the softcap; None if there are none.
        """

    @abstractmethod
    def _empty_slots(self) -> None:
        """Forgets all keys and values."""

    @abstractmethod
    def warm_up(self, report: ReportProgress) -> None:
        """Runs steps of the shapes that serving will use; slots are empty afterwards."""

    @abstractmethod
    def close(self) -> None:
        """Gives memory and devices back. The model is not usable afterwards."""

    @abstractmethod
    def settle(self) -> None:
        """Returns when no step runs any more; see `interface.Model.settle`."""

    @property
    def info(self) -> ModelInfo:
        """Identity and limits; constant."""
        return self._info

    @torch.inference_mode()
    def step(self, batch: StepBatch) -> StepReadouts:
        """Runs all rows of the batch; see `interface.Model.step`."""
        self._checks.check(batch)
        for span in batch.spans:
            self._checks.record(span)
        raw = self._raw_logits(batch)
        if raw is None:
            return no_readouts()
        readers = [span for span in batch.spans if span.num_readouts]
        readouts = read_out(
            raw,
            self._softcap,
            max(span.options.top_candidates for span in readers),
            temperatures(readers, self._logits_on),
        )
        self._logits.keep(readouts.logits, [(x.slot, x.num_readouts) for x in readers])
        return columns(readers, readouts)

    def full_rows(self, slot: int) -> F32:
        """The logits [n, V] behind the slot's last n readouts; see `interface.Model.full_rows`."""
        return self._logits.of(slot).cpu().numpy()

    def release(self, slot: int) -> None:
        """Forgets the slot's kept logits; its KV stays, for a prompt that begins alike."""
        self._logits.forget(slot)

    def _warm_options(self) -> ReadoutOptions:
        return ReadoutOptions(min(64, self._info.max_top_candidates))

    def _warm_sequences(self, counts: Iterable[int], report: ReportProgress) -> None:
        """A step of the first row of so many sequences, for each count."""
        most = min(self._info.max_rows, self._info.num_slots)
        bos, options = (self._info.bos_token_id,), self._warm_options()
        for count in sorted({min(x, most) for x in counts}):
            self.step(StepBatch(tuple(Span(slot, 0, bos, 1, options) for slot in range(count))))
            report(f"warmed up steps of {count} sequences")

    def _start_empty(self) -> None:
        """As if no step had run."""
        self._empty_slots()
        self._logits = StepLogits()
        self._checks.reset()
