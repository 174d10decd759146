"""One safetensors file, memory-mapped: its header checked, its tensors views of the mapping.

Knows the file format; knows no model. Pages are read when a tensor's values are, so a table of
gigabytes of which few rows are looked up stays on disk.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import cast

import torch

DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
)
"""Stored types that are served."""

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit


class CheckpointError(ValueError):
    """A checkpoint's files are missing, damaged, or not those of the configured model."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One entry of a file's header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    """First byte, from the start of the file."""
    end: int


class SafetensorsFile:
    """A mapped file and its header.

    Raises:
        CheckpointError: the file is missing, truncated, or its header is damaged.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            with file.open("rb") as stream:
                self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        except FileNotFoundError as error:
            raise CheckpointError(f"{file} is missing") from error
        except (OSError, ValueError) as error:  # ValueError: mmap of an empty file
            raise CheckpointError(f"{file} cannot be mapped: {error}") from error
        self.tensors = _read_header(file, self._map)

    def tensor(self, name: str) -> torch.Tensor:
        """The stored values as a view of the mapping (private to this process, so writable)."""
        entry = self.tensors[name]
        if entry.begin == entry.end:
            return torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
        dtype = DTYPES[entry.dtype]
        flat = torch.frombuffer(
            self._map,
            dtype=dtype,
            count=(entry.end - entry.begin) // dtype.itemsize,
            offset=entry.begin,
        )
        return flat.view(entry.shape)

    def sample(self, name: str, num_bytes: int) -> bytes:
        """Up to `num_bytes` of the stored bytes: the first, the middle and the last thirds."""
        entry = self.tensors[name]
        size, part = entry.end - entry.begin, num_bytes // 3
        if size <= num_bytes:
            return self._map[entry.begin : entry.end]
        starts = (0, (size - part) // 2, size - part)
        return b"".join(self._map[entry.begin + x : entry.begin + x + part] for x in starts)

    def release_pages(self) -> None:
        """Lets the system drop the pages read so far; they are read again when used again."""
        self._map.madvise(mmap.MADV_DONTNEED)


def _read_header(file: Path, content: mmap.mmap) -> Mapping[str, StoredTensor]:
    size = len(content)
    if size < _LENGTH_BYTES:
        raise CheckpointError(f"{file} is truncated: {size} bytes, no header")
    (header_size,) = struct.unpack("<Q", content[:_LENGTH_BYTES])
    data_begin = _LENGTH_BYTES + header_size
    if header_size > _MAX_HEADER_BYTES or data_begin > size:
        raise CheckpointError(
            f"{file} is no safetensors file, or truncated:"
            f" a header of {header_size} bytes in a file of {size}"
        )
    try:
        header: object = json.loads(
            content[_LENGTH_BYTES:data_begin], object_pairs_hook=_no_duplicates
        )
    except _DuplicateNameError as error:
        raise CheckpointError(f"{file} holds tensor {error} twice") from error
    except ValueError as error:
        raise CheckpointError(f"{file} has a damaged header: not JSON") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{file} has a damaged header: not a JSON object")
    entries = cast("dict[str, object]", header)
    tensors = {
        name: _entry(file, name, entry, data_begin)
        for name, entry in entries.items()
        if name != "__metadata__"
    }
    for entry in tensors.values():
        if entry.end > size:
            raise CheckpointError(
                f"{file} is truncated: tensor {entry.name} ends at byte {entry.end} of {size}"
            )
    return MappingProxyType(tensors)


class _DuplicateNameError(ValueError):
    """A JSON object holds a name twice."""


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values: dict[str, object] = {}
    for name, value in pairs:
        if name in values:
            raise _DuplicateNameError(name)
        values[name] = value
    return values


def _entry(file: Path, name: str, raw: object, data_begin: int) -> StoredTensor:
    fields = cast("dict[str, object]", raw) if isinstance(raw, dict) else {}
    dtype, shape = fields.get("dtype"), _sizes(fields.get("shape"))
    offsets = _sizes(fields.get("data_offsets"))
    if not isinstance(dtype, str) or shape is None or offsets is None or len(offsets) != 2:
        raise CheckpointError(f"{file} has a damaged header: the entry of tensor {name}")
    begin, end = offsets
    if dtype in DTYPES and end - begin != math.prod(shape) * DTYPES[dtype].itemsize:
        raise CheckpointError(
            f"{file} has a damaged header: tensor {name} of type {dtype} and shape {list(shape)}"
            f" takes {end - begin} bytes"
        )
    return StoredTensor(name, dtype, shape, data_begin + begin, data_begin + end)


def _sizes(raw: object) -> tuple[int, ...] | None:
    items = cast("list[object]", raw) if isinstance(raw, list) else None
    if items is None:
        return None
    sizes = [item for item in items if isinstance(item, int) and item >= 0]
    return tuple(sizes) if len(sizes) == len(items) else None
