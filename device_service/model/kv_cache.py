"""Keys and values of one sequence in one layer, contiguous, so that attention reads a view.

Knows positions and tensors; knows no weights and no attention. Shapes: n positions, K kv heads, H
head dim.
"""

from __future__ import annotations

import torch

Tensor = torch.Tensor

_FIRST_CAPACITY = 256


class KVCache:
    """Keys and values of consecutive positions, growing by doubling up to a capacity.

    A full layer's cache holds every position. A sliding layer's is a ring in effect: at the end of
    its buffer the newest `ring_size` positions move to the front, once every `ring_size` positions,
    which costs less than gathering a wrapped window in every step. Nothing is ever read by its
    place: what a rewind left behind is beyond the positions asked for, and is overwritten.
    """

    def __init__(
        self,
        num_kv_heads: int,
        head_dim: int,
        ring_size: int,
        context_length: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """A cache for sequences of `context_length` that keeps the last `ring_size` positions."""
        self._ring_size = ring_size
        self._max_capacity = min(context_length, 2 * ring_size)
        self._first_capacity = min(_FIRST_CAPACITY, self._max_capacity)
        self._first = 0  # the position at the front of the buffer
        shape = (2, num_kv_heads, self._first_capacity, head_dim)
        self._buffer = torch.empty(shape, dtype=dtype, device=device)  # keys, then values

    @property
    def num_bytes(self) -> int:
        """Memory that it takes now."""
        return self._buffer.nbytes

    def write(self, start: int, keys: Tensor, values: Tensor) -> None:
        """Puts n positions from `start` on; what was there or beyond counts no more.

        Args:
            start: at most the number of positions written, and 0 or within reach of the ring.
            keys: [K, n, H]
            values: [K, n, H]
        """
        end = start + keys.shape[1]
        if start == 0:
            self._restart(end)
        if end - self._first > self._buffer.shape[2]:
            self._make_room(start, end)
        at = slice(start - self._first, end - self._first)
        self._buffer[0, :, at] = keys
        self._buffer[1, :, at] = values

    def read(self, start: int, end: int) -> tuple[Tensor, Tensor]:
        """Keys and values [K, end - start, H] of the positions from `start` up to `end`: views."""
        assert start >= self._first, "these positions have left the ring"
        at = slice(start - self._first, end - self._first)
        return self._buffer[0, :, at], self._buffer[1, :, at]

    def _restart(self, num_positions: int) -> None:
        """A new sequence: what a longer one before it needed is given back."""
        self._first = 0
        if self._buffer.shape[2] > max(self._first_capacity, 4 * num_positions):
            self._buffer = self._empty(self._first_capacity)

    def _make_room(self, start: int, end: int) -> None:
        capacity = self._buffer.shape[2]
        if end <= self._max_capacity and self._first == 0:
            while capacity < end:
                capacity = min(2 * capacity, self._max_capacity)
            old, first = self._buffer, 0
            self._buffer = self._empty(capacity)
        else:
            old, first = self._buffer.clone(), end - self._ring_size
        kept = old[:, :, first - self._first : start - self._first]
        self._buffer[:, :, : kept.shape[2]] = kept
        self._first = first

    def _empty(self, capacity: int) -> Tensor:
        _, num_kv_heads, _, head_dim = self._buffer.shape
        return self._buffer.new_empty((2, num_kv_heads, capacity, head_dim))
