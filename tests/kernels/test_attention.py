"""A row's attention is its sequence's alone, bit for bit; and what an attention config refuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from kernels import runtime
from kernels.attention import AttentionConfig, attention
from kernels.units import STAGED, Chunk, chunk_masks
from tests.kernels.unseen import SURROUNDINGS, output


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_what_a_row_does_not_see_leaves_no_trace(name: str) -> None:
    """Eight rows see staging only, eight others the cache only: whole parts are unseen."""
    device = runtime.open_device()
    around = SURROUNDINGS[name]
    assert torch.equal(output(around, device), output(around.alone, device))


D, GROUP, FIRST, ROWS = 32, 4, 140, 32


def attended(starts: Sequence[int], window: int | None, stride: int, s: int) -> torch.Tensor:
    """o of 32 rows from position 140 on, in steps that begin at `starts`: [32 · group, D]."""
    generator = torch.Generator().manual_seed(0)
    keys, values = torch.randn(2, FIRST + ROWS, D, generator=generator)
    q = torch.randn(ROWS * GROUP, D, generator=generator)
    device = runtime.open_device()
    found: list[torch.Tensor] = []
    for start, end in zip(starts, [*starts[1:], FIRST + ROWS], strict=True):
        flushed = start // 32 * 32
        positions = list(range(start, end))
        chunks = [
            Chunk(0, tuple(range(i, min(i + 8, end - start)))) for i in range(0, end - start, 8)
        ]
        config = AttentionConfig(1, 1, s, stride, D, (2, 2), 64, waves=len(chunks))
        rows = q[(start - FIRST) * GROUP : (end - FIRST) * GROUP]
        padded = torch.zeros(len(chunks) * 32, D)
        padded[: len(rows)] = rows
        caches = [_ring(x, flushed, stride) for x in (keys, values)]
        stagings = [_ring(x, end, STAGED) for x in (keys, values)]
        tensors: list[Any] = [
            runtime.put(t, "bf16", device)
            for t in (
                padded,
                *caches,
                *stagings,
                *chunk_masks(chunks, positions, GROUP, s, stride, window),
                torch.zeros(config.scratch_shape),
                torch.zeros_like(padded),
            )
        ]
        attention(config)(*tensors)
        found.append(runtime.get(tensors[-1])[: len(rows)])
    return torch.cat(found)


def _ring(x: torch.Tensor, end: int, places: int) -> torch.Tensor:
    """Positions below `end`, each at its place, the later over the earlier."""
    ring = torch.full((places, x.shape[1]), 7.0)
    for position in range(end):
        ring[position % places] = x[position]
    return ring


@pytest.mark.parametrize(("window", "stride", "s"), [(None, 256, 128), (64, 64, 64)])
def test_a_prompt_may_be_cut_anywhere(window: int | None, stride: int, s: int) -> None:
    """From 160 on a row finds 32 positions more in the cache; the steps flush when they like."""
    whole = attended([FIRST], window, stride, s)
    assert torch.equal(attended([140, 147, 159, 161], window, stride, s), whole)
    assert torch.equal(attended([140, 160], window, stride, max(s, min(stride, 192))), whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slots": 0}, "slots = 0: at least 1"),
        ({"waves": -1}, "waves = -1: at least 1"),
        ({"s": 192}, "s = 192 is no multiple of 128"),
        ({"s": 96, "part": 64}, "s = 96 is no multiple of 64"),
        ({"stride": 160}, "stride = 160 is no multiple of 64"),
        ({"part": 32}, "part = 32 is no multiple of 64"),
        ({"s": 512}, "s = 512 is more than stride = 256"),
        ({"s": 192, "stride": 320}, "part = 128 does not divide s = 192"),
        ({"grid": (1, 1)}, "at least 2 nodes"),
        ({"d": 48}, "d = 48 is no multiple of 32"),
        ({"d": 2048}, "d = 2048 takes"),
    ],
)
def test_a_config_says_what_it_refuses(change: dict[str, Any], message: str) -> None:
    fitting: dict[str, Any] = {
        "slots": 1,
        "kv_heads": 1,
        "s": 128,
        "stride": 256,
        "d": 64,
        "grid": (2, 1),
        "part": 128,
    }
    AttentionConfig(**fitting)
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        AttentionConfig(**(fitting | change))


def test_parts_of_a_short_bucket_are_one_and_staging() -> None:
    config = AttentionConfig(2, 4, 128, 512, 32, (2, 1), 256, waves=3)
    assert (config.units, config.parts, config.groups) == (24, 2, 0)
    assert config.scratch_shape == (24 * 2 * 32, 160)


def test_only_a_long_cache_has_groups_however_little_of_it_is_read() -> None:
    configs = [
        AttentionConfig(1, 1, s, stride, 512, (2, 1), 1024)
        for s, stride in ((16384, 16384), (17408, 17408), (1024, 17408))
    ]
    assert [(c.parts, c.groups, c.columns) for c in configs] == [(17, 0, 4), (18, 2, 8), (2, 1, 8)]
