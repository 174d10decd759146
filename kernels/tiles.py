"""A matrix as the bytes of its tiles, in the order and the number format of the device's DRAM.

A tile of 32 × 32 is four faces of 16 × 16, rows of a face one behind the other; the tiles of a
matrix lie row by row. bf16 and f32: little-endian values. bfp8 and bfp4: 64 bytes of exponents, one
for each row of a face, then a byte or half a byte a value (the first of a pair in the low half):
sign, then magnitude. Bit for bit what ttnn's own conversion writes; tests/chip compares them.
Knows torch; knows no simulator, no file and no kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kernels.block_float import BFP4_BITS, BFP8_BITS, GROUP, from_block_float, to_block_float
from kernels.runtime import TILE, TILE_BYTES, Format

_CHUNK = 1 << 20
"""Values that are converted at a time: so many stay in a core's caches."""
_PLAIN = {"bf16": (torch.bfloat16, torch.int16), "f32": (torch.float32, torch.int32)}
_MANTISSA_BITS = {"bfp8": BFP8_BITS, "bfp4": BFP4_BITS}
_EXPONENTS = TILE * TILE // GROUP


def num_bytes(shape: Sequence[int], fmt: Format) -> int:
    """What the tiles of a matrix of whole tiles take."""
    rows, columns = shape
    return rows // TILE * (columns // TILE) * TILE_BYTES[fmt]


def to_tiles(matrix: torch.Tensor, fmt: Format) -> torch.Tensor:
    """A matrix as bytes. Quickest where `matrix` is a transposed view, as weights are stored.

    Args:
        matrix: [K, N], whole tiles; floats, finite where `fmt` is a block float. Rounded to the
            format, nearest, ties to even; float32 goes to block floats directly.
        fmt: the format.

    Returns:
        uint8 [K/32, N/32, bytes of a tile].
    """
    k_tiles, n_tiles = (size // TILE for size in matrix.shape)
    assert matrix.shape == (k_tiles * TILE, n_tiles * TILE), matrix.shape
    out = torch.empty(k_tiles, n_tiles, TILE_BYTES[fmt], dtype=torch.uint8)
    columns = matrix.T
    at_once = max(1, _CHUNK // (TILE * matrix.shape[0]))
    for first in range(0, n_tiles, at_once):
        chunk = columns[first * TILE : (first + at_once) * TILE].contiguous()
        _convert(chunk, fmt, out[:, first : first + at_once])
    return out


def from_tiles(tiles: torch.Tensor, shape: Sequence[int], fmt: Format) -> torch.Tensor:
    """The matrix that bytes hold, exactly.

    Args:
        tiles: uint8, of any shape: what `to_tiles` made.
        shape: K, N.
        fmt: the format.

    Returns:
        [K, N]: bfloat16 for bf16, else float32.
    """
    k_tiles, n_tiles = (size // TILE for size in shape)
    tiles = tiles.reshape(k_tiles, n_tiles, TILE_BYTES[fmt])
    if fmt == "bf16" or fmt == "f32":
        values = tiles.view(_PLAIN[fmt][0])
    else:
        exponents = tiles[..., :_EXPONENTS].unsqueeze(-1)
        values = from_block_float(_bytes_to_values(tiles, fmt), exponents, _MANTISSA_BITS[fmt])
    faces = values.view(k_tiles, n_tiles, 2, 2, GROUP, GROUP)
    return faces.permute(0, 2, 4, 1, 3, 5).reshape(k_tiles * TILE, n_tiles * TILE)


def _convert(columns: torch.Tensor, fmt: Format, out: torch.Tensor) -> None:
    """Some columns [32 n, K] into their tiles [K/32, n, …]."""
    n_tiles, k_tiles = columns.shape[0] // TILE, columns.shape[1] // TILE
    if fmt == "bf16" or fmt == "f32":
        dtype, item = _PLAIN[fmt]
        values = columns.to(dtype).view(item).view(n_tiles, 2, GROUP, k_tiles, 2, GROUP)
        out.view(item).view(k_tiles, n_tiles, 2, 2, GROUP, GROUP).copy_(
            values.permute(3, 0, 4, 1, 5, 2)
        )
        return
    bits = _MANTISSA_BITS[fmt]
    values, exponents = to_block_float(columns.view(2 * n_tiles, GROUP, -1), bits, dim=1)
    if fmt == "bfp4":
        values = values[:, 0::2] | values[:, 1::2] << 4
    exponents = exponents.view(n_tiles, 2, k_tiles, 2, GROUP)
    out[..., :_EXPONENTS].unflatten(-1, (2, 2, GROUP)).copy_(exponents.permute(2, 0, 3, 1, 4))
    width = values.shape[1]
    values = values.view(n_tiles, 2, width, k_tiles, 2, GROUP)
    out[..., _EXPONENTS:].unflatten(-1, (2, 2, GROUP, width)).copy_(
        values.permute(3, 0, 4, 1, 5, 2)
    )


def _bytes_to_values(tiles: torch.Tensor, fmt: Format) -> torch.Tensor:
    """Signs and magnitudes [..., 64, 16] of a block float's tiles."""
    values = tiles[..., _EXPONENTS:]
    if fmt == "bfp4":
        values = torch.stack((values & 15, values >> 4), dim=-1)
    return values.reshape(*tiles.shape[:-1], _EXPONENTS, GROUP)
