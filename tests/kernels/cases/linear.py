"""The projections, small and at the sizes of E2B and E4B."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from kernels.linear import LinearConfig, LinearHpConfig, linear, linear_hp
from kernels.runtime import Format
from tests.kernels.case import Case, Operand, Size, Tensors

FORMATS: tuple[Format, ...] = ("bf16", "bfp8")
BFP8_REFUSED = {"wolfpine": "bfp8 unpack"}


def operands(k: int, n: int, weights: Format) -> Callable[[torch.Generator], Sequence[Operand]]:
    def make(generator: torch.Generator) -> list[Operand]:
        return [
            Operand("x", torch.randn(32, k, generator=generator)),
            Operand("w", torch.randn(k, n, generator=generator) * k**-0.5, weights),
            Operand("y", torch.empty(32, n), role="write"),
        ]

    return make


def oracle(held: Tensors) -> Tensors:
    return {"y": held["x"] @ held["w"]}


def hp(label: str, config: LinearHpConfig, size: Size) -> Case:
    return Case(
        name=f"linear_hp-{label}-{config.weights}",
        kernel="linear_hp",
        shapes=f"32 × {config.k} · {config.k} × {config.n} {config.weights}",
        grid=config.grid,
        operation=lambda: linear_hp(config),
        operands=operands(config.k, config.n, config.weights),
        oracle=oracle,
        size=size,
        weights=("w",),
        refused=BFP8_REFUSED if config.weights == "bfp8" else {},
    )


def streaming(label: str, config: LinearConfig, size: Size) -> Case:
    return Case(
        name=f"linear-{label}-{config.weights}",
        kernel="linear",
        shapes=f"32 × {config.k} · {config.k} × {config.n} {config.weights}",
        grid=config.grid,
        operation=lambda: linear(config),
        operands=operands(config.k, config.n, config.weights),
        oracle=oracle,
        size=size,
        weights=("w",),
        refused=BFP8_REFUSED if config.weights == "bfp8" else {},
    )


def table(weights: Format) -> list[Case]:
    return [
        hp("one-node", LinearHpConfig(64, 64, (1, 1), weights), "small"),
        hp("uneven", LinearHpConfig(128, 224, (2, 2), weights), "small"),
        hp("more-nodes-than-columns", LinearHpConfig(64, 64, (2, 2), weights), "small"),
        streaming("one-node", LinearConfig(128, 64, (1, 1), 2, 2, weights), "small"),
        streaming("three-blocks", LinearConfig(192, 256, (2, 2), 2, 2, weights), "small"),
        streaming("two-passes", LinearConfig(128, 256, (2, 1), 2, 2, weights), "small"),
        hp("e4b-q", LinearHpConfig(2560, 2048, (8, 8), weights), "full"),
        hp("e4b-qkv", LinearHpConfig(2560, 3072, (11, 10), weights), "full"),
        hp("e4b-gate", LinearHpConfig(2560, 10240, (11, 10), weights), "full"),
        hp("e2b-q", LinearHpConfig(1536, 2048, (8, 8), weights), "full"),
        hp("e2b-gate", LinearHpConfig(1536, 6144, (11, 10), weights), "full"),
        streaming("e4b-down", LinearConfig(10240, 2560, (8, 10), 16, 1, weights), "full"),
        streaming("e4b-gate-n150", LinearConfig(2560, 10240, (8, 8), 16, 5, weights), "full"),
    ]


CASES = [case for weights in FORMATS for case in table(weights)]
