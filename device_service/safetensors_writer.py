"""Writes safetensors files as a stream, so that a checkpoint larger than memory can be made.

Knows the file format (8 bytes header length, JSON header, the tensors end to end) and the released
names of shards and their index; knows nothing of what the tensors mean.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ITEM_BYTES = {"BF16": 2, "F32": 4}

ReportProgress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor to write."""

    name: str
    dtype: str
    """A key of `ITEM_BYTES`."""
    shape: tuple[int, ...]
    read: Callable[[], Iterable[bytes]]
    """Its little-endian data in pieces, called when its turn comes."""

    @property
    def num_bytes(self) -> int:
        """The size of its data."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


def write_checkpoint(
    directory: Path, tensors: Sequence[Tensor], max_shard_bytes: int, report: ReportProgress
) -> None:
    """Writes `model.safetensors`, or shards of at most `max_shard_bytes` with their index.

    A tensor larger than `max_shard_bytes` gets a shard of its own.
    """
    shards = _shards(tensors, max_shard_bytes)
    if len(shards) == 1:
        _write_file(directory / "model.safetensors", shards[0], report)
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write_file(directory / name, shard, report)
        weight_map |= dict.fromkeys((tensor.name for tensor in shard), name)
    index = {
        "metadata": {"total_size": sum(tensor.num_bytes for tensor in tensors)},
        "weight_map": weight_map,
    }
    (directory / "model.safetensors.index.json").write_text(
        json.dumps(index, indent=2) + "\n", encoding="utf-8"
    )


def _shards(tensors: Sequence[Tensor], max_shard_bytes: int) -> list[list[Tensor]]:
    shards: list[list[Tensor]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.num_bytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.num_bytes
    return shards


def _write_file(path: Path, tensors: Sequence[Tensor], report: ReportProgress) -> None:
    # Wide items first, so that each tensor is aligned to its items, as mapped readers like it.
    tensors = sorted(tensors, key=lambda tensor: -ITEM_BYTES[tensor.dtype])
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    total = 0
    for tensor in tensors:
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [total, total + tensor.num_bytes],
        }
        total += tensor.num_bytes
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    report(f"writing {path.name}: {len(tensors)} tensors, {total / 1e6:,.0f} MB")
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        written = told = 0
        for tensor in tensors:
            before = written
            for piece in tensor.read():
                written += file.write(piece)
            assert written - before == tensor.num_bytes, tensor.name
            if written * 4 // total > told:
                told = written * 4 // total
                report(f"  {told * 25} %")
