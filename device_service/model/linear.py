"""Matrices that rows are multiplied with, laid out for the processor at hand.

Knows torch and its oneDNN weights; knows no model.

On x86 processors the weight is repacked once into oneDNN's blocked layout. One packing serves
every row count. Measured on 2 cores, bfloat16, matrices of 1536 × 12288 (GB of weights a second):

| rows | F.linear | plain gemv | packed |
|---|---|---|---|
| 1 | 29 | 39 | 43 |
| 8 | 28 | 6 | 34 |
| 32 | 16 | – | 22 |
| 256 | 3.6 | – | 3.8 |

In float32 it is 2 to 6 times as fast as F.linear. Elsewhere, on other devices, and in bfloat16 on
processors without AVX-512 or AVX-NE-CONVERT, F.linear runs.

A packed row's result does not depend on the rows beside it, bit for bit: from 2 rows on, oneDNN
sums in one order whatever their number. Alone, a row would take another way, so it gets company;
that costs 2 % of a step.

Row counts are rounded up to a few: oneDNN compiles and keeps code for every count that it meets,
which took 600 MB until it had met all of them. Reading the weights costs the same for a few rows
more.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F

Tensor = torch.Tensor

_ROWS_PACKED_FOR = 8
"""The row count that oneDNN is told to lay the weight out for; others lose little or nothing."""


class Linear(Protocol):
    """`x · Wᵀ`: [B, in] → [B, out], in the dtype of the weight."""

    def __call__(self, x: Tensor) -> Tensor:
        """Multiplies B rows."""
        ...


class PlainLinear:
    """The weight as torch has it."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight

    def __call__(self, x: Tensor) -> Tensor:
        """[B, in] → [B, out]."""
        return F.linear(x, self._weight)


class PackedLinear:
    """The weight in oneDNN's own layout; the original is not kept."""

    def __init__(self, weight: Tensor) -> None:
        self._weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS_PACKED_FOR)

    def __call__(self, x: Tensor) -> Tensor:
        """[B, in] → [B, out]."""
        missing = padded_row_count(len(x)) - len(x)
        rows = F.pad(x, (0, 0, 0, missing)) if missing else x
        out: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self._weight, None, "none", [], "")
        return out[: len(x)]


def padded_row_count(num_rows: int) -> int:
    """The row count that `num_rows` are run as: 2, 4, 8, 16, then multiples of 16, then of 32."""
    if num_rows <= 16:
        return max(2, 1 << (num_rows - 1).bit_length())
    multiple = 16 if num_rows <= 64 else 32
    return -(-num_rows // multiple) * multiple


def make_linear(weights: Sequence[Tensor], dtype: torch.dtype, device: torch.device) -> Linear:
    """One matrix from one or several that the same rows are multiplied with.

    Args:
        weights: [out, in] each, of any floating dtype; stacked along `out`. They are copied.
        dtype: to compute in.
        device: to compute on.
    """
    stacked = torch.cat([weight.to(dtype) for weight in weights]).to(device)
    return PackedLinear(stacked) if can_pack(device, dtype) else PlainLinear(stacked)


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether weights are packed, and rows so independent of each other to the bit.

    Args:
        device: where they are to be.
        dtype: their own: oneDNN refuses bfloat16 on processors without instructions for it.
    """
    return (
        device.type == "cpu"
        and platform.machine() in ("x86_64", "AMD64")
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and (dtype != torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )
