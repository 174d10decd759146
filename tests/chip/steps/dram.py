"""Bytes that cores moved to and from a simulated chip's DRAM, if its simulator counts them.

The vendor's does after `python -m tests.chip.counting_ttsim`. What the host reads and writes is not
in it. Knows the library by its name in this process's memory; knows no kernel.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

SYMBOL = "libttsim_dram_bytes"


@dataclass(frozen=True, slots=True)
class Bytes:
    """Moved since the simulator started."""

    read: int
    written: int

    def __sub__(self, other: Bytes) -> Bytes:
        return Bytes(self.read - other.read, self.written - other.written)


class DramCounter:
    """Finds the simulator's counters once."""

    def __init__(self) -> None:
        maps = Path("/proc/self/maps").read_text().splitlines()
        paths = {line.split(maxsplit=5)[5] for line in maps if "ttsim" in line}
        self._counters: ctypes.Array[ctypes.c_uint64] | None = None
        for path in paths:
            try:
                # The same file is the same library: dlopen gives back the one that runs.
                self._counters = (ctypes.c_uint64 * 2).in_dll(ctypes.CDLL(path), SYMBOL)
            except (OSError, ValueError):
                continue

    def now(self) -> Bytes | None:
        """None where nothing is counted: wolfpine, or the vendor's library as it is."""
        if self._counters is None:
            return None
        return Bytes(int(self._counters[0]), int(self._counters[1]))
