"""The TT backend: Gemma in TT-Lang kernels, on a card, a simulated chip or a functional simulator.

Wires checkpoint, decoder, KV slots and readouts into a `Model`; the order of the kernels is in
`tt_decoder.py`. `sim` and `tt` are this same code: only the runtime under the kernels differs, and
whether a chip is real is not to be seen from here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch

from device_service.model.architecture import ModelConfig
from device_service.model.checkpoint import Checkpoint
from device_service.model.config import load_config
from device_service.model.interface import ModelInfo, ReportProgress, Span, StepBatch
from device_service.model.step_logits import StepLogits
from device_service.model.stepped_model import SteppedModel, model_info
from device_service.model.tt_boards import BOARDS, Board
from device_service.model.tt_bundle import Bundle, BundleWeights
from device_service.model.tt_plan import Precision, make_plan
from device_service.model.tt_staging import LENGTHS, stride
from device_service.model.tt_tensors import Tensors
from device_service.model.tt_weights import CheckpointWeights, TtWeights
from kernels import runtime
from kernels.runtime import TILE

Backend = Literal["sim", "tt"]


class TtModel(SteppedModel):
    """A loaded model with its KV slots; see `interface.Model`."""

    def __init__(self, config: ModelConfig, decoder: Any, info: ModelInfo, device: Any) -> None:
        """Takes parts that fit each other; use `load`."""
        super().__init__(info, config.final_logit_softcap, torch.device("cpu"))
        self._decoder = decoder
        self._device = device

    @classmethod
    def load(
        cls,
        model_dir: Path,
        *,
        backend: Backend,
        board: str,
        precision: Precision | None,
        bundle_dir: Path | None,
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
            precision: of the weights; None: the bundle's, without one bf16.
            bundle_dir: weights prepared by `device_service.prepare` from this checkpoint, for this
                board and in this precision; without it, they are converted now.
            num_slots: sequences that may be in flight; at most 32.
            context_length: positions a sequence may have.
            max_rows: rows of a step; at most 32.
            report: gets lines of progress.

        Raises:
            ConfigError: config.json is wrong or not served.
            CheckpointError: a file or tensor is missing or wrong.
            BundleError: the bundle is damaged, stale or another one.
            TtShapeError: the kernels' tiles do not divide the model.
            PlanError: it does not fit the board, or an argument is out of its limits.
            RuntimeUnavailableError: this Python lacks the runtime.
        """
        config = load_config(model_dir)
        place: Board = BOARDS[board]
        checkpoint = Checkpoint.open(model_dir, config)
        bundle = None
        if bundle_dir is not None:
            bundle = Bundle.open(
                bundle_dir,
                config,
                checkpoint_digest=checkpoint.digest(),
                board=board,
                precision=precision,
            )
            precision = bundle.manifest.precision
        precision = precision or "bf16"
        plan = make_plan(
            config,
            place,
            precision=precision,
            slots=num_slots,
            context_length=context_length,
            max_rows=max_rows,
        )
        runtime.choose(backend)
        from device_service.model.tt_decoder import TtDecoder
        from device_service.model.tt_operations import SIMULATED_GRID, Operations

        report(f"planned for a {board}: {plan.total_bytes / 2**30:.2f} GiB of its DRAM")
        device = runtime.open_device()
        # Buffers of one step always fit; a board keeps those of other shapes, and so their traces.
        spare = plan.free_bytes if backend == "tt" else 0
        tensors = Tensors(device, plan.activation_bytes + spare)
        weights: TtWeights
        if bundle is None:
            weights = CheckpointWeights(checkpoint, config, device, precision, report)
        else:
            weights = BundleWeights(bundle, checkpoint, config, device, report)
        with torch.inference_mode():
            decoder = TtDecoder(
                config,
                weights,
                tensors,
                Operations(place.grid if backend == "tt" else SIMULATED_GRID, tensors),
                num_slots,
                context_length,
            )
        sliding = [x for x in config.layers if x.window is not None]
        info = model_info(
            config,
            checkpoint,
            model_dir,
            num_slots=num_slots,
            context_length=context_length,
            max_rows=max_rows,
            backend=backend,
            precision="bfloat16" if precision == "bf16" else f"{precision} weights, bfloat16",
            accelerator=runtime.accelerator(board),
            ring_size=min((stride(x, context_length) for x in sliding), default=context_length),
            max_rewind=TILE if sliding else context_length,
        )
        checkpoint.release_pages()
        return cls(config, decoder, info, device)

    def warm_up(self, report: ReportProgress) -> None:
        """Compiles programs, so that no request waits for a compiler. Slots are empty afterwards.

        On a card for every shape that a step can have; on a simulated one, where a step can take a
        minute, for steps of one sequence and of all.
        """
        self._warm_sequences((1, self._info.max_rows), report)
        if runtime.can_trace():
            for span in warm_spans(self._info):
                self._decoder.run(StepBatch((span,)))
                rows, end = len(span.token_ids), span.start + len(span.token_ids)
                report(f"warmed up {rows} rows in slot {span.slot}, up to position {end}")
        self._start_empty()

    def settle(self) -> None:
        """Returns when no step runs any more."""
        self._decoder.settle()

    def close(self) -> None:
        """Gives the device back."""
        self._logits = StepLogits()
        del self._decoder
        runtime.close_device(self._device)

    def _raw_logits(self, batch: StepBatch) -> torch.Tensor | None:
        return self._decoder.run(batch)

    def _empty_slots(self) -> None:
        self._decoder.clear()


def warm_spans(info: ModelInfo) -> Iterator[Span]:
    """Steps of one sequence that together have every program a step can have.

    What decides are the slots from 0 to the highest in use, the chunks that a slot's rows are, both
    rounded up to powers of two, and the bucket of the last position: any other step has programs of
    these.
    """
    highest = sorted({min(1 << n, info.num_slots) for n in range(info.num_slots.bit_length() + 1)})
    lasts = [length for length in LENGTHS if length < info.context_length]
    for last in (*lasts, info.context_length - 1):
        for slots in highest:
            rows = 1
            while rows <= min(TILE, info.max_rows, last + 1):
                ids = (info.bos_token_id,) * rows
                yield Span(slots - 1, last + 1 - rows, ids, 1)
                rows *= 2
