"""Norm, rotary and the way to units at once: against the same, one after the other, in torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kernels.qkv_units import QkvUnitsConfig, qkv_units
from kernels.runtime import Grid
from kernels.units import chunks_of, filled, to_units, tokens_of
from tests.kernels.case import Case, Operand, Size, Tensors
from tests.kernels.cases.heads import MIXED, ONE_EACH, ONE_SEQUENCE, Step
from tests.kernels.cases.qkv_heads import normed, raw, table, turned, weight


def case(label: str, config: QkvUnitsConfig, step: Step, size: Size) -> Case:
    heads, kv_heads, d, group = config.heads, config.kv_heads, config.head_dim, config.group
    chunks = chunks_of(step, group)
    parts = (1 if config.k_eq_v else 2) if config.own_kv else 0

    def operands(generator: torch.Generator) -> Sequence[Operand]:
        norms = torch.cat([weight(d, generator), weight(d, generator), torch.ones(32, d)])
        outputs = [Operand("units", torch.empty(config.units * 32, d), role="write")]
        if config.own_kv:
            outputs += [Operand(x, torch.empty(32, kv_heads * d), role="write") for x in ("k", "v")]
        return [
            Operand("qkv", raw(heads + parts * kv_heads, d, generator)),
            Operand("to_units", to_units(filled(chunks, config.chunks), group)),
            Operand("tokens", tokens_of(filled(chunks, config.chunks), group)),
            Operand("norms", norms, "f32"),
            Operand("cos", table(d).cos()),
            Operand("sin", table(d).sin()),
            *outputs,
        ]

    def oracle(held: Tensors) -> Tensors:
        head = normed(held["qkv"], d)
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
        return {"units": units.flatten(0, 2), "k": k, "v": head[:, -kv_heads:].flatten(1)}

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


def config(kv_heads: int, head_dim: int, grid: Grid, own_kv: bool = True) -> QkvUnitsConfig:
    return QkvUnitsConfig(8, kv_heads, head_dim, 32, grid, own_kv)


FEW: Step = [*MIXED[:8], *[None] * 24]

CASES = [
    case("two-passes", QkvUnitsConfig(4, 1, 128, 4, (1, 2)), FEW, "small"),
    case("k-eq-v", QkvUnitsConfig(2, 1, 128, 4, (2, 2), k_eq_v=True), FEW, "small"),
    case("shared", QkvUnitsConfig(4, 2, 128, 4, (2, 2), own_kv=False), FEW, "small"),
    case("e2b-sliding", config(1, 256, (8, 4)), ONE_EACH, "full"),
    case("e2b-full", config(1, 512, (8, 4)), MIXED, "full"),
    case("e4b-sliding", config(2, 256, (8, 8)), ONE_EACH, "full"),
    case("e4b-full", config(2, 512, (8, 8)), MIXED, "full"),
    case("e4b-shared", config(2, 256, (8, 8), own_kv=False), ONE_EACH, "full"),
    case("e4b-prompt", QkvUnitsConfig(8, 2, 256, 4, (2, 4)), ONE_SEQUENCE, "full"),
]
