"""The TT backend: Gemma in TT-Lang kernels, on a card, a simulated chip or a functional simulator.

Wires checkpoint, decoder, KV slots and readouts into a `Model`; the order of the kernels is in
`tt_decoder.py`. `sim` and `tt` are this same code: only the runtime under the kernels differs, and
whether a chip is real is not to be seen from here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from device_service.model.architecture import ModelConfig
from device_service.model.batch_checks import BatchChecks
from device_service.model.checkpoint import Checkpoint, tokenizer_digest
from device_service.model.config import load_config
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
from device_service.model.torch_backend import MAX_TOP_CANDIDATES
from device_service.model.tt_boards import BOARDS, Board
from device_service.model.tt_plan import make_plan
from device_service.readout import read_out
from kernels import runtime

Backend = Literal["sim", "tt"]
MAX_ROWS = 32
"""One tile row."""


class TtModel:
    """A loaded model with its KV slots; see `interface.Model`."""

    def __init__(self, config: ModelConfig, decoder: Any, info: ModelInfo, device: Any) -> None:
        """Takes parts that fit each other; use `load`."""
        self._softcap = config.final_logit_softcap
        self._decoder = decoder
        self._info = info
        self._device = device
        self._checks = BatchChecks(info)
        self._logits = StepLogits()

    @classmethod
    def load(
        cls,
        model_dir: Path,
        *,
        backend: Backend,
        board: str,
        num_slots: int,
        context_length: int,
        max_rows: int,
        report: ReportProgress,
    ) -> TtModel:
        """Loads a checkpoint.

        Args:
            model_dir: config.json and safetensors files.
            backend: "sim", the functional simulator, or "tt", real ttnn.
            board: a name in `tt_boards.BOARDS`.
            num_slots: sequences that may be in flight.
            context_length: positions a sequence may have.
            max_rows: rows of a step; at most 32.
            report: gets lines of progress.

        Raises:
            ConfigError: config.json is wrong or not served.
            CheckpointError: a file or tensor is missing or wrong.
            TtShapeError: the kernels' tiles do not divide the model.
            PlanError: it does not fit the board, or an argument is out of its limits.
            RuntimeUnavailableError: this Python lacks the runtime.
        """
        config = load_config(model_dir)
        rows = min(max_rows, MAX_ROWS)
        place: Board = BOARDS[board]
        plan = make_plan(
            config,
            place,
            precision="bf16",
            slots=num_slots,
            context_length=context_length,
            max_rows=rows,
        )
        checkpoint = Checkpoint.open(model_dir, config)
        runtime.choose(backend)
        from device_service.model.tt_decoder import TtDecoder
        from device_service.model.tt_operations import Operations

        report(f"planned for a {board}: {plan.total_bytes / 2**30:.2f} GiB of its DRAM")
        device = runtime.open_device()
        operations = Operations(place.grid, device)
        with torch.inference_mode():
            decoder = TtDecoder(
                config, checkpoint, device, operations, num_slots, context_length, report
            )
        window = next((x.window for x in config.layers if x.window is not None), None)
        info = ModelInfo(
            architecture=config.model_type,
            name=model_dir.resolve().name,
            vocab_size=config.vocab_size,
            context_length=context_length,
            num_slots=num_slots,
            max_rows=rows,
            max_top_candidates=min(MAX_TOP_CANDIDATES, config.vocab_size),
            ring_size=context_length if window is None else window - 1 + rows,
            max_rewind=context_length if window is None else rows,
            bos_token_id=config.bos_token_id,
            eos_token_ids=config.eos_token_ids,
            pad_token_id=config.pad_token_id,
            checkpoint_digest=checkpoint.digest(),
            tokenizer_digest=tokenizer_digest(model_dir),
            backend=backend,
            precision="bfloat16",
            accelerator=runtime.accelerator(board),
        )
        return cls(config, decoder, info, device)

    @property
    def info(self) -> ModelInfo:
        """Identity and limits; constant."""
        return self._info

    def warm_up(self, report: ReportProgress) -> None:
        """Compiles programs: for steps of one sequence and of all. Slots are empty afterwards."""
        info = self._info
        options = ReadoutOptions(min(64, info.max_top_candidates))
        for slots in sorted({1, min(info.max_rows, info.num_slots)}):
            spans = [Span(slot, 0, (info.bos_token_id,), 1, options) for slot in range(slots)]
            self.step(StepBatch(tuple(spans)))
            report(f"warmed up steps of {slots} sequences")
        self._decoder.clear()
        self._logits = StepLogits()
        self._checks.reset()

    @torch.inference_mode()
    def step(self, batch: StepBatch) -> StepReadouts:
        """Runs all rows of the batch; see `interface.Model.step`."""
        self._checks.check(batch)
        for span in batch.spans:
            self._checks.record(span)
        logits: torch.Tensor | None = self._decoder.run(batch)
        if logits is None:
            return no_readouts()
        readers = [span for span in batch.spans if span.num_readouts]
        most = max(span.options.top_candidates for span in readers)
        cpu = torch.device("cpu")
        readouts = read_out(logits, self._softcap, most, temperatures(readers, cpu))
        self._logits.keep(readouts.logits, [(x.slot, x.num_readouts) for x in readers])
        return columns(readers, readouts)

    def full_rows(self, slot: int) -> F32:
        """The logits [n, V] behind the slot's last n readouts; see `interface.Model.full_rows`."""
        return self._logits.of(slot).numpy()

    def release(self, slot: int) -> None:
        """Forgets the slot's kept logits; its KV stays, for a prompt that begins alike."""
        self._logits.forget(slot)

    def close(self) -> None:
        """Gives the device back."""
        self._logits = StepLogits()
        del self._decoder
        runtime.close_device(self._device)
