"""Recorded steps: on a card, a step of a shape that ran before is one command instead of hundreds.

A trace replays its launches with the addresses that they had, so all that changes from step to step
lies in buffers of fixed addresses, and every allocation makes the recorded traces void. A shape is
launched once, which compiles it and allocates what it lacks, recorded when it comes again, and from
then on replayed. What a simulated chip offers (slow dispatch) has no traces: there each step is
launched anew. Knows nothing of models; written for a card and not yet run on one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import Any

from device_service.model.tt_tensors import Tensor, Tensors
from kernels import runtime

log = logging.getLogger(__name__)

Launch = Callable[[], Tensor]
MOST = 32
"""Traces at a time: each takes memory that is set aside for them."""


class Traces:
    """A trace for each shape of a step, of the last few shapes."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors
        self._enabled = runtime.can_trace()
        self._allocated = 0
        self._launched: set[Hashable] = set()
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
            self._forget()
        if shape in self._recorded:
            trace, result = self._recorded[shape] = self._recorded.pop(shape)  # now the newest
            runtime.replay(self._tensors.device, trace)
            return result
        if shape in self._launched:
            return self._record(shape, launch)
        result = launch()
        if self._tensors.allocated != self._allocated:
            self._forget()
        self._launched.add(shape)
        return result

    def _record(self, shape: Hashable, launch: Launch) -> Tensor:
        if len(self._recorded) >= MOST:
            runtime.release(self._tensors.device, self._recorded.pop(next(iter(self._recorded)))[0])
        try:
            trace, result = runtime.record(self._tensors.device, launch)
        except Exception:
            log.exception("a step could not be recorded; from now on each is launched anew")
            self._forget()
            self._enabled = False
            return launch()
        self._recorded[shape] = trace, result
        runtime.replay(self._tensors.device, trace)
        return result

    def _forget(self) -> None:
        """All shapes: what was allocated may lie where their launches look for something else."""
        for trace, _ in self._recorded.values():
            runtime.release(self._tensors.device, trace)
        self._recorded.clear()
        self._launched.clear()
        self._allocated = self._tensors.allocated
