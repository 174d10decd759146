"""One model on the device: how near its layers are to the reference, and how fast it decodes.

    python -m tests.hardware.model_run OUT.json --model DIR --board p150

The program inside .venv-tt, on whatever ttnn finds: a card, or a simulated chip, whose times tell
nothing. Writes one JSON object; see `Result`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from device_service.model.checkpoint import Checkpoint
from device_service.model.config import load_config
from device_service.model.interface import ReadoutOptions, Span, StepBatch
from device_service.model.reference import ReferenceModel
from device_service.model.tt_backend import TtModel
from device_service.model.tt_boards import BOARDS
from device_service.model.tt_plan import Precision, make_plan
from kernels import runtime
from kernels.runtime import TILE
from tests.correlation import pcc

SLOTS = 32
CONTEXT_LENGTH = 512
POSITIONS = 32
"""That are compared with the reference: a prompt chunk of half of them, then row by row."""
WARM_STEPS = 3
CHUNKS = 8
"""Of the prompt that is timed, all of 32 rows."""
WARM_PROMPTS = 3
"""Until each chunk is replayed: the buffers of the last ones make recordings of the first void."""
PROMPTS = 9
OPTIONS = ReadoutOptions(top_candidates=64)


@dataclass
class Speed:
    """Decode steps of so many sequences."""

    sequences: int
    traced: bool
    """Whether steps are replayed; else every kernel is launched anew."""
    position: int
    """Of the rows in the first step that was timed."""
    step_seconds: float
    """The median."""
    tokens_per_second: float
    dram_bytes: int
    """The least that a step reads: weights once, keys and values once."""
    bandwidth_share: float
    """Of the board's: `dram_bytes` in that time."""


@dataclass
class PromptSpeed:
    """Chunks of a prompt, none of them read."""

    in_flight: int
    """Steps at a time: 2 where the host hands over one while the device runs another."""
    seconds: float
    """The median."""
    tokens_per_second: float


@dataclass
class Result:
    """What one model did."""

    model: str
    precision: str
    accelerator: str
    layer_pcc: list[float] = field(default_factory=list[float])
    """By layer, over all positions, against float32; PCC is Pearson's correlation."""
    logits_pcc: float = 0.0
    same_best: float = 0.0
    """Share of positions whose best token is the reference's."""
    wall_seconds: dict[str, float] = field(default_factory=dict[str, float])
    speeds: list[Speed] = field(default_factory=list[Speed])
    prompts: list[PromptSpeed] = field(default_factory=list[PromptSpeed])
    not_measured: list[str] = field(default_factory=list[str])


class Run:
    """A loaded model and what is asked of it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._config = load_config(options.model)
        self._checkpoint = Checkpoint.open(options.model, self._config)
        precision: Precision = options.precision
        self._plan = make_plan(
            self._config,
            BOARDS[options.board],
            precision=precision,
            slots=SLOTS,
            context_length=CONTEXT_LENGTH,
        )
        began = time.perf_counter()
        self.model = TtModel.load(
            options.model,
            backend="tt",
            board=options.board,
            precision=precision,
            bundle_dir=None,
            num_slots=SLOTS,
            context_length=CONTEXT_LENGTH,
            max_rows=32,
            report=print,
        )
        loaded = time.perf_counter()
        self.model.warm_up(print)
        self.result = Result(options.model.name, precision, self.model.info.accelerator)
        self.result.wall_seconds = {
            "load": loaded - began,
            "warm_up": time.perf_counter() - loaded,
        }

    @torch.inference_mode()
    def compare(self) -> None:
        """Layers and logits of one sequence against the reference."""
        ids = self._ids()
        decoder: Any = self.model._decoder
        layers: list[list[torch.Tensor]] = [[] for _ in self._config.layers]
        logits: list[torch.Tensor] = []
        for start, end in _chunks(len(ids)):
            span = Span(0, start, tuple(ids[start:end]), end - start, OPTIONS)
            got = decoder.run(StepBatch((span,)), lambda layer, h: layers[layer].append(h))
            logits.append(got)
        decoder.clear()
        wanted = ReferenceModel(self._config, self._checkpoint).run(ids)
        cap = self._config.final_logit_softcap
        got = torch.cat(logits)
        got = got if cap is None else cap * torch.tanh(got / cap)
        pairs = zip(layers, wanted.layers, strict=True)
        self.result.layer_pcc = [pcc(torch.cat(parts), want) for parts, want in pairs]
        self.result.logits_pcc = pcc(got, wanted.logits)
        same = got.argmax(-1) == wanted.logits.argmax(-1)
        self.result.same_best = float(same.float().mean())

    def speed(self, sequences: int, *, traced: bool) -> None:
        """Times decode steps of so many sequences."""
        traces: Any = self.model._decoder._traces
        if traced and not traces._enabled:
            why = "no trace under slow dispatch"
            self.result.not_measured.append(f"{sequences} sequences, traced: {why}")
            return
        can_trace, traces._enabled = traces._enabled, traced
        seconds = [self._step(sequences, n) for n in range(WARM_STEPS + self._options.steps)]
        traces._enabled = can_trace
        median = statistics.median_high(seconds[WARM_STEPS:])
        least = self._least_bytes(sequences, WARM_STEPS)
        share = least / median / BOARDS[self._options.board].dram_bytes_per_second
        self.result.speeds.append(
            Speed(sequences, traced, WARM_STEPS, median, sequences / median, least, share)
        )

    def prompt(self) -> None:
        """Times a prompt's chunks, with one of them in flight and with two, by turns."""
        if not runtime.can_trace():
            self.result.not_measured.append("a prompt: no two steps in flight under slow dispatch")
            return
        for _ in range(WARM_PROMPTS):
            self._run_prompt(1)
        seconds: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(PROMPTS):
            for in_flight, measured in seconds.items():
                measured.append(self._run_prompt(in_flight))
        for in_flight, measured in seconds.items():
            median = statistics.median_high(measured)
            self.result.prompts.append(PromptSpeed(in_flight, median, CHUNKS * TILE / median))

    def _run_prompt(self, in_flight: int) -> float:
        began = time.perf_counter()
        for start in range(0, CHUNKS * TILE, TILE):
            ids = (self._config.bos_token_id,) * TILE
            self.model.step(StepBatch((Span(0, start, ids, 0),)))
            if in_flight == 1:
                self.model.settle()
        self.model.settle()
        return time.perf_counter() - began

    def _step(self, sequences: int, position: int) -> float:
        token = (self._config.bos_token_id,) if position == 0 else (position + 2,)
        spans = tuple(Span(slot, position, token, 1, OPTIONS) for slot in range(sequences))
        began = time.perf_counter()
        self.model.step(StepBatch(spans))
        return time.perf_counter() - began

    def _least_bytes(self, sequences: int, position: int) -> int:
        """Weights once, and the keys and values of as many positions as were there."""
        kv = sum(
            2 * 2 * layer.num_kv_heads * layer.head_dim * (position + 1)
            for layer in self._config.layers
        )
        return sum(self._plan.weight_bytes.values()) + sequences * kv

    def _ids(self) -> list[int]:
        generator = torch.Generator().manual_seed(1)
        size = (POSITIONS - 1,)
        drawn = torch.randint(3, self._config.vocab_size, size, generator=generator)
        return [self._config.bos_token_id, *drawn.tolist()]


def _chunks(length: int) -> Iterator[tuple[int, int]]:
    """Half in one step, as a prompt; the rest row by row, as decoding."""
    half = length // 2
    yield 0, half
    for position in range(half, length):
        yield position, position + 1


def main() -> None:
    parser = argparse.ArgumentParser(description="One model on the device.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--board", choices=sorted(BOARDS), required=True)
    parser.add_argument("--precision", choices=("bf16", "bfp8", "mixed"), default="bf16")
    parser.add_argument("--steps", type=int, default=50, help="that are timed")
    options = parser.parse_args()
    run = Run(options)

    def save() -> None:  # after each part: a hang must not cost what was measured
        options.out.write_text(json.dumps(asdict(run.result), indent=1) + "\n")

    save()
    run.compare()
    save()
    for sequences in (1, 32):
        for traced in (False, True):
            run.speed(sequences, traced=traced)
            save()
    run.prompt()
    save()
    run.model.close()


if __name__ == "__main__":
    main()
