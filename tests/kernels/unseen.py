"""One unit of attention among others, with what it does not see before, behind and around it.

Whatever stands there, the unit's rows must come out with the same bits. The functional simulator
(test_attention.py) and the simulated chips (tests/chip/state/unseen.py) read one table.
`kernels.runtime.choose` comes before this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from kernels import runtime
from kernels.attention import AttentionConfig, attention
from kernels.runtime import Format
from kernels.units import STAGED, UNSEEN

D = 32
PLACES = 128
"""Of the cache, that the unit knows of: most rows see half of them."""


@dataclass(frozen=True)
class Surroundings:
    """Where the unit stands."""

    config: AttentionConfig
    unit: int = 0
    lead: int = 0
    """Places of the cache before its own."""
    rolled: int = 0
    """How far its rows are moved in their tile."""
    scale: float = 1.0
    """Of the scores between its rows and what they do not see."""
    masks: Format = "bf16"
    grouped: bool = False
    """Whether the unit alone has its parts in groups, too."""

    @property
    def alone(self) -> Surroundings:
        """What it must agree with."""
        return ALONE_GROUPED if self.grouped else ALONE


ALONE = Surroundings(AttentionConfig(1, 1, PLACES, PLACES, D, (2, 1), 128))
ALONE_GROUPED = Surroundings(AttentionConfig(1, 1, PLACES, 1280, D, (2, 1), 64))
"""As the first of its group of parts: which places a row's block has is its kind's."""
SURROUNDINGS = {
    "further parts": Surroundings(AttentionConfig(1, 1, 384, 512, D, (2, 1), 128)),
    "further blocks": Surroundings(AttentionConfig(1, 1, 256, 256, D, (2, 1), 256)),
    "leading parts": Surroundings(AttentionConfig(1, 1, 384, 384, D, (3, 1), 128), lead=256),
    "leading blocks": Surroundings(AttentionConfig(1, 1, 256, 256, D, (2, 1), 256), lead=128),
    "huge scores unseen": Surroundings(
        AttentionConfig(1, 1, 512, 512, D, (2, 1), 256), lead=384, scale=40.0
    ),
    "other units": Surroundings(
        AttentionConfig(3, 2, 128, 256, D, (3, 2), 128, waves=2), unit=9, scale=9.0
    ),
    "other rows": Surroundings(AttentionConfig(1, 1, PLACES, PLACES, D, (2, 1), 128), rolled=12),
    "masks in block floats": Surroundings(
        AttentionConfig(1, 1, 384, 512, D, (2, 1), 128), lead=128, masks="bfp4"
    ),
    "further groups": Surroundings(AttentionConfig(1, 1, 1280, 1280, D, (3, 2), 64), grouped=True),
    "leading groups": Surroundings(
        AttentionConfig(1, 1, 1280, 1280, D, (3, 1), 64), lead=1024, grouped=True
    ),
}


def output(around: Surroundings, device: Any) -> torch.Tensor:
    """What the unit's rows get, [32, D] in their own order."""
    config, lead, unit = around.config, around.lead, around.unit
    own = torch.Generator().manual_seed(1)
    others = torch.Generator().manual_seed(unit + lead + config.s)
    owners = config.slots * config.kv_heads
    owner, chunk = unit % owners, unit // config.kv_heads

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=own)

    def filled(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return torch.randn(shape, generator=others) * scale

    q = filled(config.units, 32, D)
    k, v = (filled(owners, config.stride, D, scale=around.scale) for _ in range(2))
    k_staged, v_staged = (filled(owners, STAGED, D) for _ in range(2))
    chunks = config.waves * config.slots
    mask = filled(chunks, 32, config.s).sign().clamp_max(0.0) * -UNSEEN
    mask_staged = filled(chunks, 32, STAGED).sign().clamp_max(0.0) * -UNSEEN

    q[unit] = normal(32, D).roll(around.rolled, 0)
    for cache in (k, v):
        cache[owner, lead : lead + PLACES] = normal(PLACES, D)
    for staging in (k_staged, v_staged):
        staging[owner] = normal(STAGED, D)
    mask[chunk] = UNSEEN
    mask[chunk, :, lead : lead + PLACES] = _half(PLACES, 0, own).roll(around.rolled, 0)
    mask_staged[chunk] = _half(STAGED, 8, own).roll(around.rolled, 0)

    flat = [t.reshape(-1, D) for t in (q, k, v, k_staged, v_staged)]
    masks = [mask.reshape(-1, config.s), mask_staged.reshape(-1, STAGED)]
    tensors = [runtime.put(t, "bf16", device) for t in flat]
    tensors += [runtime.put(t, around.masks, device) for t in masks]
    outputs = torch.zeros(config.scratch_shape), torch.zeros(config.units * 32, D)
    tensors += [runtime.put(t, "bf16", device) for t in outputs]
    attention(config)(*tensors)
    o = runtime.get(tensors[-1]).view(config.units, 32, D)
    return o[unit].roll(-around.rolled, 0)


def _half(places: int, blind: int, generator: torch.Generator) -> torch.Tensor:
    """A mask of half the places; of all of them for eight rows from `blind` on."""
    unseen = torch.rand(32, places, generator=generator) < 0.5
    unseen[blind : blind + 8] = True
    return unseen * UNSEEN
