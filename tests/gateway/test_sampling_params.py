from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from gateway.sampling import InvalidParameter, SamplingParams


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1.0),
        ("temperature", 0.001),
        ("temperature", 101.0),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", 1e300),
        ("top_k", -1),
        ("top_k", 101),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("top_p", math.nan),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", 10.5),
        ("presence_penalty", 2.5),
        ("presence_penalty", -math.inf),
        ("frequency_penalty", -2.5),
        ("seed", -1),
        ("seed", 2**64),
    ],
)
def test_a_value_outside_of_its_limits_is_refused_by_name(field: str, value: float) -> None:
    parameters: dict[str, Any] = {"seed": 1, field: value}
    with pytest.raises(InvalidParameter, match=f"^{field} must be ") as caught:
        SamplingParams(100, **parameters)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("bias", "field"),
    [
        ({100: 1.0}, "logit_bias[100]"),
        ({3: 100.5}, "logit_bias[3]"),
        ({3: math.nan}, "logit_bias[3]"),
        ({3: -math.inf}, "logit_bias[3]"),
    ],
)
def test_a_bad_logit_bias_is_refused_by_its_id(bias: dict[int, float], field: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        SamplingParams(100, 1, logit_bias=bias)
    assert caught.value.field == field


def test_too_many_biases_are_refused() -> None:
    SamplingParams(5000, 1, logit_bias=dict.fromkeys(range(1024), 1.0))
    with pytest.raises(InvalidParameter, match="at most 1,024 entries, not 1,025"):
        SamplingParams(5000, 1, logit_bias=dict.fromkeys(range(1025), 1.0))


def test_the_ends_of_all_ranges_are_accepted() -> None:
    SamplingParams(
        100,
        0,
        temperature=0.01,
        top_k=100,
        top_p=1e-6,
        min_p=1.0,
        repetition_penalty=10.0,
        presence_penalty=-2.0,
        frequency_penalty=2.0,
        logit_bias={99: -100.0},
    )
    SamplingParams(100, 2**64 - 1, temperature=100.0, top_k=0, min_p=0.0)


def test_numbers_are_held_as_the_wire_holds_them() -> None:
    params = SamplingParams(100, 1, temperature=0.7, top_p=0.95, logit_bias={1: 0.1})
    assert params.temperature == float(np.float32(0.7))
    assert params == SamplingParams(
        100,
        1,
        temperature=float(np.float32(0.7)),
        top_p=float(np.float32(0.95)),
        logit_bias={1: float(np.float32(0.1))},
    )


def test_only_penalties_and_biases_adjust_logits() -> None:
    assert not SamplingParams(100, 1, temperature=0.5, top_k=3, top_p=0.5).adjusts_logits
    assert SamplingParams(100, 1, repetition_penalty=1.1).adjusts_logits
    assert SamplingParams(100, 1, presence_penalty=-0.5).adjusts_logits
    assert SamplingParams(100, 1, frequency_penalty=0.5).adjusts_logits
    assert SamplingParams(100, 1, logit_bias={1: 2.0}).adjusts_logits
