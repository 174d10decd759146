"""Every kernel's header is held to what it says of DRAM, and every weight crosses once.

A claim quotes its header: who changes the words has to look at the numbers here.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from kernels import runtime
from tests.kernels.case import Case, all_cases
from tests.kernels.traffic import account

CASES = all_cases()
EACH = "once a node"
"""A tensor crosses once for every node that reads it."""


@dataclass(frozen=True)
class Claim:
    """What a header says; how often each tensor is read by it. Each output is written once."""

    kernel: str
    module: str
    words: str
    reads: Mapping[str, float | str]
    part: str = ""
    """Of the name of the case that shows it; otherwise the kernel's first with several nodes."""

    def case(self) -> Case:
        """A small case."""
        mine = [c for c in CASES if c.kernel == self.kernel and c.size == "small"]
        fitting = [c for c in mine if self.part in c.name and c.grid != (1, 1)]
        return fitting[0] if fitting else mine[0]


ELEMENTWISE = "DRAM: a, b once, y once; the constants' tiles once a node."
NORM = "DRAM: x twice, w and h once, s once a node; y once."
LINEAR = "DRAM: x once, w once, y once;"
CLAIMS = [
    Claim("residual_add", "elementwise", ELEMENTWISE, {"a": 1, "b": 1}),
    Claim("elementwise_mul", "elementwise", ELEMENTWISE, {"a": 1, "b": 1}),
    Claim("scalar_mul", "elementwise", ELEMENTWISE, {"a": 1, "s": EACH}),
    Claim("copy", "elementwise", ELEMENTWISE, {"a": 1}),
    Claim("softcap", "elementwise", ELEMENTWISE, {"a": 1, "constants": EACH}),
    Claim(
        "gelu_mul",
        "gelu_mul",
        "DRAM: gate, up once, y once; the constants once a node.",
        {"gate": 1, "up": 1, "constants": EACH},
    ),
    Claim("rms_norm", "norm", NORM, {"x": 2, "w": 1}),
    Claim("residual_norm", "norm", NORM, {"x": 2, "w": 1, "h": 1, "s": EACH}),
    Claim(
        "residual_norms",
        "residual_norms",
        "DRAM: a twice; h, w1 (but for a tile), w2 once; h' once, read once more; x once.",
        {"a": 2, "h": 1, "w2": 1, "h_out": 1},
    ),
    Claim("linear_hp", "linear", LINEAR, {"x": 1, "w": 1}),
    Claim("linear", "linear", LINEAR, {"x": 1, "w": 1}),
    Claim(
        "norm_linear",
        "norm_linear",
        "DRAM: x, norm, w once, y once.",
        {"x": 1, "norm": 1, "w": 1},
    ),
    Claim(
        "geglu_mlp",
        "mlp",
        "DRAM: x, gate, up, down once; act and parts written and read once;",
        {"x": 1, "gate": 1, "up": 1, "down": 1, "act": 1, "parts": 1},
    ),
    Claim(
        "ple",
        "ple",
        "m, parts twice; w_ff, w, y once; s once a node that has a column.",
        {
            **{"gate": 1, "projection": 1, "pli": 1, "h": 1, "h2": 1, "w_ff": 1, "w": 1},
            **{"m": 2, "parts": 2, "s": EACH},
        },
    ),
    Claim(
        "rotary",
        "rotary",
        "DRAM: x once, y once, cos and sin once a node that has a head.",
        {"x": 1, "cos": EACH, "sin": EACH},
    ),
    Claim(
        "qkv_heads",
        "qkv_heads",
        "DRAM: qkv once (with `k_eq_v` k's part twice), the outputs once;",
        {"qkv": 1, "cos": EACH, "sin": EACH, "q_norm": EACH, "k_norm": EACH},
        part="one-each",
    ),
    Claim(
        "reshape_from_heads",
        "heads",
        "DRAM: units once, selections once, x once:",
        {"units": 1, "selection": 1},
    ),
    Claim(
        "attention_out",
        "attention_out",
        "DRAM: units, selection, w once, rows written and read once, y once;",
        {"units": 1, "selection": 1, "w": 1, "rows": 1},
        part="two-shares",
    ),
    Claim(
        "kv_append",
        "kv_append",
        "DRAM: k, v once; caches once, written once;",
        {"k": 1, "v": 1, "k_cache": 1, "v_cache": 1},
    ),
    Claim(
        "attention",
        "attention",
        "o once; k, v, k_staged, v_staged `waves` times, mask, mask_staged K times;",
        dict.fromkeys(("k", "v", "k_staged", "v_staged", "mask", "mask_staged"), 2),
        part="heads-waves",
    ),
    Claim(
        "lm_head",
        "lm_head",
        "DRAM: x once, multicast; w once; constants once a node.",
        {"x": 1, "w": 1, "constants": EACH},
        part="uneven",
    ),
]


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.kernel)
def test_a_header_says_what_crosses(claim: Claim) -> None:
    header = importlib.import_module(f"kernels.{claim.module}").__doc__ or ""
    assert claim.words in " ".join(header.split())
    row = account(claim.case())
    wanted = {
        name: row["readers"][name] if times == EACH else times
        for name, times in claim.reads.items()
    }
    assert {name: row["times_read"][name] for name in wanted} == wanted
    assert set(row["times_written"].values()) == {1.0}


FULL = [case for case in CASES if case.size == "full" and case.weights]


@pytest.mark.kernels
@pytest.mark.parametrize("case", FULL, ids=lambda case: case.name)
def test_weights_cross_once_and_by_many_cores(case: Case) -> None:
    row = account(case)
    assert 1 <= row["weight_read_ratio"] <= 1.02
    assert row["l1_bytes"] <= runtime.L1_BYTES
    if "p150" in case.boards and "n150" not in case.name:
        assert row["weight_readers"] >= 64


def test_every_projection_of_both_models_is_accounted_for() -> None:
    """Whatever reads weights has a case at its true size."""
    reading = {case.kernel for case in CASES if case.weights}
    assert reading == {case.kernel for case in FULL}
