"""The device's memory as the decoder uses it: everything that allocates or moves a tensor.

One place, so that a plan can be compared with what is allocated, and so that a step can be recorded
without a device. Knows shapes and bytes; knows no model.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
import torch.nn.functional as F

from kernels import runtime
from kernels.runtime import TILE, Format
from kernels.tiles import num_bytes

Tensor = Any
"""A tensor of the chosen runtime, in the device's DRAM."""
Key = tuple[str, int, int]
"""A buffer's name, rows and columns."""


class Tensors:
    """Tensors on one device; all are two-dimensional, in whole tiles, unless said otherwise.

    Args:
        device: of the chosen runtime.
        room_bytes: what buffers and scratch may take; None: any. Steps of many shapes have buffers
            each, and where those would take more, the ones go that were not used for longest; never
            any that the running step has used.
    """

    def __init__(self, device: Any, room_bytes: int | None = None) -> None:
        self.device = device
        self._room_bytes = room_bytes
        self._buffers: dict[Key, Tensor] = {}
        """By last use, the newest at the end."""
        self._bytes: dict[Key, int] = {}
        """Of each buffer."""
        self._holds: dict[Key, Hashable] = {}
        """What buffers hold, of those that keep it."""
        self._scratch: dict[tuple[str, int], Tensor] = {}
        self._used: set[Key] = set()
        """Buffers of the running step."""
        self.allocated = 0
        """Tensors that were made so far."""

    def begin_step(self) -> None:
        """From now on, buffers are another step's."""
        self._used.clear()

    def put(self, host: torch.Tensor, fmt: Format = "bf16") -> Tensor:
        """A new tensor that holds what `host` holds, rounded to the format."""
        self.allocated += 1
        return runtime.put(host, fmt, self.device)

    def zeros(self, rows: int, columns: int, fmt: Format = "bf16") -> Tensor:
        """A new tensor of zeros."""
        self.allocated += 1
        return runtime.zeros(rows, columns, fmt, self.device)

    def buffer(self, name: str, rows: int, columns: int, fmt: Format = "bf16") -> Tensor:
        """The tensor of that name and size, the same in all of a step; zeros at first."""
        key = (name, rows, columns)
        tensor = self._buffers.pop(key, None)
        if tensor is None:
            self._make_room(num_bytes((rows, columns), fmt))
            tensor = self.zeros(rows, columns, fmt)
            self._bytes[key] = num_bytes((rows, columns), fmt)
        self._buffers[key] = tensor
        self._used.add(key)
        return tensor

    def scratch(self, name: str, rows: int, columns: int) -> Tensor:
        """A bf16 tensor of at least so many rows, for what nobody reads after the launch."""
        key = (name, columns)
        if key not in self._scratch or self._scratch[key].shape[0] < rows:
            self._scratch.pop(key, None)
            self._make_room(num_bytes((rows, columns), "bf16"))
            self._scratch[key] = self.zeros(rows, columns)
        return self._scratch[key]

    def _make_room(self, wanted: int) -> None:
        """Drops as much of what earlier steps left as it takes to have so much more."""
        if self._room_bytes is None:
            return
        over = self.step_bytes + wanted - self._room_bytes
        for key in [key for key in self._buffers if key not in self._used]:
            if over <= 0:
                return
            over -= self._bytes.pop(key)
            del self._buffers[key]
            self._holds.pop(key, None)

    @property
    def step_bytes(self) -> int:
        """What buffers and scratch take."""
        scratch = sum(
            num_bytes((tensor.shape[0], columns), "bf16")
            for (_, columns), tensor in self._scratch.items()
        )
        return sum(self._bytes.values()) + scratch

    def upload(self, name: str, host: torch.Tensor, fmt: Format = "bf16") -> Tensor:
        """The buffer of that name, now holding `host`: an input of a step, at one address always.

        Args:
            name: of the buffer.
            host: [rows, columns]; rows are filled up with zeros to whole tiles.
            fmt: of the buffer.
        """
        if missing := -len(host) % TILE:
            host = F.pad(host, (0, 0, 0, missing))
        tensor = self.buffer(name, host.shape[0], host.shape[1], fmt)
        runtime.write(tensor, host, fmt)
        return tensor

    def upload_new(
        self,
        name: str,
        shape: tuple[int, int],
        holds: Hashable,
        make: Callable[[], torch.Tensor],
        fmt: Format = "bf16",
    ) -> Tensor:
        """As `upload`, but what the buffer holds already is neither made nor sent again.

        Args:
            name: of a buffer that nothing else writes.
            shape: of what `make` returns, whole tiles.
            holds: tells what `make` returns from anything else of that name and shape.
            make: what to upload.
            fmt: of the buffer.
        """
        key = (name, *shape)
        tensor = self.buffer(name, shape[0], shape[1], fmt)
        if self._holds.get(key) != holds:
            host = make()
            self._holds.pop(key, None)
            self.upload(name, host, fmt)
            self._holds[key] = holds
        return tensor

    def get(self, tensor: Tensor) -> torch.Tensor:
        """On the host, float32."""
        return runtime.get(tensor)

    def copy_tile_rows(self, target: Tensor, source: Tensor, table: torch.Tensor) -> None:
        """Copies whole tile rows: row i of the source to row `table[i]` of the target, −1: nowhere.

        Args:
            target: [n · 32, D]
            source: [m · 32, D]
            table: int32 [m]
        """
        runtime.copy_tile_rows(target, source, table, self.device)
