"""Norm and rotary of raw projections: tiny and large rows, both layer kinds, shared layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from kernels.qkv_heads import QkvHeadsConfig, q_heads, qkv_heads
from kernels.runtime import Grid
from tests.kernels.case import Case, Operand, Size, Tensors

EPS = 1e-6


def table(head_dim: int) -> torch.Tensor:
    """Angles of 32 tokens; full layers (D 512) turn their first 64 pairs alone."""
    position = torch.arange(32.0) * 37
    position[:5] = torch.tensor([0.0, 1.0, 511.0, 512.0, 131071.0])
    pair = torch.arange(head_dim // 2)
    theta, turning = {256: (1e4, 128), 512: (1e6, 64)}.get(head_dim, (1e4, head_dim // 4))
    return position[:, None] * torch.where(pair < turning, theta ** (-2.0 * pair / head_dim), 0.0)


def raw(heads: int, head_dim: int, generator: torch.Generator) -> torch.Tensor:
    """Normal values; rows of zeros, of squares far below eps, near it, and of large values."""
    x = torch.randn(32, heads * head_dim, generator=generator)
    x[5] = 0.0
    x[7] *= 1e-6
    x[8] *= 1e-3
    x[9] *= 1e3
    x[11, ::17] *= 50.0
    return x


def weight(head_dim: int, generator: torch.Generator) -> torch.Tensor:
    return (1 + 0.5 * torch.randn(1, head_dim, generator=generator)).repeat(32, 1)


def normed(x: torch.Tensor, head_dim: int, mean_over: int = 0) -> torch.Tensor:
    head = x.reshape(32, -1, head_dim)
    mean = head.square().sum(-1, keepdim=True) / (mean_over or head_dim)
    return head * (mean + EPS).rsqrt()


def turned(head: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    low, high = head.chunk(2, -1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat([low * cos - high * sin, high * cos + low * sin], -1).flatten(1)


def q_operands(config: QkvHeadsConfig) -> Callable[[torch.Generator], Sequence[Operand]]:
    heads, d = config.heads, config.head_dim
    return lambda g: [
        Operand("qkv", raw(heads, d, g)),
        Operand("q_norm", weight(d, g), "f32"),
        Operand("cos", table(d).cos()),
        Operand("sin", table(d).sin()),
        Operand("q", torch.empty(32, heads * d), role="write"),
    ]


def q_oracle(config: QkvHeadsConfig) -> Callable[[Tensors], Tensors]:
    def oracle(held: Tensors) -> Tensors:
        unit = normed(held["qkv"], config.head_dim) * held["q_norm"][0]
        return {"q": turned(unit, held["cos"], held["sin"])}

    return oracle


def q_case(label: str, heads: int, head_dim: int, grid: Grid, size: Size) -> Case:
    config = QkvHeadsConfig(heads, 0, head_dim, grid)
    return Case(
        name=f"q_heads-{label}",
        kernel="q_heads",
        shapes=f"32 × {heads} heads of {head_dim}",
        grid=grid,
        operation=lambda: q_heads(config),
        operands=q_operands(config),
        oracle=q_oracle(config),
        size=size,
    )


def qkv_operands(config: QkvHeadsConfig) -> Callable[[torch.Generator], Sequence[Operand]]:
    heads, kv_heads, d = config.heads, config.kv_heads, config.head_dim
    parts = 1 if config.k_eq_v else 2
    return lambda g: [
        Operand("qkv", raw(heads + parts * kv_heads, d, g)),
        Operand("q_norm", weight(d, g), "f32"),
        Operand("k_norm", weight(d, g), "f32"),
        Operand("cos", table(d).cos()),
        Operand("sin", table(d).sin()),
        Operand("q", torch.empty(32, heads * d), role="write"),
        Operand("k", torch.empty(32, kv_heads * d), role="write"),
        Operand("v", torch.empty(32, kv_heads * d), role="write"),
    ]


def qkv_oracle(config: QkvHeadsConfig) -> Callable[[Tensors], Tensors]:
    def oracle(held: Tensors) -> Tensors:
        unit = normed(held["qkv"], config.head_dim)
        q, k = unit[:, : config.heads], unit[:, config.heads :][:, : config.kv_heads]
        v = unit[:, -config.kv_heads :]
        return {
            "q": turned(q * held["q_norm"][0], held["cos"], held["sin"]),
            "k": turned(k * held["k_norm"][0], held["cos"], held["sin"]),
            "v": v.flatten(1),
        }

    return oracle


def case(label: str, config: QkvHeadsConfig, size: Size) -> Case:
    return Case(
        name=f"qkv_heads-{label}",
        kernel="qkv_heads",
        shapes=f"32 × ({config.heads} + 2 · {config.kv_heads}) heads of {config.head_dim}",
        grid=config.grid,
        operation=lambda: qkv_heads(config),
        operands=qkv_operands(config),
        oracle=qkv_oracle(config),
        size=size,
    )


CASES = [
    case("one-each", QkvHeadsConfig(2, 1, 128, (2, 2)), "small"),
    case("k-eq-v", QkvHeadsConfig(1, 1, 128, (2, 2), k_eq_v=True), "small"),
    case("e2b-sliding", QkvHeadsConfig(8, 1, 256, (5, 2)), "full"),
    case("e2b-full", QkvHeadsConfig(8, 1, 512, (5, 2)), "full"),
    case("e4b-sliding", QkvHeadsConfig(8, 2, 256, (4, 3)), "full"),
    case("e4b-full", QkvHeadsConfig(8, 2, 512, (4, 3)), "full"),
    case("12b-full", QkvHeadsConfig(16, 1, 512, (6, 3), k_eq_v=True), "full"),
    q_case("one-node", 1, 128, (1, 1), "small"),
    q_case("idle-node", 2, 128, (3, 1), "small"),
    q_case("sliding", 8, 256, (4, 2), "full"),
    q_case("full", 8, 512, (4, 2), "full"),
]
