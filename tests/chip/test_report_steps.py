"""The report's part on whole steps says what the rows say, of a run cut short too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kernels import runtime

runtime.choose("sim")

from tests.chip import report_steps, results, served  # noqa: E402
from tests.chip.steps import driving  # noqa: E402

ABOUT = {
    "about": {"simulator": "a chip"},
    "weights": "bf16",
    "held": 0,
    "steps": [{"rows": 31}, {"rows": 1}],
}
OLD = results.step_sources() | {"kernels/ple.py": "old"}
LOGITS = {
    "logits_pcc": 0.9993, "rounded_logits_pcc": 0.9992, "same": 1, "ties": 1, "others": 0,
    "widest_tie": 0.1, "tie_width": 0.25,
}  # fmt: skip


def layer(step: int, index: int, pcc: float, **more: Any) -> dict[str, Any]:
    return {
        "step": step, "rows": 1, "kind": "sliding_attention", "layer": index, "pcc": pcc,
        "row_pcc": pcc, "rounded_pcc": 0.99995, "seconds": 30.0, **more,
    }  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in (results, driving, served):
        monkeypatch.setattr(module, "CACHE", tmp_path)
    return tmp_path


def keep(file: Path, *rows: dict[str, Any]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_what_has_not_run_is_said_with_its_command() -> None:
    text = report_steps.sections()
    for command in ("make test-chip", "make chip-e2b", "make chip-e4b", "make chip-real-model"):
        assert command in text


def test_a_full_size_run_has_its_lowest_layer_its_bytes_and_its_ties(cache: Path) -> None:
    moved = {"dram_read": 2_000_000, "dram_written": 500_000}
    rows = [layer(1, 0, 0.9998, **moved), layer(1, 1, 0.9991, **moved)]
    last = {"step": 1, "rows": 1, "seconds": 40.0, **LOGITS, **moved}
    about = ABOUT | {"sources": results.step_sources()}
    keep(cache / "whole-random-e2b-bf16.jsonl", about, *rows, last, {"stage": "done"})
    text = report_steps.sections()
    assert "Step 1 (1 rows): 2 layers, PCC at least 0.999100" in text
    assert "ties in 1 (to 0.100 of 0.250)" in text
    assert "6.0 MB read from DRAM and 1.5 written" in text
    assert "Ended before" not in text
    assert "since" not in text.partition("## Full size")[2].partition("## The real")[0]


def test_what_has_not_run_here_stays_on_the_page(cache: Path) -> None:
    keep(cache / "whole-random-e4b-bfp8.jsonl", ABOUT | {"sources": OLD}, layer(0, 0, 0.998))
    before = report_steps.sections()
    (cache / "whole-random-e4b-bfp8.jsonl").unlink()
    assert report_steps.sections(before) == before
    assert "0.998000" not in report_steps.sections()


def test_a_run_cut_short_says_so_and_keeps_its_layers(cache: Path) -> None:
    keep(cache / "whole-random-e4b-bfp8.jsonl", ABOUT | {"sources": OLD}, layer(0, 0, 0.998))
    text = report_steps.sections()
    assert (
        "**E4B, bfp8 weights.** On a chip. Since then `kernels/ple.py` changed. Ended before"
        in text
    )
    assert "| 0 | 0 | sliding_attention | 0.998000 |" in text
    assert "Step 1 (1 rows): no layer ended." in text


def test_small_checkpoints_have_a_line_each_and_failures_their_reason(cache: Path) -> None:
    sources = results.scenario_sources() | {"kernels/ple.py": "old"}
    good = {
        "name": "e2b/bf16/ring", "steps": 9, "rows": 90, "seconds": 12.0, "logits": LOGITS,
        "layers": [layer(0, 0, 0.9999), layer(0, 1, 0.9997)], "sources": sources,
    }  # fmt: skip
    bad = {"name": "31b/bf16/ring", "error": "SIGABRT: unknown | instruction", "sources": sources}
    kept = {"rows": {row["name"]: row for row in (good, bad)}}
    (cache / "rows-steps-ttsim.json").write_text(json.dumps(kept))
    text = report_steps.sections()
    assert "1 of 45 scenarios ran. Of 2 of them: since then `kernels/ple.py` changed" in text
    assert "| e2b | bf16 | ring | 9 | 90 | 0.999700 (layer 1) |" in text
    assert "| 31b | bf16 | ring | failed: SIGABRT: unknown / instruction |" in text


def test_a_served_answer_is_quoted_with_its_ties(cache: Path) -> None:
    choices = [
        {"served": 5, "torch": 5, "gap": 0.0, "tie_width": 0.1},
        {"served": 7, "torch": 8, "gap": 0.05, "tie_width": 0.1},
    ]
    told = ABOUT | {
        "prompt": "The capital of France is", "prompt_tokens": 6, "text": " Paris.\n",
        "token_ids": [5, 7], "choices": choices, "start_seconds": 9.0, "sources": OLD,
        "pieces": [{"seconds": 70.0}],
    }  # fmt: skip
    served.keep("gemma3-270m", told)
    text = report_steps.sections()
    assert "> The capital of France is Paris." in text
    assert "2 tokens after 6; 1 are those" in text
    assert "Token 7 for torch's 8: 0.0500 apart, where rounding makes 0.1000 a tie." in text
