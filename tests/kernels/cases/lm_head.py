"""The output layer: small vocabularies with hard values, and the true ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch

from kernels.lm_head import LmHeadConfig, constants, lm_head, split
from tests.kernels.case import Case, Operand, Size, Tensors

CAP = 30.0
TEMPERATURES = (1.0, 0.7, 2.5, 0.5, 1.3)
Values = Literal["coarse", "normal", "ties", "huge", "negative", "ends"]
ALL = ("best", "place", "sums", "scaled")


def tile(value: float) -> torch.Tensor:
    return torch.full((32, 32), value)


def inverse_temperatures() -> torch.Tensor:
    rows = [split(1 / TEMPERATURES[row % len(TEMPERATURES)]) for row in range(32)]
    return torch.tensor(rows).repeat_interleave(32, 1)


def coarse(shape: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """-1, 0 or 1: their products and sums are exact, and many tie."""
    return torch.randint(-1, 2, shape, generator=generator).float()


def weights(config: LmHeadConfig, values: Values, generator: torch.Generator) -> torch.Tensor:
    """[H, V]; logits have a deviation of about 6, and coarse ones differ by an eighth or more."""
    shape = (config.hidden, config.vocabulary)
    if values == "normal":
        return torch.randn(shape, generator=generator) * 6 * config.hidden**-0.5
    step = 2.0 ** round(math.log2(9 * config.hidden**-0.5))
    w = coarse(shape, generator) * step
    if values == "huge":
        w *= 8
    if values == "ties":  # the same 8 ids again and again
        w = w[:, :8].repeat(1, config.vocabulary // 8)
    if values == "negative":  # as x is positive then
        w = -w.abs()
    if values == "ends":  # the first and the last id beat all others
        w[:, 0] = w[:, -1] = step
    return w


def operands(
    config: LmHeadConfig, values: Values
) -> Callable[[torch.Generator], Sequence[Operand]]:
    def make(generator: torch.Generator) -> list[Operand]:
        x = coarse((32, config.hidden), generator)
        if values == "normal":
            x = torch.randn(32, config.hidden, generator=generator)
        if values in ("negative", "ends"):
            x = x.abs()
        if not config.capped:
            x[3] = 0.0  # every id ties
        softcap = CAP if config.capped else None
        lanes = 32 * config.nodes
        kept = config.vocabulary if config.keep else 32
        return [
            Operand("x", x),
            Operand("w", weights(config, values, generator), config.weights),
            Operand("constants", torch.cat([tile(v) for v in constants(softcap)], 1), "f32"),
            Operand("temperatures", inverse_temperatures(), "f32"),
            Operand("best", torch.empty(32, lanes * config.depth), "f32", "write"),
            Operand("place", torch.empty(32, lanes * config.depth), "f32", "write"),
            Operand("sums", torch.empty(32, lanes), "f32", "write"),
            Operand("scaled", torch.empty(32, lanes), "f32", "write"),
            Operand("kept", torch.empty(32, kept), "f32", "write"),
        ]

    return make


def oracle(config: LmHeadConfig, compared: Sequence[str]) -> Callable[[Tensors], Tensors]:
    nodes, tiles = config.nodes, config.vocabulary // 32

    def expected(held: Tensors) -> Tensors:
        logits = held["x"] @ held["w"]
        if config.capped:
            logits = CAP * torch.tanh(logits / CAP)
        inverse = held["temperatures"][:, :1] + held["temperatures"][:, 32:33]
        found: dict[str, list[torch.Tensor]] = {n: [] for n in ("best", "place", "sums", "scaled")}
        for node in range(nodes):
            first, end = node * tiles // nodes, (node + 1) * tiles // nodes
            lanes = logits[:, 32 * first : 32 * end].reshape(32, -1, 32)
            order = torch.sort(lanes, dim=1, descending=True, stable=True).indices[
                :, : config.depth
            ]
            best = lanes.gather(1, order)
            found["best"].append(best.flatten(1))
            found["place"].append(order.float().flatten(1))
            below = lanes - best[:, :1]
            found["sums"].append(below.exp().sum(1))
            found["scaled"].append((below * inverse[:, :, None]).exp().sum(1))
        outputs = {name: torch.cat(tiles, 1) for name, tiles in found.items()} | {"kept": logits}
        return {name: outputs[name] for name in compared}

    return expected


def case(
    label: str,
    config: LmHeadConfig,
    values: Values = "coarse",
    compared: Sequence[str] = ALL,
    roundings: float = 2.0,
    size: Size = "small",
) -> Case:
    return Case(
        name=f"lm_head-{label}",
        kernel="lm_head",
        shapes=f"32 × {config.hidden} · {config.hidden} × {config.vocabulary} {config.weights}",
        grid=config.grid,
        operation=lambda: lm_head(config),
        operands=operands(config, values),
        oracle=oracle(config, (*compared, "kept") if config.keep else compared),
        size=size,
        roundings=roundings,
        weights=("w",),
        refused={"wolfpine": "accumulation in L1"},
    )


ORDER = ("best", "place")
SUMS = ("sums", "scaled")
ONE, TWO, P150, N150 = (1, 1), (2, 1), (11, 10), (8, 8)
UNCAPPED = LmHeadConfig(64, 128, ONE, capped=False)
CAPPED = LmHeadConfig(64, 128, ONE, depth=2)

# Logits without a cap are exact, and so must all be. A cap's are exact to a step of tf32: coarse
# ones stay in order, and a sum of exponentials at temperature 0.5 is off by up to 3 steps.
CASES = [
    case("one-node", UNCAPPED),
    case("uneven", LmHeadConfig(128, 224, (2, 2), capped=False)),
    case("three-chunks", LmHeadConfig(32, 2272, TWO, capped=False, depth=3, keep=True)),
    case("ties", LmHeadConfig(64, 256, ONE, capped=False, depth=3), "ties"),
    case("bfp8", LmHeadConfig(64, 256, TWO, "bfp8", capped=False, depth=2, keep=True)),
    case("capped", CAPPED, compared=ORDER),
    case("capped-sums", CAPPED, compared=SUMS, roundings=8.0),
    case("bfp4", LmHeadConfig(64, 256, TWO, "bfp4", capped=False, depth=2, keep=True)),
    case("capped-bfp8", LmHeadConfig(64, 256, TWO, "bfp8"), compared=ORDER),
    case("capped-ties", CAPPED, "ties", ORDER),
    case("capped-normal", LmHeadConfig(64, 128, ONE, keep=True), "normal", ("best",)),
    case("beyond-the-cap", CAPPED, "huge", ("best",)),
    case("all-negative", CAPPED, "negative", ORDER),
    case("first-and-last", LmHeadConfig(64, 256, ONE), "ends", ORDER),
    case("gemma3-270m", LmHeadConfig(640, 262144, P150, capped=False, depth=1), size="full"),
    case(
        "e4b-eighth",
        LmHeadConfig(2560, 32768, P150, "bfp8", depth=3, keep=True),
        compared=ORDER,
        size="full",
    ),
    case("e2b-eighth", LmHeadConfig(1536, 32768, P150), compared=ORDER, size="full"),
    case("e4b-n150", LmHeadConfig(2560, 32768, N150, "bfp8"), compared=ORDER, size="full"),
]
