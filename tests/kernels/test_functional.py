"""Every kernel against torch in the functional simulator; its header's claims on DRAM and L1."""

import pytest

from kernels import runtime, simulator
from tests.kernels.case import Case, all_cases, least_bytes, run

CASES = all_cases()
SMALL = [case for case in CASES if case.size == "small"]
FULL = [case for case in CASES if case.size == "full"]


def held_to_its_claims(case: Case) -> None:
    with simulator.counting() as traffic:
        result = run(case, runtime.open_device())
    assert result.good, f"{result.roundings:.2f} bf16 roundings, at most {result.bound}"
    for name, least in least_bytes(case).items():
        assert traffic.read_bytes[name] <= 1.02 * least
        assert traffic.read_bytes[name] >= least
        if case.size == "full" and case.grid != runtime.N150_GRID:
            assert len(traffic.readers[name]) >= 64
    assert traffic.l1_bytes <= runtime.L1_BYTES


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_a_small_case_agrees_with_torch(case: Case) -> None:
    held_to_its_claims(case)


@pytest.mark.kernels
@pytest.mark.parametrize("case", FULL, ids=lambda case: case.name)
def test_a_case_at_true_size_agrees_with_torch(case: Case) -> None:
    held_to_its_claims(case)
