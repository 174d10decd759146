"""What buffers of steps take: no more than their room, and never what the running step uses."""

from __future__ import annotations

from kernels import runtime

runtime.choose("sim")

from device_service.model.tt_tensors import Tensors  # noqa: E402

TILE_ROW = 32 * 32 * 2
"""Bytes of the smallest tensor."""


def test_a_buffer_is_the_same_until_its_room_is_needed() -> None:
    tensors = Tensors(None, 2 * TILE_ROW)
    tensors.begin_step()
    a, b = tensors.buffer("a", 32, 32), tensors.buffer("b", 32, 32)
    tensors.begin_step()
    assert tensors.buffer("a", 32, 32) is a
    c = tensors.buffer("c", 32, 32)  # takes the place of b, which this step has not used
    assert tensors.buffer("a", 32, 32) is a
    assert tensors.buffer("c", 32, 32) is c
    assert tensors.step_bytes == 2 * TILE_ROW
    assert tensors.buffer("b", 32, 32) is not b


def test_what_one_step_uses_stays_even_beyond_the_room() -> None:
    tensors = Tensors(None, TILE_ROW)
    tensors.begin_step()
    buffers = [tensors.buffer(name, 32, 32) for name in "abc"]
    assert [tensors.buffer(name, 32, 32) for name in "abc"] == buffers
    assert tensors.allocated == 3


def test_scratch_grows_in_its_own_place() -> None:
    tensors = Tensors(None, 3 * TILE_ROW)
    tensors.begin_step()
    small = tensors.scratch("sums", 32, 32)
    assert tensors.scratch("sums", 64, 32).shape[0] == 64
    assert tensors.step_bytes == 2 * TILE_ROW
    assert tensors.scratch("sums", 32, 32) is not small


def test_without_a_room_every_shape_stays() -> None:
    tensors = Tensors(None)
    first = tensors.buffer("a", 32, 32)
    for columns in (64, 128, 256):
        tensors.begin_step()
        tensors.buffer("a", 32, columns)
    assert tensors.buffer("a", 32, 32) is first
