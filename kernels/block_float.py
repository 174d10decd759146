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
