"""The logits behind each slot's last readouts, kept until the slot's next ones.

Knows tensors and slot numbers. A step's rows are one buffer; a slot that takes no part in the next
step gets a copy of its own rows, so that at most one step's whole buffer is ever held.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

Tensor = torch.Tensor


class StepLogits:
    """For each slot, float32 rows [n, V]."""

    def __init__(self) -> None:
        self._rows: dict[int, Tensor] = {}
        self._newest: set[int] = set()  # slots whose rows are parts of the newest step's buffer

    def keep(self, logits: Tensor, num_rows: Sequence[tuple[int, int]]) -> None:
        """Keeps the rows of a step.

        Args:
            logits: [R, V]; must not be changed afterwards.
            num_rows: slots and their numbers of rows, in order.
        """
        new: dict[int, Tensor] = {}
        end = 0
        for slot, count in num_rows:
            new[slot] = logits[end : end + count]
            end += count
        for slot in self._newest - new.keys():
            self._rows[slot] = self._rows[slot].clone()
        self._rows |= new
        self._newest = set(new)

    def of(self, slot: int) -> Tensor:
        """The rows [n, V] of a slot.

        Raises:
            ValueError: it has none.
        """
        if slot not in self._rows:
            raise ValueError(f"slot {slot} has no readouts")
        return self._rows[slot]

    def forget(self, slot: int) -> None:
        """Drops the rows of a slot, if it has any."""
        self._rows.pop(slot, None)
        self._newest.discard(slot)
