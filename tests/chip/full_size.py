"""A decode step of a Gemma 4 at its full size, with random weights, on a simulated chip.

    python -m tests.chip.full_size {e2b,e4b,small} [--weights bf16|bfp8] [--context N]

Half an hour and more: a line is shown for each layer as it ends. What the decoded row attends to is
the reference's: keys and values of --context positions are put into the caches. Rows are kept for
kernels/chip-report.md; a run that is ended early leaves those it had. The checkpoint is written
once, under .cache/models/random-NAME (E2B 9 GB, E4B 15 GB).
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import torch

from deploy.chip import TTSIM
from device_service.model.interface import Span, StepBatch
from tests.benchmarks.random_gemma4 import (
    E2B,
    E4B,
    SMALL,
    checkpoint_bytes,
    write_random_checkpoint,
)
from tests.chip.environment import ROOT, SIMULATOR, name_of
from tests.chip.steps import driving
from tests.chip.steps.driving import Plan, RunError
from tests.chip.steps.judging import Weights

SIZES = {"e2b": E2B, "e4b": E4B, "small": SMALL}
CONTEXT = 70
"""Positions before the decoded one: some seen in the cache, some in staging."""
ROOM = 2e9
"""Bytes left free beside a checkpoint."""


def checkpoint(size: str) -> Path:
    """The random checkpoint, written if it is not there."""
    model_dir = ROOT / ".cache/models" / f"random-{size}"
    if (model_dir / "complete").exists():
        return model_dir
    shutil.rmtree(model_dir, ignore_errors=True)
    model_dir.mkdir(parents=True)
    needed, free = checkpoint_bytes(SIZES[size]), shutil.disk_usage(model_dir).free
    if needed + ROOM > free:
        model_dir.rmdir()
        sys.exit(
            f"error: the checkpoint takes {needed / 1e9:.1f} GB and {ROOM / 1e9:.0f} GB must stay "
            f"free, but {model_dir.parent} has {free / 1e9:.1f} GB"
        )
    print(f"==> Writing a random {size.upper()}, {needed / 1e9:.1f} GB", flush=True)
    write_random_checkpoint(model_dir, SIZES[size], lambda line: print(line, flush=True))
    (model_dir / "complete").touch()
    return model_dir


def token_ids(size: str, count: int) -> list[int]:
    """Random ones."""
    generator = torch.Generator().manual_seed(1)
    vocab_size: int = SIZES[size]["vocab_size"]
    return [2, *torch.randint(107, vocab_size, (count - 1,), generator=generator).tolist()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("--weights", choices=Weights.__args__, default="bf16")
    parser.add_argument(
        "--context", type=int, default=CONTEXT, help="positions before the decoded one"
    )
    arguments = parser.parse_args()
    size: str = arguments.size
    if name_of(SIMULATOR) != "ttsim":
        sys.exit(f"error: SIMULATOR={SIMULATOR}: this takes the vendor's Blackhole; {TTSIM}")
    ids = token_ids(size, arguments.context + 1)
    step = StepBatch((Span(0, arguments.context, tuple(ids[-1:]), 1),))
    model_dir = checkpoint(size)
    plan = Plan(f"random-{size}", model_dir, arguments.weights, [step], held=ids[:-1])
    print(f"==> {size.upper()} in {plan.weights} on {SIMULATOR}", flush=True)
    try:
        driving.run(plan, SIMULATOR, lambda row: print(driving.line(row), flush=True))
    except RunError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
