"""An answer served by both programs from a simulated chip, beside what the torch backend says.

The torch backend in bfloat16 reads the served answer as a whole, and says at every position which
token it would have chosen after the same beginning. Where its best and the served token are nearer
to each other than `judging.TIE` times what bfloat16 alone moves a logit of that row (the root mean
square of its distance from float32), it is a tie. Knows the programs by deploy.local only.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from deploy.local import place_of, running_services
from device_service.model.interface import ReadoutOptions, Span, StepBatch
from device_service.model.torch_backend import Dtype, TorchModel
from gateway.tokenizer import Tokenizer
from tessera.gateway.v1 import gateway_pb2
from tests.chip.environment import CACHE
from tests.chip.steps.judging import TIE
from tests.processes import gateway_stub

Told = dict[str, Any]
CONTEXT_LENGTH = 128
ANSWER_SECONDS = 7200.0


def answer(model_dir: Path, simulator: str, prompt: str, num_tokens: int) -> Told:
    """Serves a greedy answer; tells its tokens with the seconds at which each came."""
    place = place_of("tt", simulator)
    flags = {**place.flags, "slots": "1", "context-length": str(CONTEXT_LENGTH)}
    begun = time.monotonic()
    with (
        running_services(
            model_dir,
            device_flags=flags,
            device_python=place.python,
            device_variables=place.variables,
            start_seconds=place.start_seconds,
            log_dir=_log_dir(),
        ) as services,
        gateway_stub(services) as stub,
    ):
        serving = time.monotonic()
        request = gateway_pb2.GenerateRequest(
            text=prompt,
            sampling=gateway_pb2.Sampling(temperature=0),
            limits=gateway_pb2.Limits(max_tokens=num_tokens, ignore_eos=True),
            output=gateway_pb2.Output(token_ids=True),
        )
        pieces: list[Told] = []
        prompt_tokens = 0
        for event in stub.Generate(request, timeout=ANSWER_SECONDS):
            if event.HasField("started"):
                prompt_tokens = event.started.prompt_tokens
            if event.HasField("delta"):
                seconds = time.monotonic() - serving
                ids = list(event.delta.token_ids)
                pieces.append({"token_ids": ids, "text": event.delta.text, "seconds": seconds})
        log = services.device.output()
    return {
        "prompt": prompt,
        "prompt_tokens": prompt_tokens,
        "token_ids": [i for piece in pieces for i in piece["token_ids"]],
        "text": "".join(piece["text"] for piece in pieces),
        "pieces": pieces,
        "start_seconds": serving - begun,
        "log": log,
    }


def choices(model_dir: Path, prompt: str, token_ids: Sequence[int]) -> list[Told]:
    """What the torch backend says of each served token."""
    ids = Tokenizer.from_directory(model_dir).encode(prompt, add_bos=True)
    read = [*ids, *token_ids[:-1]]
    ours = _logits(model_dir, "bfloat16", read)[-len(token_ids) :]
    exact = _logits(model_dir, "float32", read)[-len(token_ids) :]
    told: list[Told] = []
    for served, row, wide in zip(token_ids, ours, exact, strict=True):
        best = int(row.argmax())
        gap, width = (
            float(row[best] - row[served]),
            TIE * float((row - wide).square().mean().sqrt()),
        )
        told.append({"served": served, "torch": best, "gap": gap, "tie_width": width})
    return told


def _logits(model_dir: Path, dtype: Dtype, ids: Sequence[int]) -> torch.Tensor:
    """[T, V], in one step of the torch backend."""
    model = TorchModel.load(
        model_dir,
        dtype=dtype,
        device="cpu",
        num_slots=1,
        context_length=CONTEXT_LENGTH,
        max_rows=CONTEXT_LENGTH,
        num_threads=1,
        report=lambda _: None,
    )
    with closing(model):
        model.step(StepBatch((Span(0, 0, tuple(ids), len(ids), ReadoutOptions(4)),)))
        return torch.from_numpy(model.full_rows(0).copy())


def _log_dir() -> Path:
    folder = CACHE / "served"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "device.log").unlink(missing_ok=True)
    return folder


def file_of(name: str) -> Path:
    """Where what was served is kept for the report."""
    return CACHE / f"served-{name}.json"


def keep(name: str, told: Told) -> None:
    file_of(name).write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")


def read(name: str) -> Told | None:
    """What `keep` kept."""
    file = file_of(name)
    return json.loads(file.read_text()) if file.exists() else None
