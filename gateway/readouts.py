"""The columns of a `DecodeResponse`, as one readout a sequence.

Knows the wire's column layout and numpy; knows nothing of streams, requests or sampling rules.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gateway.sampling import Candidates
from tessera.device.v1 import device_pb2

U32 = npt.NDArray[np.uint32]
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Readout:
    """What a device says of one position: its logits are for the id at `position` + 1."""

    position: int
    candidates: Candidates
    queued_us: int
    """Microseconds from the command's arrival at the device to its first step."""
    device_us: int
    """Microseconds in steps of the command, prefill included."""


def read_readouts(readouts: device_pb2.Readouts, vocab_size: int) -> Iterator[tuple[int, Readout]]:
    """Yields (sequence number, readout) of each row.

    Raises:
        ValueError: the columns' lengths do not agree.
    """
    sequences = _u32(readouts.sequences).tolist()
    num_rows = len(sequences)
    positions = _u32(readouts.positions).tolist()
    counts = _u32(readouts.candidate_counts)
    ids = _u32(readouts.candidate_ids)
    logits = read_logits(readouts.candidate_logits)
    logsumexps = read_logits(readouts.logsumexps).tolist()
    scaled_logsumexps = read_logits(readouts.scaled_logsumexps).tolist()
    queued = _u32(readouts.queued_us).tolist()
    prefill = _u32(readouts.prefill_us).tolist()
    compute = _u32(readouts.compute_us).tolist()
    columns = (positions, counts, logsumexps, scaled_logsumexps, queued, prefill, compute)
    ends = np.cumsum(counts, dtype=np.int64).tolist()
    num_candidates = ends[-1] if ends else 0
    if any(len(column) != num_rows for column in columns) or not (
        len(ids) == len(logits) == num_candidates
    ):
        raise ValueError("the columns of its readouts have different lengths")
    start = 0
    for row, end in enumerate(ends):
        candidates = Candidates(
            ids=ids[start:end],
            logits=logits[start:end],
            logsumexp=logsumexps[row],
            scaled_logsumexp=scaled_logsumexps[row],
            vocab_size=vocab_size,
        )
        yield (
            sequences[row],
            Readout(positions[row], candidates, queued[row], prefill[row] + compute[row]),
        )
        start = end


def read_logits(column: bytes) -> F32:
    """A float32 column; raises ValueError when it is not a whole number of entries."""
    return np.frombuffer(column, "<f4")


def _u32(column: bytes) -> U32:
    return np.frombuffer(column, "<u4")
