"""Appending in place: tile edges, drafts over an edge, a ring's wrap, idle rows and slots."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kernels.bands import Bands, bands_for
from kernels.kv_append import KvAppendConfig, append_selection, kv_append
from kernels.runtime import N150_GRID, P150_GRID, Grid
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
            Operand("v", values(32, (config.v_first + heads) * d, generator=generator)),
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
        new = {"k": held["k"], "v": held["v"][:, config.v_first * d :]}
        return {f"{x}_cache": appended(new[x], held[f"{x}_cache"]) for x in ("k", "v")}

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
ONE: Places = [(0, 17), *IDLE * 31]
WRAP: Places = [(1, 63), (1, 0), (0, 5), *IDLE * 29]
ONE_EACH: Places = [(slot, (slot * 7) % 32) for slot in range(32)]
RINGS: Places = [(0, 511), (0, 0), (1, 31), (1, 32), (1, 33), *IDLE * 27]


def config(
    slots: int, kv_heads: int, head_dim: int, tiles: int = 1, board: Grid = P150_GRID
) -> KvAppendConfig:
    bands = bands_for(kv_heads, slots * tiles, board)
    return KvAppendConfig(slots, kv_heads, head_dim, bands, tiles)


CASES = [
    case("edges", KvAppendConfig(2, 1, 64, Bands((2, 1))), EDGES, "small"),
    case("drafts", KvAppendConfig(1, 2, 64, Bands((2, 1), (1, 2)), tiles=2), DRAFTS, "small"),
    case("wrap", KvAppendConfig(2, 1, 64, Bands((3, 1)), tiles=2), WRAP, "small"),
    case("one-slot", KvAppendConfig(1, 1, 64, Bands((1, 2))), ONE, "small"),
    case("bands-in-turns", KvAppendConfig(2, 4, 64, Bands((2, 1), (2, 1)), tiles=2), WRAP, "small"),
    case("raw-values", KvAppendConfig(2, 2, 64, Bands((2, 1), (1, 2)), v_first=3), EDGES, "small"),
    case("e2b-sliding", config(32, 1, 256), ONE_EACH, "full"),
    case("e2b-full", config(32, 1, 512), ONE_EACH, "full"),
    case("e4b-sliding", config(32, 2, 256, board=N150_GRID), ONE_EACH, "full"),
    case("e4b-full", config(32, 2, 512), ONE_EACH, "full"),
    case("e4b-ring", config(2, 2, 256, 16, N150_GRID), RINGS, "full"),
    case("e4b-staging", config(32, 2, 256, 2), ONE_EACH, "full"),
    case("12b-staging", config(4, 8, 256, 2), WRAP, "full"),
    case("31b-staging", config(4, 16, 256, 2, N150_GRID), WRAP, "full"),
]
