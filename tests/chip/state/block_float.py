"""What ttnn's own conversion makes of values that are hard for block floats: runs in .venv-tt.

    python -m tests.chip.state.block_float OUT.pt

Only the host converts, but ttnn wants a card: a mock one serves.
"""

from __future__ import annotations

import sys

import torch


def hard_values() -> dict[str, torch.Tensor]:
    """By name; each [256, 256]."""
    generator = torch.Generator().manual_seed(0)
    shape = (256, 256)
    normal = torch.randn(shape, generator=generator)
    halves = torch.randint(-512, 512, shape, generator=generator).float() / 4

    def spread(powers: int) -> torch.Tensor:
        return normal * torch.exp2(
            torch.randint(-powers, powers, shape, generator=generator).float()
        )

    return {
        "normal": normal,
        "weights": normal * 0.02,
        "spread over 2^40": spread(20),
        "spread over 2^240": spread(120),
        "ties": halves,
        "beside ties": torch.nextafter(halves, normal * 1000),
        "rounding past the largest": 2 - torch.rand(shape, generator=generator) / 64,
        "near the smallest": normal * 1e-37,
        "denormal": normal * 1e-40,
        "near the largest": normal.clamp(-3, 3) * 1e38,
        "negative zeros": torch.full(shape, -0.0),
        "one in a group": torch.where(torch.arange(256) % 16 == 7, normal, 0.0),
    }


def main(out: str) -> None:
    import ttnn

    device = ttnn.open_device(device_id=0)
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, values in hard_values().items():
        found[name] = {"values": values}
        for dtype in (ttnn.bfloat8_b, ttnn.bfloat4_b):
            tensor = ttnn.from_torch(values, dtype=dtype, layout=ttnn.TILE_LAYOUT)
            found[name][str(dtype).split(".")[-1].lower()] = ttnn.to_torch(tensor).float()
    ttnn.close_device(device)
    torch.save(found, out)


if __name__ == "__main__":
    main(sys.argv[1])
