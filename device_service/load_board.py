"""The latest load, for any number of watchers.

Knows asyncio and the `Load`; no gRPC.
"""

from __future__ import annotations

import asyncio

from device_service.messages import Load


class LoadBoard:
    """Holds the latest load; belongs to the event loop."""

    def __init__(self) -> None:
        self._load: Load | None = None
        self._has_ended = False
        self._changed = asyncio.Event()

    def show(self, load: Load) -> None:
        """Replaces the load; watchers wake when it differs."""
        if load != self._load:
            self._load = load
            self._wake()

    def end(self) -> None:
        """No load follows."""
        self._has_ended = True
        self._wake()

    async def after(self, seen: Load | None) -> Load | None:
        """The first load that differs from `seen`; None when none will follow."""
        while not self._has_ended and self._load == seen:
            await self._changed.wait()
        return None if self._has_ended else self._load

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
