"""Whether a step keeps within a model's limits, and what each slot's KV still holds.

Plain integers; knows no tensors. The engine keeps the same rules on its side, so a refusal here is
a fault of the engine: it is found before anything of the batch has run.
"""

from __future__ import annotations

import math

from device_service.model.interface import ModelInfo, Span, StepBatch


class BatchChecks:
    """Checks batches against the limits and follows the slots' lengths."""

    def __init__(self, info: ModelInfo) -> None:
        self._info = info
        self._lengths = [0] * info.num_slots  # positions whose KV is valid
        self._marks = [0] * info.num_slots  # most positions held since the slot last started at 0

    def check(self, batch: StepBatch) -> None:
        """Raises ValueError, with the value and the limit, if the batch may not run."""
        if batch.num_rows > self._info.max_rows:
            raise ValueError(f"a step has {batch.num_rows} rows, at most {self._info.max_rows}")
        slots = [span.slot for span in batch.spans]
        if len(set(slots)) != len(slots):
            raise ValueError(f"a step has at most one span a slot, not slots {slots}")
        for span in batch.spans:
            self._check_place(span)
            self._check_ids(span)
            self._check_readouts(span)

    def record(self, span: Span) -> None:
        """The span is about to run; what its slot held from `start` on counts no more."""
        end = span.start + len(span.token_ids)
        self._lengths[span.slot] = end
        self._marks[span.slot] = max(self._marks[span.slot] if span.start else 0, end)

    def reset(self) -> None:
        """All slots are empty."""
        self._lengths = [0] * self._info.num_slots
        self._marks = [0] * self._info.num_slots

    def _check_place(self, span: Span) -> None:
        info, slot, start = self._info, span.slot, span.start
        if not 0 <= slot < info.num_slots:
            raise ValueError(f"slot {slot} is not among {info.num_slots}")
        length, mark = self._lengths[slot], self._marks[slot]
        if not 0 <= start <= length:
            raise ValueError(f"slot {slot} holds {length} positions, so {start} is no start")
        lowest = mark - info.max_rewind
        if 0 < start < lowest and mark > info.ring_size:
            raise ValueError(
                f"slot {slot} has held {mark} positions, so it starts at 0 or from {lowest} on,"
                f" not at {start}"
            )

    def _check_ids(self, span: Span) -> None:
        info, ids = self._info, span.token_ids
        if not ids:
            raise ValueError(f"the span of slot {span.slot} has no ids")
        if span.start + len(ids) > info.context_length:
            raise ValueError(
                f"slot {span.slot} would hold {span.start + len(ids)} positions,"
                f" at most {info.context_length}"
            )
        if min(ids) < 0 or max(ids) >= info.vocab_size:
            wrong = next(x for x in ids if not 0 <= x < info.vocab_size)
            raise ValueError(f"token id {wrong} is not below {info.vocab_size}")

    def _check_readouts(self, span: Span) -> None:
        info, options = self._info, span.options
        if not 0 <= span.num_readouts <= len(span.token_ids):
            raise ValueError(f"{span.num_readouts} readouts of {len(span.token_ids)} rows")
        if not 1 <= options.top_candidates <= info.max_top_candidates:
            raise ValueError(
                f"{options.top_candidates} candidates, not 1 to {info.max_top_candidates}"
            )
        if not 0 < options.temperature < math.inf:
            raise ValueError(f"temperature {options.temperature} is not above 0 and finite")
