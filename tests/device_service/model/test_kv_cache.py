"""The KV cache against the plainest one: a dictionary of positions."""

from __future__ import annotations

import random

import pytest
import torch

from device_service.model.kv_cache import KVCache

NUM_KV_HEADS, HEAD_DIM = 2, 4
DEVICE = torch.device("cpu")


def new_cache(ring_size: int, context_length: int) -> KVCache:
    return KVCache(NUM_KV_HEADS, HEAD_DIM, ring_size, context_length, torch.float32, DEVICE)


def entries(num: int) -> tuple[torch.Tensor, torch.Tensor]:
    keys = torch.randn(NUM_KV_HEADS, num, HEAD_DIM)
    return keys, -keys


@pytest.mark.parametrize("seed", range(8))
def test_a_ring_holds_what_was_last_written_however_often_it_wraps_and_rewinds(seed: int):
    choose = random.Random(seed)
    window, max_rows = choose.choice([(4, 3), (300, 7), (150, 40), (20, 200)])
    ring_size, context_length = window - 1 + max_rows, 3000
    cache = new_cache(ring_size, context_length)
    plain: dict[int, torch.Tensor] = {}
    length = mark = 0
    for _ in range(150):
        lowest = 0 if mark <= ring_size else mark - max_rows
        start = choose.choice([length, length, length, choose.randint(min(lowest, length), length)])
        num = min(choose.randint(1, max_rows), context_length - start)
        if num == 0:
            start, num = 0, 1
        keys, values = entries(num)
        cache.write(start, keys, values)
        plain.update({start + x: keys[:, x] for x in range(num)})
        length = start + num
        mark = max(mark if start else 0, length)
        first = max(0, start - window + 1)
        got_keys, got_values = cache.read(first, length)
        expected = torch.stack([plain[x] for x in range(first, length)], dim=1)
        assert torch.equal(got_keys, expected)
        assert torch.equal(got_values, -expected)


def test_a_full_cache_keeps_every_position():
    cache = new_cache(1000, 1000)
    keys, values = entries(1000)
    for start in range(0, 1000, 50):
        cache.write(start, keys[:, start : start + 50], values[:, start : start + 50])
    got_keys, got_values = cache.read(0, 1000)
    assert torch.equal(got_keys, keys)
    assert torch.equal(got_values, values)


def test_a_ring_takes_no_more_memory_however_long_the_sequence():
    cache = new_cache(ring_size=300, context_length=10_000)
    for start in range(0, 10_000, 50):
        cache.write(start, *entries(50))
    assert cache.num_bytes <= 2 * 300 * 2 * NUM_KV_HEADS * HEAD_DIM * 4


def test_a_short_sequence_gives_back_what_a_long_one_took():
    cache = new_cache(10_000, 10_000)
    fresh_bytes = cache.num_bytes
    for start in range(0, 5000, 500):
        cache.write(start, *entries(500))
    assert cache.num_bytes > 10 * fresh_bytes
    keys, values = entries(20)
    cache.write(0, keys, values)
    assert cache.num_bytes == fresh_bytes
    assert torch.equal(cache.read(0, 20)[0], keys)
