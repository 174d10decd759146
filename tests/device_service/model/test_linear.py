from __future__ import annotations

import pytest
import torch

from device_service.model.linear import can_pack, make_linear, padded_row_count

CPU = torch.device("cpu")


def test_row_counts_are_rounded_up_to_a_few() -> None:
    padded = [padded_row_count(count) for count in range(1, 129)]
    assert all(into >= count for count, into in enumerate(padded, 1))
    assert sorted(set(padded)) == [2, 4, 8, 16, 32, 48, 64, 96, 128]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_rows", [1, 2, 3, 8, 13, 33, 100])
def test_padding_shows_in_no_result(num_rows: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(num_rows)
    weights = [torch.randn(48, 64, generator=generator), torch.randn(16, 64, generator=generator)]
    rows = torch.randn(num_rows, 64, generator=generator).to(dtype)
    out = make_linear(weights, dtype, CPU)(rows)
    expected = rows.double() @ torch.cat(weights).to(dtype).double().T
    assert out.shape == (num_rows, 64)
    torch.testing.assert_close(out.double(), expected, atol=1e-4, rtol=2**-7)


@pytest.mark.skipif(not can_pack(CPU, torch.float32), reason="weights are packed on x86 only")
def test_a_row_gives_the_same_bits_whatever_the_rows_beside_it() -> None:
    generator = torch.Generator().manual_seed(1)
    linear = make_linear([torch.randn(96, 128, generator=generator)], torch.float32, CPU)
    rows = torch.randn(100, 128, generator=generator)
    together = linear(rows)
    for count in (1, 2, 5, 16, 40):
        assert torch.equal(linear(rows[:count]), together[:count])
