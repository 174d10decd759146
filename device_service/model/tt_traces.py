"""Recorded steps: on a card, a step of a shape that ran before is one command instead of hundreds.

A trace replays its launches with the addresses that they had, so all that changes from step to step
lies in buffers of fixed addresses, and every allocation makes the recorded traces void. What a
simulated chip offers (slow dispatch) has no traces: there each step is launched anew. Knows nothing
of models; written for a card and not yet run on one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from device_service.model.tt_tensors import Tensor, Tensors
from kernels import runtime

Launch = Callable[[], Tensor]
MOST = 32
"""Traces at a time: each takes memory that is set aside for them."""


class Traces:
    """A trace for each shape of a step, of the last few shapes."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors
        self._enabled = runtime.can_trace()
        self._allocated = 0
        self._recorded: dict[Hashable, tuple[Any, Tensor]] = {}

    def run(self, shape: Hashable, launch: Launch) -> Tensor:
        """Launches a step, or replays it.

        Args:
            shape: all that decides which programs run on which buffers.
            launch: launches them; reads nothing from the host.

        Returns:
            What `launch` returns: the tensor with the step's result.
        """
        if not self._enabled:
            return launch()
        if self._tensors.allocated != self._allocated:
            self._drop()
        if shape in self._recorded:
            trace, result = self._recorded[shape] = self._recorded.pop(shape)  # now the newest
            runtime.replay(self._tensors.device, trace)
            return result
        result = launch()  # compiles, and allocates what it lacks
        if self._tensors.allocated != self._allocated:
            self._drop()
            self._allocated = self._tensors.allocated
        if len(self._recorded) >= MOST:
            runtime.release(self._tensors.device, self._recorded.pop(next(iter(self._recorded)))[0])
        self._recorded[shape] = runtime.record(self._tensors.device, launch), result
        return result

    def _drop(self) -> None:
        for trace, _ in self._recorded.values():
            runtime.release(self._tensors.device, trace)
        self._recorded.clear()
