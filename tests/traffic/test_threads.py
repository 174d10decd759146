"""Threads on sizes alone count what the functional simulator counts, for every small case."""

from __future__ import annotations

import pytest
import torch

from kernels import simulator
from tests.kernels.case import Case, all_cases
from tests.kernels.traffic import account
from tests.traffic import threads

SMALL = [case for case in all_cases() if case.size == "small"]


def sized(case: Case) -> list[threads.Sized]:
    made = case.operands(torch.Generator().manual_seed(0))
    return [threads.Sized(*o.tensor.shape, o.fmt) for o in made]


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_they_count_as_the_simulator_does(case: Case) -> None:
    told, operands = account(case), sized(case)
    launches = threads.run(case.operation(), operands)
    assert sum(x.crossed(True) for x in operands) == told["dram_read_bytes"]
    assert sum(x.crossed(False) for x in operands) == told["dram_written_bytes"]
    assert sum(x.least(read) for x in operands for read in (True, False)) == told["least_bytes"]
    readers = sorted(len(x.readers) for x in operands if x.readers)
    assert readers == sorted(told["readers"].values())
    assert len(launches) == told["launches"]
    assert len(set().union(*(x.working for x in launches))) == told["working_nodes"]
    assert max(x.l1_bytes for x in launches) == told["l1_bytes"]


def test_work_is_that_of_the_formula() -> None:
    """linear_hp multiplies K / 32 tiles for each of a core's columns, and stores each."""
    case = next(case for case in SMALL if case.name == "linear_hp-uneven-bf16")
    (launch,) = threads.run(case.operation(), sized(case))
    x, w = (o.tensor for o in case.operands(torch.Generator())[:2])
    products = x.shape[1] // 32 * w.shape[1] // 32
    assert sum(work["product"] for work in launch.work.values()) == products
    assert sum(work["store"] for work in launch.work.values()) == w.shape[1] // 32


def test_a_copy_outside_of_a_tensor_is_refused() -> None:
    tensor = threads.Sized(32, 64, "bf16")
    with pytest.raises(IndexError):
        tensor[0:1, 1:3]


def test_more_memory_than_a_core_has_is_refused() -> None:
    from kernels.runtime import like, ttl

    @ttl.operation(grid=(1, 1))
    def operation(x: object) -> None:
        x_dfb = ttl.make_dataflow_buffer_like(like("bf16"), shape=(1, 1000), block_count=1)

        @ttl.datamovement()
        def read() -> None:
            with x_dfb.reserve() as x_blk:
                ttl.copy(x[0:1, 0:1000], x_blk).wait()

        @ttl.compute()
        def compute() -> None:
            with x_dfb.wait():
                pass

        @ttl.datamovement()
        def write() -> None:
            pass

        del read, compute, write

    with pytest.raises(simulator.UnsupportedByCompilerError, match="2048000 bytes"):
        threads.run(operation, [threads.Sized(32, 32000, "bf16")])
