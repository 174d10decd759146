"""What buffers of steps take: no more than their room, and never what the running step uses."""

from __future__ import annotations

import pytest
import torch

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


def test_no_more_goes_than_must_and_first_what_was_not_used_for_longest() -> None:
    tensors = Tensors(None, 3 * TILE_ROW)
    tensors.begin_step()
    a, b, c = (tensors.buffer(name, 32, 32) for name in "abc")
    tensors.begin_step()
    tensors.buffer("a", 32, 32)
    tensors.begin_step()
    tensors.buffer("d", 32, 32)
    assert tensors.buffer("a", 32, 32) is a
    assert tensors.buffer("c", 32, 32) is c
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


class Mask:
    """Made when asked for, and counted."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors
        self.made: list[int] = []

    def upload(self, holds: int, columns: int = 32) -> torch.Tensor:
        def make() -> torch.Tensor:
            self.made.append(holds)
            return torch.full((32, columns), float(holds))

        self._tensors.begin_step()
        tensor = self._tensors.upload_new("mask", (32, columns), holds, make, "bfp4")
        return self._tensors.get(tensor)


def test_what_a_buffer_holds_already_is_not_made_again() -> None:
    mask = Mask(Tensors(None))
    for holds in (1, 1, 2, 2, 1):
        assert (mask.upload(holds) == holds).all()
    assert mask.made == [1, 2, 1]
    assert (mask.upload(1, columns=64) == 1).all()  # another buffer
    assert (mask.upload(1) == 1).all()
    assert mask.made == [1, 2, 1, 1]


def test_a_buffer_that_went_holds_nothing() -> None:
    tensors = Tensors(None, TILE_ROW)
    mask = Mask(tensors)
    mask.upload(1)
    tensors.begin_step()
    tensors.buffer("other", 32, 32)
    assert (mask.upload(1) == 1).all()
    assert mask.made == [1, 1]


def test_an_upload_that_failed_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = Mask(Tensors(None))
    mask.upload(1)
    with monkeypatch.context() as patched:
        patched.setattr(runtime, "write", _lost)
        with pytest.raises(OSError, match="lost"):
            mask.upload(2)
    assert (mask.upload(1) == 1).all()
    assert mask.made == [1, 2, 1]


def _lost(*_: object) -> None:
    raise OSError("the device is lost")
