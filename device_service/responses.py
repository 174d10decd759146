"""Writes `DecodeResponse`s: events into columns, split so that no message is too large.

Knows the contract only.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from device_service.messages import FailedEvent, FullRowEvent, ReadoutColumns, StreamEvents
from device_service.model.interface import ModelInfo
from tessera.device.v1 import device_pb2 as pb

MAX_FULL_ROWS = 32
MAX_ROWS_BYTES = 48 * 2**20
"""Of the full rows of a message: leaves room for the rest under 64 MiB."""

MAX_CANDIDATES_BYTES = 48 * 2**20
"""Of the candidates of a message."""


def write_responses(events: StreamEvents) -> Iterator[pb.DecodeResponse]:
    """One response where all fits, else several; a full row comes before or with its readout."""
    batches = list(_batches_of_rows(events.full_rows))
    last_rows = batches.pop() if batches else []
    for rows in batches:
        yield pb.DecodeResponse(full_rows=map(_full_row, rows))
    parts = list(_split(events.readouts)) if events.readouts else []
    for part in parts[:-1]:
        yield pb.DecodeResponse(readouts=_readouts(part))
    if not (parts or last_rows or events.closed or events.failed):
        return
    yield pb.DecodeResponse(
        readouts=_readouts(parts[-1]) if parts else None,
        full_rows=map(_full_row, last_rows),
        closed=[pb.SequenceClosed(sequence=number) for number in events.closed],
        failed=map(_failed, events.failed),
    )


def write_model(info: ModelInfo, max_queued: int) -> pb.GetModelResponse:
    """What is served."""
    return pb.GetModelResponse(
        architecture=info.architecture,
        name=info.name,
        vocab_size=info.vocab_size,
        context_length=info.context_length,
        num_slots=info.num_slots,
        max_rows=info.max_rows,
        max_top_candidates=info.max_top_candidates,
        max_queued=max_queued,
        bos_token_id=info.bos_token_id,
        eos_token_ids=info.eos_token_ids,
        pad_token_id=info.pad_token_id,
        checkpoint_digest=info.checkpoint_digest,
        tokenizer_digest=info.tokenizer_digest,
        backend=info.backend,
        precision=info.precision,
        accelerator=info.accelerator,
    )


def _batches_of_rows(rows: list[FullRowEvent]) -> Iterator[list[FullRowEvent]]:
    if not rows:
        return
    size = min(MAX_FULL_ROWS, max(1, MAX_ROWS_BYTES // len(rows[0].logits)))
    for first in range(0, len(rows), size):
        yield rows[first : first + size]


def _split(columns: ReadoutColumns) -> Iterator[ReadoutColumns]:
    """Cuts between readouts where the candidates of all would be too large for one message."""
    num_readouts = len(columns.sequences)
    candidates_bytes = columns.candidate_ids.nbytes + columns.candidate_logits.nbytes
    num_parts = min(num_readouts, -(-candidates_bytes // MAX_CANDIDATES_BYTES))
    if num_parts <= 1:
        yield columns
        return
    part_of = np.arange(num_readouts) * num_parts // num_readouts
    for part in range(num_parts):
        yield columns.select(part_of == part)


def _readouts(columns: ReadoutColumns) -> pb.Readouts:
    return pb.Readouts(
        sequences=_u32(columns.sequences),
        positions=_u32(columns.positions),
        candidate_counts=_u32(columns.candidate_counts),
        candidate_ids=_u32(columns.candidate_ids),
        candidate_logits=_f32(columns.candidate_logits),
        logsumexps=_f32(columns.logsumexps),
        scaled_logsumexps=_f32(columns.scaled_logsumexps),
        queued_us=_u32(columns.queued_us),
        prefill_us=_u32(columns.prefill_us),
        compute_us=_u32(columns.compute_us),
    )


def _u32(column: npt.NDArray[np.uint32]) -> bytes:
    return column.astype("<u4", copy=False).tobytes()


def _f32(column: npt.NDArray[np.float32]) -> bytes:
    return column.astype("<f4", copy=False).tobytes()


def _full_row(row: FullRowEvent) -> pb.FullRow:
    return pb.FullRow(sequence=row.sequence, position=row.position, logits=row.logits)


def _failed(event: FailedEvent) -> pb.SequenceFailed:
    return pb.SequenceFailed(
        sequence=event.sequence,
        code=event.error.code,
        field=event.error.field,
        message=event.error.message,
        retry_after_ms=event.error.retry_after_ms,
        closed=event.closed,
    )
