"""Decode and prefill speed beside transformers, on a random checkpoint of E2B's full size.

    python -m tests.benchmarks.bench_decode [--out FILE] [--dir DIR] [--keep] [--rounds N] [--small]

Same weights, same dtype (bfloat16), same threads and environment, same run: two processes take
turns, round by round, and medians over all rounds are compared. Prints a table; the last line is
JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from device_service.model.checkpoint_tensors import expected_tensors
from device_service.model.config import parse_config
from device_service.model.host import ENVIRONMENT, tune_host
from tests.benchmarks.random_gemma4 import E2B, SMALL, checkpoint_bytes, write_random_checkpoint

IMPLEMENTATIONS = ("tessera", "transformers")
SEQUENCES = (1, 8, 32)
PREFILL_LENGTH = 1024
FREE_DISK_BYTES = 1 << 30
"""Left free beside the checkpoint."""


class Worker:
    """A `decode_worker` process."""

    def __init__(self, implementation: str, model_dir: Path, num_threads: int) -> None:
        command = [sys.executable, "-m", "tests.benchmarks.decode_worker", implementation]
        self._process = subprocess.Popen(
            [*command, str(model_dir), str(num_threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            # The device service sets this for itself; both get it, so that it favours neither.
            env={**ENVIRONMENT, **os.environ},
        )
        self._name = implementation
        self._answer()

    def ask(self, command: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        return self._answer()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"error: the {self._name} process ended: {self._process.wait()}")
        return json.loads(line)


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("bench-decode.json"))
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument(
        "--keep", action="store_true", help="keep the checkpoint, and use a kept one"
    )
    parser.add_argument("--rounds", type=int, default=4, help="turns that each of both takes")
    parser.add_argument("--small", action="store_true", help="a small model: tries the benchmark")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    text_config = SMALL if args.small else E2B
    begin = time.monotonic()
    tune_host()
    num_threads = torch.get_num_threads()
    memory_rate = memory_bytes_per_s()
    with checkpoint(args.dir, text_config, keep=args.keep) as model_dir:
        results = measure(model_dir, text_config, num_threads, args.rounds)
    results["memory_gb_per_s"] = max(memory_rate, memory_bytes_per_s()) / 1e9
    print_table(results, time.monotonic() - begin)
    line = json.dumps({k: rounded(v) for k, v in results.items()}, allow_nan=False)
    args.out.write_text(line + "\n", encoding="utf-8")
    print(line)


@contextlib.contextmanager
def checkpoint(parent: Path, text_config: dict[str, Any], *, keep: bool) -> Iterator[Path]:
    """A directory with the checkpoint; deleted afterwards, unless it is to be kept."""
    size = checkpoint_bytes(text_config)
    kept_dir = parent / f"tessera-random-{size}"
    if keep and (kept_dir / "complete").exists():
        yield kept_dir
        return
    free = shutil.disk_usage(parent).free
    if free < size + FREE_DISK_BYTES:
        raise SystemExit(
            f"error: the checkpoint takes {size / 1e9:.1f} GB and 1 GB must stay free, but {parent}"
            f" has {free / 1e9:.1f} GB; free some, or name another folder with --dir"
        )
    made = Path(tempfile.mkdtemp(prefix="tessera-bench-", dir=parent))
    try:
        write_random_checkpoint(made, text_config, report=say)
        if keep:
            (made / "complete").touch()
            made = made.rename(kept_dir)
        yield made
    finally:
        if not keep or made != kept_dir:
            shutil.rmtree(made, ignore_errors=True)


def measure(
    model_dir: Path,
    text_config: dict[str, Any],
    num_threads: int,
    num_rounds: int,
) -> dict[str, Any]:
    """Everything but the machine's memory rate."""
    commands = [*(f"decode {x}" for x in SEQUENCES), f"prefill {PREFILL_LENGTH}"]
    seconds = {name: {command: list[float]() for command in commands} for name in IMPLEMENTATIONS}
    workers: dict[str, Worker] = {}
    try:
        for name in IMPLEMENTATIONS:
            say(f"loading {name}")
            workers[name] = Worker(name, model_dir, num_threads)
        for command in commands:  # pages and caches warm: not counted
            for name in IMPLEMENTATIONS:
                workers[name].ask(command)
        for number in range(num_rounds):
            say(f"round {number + 1} of {num_rounds}")
            for command in commands:
                # Who goes first changes, so that a machine that slows down harms both.
                for name in IMPLEMENTATIONS[:: 1 if number % 2 else -1]:
                    seconds[name][command] += workers[name].ask(command)["seconds"]
        resident = {
            name: worker.ask("memory")["resident_bytes"] for name, worker in workers.items()
        }
    finally:
        for worker in workers.values():
            worker.close()
    ours, theirs = (rates(seconds[name]) for name in IMPLEMENTATIONS)
    prefill = commands[-1]
    return {
        "tokens_per_s": {str(x): ours[f"decode {x}"] for x in SEQUENCES},
        "transformers_tokens_per_s": {str(x): theirs[f"decode {x}"] for x in SEQUENCES},
        "prefill_tokens_per_s": ours[prefill],
        "transformers_prefill_tokens_per_s": theirs[prefill],
        "read_gb_per_s": ours["decode 1"] * bytes_read_per_token(text_config) / 1e9,
        "resident_gb": resident["tessera"] / 1e9,
        "transformers_resident_gb": resident["transformers"] / 1e9,
        "weights_gb": checkpoint_bytes(text_config) / 1e9,
        "num_threads": num_threads,
    }


def rates(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """Tokens a second for each command: its number over the median time."""
    return {
        command: int(command.split()[1]) / statistics.median(times)
        for command, times in seconds.items()
    }


def bytes_read_per_token(text_config: dict[str, Any]) -> int:
    """Of weights, in bfloat16; a token reads one row of the per-layer table, here left out."""
    config = parse_config(text_config)
    return 2 * sum(
        torch.Size(shape).numel()
        for name, shape in expected_tensors(config).items()
        if name != "embed_tokens_per_layer.weight"
    )


def memory_bytes_per_s() -> float:
    """How fast the machine reads: the best of several sums over 2 GB, with all threads."""
    values = torch.ones(1 << 29)
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        values.sum()
        best = min(best, time.perf_counter() - begin)
    return values.nbytes / best


def print_table(results: Mapping[str, Any], seconds: float) -> None:
    """For people."""
    print(f"\n{'tokens/s':<24}{'tessera':>10}{'transformers':>14}{'ratio':>8}")
    for number in map(str, SEQUENCES):
        ours = results["tokens_per_s"][number]
        theirs = results["transformers_tokens_per_s"][number]
        print(
            f"{f'decode, sequences: {number}':<24}{ours:>10.1f}{theirs:>14.1f}{ours / theirs:>8.2f}"
        )
    ours, theirs = results["prefill_tokens_per_s"], results["transformers_prefill_tokens_per_s"]
    print(f"{f'prefill of {PREFILL_LENGTH}':<24}{ours:>10.1f}{theirs:>14.1f}{ours / theirs:>8.2f}")
    print(
        f"\nweights read at one sequence: {results['read_gb_per_s']:.1f} GB/s"
        f" of {results['memory_gb_per_s']:.1f} GB/s that the memory gives a plain sum"
        f"\nresident: {results['resident_gb']:.1f} GB (transformers"
        f" {results['transformers_resident_gb']:.1f} GB), weights {results['weights_gb']:.1f} GB"
        f"\n{results['num_threads']} threads, {seconds / 60:.1f} minutes\n"
    )


def rounded(value: Any) -> Any:
    """Three decimals are more than the measurements hold."""
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    return round(value, 3) if isinstance(value, float) else value


def say(line: str) -> None:
    """Progress goes to stderr: stdout is the report."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
