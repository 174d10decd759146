"""A step's readouts as columns: what every backend makes of its rows' readouts.

Knows spans and `RowReadouts`; knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from device_service.model.interface import Span, StepReadouts
from device_service.readout import RowReadouts

Tensor = torch.Tensor


def temperatures(readers: Sequence[Span], device: torch.device) -> Tensor:
    """Of each row that is read: float32 [R]."""
    values = [span.options.temperature for span in readers for _ in range(span.num_readouts)]
    return torch.tensor(values, dtype=torch.float32, device=device)


def columns(readers: Sequence[Span], readouts: RowReadouts) -> StepReadouts:
    """The readouts of spans that want any; each row keeps as many candidates as it wanted."""
    numbers = [span.num_readouts for span in readers]
    ends = [span.start + len(span.token_ids) for span in readers]
    positions = [np.arange(end - number, end) for end, number in zip(ends, numbers, strict=True)]
    counts: npt.NDArray[np.int64] = np.repeat(
        [span.options.top_candidates for span in readers], numbers
    )
    ids: npt.NDArray[np.int64] = readouts.candidate_ids.cpu().numpy()
    wanted = np.arange(readouts.candidate_ids.shape[1]) < counts[:, None]
    return StepReadouts(
        slots=np.repeat([span.slot for span in readers], numbers).astype(np.uint32),
        positions=np.concatenate(positions).astype(np.uint32),
        candidate_counts=counts.astype(np.uint32),
        candidate_ids=ids[wanted].astype(np.uint32),
        candidate_logits=readouts.candidate_logits.cpu().numpy()[wanted],
        logsumexps=readouts.logsumexps.cpu().numpy(),
        scaled_logsumexps=readouts.scaled_logsumexps.cpu().numpy(),
    )


def no_readouts() -> StepReadouts:
    """Of a step that nobody reads."""
    none_u32, none_f32 = np.empty(0, np.uint32), np.empty(0, np.float32)
    return StepReadouts(none_u32, none_u32, none_u32, none_u32, none_f32, none_f32, none_f32)
