"""The demo model served in TT-Lang kernels on the functional simulator, through both programs."""

from __future__ import annotations

import warnings

import torch

from tests.end_to_end.agreement import Difference, ask, differences, differences_of
from tests.processes import DEMO_MODEL, running_services


def test_the_text_is_the_torch_backends() -> None:
    flags = {"backend": "sim", "slots": "2", "context-length": "64", "drain-seconds": "0"}
    with running_services(DEMO_MODEL, device_flags=flags) as services:
        answer = ask(services.gateway_address, DEMO_MODEL, "The day after Friday is", 4)
    assert len(answer.ids) == 4
    for difference in differences(DEMO_MODEL, answer):
        assert difference.is_tie, difference
        warnings.warn(f"a tie: {difference}", stacklevel=1)


def test_another_token_is_a_tie_only_as_near_as_bfloat16_moves_logits() -> None:
    exact = torch.tensor([[1.0, 2.0, 0.0], [1.0, 2.0, 0.0], [1.0, 2.0, 0.0]])
    logits = torch.tensor([[1.0, 2.0, 0.0], [1.95, 2.05, 0.0], [1.05, 1.95, 0.0]])
    none, near, far = [1, 1, 1], [1, 0, 1], [1, 1, 0]
    assert differences_of(none, logits, exact) == []
    (found,) = differences_of(near, logits, exact)
    assert (found.position, found.served, found.wanted, found.is_tie) == (1, 0, 1, True)
    (found,) = differences_of(far, logits, exact)
    assert isinstance(found, Difference)
    assert not found.is_tie
