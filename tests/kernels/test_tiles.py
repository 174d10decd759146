"""Tiles as bytes: their order, their bits, and back again. That ttnn writes the same bytes is in
tests/chip/test_tools.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kernels import runtime
from kernels.block_float import BFP4_BITS, BFP8_BITS, round_to_block_float
from kernels.runtime import TILE_BYTES, Format
from kernels.tensorbin import file_bytes, header, map_tiles
from kernels.tiles import from_tiles, num_bytes, to_tiles
from tests.chip.state.block_float import hard_values

runtime.choose("sim")

FORMATS: tuple[Format, ...] = ("bf16", "bfp8", "bfp4", "f32")
HARD = hard_values()


def bits(values: torch.Tensor) -> torch.Tensor:
    return values.float().view(torch.int32)


@pytest.mark.parametrize("name", HARD)
def test_every_format_holds_its_rounding_of_hard_values_and_nothing_else(name: str) -> None:
    values = HARD[name][:64, :160]
    wanted = {
        "bf16": values.bfloat16(),
        "f32": values,
        "bfp8": round_to_block_float(values, BFP8_BITS),
        "bfp4": round_to_block_float(values, BFP4_BITS),
    }
    for fmt in FORMATS:
        got = from_tiles(to_tiles(values, fmt), values.shape, fmt)
        assert torch.equal(bits(got), bits(wanted[fmt])), fmt


@pytest.mark.parametrize("fmt", FORMATS)
def test_bfloat16_and_transposed_views_give_the_same_tiles(fmt: Format) -> None:
    values = HARD["spread over 2^240"].bfloat16()[:, :96]
    tiles = to_tiles(values, fmt)
    assert torch.equal(to_tiles(values.float(), fmt), tiles)
    assert torch.equal(to_tiles(values.T.contiguous().T, fmt), tiles)


def test_a_matrix_wider_than_what_is_converted_at_a_time_is_whole() -> None:
    values = torch.arange(32 * 40_000 - 1, -1, -1.0).view(32, 40_000)
    assert torch.equal(from_tiles(to_tiles(values, "f32"), (32, 40_000), "f32"), values)


def test_tiles_lie_row_by_row_and_a_tile_face_by_face() -> None:
    row, column = torch.meshgrid(torch.arange(64), torch.arange(96), indexing="ij")
    tiles = to_tiles((row * 1000 + column).float(), "f32").view(torch.float32).flatten()
    assert tiles[:3].tolist() == [0, 1, 2]
    assert tiles[16].item() == 1000  # the face's next row
    assert tiles[256].item() == 16  # the face beside it
    assert tiles[512].item() == 16_000  # the one below
    assert tiles[1024].item() == 32  # the next tile
    assert tiles[3 * 1024].item() == 32_000


def test_a_block_float_tile_is_exponents_then_signs_and_magnitudes() -> None:
    values = torch.zeros(32, 32)
    values[0, :4] = torch.tensor([1.0, -0.5, 0.25, -1e-9])
    values[17, 20] = 3.0
    eight, four = (to_tiles(values, fmt).flatten().tolist() for fmt in ("bfp8", "bfp4"))
    for tile in (eight, four):
        assert tile[:64] == [127, *[0] * 48, 128, *[0] * 14]  # row 17 is row 1 of the last face
    assert eight[64:68] == [64, 128 + 32, 16, 0]
    assert eight[64 + 3 * 256 + 16 + 4] == 96
    assert four[64:66] == [4 | (8 + 2) << 4, 1]  # the first of a pair in the low half
    assert four[64 + (3 * 256 + 16 + 4) // 2] == 6


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_file_is_a_page_of_header_and_the_tiles(fmt: Format, tmp_path: Path) -> None:
    values = HARD["weights"][:32, :96]
    file, shape = tmp_path / "x.tensorbin", (32, 96)
    file.write_bytes(header(shape, fmt) + to_tiles(values, fmt).numpy().tobytes())
    assert file.stat().st_size == file_bytes(shape, fmt) == 4096 + 3 * TILE_BYTES[fmt]
    assert num_bytes(shape, fmt) == 3 * TILE_BYTES[fmt]
    assert torch.equal(map_tiles(file, shape, fmt), to_tiles(values, fmt).flatten())


def test_a_file_loads_as_put_would_have_made_it(tmp_path: Path) -> None:
    values, shape = HARD["normal"][:64, :96], (64, 96)
    for fmt in FORMATS:
        file = tmp_path / f"{fmt}.tensorbin"
        file.write_bytes(header(shape, fmt) + to_tiles(values, fmt).numpy().tobytes())
        loaded, put = runtime.load(file, shape, fmt, None), runtime.put(values, fmt, None)
        assert loaded.dtype == put.dtype
        assert torch.equal(bits(runtime.get(loaded)), bits(runtime.get(put)))
