"""Operations of ttnn that the model may lean on, run on a simulated chip: the program in .venv-tt.

python -m tests.chip.state.operations run ROWS.jsonl [NAME…]
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from kernels import runtime
from tests.chip.state.answering import Answer, answer_all

Device = Any
HEADS, LENGTH = 2, 64
POSITIONS = (0, 5, 31, 32, 37)
HEAD_DIMS = (128, 256, 384, 512)


def _indices(values: torch.Tensor, device: Device, layout: str = "ROW_MAJOR_LAYOUT") -> Any:
    ttnn = runtime.ttnn
    return ttnn.from_torch(
        values.int(), dtype=ttnn.uint32, layout=getattr(ttnn, layout), device=device
    )


def _against(got: torch.Tensor, want: torch.Tensor) -> Answer:
    got, want = got.float(), want.float()
    error = (got - want).abs().max().item() / want.abs().max().item()
    pcc = torch.corrcoef(torch.stack([got.flatten(), want.flatten()]))[0, 1].item()
    return {"relative_error": error, "pcc": pcc}


def update_cache(head_dim: int, device: Device) -> Answer:
    """One token of two heads at each of five positions; what else of the cache changed."""
    ttnn = runtime.ttnn
    generator = torch.Generator().manual_seed(head_dim)
    before = torch.randn(1, HEADS, LENGTH, head_dim, generator=generator)
    cache = runtime.put(before, "bf16", device)
    want = runtime.get(cache).clone()
    for position in POSITIONS:
        token = runtime.put(torch.randn(1, HEADS, 1, head_dim, generator=generator), "bf16", device)
        ttnn.kv_cache.update_cache_for_token_(cache, token, position, 0)
        want[:, :, position] = runtime.get(token)[:, :, 0]
    return _changed(runtime.get(cache), want, list(POSITIONS))


def _changed(got: torch.Tensor, want: torch.Tensor, written: list[int]) -> Answer:
    wrong = (got != want).any(-1).any(1).any(0).nonzero().flatten().tolist()
    return {
        "wrong_at_written": [p for p in wrong if p in written],
        "wrong_elsewhere": [p for p in wrong if p not in written],
    }


def paged_update_cache(head_dim: int, device: Device) -> Answer:
    """Two users, each at its own position, which lies on the device."""
    ttnn = runtime.ttnn
    generator = torch.Generator().manual_seed(head_dim)
    users, positions = 2, [5, 37]
    before = torch.randn(users, 1, LENGTH, head_dim, generator=generator)
    cache = runtime.put(before, "bf16", device)
    want = runtime.get(cache).clone()
    new = torch.randn(1, users, 1, head_dim, generator=generator)
    new = torch.nn.functional.pad(new, (0, 0, 0, 31))
    grid = ttnn.CoreRangeSet({ttnn.CoreRange(ttnn.CoreCoord(0, 0), ttnn.CoreCoord(users - 1, 0))})
    shards = ttnn.ShardSpec(grid, [32, head_dim], ttnn.ShardOrientation.ROW_MAJOR)
    memory = ttnn.MemoryConfig(ttnn.TensorMemoryLayout.HEIGHT_SHARDED, ttnn.BufferType.L1, shards)
    tokens = ttnn.from_torch(
        new, dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=device, memory_config=memory
    )
    index = ttnn.from_torch(
        torch.tensor(positions, dtype=torch.int32),
        dtype=ttnn.int32,
        layout=ttnn.ROW_MAJOR_LAYOUT,
        device=device,
    )
    ttnn.experimental.paged_update_cache(cache, tokens, update_idxs_tensor=index)
    for user, position in enumerate(positions):
        want[user, 0, position] = runtime.get(tokens)[0, user, 0]
    return _changed(runtime.get(cache), want, positions)


def embedding(device: Device) -> Answer:
    """32 rows out of a table of 4,096 × 256."""
    ttnn = runtime.ttnn
    table = torch.randn(4096, 256, generator=torch.Generator().manual_seed(0)).bfloat16()
    weight = ttnn.from_torch(
        table, dtype=ttnn.bfloat16, layout=ttnn.ROW_MAJOR_LAYOUT, device=device
    )
    tokens = torch.arange(32)[None] * 127 % 4096
    got = ttnn.embedding(_indices(tokens, device), weight, layout=ttnn.TILE_LAYOUT)
    return _against(runtime.get(got)[0], table[tokens[0]])


def _normal(rows: int, columns: int) -> torch.Tensor:
    values = torch.randn(rows, columns, generator=torch.Generator().manual_seed(1))
    return values.bfloat16().float()


def argmax(device: Device) -> Answer:
    """Over 512 values of 32 rows."""
    ttnn = runtime.ttnn
    x = _normal(32, 512)
    tensor = ttnn.from_torch(x, dtype=ttnn.bfloat16, layout=ttnn.ROW_MAJOR_LAYOUT, device=device)
    got = ttnn.to_torch(ttnn.argmax(tensor, dim=-1)).flatten()
    best = x.amax(-1)
    return {"agree": (x[torch.arange(32), got.long()] == best).float().mean().item()}


def topk(device: Device) -> Answer:
    """The 32 largest of 256, in 32 rows."""
    ttnn = runtime.ttnn
    x = _normal(32, 256)
    values, indices = ttnn.topk(runtime.put(x[None, None], "bf16", device), 32, dim=-1)
    got = runtime.get(values)[0, 0]
    picked = x.gather(-1, ttnn.to_torch(indices)[0, 0].long() % 256)
    answer = _against(got, x.topk(32, -1).values)
    return answer | {"indices_agree": (picked == got).float().mean().item()}


def rms_norm(scale: float, device: Device) -> Answer:
    """Over 512, with a weight, at a given size of its input."""
    ttnn = runtime.ttnn
    x, weight = _normal(32, 512) * scale, 1 + _normal(1, 512) * 0.1
    tensor, gamma = runtime.put(x, "bf16", device), runtime.put(weight, "bf16", device)
    got = ttnn.rms_norm(tensor, epsilon=1e-6, weight=gamma)
    held, w = runtime.get(tensor), runtime.get(gamma)
    want = held * (held.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * w
    return _against(runtime.get(got), want)


def linear(fmt: runtime.Format, device: Device) -> Answer:
    """32 × 256 · 256 × 128."""
    x, w = _normal(32, 256), _normal(256, 128) / 16
    tensor, weight = runtime.put(x, "bf16", device), runtime.put(w, fmt, device)
    got = runtime.ttnn.linear(tensor, weight)
    return _against(runtime.get(got), runtime.get(tensor) @ runtime.get(weight))


def unary(name: str, want: Callable[[torch.Tensor], torch.Tensor], device: Device) -> Answer:
    """One elementwise operation on normal values."""
    x = _normal(32, 128)
    return _against(
        runtime.get(getattr(runtime.ttnn, name)(runtime.put(x, "bf16", device))), want(x)
    )


def add(device: Device) -> Answer:
    """The sum of two tensors."""
    x = _normal(32, 128)
    tensor = runtime.put(x, "bf16", device)
    return _against(runtime.get(runtime.ttnn.add(tensor, tensor)), 2 * x)


OPERATIONS: dict[str, Callable[[Device], Answer]] = {
    **{f"update-cache-{d}": partial(update_cache, d) for d in HEAD_DIMS},
    **{f"paged-update-cache-{d}": partial(paged_update_cache, d) for d in (256, 512)},
    "embedding": embedding,
    "argmax": argmax,
    "topk": topk,
    "rms_norm": partial(rms_norm, 1.0),
    "rms_norm-small": partial(rms_norm, 1e-3),
    "linear-bf16": partial(linear, "bf16"),
    "linear-bfp8": partial(linear, "bfp8"),
    "add": add,
    "gelu": partial(unary, "gelu", torch.nn.functional.gelu),
    "softmax": partial(unary, "softmax", lambda x: x.softmax(-1)),
}

if __name__ == "__main__":
    answer_all(OPERATIONS)
