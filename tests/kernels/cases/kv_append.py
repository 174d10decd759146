"""Appending in place: tile edges, drafts over an edge, a ring's wrap, idle rows and slots."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kernels.kv_append import KvAppendConfig, append_selection, kv_append
from tests.kernels.case import Case, Operand, Size, Tensors

Places = Sequence[tuple[int, int] | None]


def values(*shape: int, generator: torch.Generator) -> torch.Tensor:
    """Of many magnitudes, so that a touched neighbour would show."""
    exponent = torch.randint(-20, 20, shape, generator=generator)
    return torch.randn(shape, generator=generator) * 2.0**exponent


def case(label: str, config: KvAppendConfig, places: Places, size: Size) -> Case:
    heads, d, length = config.kv_heads, config.head_dim, config.tiles * 32
    cache = (config.slots * heads * length, d)

    def operands(generator: torch.Generator) -> list[Operand]:
        return [
            Operand("k", values(32, heads * d, generator=generator)),
            Operand("v", values(32, heads * d, generator=generator)),
            Operand("selection", append_selection(places, config.slots, config.tiles)),
            Operand("k_cache", values(*cache, generator=generator), role="update"),
            Operand("v_cache", values(*cache, generator=generator), role="update"),
        ]

    def appended(new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
        cache = old.clone().reshape(config.slots, heads, length, d)
        for row, place in enumerate(places):
            if place is not None:
                cache[place[0], :, place[1]] = new[row].reshape(heads, d)
        return cache.flatten(0, 2)

    def oracle(held: Tensors) -> Tensors:
        return {f"{x}_cache": appended(held[x], held[f"{x}_cache"]) for x in ("k", "v")}

    return Case(
        name=f"kv_append-{label}",
        kernel="kv_append",
        shapes=f"32 rows, {config.slots} slots × {heads} heads × {length} × {d}",
        grid=config.grid,
        operation=lambda: kv_append(config),
        operands=operands,
        oracle=oracle,
        size=size,
        roundings=0.0,
    )


IDLE: list[None] = [None]
EDGES: Places = [(1, 0), None, (0, 31), *IDLE * 29]
DRAFTS: Places = [(0, 30), (0, 31), *IDLE * 20, (0, 32), (0, 33), (0, 0), *IDLE * 7]
WRAP: Places = [(1, 63), (1, 0), (0, 5), *IDLE * 29]
ONE_EACH: Places = [(slot, (slot * 7) % 32) for slot in range(32)]
RINGS: Places = [(0, 511), (0, 0), (1, 31), (1, 32), (1, 33), *IDLE * 27]

CASES = [
    case("edges", KvAppendConfig(2, 1, 64, (2, 1)), EDGES, "small"),
    case("drafts", KvAppendConfig(1, 2, 64, (2, 2), tiles=2), DRAFTS, "small"),
    case("wrap", KvAppendConfig(2, 1, 64, (3, 1), tiles=2), WRAP, "small"),
    case("e2b-sliding", KvAppendConfig(32, 1, 256, (8, 4)), ONE_EACH, "full"),
    case("e2b-full", KvAppendConfig(32, 1, 512, (8, 4)), ONE_EACH, "full"),
    case("e4b-sliding", KvAppendConfig(32, 2, 256, (8, 8)), ONE_EACH, "full"),
    case("e4b-full", KvAppendConfig(32, 2, 512, (11, 10)), ONE_EACH, "full"),
    case("e4b-ring", KvAppendConfig(2, 2, 256, (8, 8), tiles=16), RINGS, "full"),
]
