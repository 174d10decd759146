"""Norm, rotary and the way to units at once: against the same, one after the other, in torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from kernels.bands import Bands
from kernels.qkv_units import QkvUnitsConfig, qkv_units, units_bands
from kernels.runtime import N150_GRID, P150_GRID, Grid
from kernels.units import chunks_of, filled, to_units, tokens_of
from tests.kernels.case import Case, Operand, Size, Tensors
from tests.kernels.cases.heads import MIXED, ONE_EACH, ONE_SEQUENCE, Step
from tests.kernels.cases.qkv_heads import normed, raw, table, turned, weight


def padding(d: int, config: QkvUnitsConfig) -> torch.Tensor:
    """1 for a head's values, 0 where each of its halves is padded behind."""
    true = (config.mean_over or d) // 2
    return (torch.arange(d // 2) < true).float().repeat(2)


def case(label: str, config: QkvUnitsConfig, step: Step, size: Size) -> Case:
    heads, kv_heads, d, group = config.heads, config.kv_heads, config.head_dim, config.group
    chunks = chunks_of(step, group)
    parts = (1 if config.k_eq_v else 2) if config.own_kv else 0
    width = heads + parts * kv_heads
    there = padding(d, config)
    made = ("k", "v") if config.value_norm else ("k",)

    def operands(generator: torch.Generator) -> Sequence[Operand]:
        norms = torch.cat([weight(d, generator), weight(d, generator), torch.ones(32, d)])
        outputs = [Operand("units", torch.empty(config.units * 32, d), role="write")]
        if config.own_kv:
            outputs += [Operand(x, torch.empty(32, kv_heads * d), role="write") for x in made]
        return [
            Operand("qkv", raw(width, d, generator) * there.repeat(width)),
            Operand("to_units", to_units(filled(chunks, config.chunks), group)),
            Operand("tokens", tokens_of(filled(chunks, config.chunks), group)),
            Operand("norms", norms, "f32"),
            Operand("cos", table(d).cos()),
            Operand("sin", table(d).sin()),
            *outputs,
        ]

    def oracle(held: Tensors) -> Tensors:
        head = normed(held["qkv"], d, config.mean_over)
        q_norm, k_norm = held["norms"][0], held["norms"][32]
        q = turned(head[:, :heads] * q_norm, held["cos"], held["sin"])
        q = q.reshape(32, kv_heads, group, d)
        units = torch.zeros(config.chunks, kv_heads, 32, d)
        for c, chunk in enumerate(chunks):
            for r, row in enumerate(chunk.rows):
                units[c, :, r * group : (r + 1) * group] = q[row]
        if not config.own_kv:
            return {"units": units.flatten(0, 2)}
        k = turned(head[:, heads:][:, :kv_heads] * k_norm, held["cos"], held["sin"])
        wanted = {"units": units.flatten(0, 2), "k": k, "v": head[:, -kv_heads:].flatten(1)}
        return {name: wanted[name] for name in ("units", *made)}

    return Case(
        name=f"qkv_units-{label}",
        kernel="qkv_units",
        shapes=f"32 × ({heads} + {parts} · {kv_heads}) heads of {d}, {config.units} units",
        grid=config.grid,
        operation=lambda: qkv_units(config),
        operands=operands,
        oracle=oracle,
        size=size,
    )


def config(
    sizes: tuple[int, int, int], chunks: int = 32, board: Grid = P150_GRID, **options: Any
) -> QkvUnitsConfig:
    """Heads, kv heads, head_dim."""
    heads, kv_heads, head_dim = sizes
    bands = units_bands(kv_heads, chunks, board, options.get("own_kv", True))
    return QkvUnitsConfig(heads, kv_heads, head_dim, chunks, bands, **options)


FEW: Step = [*MIXED[:8], *[None] * 24]
ONE: Step = [0, *[None] * 31]

CASES = [
    case("two-passes", QkvUnitsConfig(4, 1, 128, 4, Bands((1, 2))), FEW, "small"),
    case("k-eq-v", QkvUnitsConfig(2, 1, 128, 4, Bands((2, 2)), k_eq_v=True), FEW, "small"),
    case("shared", QkvUnitsConfig(4, 2, 128, 4, Bands((2, 1), (1, 2)), own_kv=False), FEW, "small"),
    case("one-chunk", QkvUnitsConfig(2, 1, 128, 1, Bands((2, 1))), ONE, "small"),
    case("idle-in-last-pass", QkvUnitsConfig(4, 1, 128, 4, Bands((3, 1))), FEW, "small"),
    case("bands-in-turns", QkvUnitsConfig(4, 4, 128, 3, Bands((1, 2), (2, 1))), FEW[:5], "small"),
    case(
        "padded-raw-values",
        QkvUnitsConfig(4, 2, 128, 3, Bands((2, 1), (1, 2)), mean_over=64, value_norm=False),
        FEW[:4],
        "small",
    ),
    case("e2b-sliding", config((8, 1, 256)), ONE_EACH, "full"),
    case("e2b-full", config((8, 1, 512)), MIXED, "full"),
    case("e4b-sliding", config((8, 2, 256), board=N150_GRID), ONE_EACH, "full"),
    case("e4b-full", config((8, 2, 512)), MIXED, "full"),
    case("e4b-shared", config((8, 2, 256), own_kv=False), ONE_EACH, "full"),
    case("e4b-prompt", config((8, 2, 256), 8, N150_GRID), ONE_SEQUENCE, "full"),
    case("e4b-one-slot", config((8, 2, 256), 1), ONE, "full"),
    case("12b-sliding", config((16, 8, 256), 4), FEW[:4], "full"),
    case("12b-full", config((16, 1, 512), 4, k_eq_v=True), FEW[:4], "full"),
    case("31b-sliding", config((32, 16, 256), 2, N150_GRID), ONE, "full"),
]
