"""Two steps in flight: the device runs one while the host prepares and hands over the next.

A step that nobody reads, a chunk in the middle of a prompt, need not be waited for: what the next
one uploads and launches queues up behind it. A step that is read ends with its logits, as the next
tokens of its rows come from them. More than two would gain nothing, and who is cancelled would wait
for them. (ttnn 0.69 spins while it waits, and tells of no error there: a device that does not end a
step is for the engine's watch to notice.) What a simulated chip offers (slow dispatch) ends each
launch before it returns. Knows nothing of models; written for a card and not yet run on one.
"""

from __future__ import annotations

from typing import Any

from kernels import runtime


class Flight:
    """The steps that were handed over and may still run."""

    def __init__(self, device: Any) -> None:
        self._device = device
        self._enabled = runtime.can_trace()
        self._last: Any = None

    def hand_over(self) -> None:
        """A step was launched. Returns when the one before it has ended."""
        if not self._enabled:
            return
        newest = runtime.mark(self._device)
        self.land()
        self._last = newest

    def land(self) -> None:
        """Returns when the last step that was handed over has ended."""
        last, self._last = self._last, None
        if last is not None:
            runtime.wait_for(last)
