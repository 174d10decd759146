"""How near two tensors are."""

from __future__ import annotations

import torch


def pcc(a: torch.Tensor, b: torch.Tensor) -> float:
    """Pearson's correlation of all values, in float64; NaN if either has one."""
    both = torch.stack((a.flatten().double(), b.flatten().double()))
    return float(torch.corrcoef(both)[0, 1])


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """1 - Pearson's correlation."""
    return 1 - pcc(a, b)
