"""The page of `make test-hardware`, from what a run finds: its failures, and what it must say."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from math import nan
from typing import Any

import pytest

from deploy import chip
from device_service.doctor import board_to_plan_for
from device_service.machine import Card, Machine, look
from tests.hardware import report

Found = dict[str, Any]


@pytest.fixture
def found() -> Found:
    """A run in which everything was right."""
    card = {"name": "card", "state": "ok", "found": "/dev/tenstorrent/0: n150 L", "todo": ""}
    return {
        "simulated": False,
        "board": "n150",
        "doctor": {"can_serve": True, "checks": [card]},
        "kernels": {"softcap": {"kernel": "softcap", "bound": 2.0, "roundings": 1.5}},
        "models": [
            {
                "model": "e2b",
                "precision": "bf16",
                "error": "",
                "layer_pcc": [0.9999, 0.9995],
                "logits_pcc": 0.9998,
                "same_best": 1.0,
                "wall_seconds": {"load": 1.0, "warm_up": 2.0},
                "speeds": [
                    {
                        "sequences": 32,
                        "traced": True,
                        "position": 3,
                        "step_seconds": 0.02,
                        "tokens_per_second": 1600.0,
                        "dram_bytes": 4_000_000_000,
                        "bandwidth_share": 0.694,
                    }
                ],
                "prompts": [{"in_flight": 2, "seconds": 0.5, "tokens_per_second": 512.0}],
                "not_measured": ["1 sequences, traced: no trace under slow dispatch"],
            }
        ],
    }


def test_a_run_without_fault_says_so_with_its_numbers(found: Found) -> None:
    assert report.failures(found) == []
    page = report.markdown(found)
    assert page.startswith("# Tessera on a n150\n")
    assert "| e2b | bf16 | 32 | yes | 20.00 | 1600.0 | 4000.0 MB | 69.4 % |" in page
    assert "| e2b | bf16 | 2 | 512.0 |" in page
    assert "1 sequences, traced: no trace under slow dispatch" in page
    assert "Nothing." in page
    assert "tells **nothing**" not in page


def test_a_simulated_run_says_that_its_times_tell_nothing(found: Found) -> None:
    page = report.markdown(found | {"simulated": True})
    assert page.startswith("# Tessera on a simulated n150\n")
    assert "of speed and bandwidth it tells **nothing**" in page


@pytest.mark.parametrize(
    ("where", "change", "says"),
    [
        ("kernels", {"roundings": 2.5}, "kernel softcap: 2.50 roundings, bound 2.0"),
        ("kernels", {"error": "SIGABRT"}, "kernel softcap: SIGABRT"),
        ("models", {"error": "exit 1: refused"}, "model e2b, bf16: exit 1: refused"),
        ("models", {"layer_pcc": [0.9999, 0.98]}, "model e2b, bf16: a layer's PCC is 0.98000"),
        ("models", {"layer_pcc": [0.98, nan]}, "model e2b, bf16: a layer's PCC is nan"),
        ("models", {"logits_pcc": 0.5}, "model e2b, bf16: the logits' PCC is 0.50000"),
        ("models", {"logits_pcc": nan}, "model e2b, bf16: the logits' PCC is nan"),
    ],
)
def test_every_kind_of_fault_is_a_failure(
    found: Found, where: str, change: Found, says: str
) -> None:
    (found["kernels"]["softcap"] if where == "kernels" else found["models"][0]).update(change)
    assert report.failures(found) == [says]
    assert f"- {says}" in report.markdown(found)


def test_a_model_that_died_before_its_first_number_still_makes_a_page(found: Found) -> None:
    found["models"] = [{"model": "e4b", "precision": "bf16", "error": "no end after 3600 s"}]
    assert "| e4b | bf16 | no end after 3600 s |" in report.markdown(found)


def test_a_model_that_does_not_fit_is_said_and_is_no_failure(found: Found) -> None:
    why = "bf16 weights take 58 GiB, 27 more than a p150 has"
    found["models"] = [{"model": "31b", "precision": "bf16", "error": "", "unfit": why}]
    assert report.failures(found) == []
    assert f"| 31b | bf16 | does not fit: {why} |" in report.markdown(found)


def test_the_board_is_the_drivers_or_a_p150() -> None:
    def machine(*kinds: str) -> Machine:
        cards = [Card(f"/dev/tenstorrent/{n}", True, kind) for n, kind in enumerate(kinds)]
        return replace(look({}), cards=tuple(cards))

    assert board_to_plan_for(machine("p100a")) == "p100"
    assert board_to_plan_for(machine("")) == "p150"
    assert board_to_plan_for(machine("n150 L", "p150b")) == "n150"


@pytest.mark.skipif(any(chip.CARDS.glob("[0-9]*")), reason="there is a card")
def test_without_a_card_it_says_so_in_one_line_and_is_no_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TT_METAL_SIMULATOR", raising=False)
    done = subprocess.run(
        [sys.executable, "-m", "tests.hardware"],
        cwd=chip.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    (line,) = done.stdout.splitlines()
    assert line.startswith("skipped: backend tt wants a card")
