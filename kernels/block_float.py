"""Rounding to the chip's block floats, in torch: what a weight becomes when it is stored so.

bfp8 and bfp4 store 16 neighbours of a row (one row of a tile's 16 × 16 face) with the largest
exponent among them, and for each a sign and seven or three bits. Bit for bit ttnn's own conversion;
tests/chip compares them. Knows torch; knows no simulator and no kernel.
"""

from __future__ import annotations

import torch

GROUP = 16
"""Values that share an exponent."""

BFP8_BITS, BFP4_BITS = 7, 3


def round_to_block_float(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Values as a block float holds them.

    Aligned to the group's largest exponent within 24 bits, what falls out lost; then rounded to
    nearest, ties to even; what rounds up past the bits stays at the largest. Denormals are zero.

    Args:
        values: [..., n], n a multiple of 16; finite.
        bits: of a mantissa: `BFP8_BITS` or `BFP4_BITS`.

    Returns:
        float32, of the same shape.
    """
    groups = values.float().reshape(*values.shape[:-1], -1, GROUP)
    size = groups.abs()
    size = torch.where(size < torch.finfo(torch.float32).tiny, 0.0, size)
    _, exponent = torch.frexp(size.amax(-1, keepdim=True))
    one = torch.ones_like(size[..., :1])
    aligned = torch.floor(size / torch.ldexp(one, exponent - 24)) * 2.0 ** (bits - 24)
    mantissa = torch.round(aligned).clamp(max=2**bits - 1)
    result = mantissa * torch.ldexp(one, exponent - bits)
    return torch.where(groups < 0, -result, result).add(0.0).reshape(values.shape)


def to_block_float(values: torch.Tensor, bits: int, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Values as a block float stores them: the bits of `round_to_block_float`'s.

    Args:
        values: floats, finite; 16 values along `dim`.
        bits: of a mantissa: `BFP8_BITS` or `BFP4_BITS`.
        dim: along which 16 values are a group.

    Returns:
        uint8 of the same shape, sign (bit `bits`) and magnitude; and uint8 without `dim`: each
        group's exponent as float32 has it, 0 for a group of zeros.
    """
    size = values.float()
    if values.dtype is torch.float32:
        size = size.clone()
    exponents = _exponents(size, dim)
    smallest = int(exponents.min())
    if smallest < _SMALL:
        size[size.abs() < torch.finfo(torch.float32).tiny] = 0.0
    scaled_to = exponents.clamp(min=_SMALL)
    size *= _power_of_two(bits + 126 - scaled_to)
    if smallest < _SMALL:
        size *= _power_of_two(scaled_to - exponents)
    if values.dtype is not torch.bfloat16:  # whose 8 bits fall out only where they round to 0
        size = (size * 2.0 ** (24 - bits)).trunc_() * 2.0 ** (bits - 24)
    largest = 2**bits - 1
    rounded = size.round_().clamp_(-largest, largest).to(torch.int8)
    signed = rounded.abs() | (rounded >> 7 & 1 << bits)
    return signed.view(torch.uint8), exponents.squeeze(dim).to(torch.uint8)


def from_block_float(values: torch.Tensor, exponents: torch.Tensor, bits: int) -> torch.Tensor:
    """What `to_block_float` stored, in float32.

    Args:
        values: uint8, sign and magnitude.
        exponents: uint8 that broadcasts to `values`.
        bits: of a mantissa.
    """
    magnitude = (values & 2**bits - 1).float()
    exponent = exponents.int() - 126 - bits
    # In two steps: the smallest power is no float32 of its own.
    half = exponent // 2
    size = magnitude * _power_of_two(half) * _power_of_two(exponent - half)
    return torch.where(values > 2**bits - 1, -size, size).add_(0.0)


_SMALL = 16
"""Below this exponent a group's scale is not a float32, or it may hold denormals."""


def _exponents(size: torch.Tensor, dim: int) -> torch.Tensor:
    """Of the largest of each group, as float32 has it: int32; 0 for zeros and denormals."""
    return size.abs().amax(dim, keepdim=True).view(torch.int32) >> 23


def _power_of_two(exponent: torch.Tensor) -> torch.Tensor:
    """Exact, for int32 exponents of normal float32."""
    return (exponent + 127 << 23).view(torch.float32)
