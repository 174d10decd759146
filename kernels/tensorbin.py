"""A file with one matrix that real ttnn maps as it is: ttnn's own container, written without ttnn.

    8 bytes: size of the header; the header, a FlatBuffer of ttnn 0.69; padding; from 4096 on: tiles

`ttnn.load_tensor(file, device=device)` reads such a file anywhere, and gives the tensor that
`from_torch` would: tiled, interleaved over the DRAM's banks. The header is the one that
`ttnn.dump_tensor` writes for a matrix, field by field; tests/chip compares them. Knows bytes; knows
no ttnn.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch

from kernels.runtime import Format
from kernels.tiles import num_bytes

SUFFIX = ".tensorbin"
HEADER_BYTES = 4096
"""A page, so that the tiles are mapped from its start."""

_DTYPES: Mapping[Format, int] = MappingProxyType({"bf16": 0, "f32": 1, "bfp8": 3, "bfp4": 4})
"""ttnn's numbers of them."""
_DTYPE_AT, _SIZE_AT, _SHAPE_AT = 0x116, 0xD0, 0x160
_DTYPE_PRESENT_AT = 0x106
TEMPLATE = bytes.fromhex(
    "600100000000000014000000000000000c001600040008000c0010000c000000"
    "d40000006c0000007c0000001000000000000a001000040008000c000a000000"
    "400000002400000004000000010000000400000026ffffff0400000002000000"
    "0000000000000000010000000c000000080008000000040008000000ffffffff"
    "52ffffff04000000010000000100000062ffffff040000000200000001000000"
    "01000000010000001000000000000a001000070008000c000a00000000000001"
    "080000001400000000000000000000000000000000000000aaffffff04000000"
    "02000000000000000000000008000e0004000800080000006400000014000000"
    "00000e0014000600070008000c0010000e000000000000021c0000000c000000"
    "3000000004000600040000000000060008000400060000000c00000008000c00"
    "0400080008000000200000002000000002000000200000002000000002000000"
    "0000000000000000"
)


def header(shape: tuple[int, int], fmt: Format) -> bytes:
    """What stands before the tiles of a matrix."""
    filled = bytearray(HEADER_BYTES)
    filled[: len(TEMPLATE)] = TEMPLATE
    struct.pack_into("<Q", filled, 0, HEADER_BYTES - 8)
    struct.pack_into("<Q", filled, _SIZE_AT, num_bytes(shape, fmt))
    struct.pack_into("<II", filled, _SHAPE_AT, *shape)
    filled[_DTYPE_AT] = _DTYPES[fmt]
    if not _DTYPES[fmt]:  # a FlatBuffer leaves out what is its default
        filled[_DTYPE_PRESENT_AT] = 0
    return bytes(filled)


def file_bytes(shape: tuple[int, int], fmt: Format) -> int:
    """The size of such a file."""
    return HEADER_BYTES + num_bytes(shape, fmt)


def map_tiles(file: Path, shape: tuple[int, int], fmt: Format) -> torch.Tensor:
    """The tiles of such a file, mapped: uint8, read when used."""
    size = file_bytes(shape, fmt)
    mapped = torch.from_file(str(file), shared=False, size=size, dtype=torch.uint8)
    return mapped[HEADER_BYTES:]
