"""How many rows of attention change with what they do not see: the program inside .venv-tt.

    python -m tests.chip.state.unseen run ROWS.jsonl [SURROUNDINGS…]

One JSON row for each: `differing`, rows of 32 whose bits are not those of the unit alone.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from kernels import runtime
from tests.chip.state.answering import Answer, answer_all

_alone: dict[bool, torch.Tensor] = {}
"""What the unit gets alone, without and with its parts in groups."""


def differing(name: str, device: Any) -> Answer:
    """Compares one unit in surroundings with the same alone."""
    from tests.kernels.unseen import SURROUNDINGS, output

    around = SURROUNDINGS[name]
    if around.grouped not in _alone:
        _alone[around.grouped] = output(around.alone, device)
    alone = _alone[around.grouped]
    changed = output(around, device) != alone
    return {"differing": int(changed.any(1).sum()), "nonzero": bool(alone.any(1).all())}


if __name__ == "__main__":
    runtime.choose("tt")
    from tests.kernels.unseen import SURROUNDINGS

    answer_all({name: partial(differing, name) for name in SURROUNDINGS})
