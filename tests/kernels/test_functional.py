"""Every kernel against torch in the functional simulator. What it moves: test_traffic.py."""

import pytest

from kernels import runtime
from tests.kernels.case import Case, all_cases
from tests.kernels.traffic import account

CASES = all_cases()
SMALL = [case for case in CASES if case.size == "small"]
FULL = [case for case in CASES if case.size == "full"]


def held_to_its_claims(case: Case) -> None:
    row = account(case)
    assert row["good"], f"{row['roundings']:.2f} bf16 roundings, at most {row['bound']}"
    assert row["l1_bytes"] <= runtime.L1_BYTES


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_a_small_case_agrees_with_torch(case: Case) -> None:
    held_to_its_claims(case)


@pytest.mark.kernels
@pytest.mark.parametrize("case", FULL, ids=lambda case: case.name)
def test_a_case_at_true_size_agrees_with_torch(case: Case) -> None:
    held_to_its_claims(case)
