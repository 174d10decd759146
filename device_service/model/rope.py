"""Rotary position tables. Knows `RopeConfig`; rotates nothing."""

from __future__ import annotations

import torch

from device_service.model.architecture import RopeConfig


def rope_tables(
    rope: RopeConfig, head_dim: int, positions: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of the rotation angles; halves repeat, for pairs (d, d + H/2).

    Args:
        rope: theta, rotated pairs and factor of the layer kind.
        head_dim: H.
        positions: [T], integers, on any device.

    Returns:
        cos and sin, float32 [T, H] each, on the device of `positions`.
    """
    num_pairs = head_dim // 2
    even = torch.arange(0, 2 * rope.num_rotated_pairs, 2, device=positions.device)
    inv_freq = torch.zeros(num_pairs, device=positions.device)
    inv_freq[: rope.num_rotated_pairs] = 1.0 / rope.theta ** (even.float() / head_dim)
    inv_freq /= rope.factor
    angles = positions.float()[:, None] * inv_freq
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()
