"""A model without weights: logits are a hash of the ids so far, and knobs for what can go wrong.

A slot keeps, in the place of KV, the state of the hash after each id. So an id that ran at a wrong
position, on another conversation's prefix or on what a failed step left gives other logits than
`expected_logits`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from device_service.model.batch_checks import BatchChecks
from device_service.model.interface import (
    F32,
    ModelInfo,
    ReadoutOptions,
    ReportProgress,
    Span,
    StepBatch,
    StepReadouts,
)

_MASK = (1 << 64) - 1
_GARBAGE = 0x5EED_BAD5_EED0_BAD5
_NUM_LEVELS = 512
"""Different logits there are; so few that some are equal, and their order shows."""


class FakeModel:
    """Keeps the contract of `device_service.model.interface.Model`.

    Attributes:
        step_seconds: how long a step sleeps.
        fail_next: so many of the next steps raise RuntimeError and spoil the slots they touch.
        batches: those of all steps that kept the limits, failed ones included.
        violations: why steps were refused: an engine that never breaks a limit leaves it empty.
        closed: whether `close` was called.
    """

    def __init__(
        self,
        num_slots: int = 4,
        context_length: int = 256,
        max_rows: int = 16,
        vocab_size: int = 64,
        ring_size: int | None = None,
        max_rewind: int | None = None,
        max_top_candidates: int | None = None,
        step_seconds: float = 0.0,
    ) -> None:
        """Without `ring_size` no layer slides, and then any rewind is allowed."""
        if max_rewind is None:
            max_rewind = context_length if ring_size is None else max_rows
        self._info = ModelInfo(
            architecture="fake",
            name="fake",
            vocab_size=vocab_size,
            context_length=context_length,
            num_slots=num_slots,
            max_rows=max_rows,
            max_top_candidates=max_top_candidates or vocab_size,
            ring_size=context_length if ring_size is None else ring_size,
            max_rewind=max_rewind,
            bos_token_id=2,
            eos_token_ids=(1,),
            pad_token_id=0,
            checkpoint_digest="c" * 64,
            tokenizer_digest="",
            backend="fake",
            precision="float32",
            accelerator="none",
        )
        self._checks = BatchChecks(self._info)
        self._states: list[list[int]] = [[] for _ in range(num_slots)]
        self._full_rows: dict[int, F32] = {}
        self.step_seconds = step_seconds
        self.fail_next = 0
        self.batches: list[StepBatch] = []
        self.settled = 0
        """Batches that were waited for."""
        self.violations: list[str] = []
        self.closed = False

    @property
    def info(self) -> ModelInfo:
        return self._info

    def expected_logits(self, ids: Sequence[int]) -> F32:
        """The logits [V] at the last of the ids, whatever slots and steps they ran in."""
        state = 0
        for token_id in ids:
            state = _next_state(state, token_id)
        return self._logits(state)

    def warm_up(self, report: ReportProgress) -> None:
        report("a step of a fake model")

    def step(self, batch: StepBatch) -> StepReadouts:
        assert not self.closed, "the model is closed"
        try:
            self._checks.check(batch)
        except ValueError as error:
            self.violations.append(str(error))
            raise
        self.batches.append(batch)
        if self.step_seconds:
            time.sleep(self.step_seconds)
        for span in batch.spans:
            self._checks.record(span)
            self._run(span)
        if self.fail_next:
            self.fail_next -= 1
            for span in batch.spans:
                self._states[span.slot] = [_GARBAGE ^ x for x in self._states[span.slot]]
            raise RuntimeError("the fake model was told to fail")
        return self._read_out([span for span in batch.spans if span.num_readouts])

    def settle(self) -> None:
        self.settled = len(self.batches)

    def full_rows(self, slot: int) -> F32:
        if slot not in self._full_rows:
            raise ValueError(f"slot {slot} has no readouts")
        return self._full_rows[slot]

    def release(self, slot: int) -> None:
        self._full_rows.pop(slot, None)

    def close(self) -> None:
        self.closed = True

    def _run(self, span: Span) -> None:
        states = self._states[span.slot]
        del states[span.start :]
        for token_id in span.token_ids:
            states.append(_next_state(states[-1] if states else 0, token_id))

    def _read_out(self, spans: list[Span]) -> StepReadouts:
        """Of the spans' last states; each wants at least one readout."""
        slots: list[int] = []
        positions: list[int] = []
        options: list[ReadoutOptions] = []
        rows: list[F32] = []
        for span in spans:
            states = self._states[span.slot]
            first = len(states) - span.num_readouts
            kept = [self._logits(state) for state in states[first:]]
            self._full_rows[span.slot] = np.stack(kept)
            slots += [span.slot] * span.num_readouts
            positions += range(first, len(states))
            options += [span.options] * span.num_readouts
            rows += kept
        # Stable: of equal logits the smaller id comes first.
        ids = [
            np.argsort(-row, kind="stable")[: option.top_candidates]
            for row, option in zip(rows, options, strict=True)
        ]
        logits = [row[best] for row, best in zip(rows, ids, strict=True)]
        return StepReadouts(
            slots=np.array(slots, np.uint32),
            positions=np.array(positions, np.uint32),
            candidate_counts=np.array([len(best) for best in ids], np.uint32),
            candidate_ids=np.concatenate([*ids, np.empty(0)]).astype(np.uint32),
            candidate_logits=np.concatenate([*logits, np.empty(0)]).astype(np.float32),
            logsumexps=np.array([_logsumexp(row) for row in rows], np.float32),
            scaled_logsumexps=np.array(
                [_logsumexp(x, o.temperature) for x, o in zip(rows, options, strict=True)],
                np.float32,
            ),
        )

    def _logits(self, state: int) -> F32:
        """[V] in [-8, 8), multiples of 1/32."""
        mixed = np.arange(1, self._info.vocab_size + 1, dtype=np.uint64)
        mixed = mixed * np.uint64(0x9E37_79B9_7F4A_7C15) ^ np.uint64(state)
        for factor in (0xBF58_476D_1CE4_E5B9, 0x94D0_49BB_1331_11EB):
            mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(factor)
        levels = (mixed >> np.uint64(32)) % np.uint64(_NUM_LEVELS)
        return ((levels.astype(np.float32) - _NUM_LEVELS / 2) / 32).astype(np.float32)


def _next_state(state: int, token_id: int) -> int:
    state = (state ^ (token_id + 1)) * 0x9E37_79B9_7F4A_7C15 & _MASK
    return state ^ state >> 31


def _logsumexp(row: F32, temperature: float = 1.0) -> float:
    exponents = row.astype(np.float64) / temperature
    top = float(exponents.max())
    return top + float(np.log(np.exp(exponents - top).sum()))
