"""A process that decodes with one implementation, on command.

Run by `bench_decode.py`, two at a time, one of them asleep: so both measure under the same weather.
Reads one command a line on stdin (`decode 8`, `prefill 1024`, `memory`), answers one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import psutil
import torch

from device_service.model.interface import ReadoutOptions, Span, StepBatch
from device_service.model.torch_backend import TorchModel

PROMPT_LENGTH = 64
MAX_SEQUENCES = 32
MAX_ROWS = 512
CONTEXT_LENGTH = 4096
NUM_STEPS = {1: 12, 8: 8, 32: 6}


class Decoder(Protocol):
    """One implementation."""

    def prefill(self, prompts: Sequence[Sequence[int]]) -> list[int]:
        """Starts sequences anew, one a prompt; returns the best next id of each."""
        ...

    def decode(self, token_ids: Sequence[int]) -> list[int]:
        """Runs one id of each sequence; returns the best next id of each."""
        ...


class Tessera:
    """The torch backend, with the readouts that serving uses."""

    def __init__(self, model_dir: Path, num_threads: int) -> None:
        self._model = TorchModel.load(
            model_dir,
            dtype="bfloat16",
            device="cpu",
            num_slots=MAX_SEQUENCES,
            context_length=CONTEXT_LENGTH,
            max_rows=MAX_ROWS,
            num_threads=num_threads,
            report=lambda line: None,
        )
        self._model.warm_up(lambda line: None)
        self._length = 0

    def prefill(self, prompts: Sequence[Sequence[int]]) -> list[int]:
        self._length = len(prompts[0])
        best: list[int] = []
        for slot, prompt in enumerate(prompts):
            for start in range(0, len(prompt), MAX_ROWS):
                part = tuple(prompt[start : start + MAX_ROWS])
                is_last = start + MAX_ROWS >= len(prompt)
                tokens = self._step([Span(slot, start, part, int(is_last), ReadoutOptions())])
            best += tokens
        return best

    def decode(self, token_ids: Sequence[int]) -> list[int]:
        spans = [
            Span(slot, self._length, (token_id,), 1, ReadoutOptions())
            for slot, token_id in enumerate(token_ids)
        ]
        self._length += 1
        return self._step(spans)

    def _step(self, spans: Sequence[Span]) -> list[int]:
        readouts = self._model.step(StepBatch(tuple(spans)))
        num_readouts = len(readouts.slots)
        if not num_readouts:
            return []
        return readouts.candidate_ids.reshape(num_readouts, -1)[:, 0].tolist()


class Transformers:
    """transformers as its own `generate` runs it: sdpa, a growing cache, logits of the last id."""

    def __init__(self, model_dir: Path, num_threads: int) -> None:
        from transformers import AutoModelForCausalLM, logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        torch.set_num_threads(num_threads)
        model = AutoModelForCausalLM.from_pretrained(
            model_dir, dtype=torch.bfloat16, attn_implementation="sdpa"
        )
        self._model: Any = model.eval()
        self._cache: Any = None
        self.decode(self.prefill([[2] * 4]))

    def prefill(self, prompts: Sequence[Sequence[int]]) -> list[int]:
        self._cache = None
        return self._run(torch.tensor(prompts))

    def decode(self, token_ids: Sequence[int]) -> list[int]:
        return self._run(torch.tensor(token_ids)[:, None])

    @torch.inference_mode()
    def _run(self, ids: torch.Tensor) -> list[int]:
        out = self._model(
            input_ids=ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1
        )
        self._cache = out.past_key_values
        return cast("list[int]", out.logits[:, -1].argmax(-1).tolist())


def main() -> None:
    """Loads, says so, and follows commands until stdin ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("implementation", choices=("tessera", "transformers"))
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("num_threads", type=int)
    args = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints goes to stderr
    make = Tessera if args.implementation == "tessera" else Transformers
    decoder = make(args.model_dir, args.num_threads)
    vocab_size = json.loads((args.model_dir / "config.json").read_text())["text_config"][
        "vocab_size"
    ]
    answers.write(json.dumps({"ready": True}) + "\n")
    for line in sys.stdin:
        command, *numbers = line.split()
        answers.write(json.dumps(_measure(decoder, command, numbers, vocab_size)) + "\n")


def _measure(
    decoder: Decoder, command: str, numbers: Sequence[str], vocab_size: int
) -> dict[str, Any]:
    if command == "memory":
        return {"resident_bytes": psutil.Process().memory_info().rss}
    number = int(numbers[0])
    if command == "prefill":
        prompt = _prompt(0, number, vocab_size)
        begin = time.perf_counter()
        decoder.prefill([prompt])
        return {"seconds": [time.perf_counter() - begin]}
    tokens = decoder.prefill([_prompt(x, PROMPT_LENGTH, vocab_size) for x in range(number)])
    tokens = decoder.decode(tokens)  # the first step allocates
    seconds: list[float] = []
    for _ in range(NUM_STEPS[number]):
        begin = time.perf_counter()
        tokens = decoder.decode(tokens)
        seconds.append(time.perf_counter() - begin)
    return {"seconds": seconds}


def _prompt(seed: int, length: int, vocab_size: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return [2, *torch.randint(107, vocab_size, (length - 1,), generator=generator).tolist()]


if __name__ == "__main__":
    main()
