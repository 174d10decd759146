"""The real Gemma 3 270M on the vendor's simulated chip: served, and layer by layer on a real text.

`make chip-real-model SIMULATOR=…`; a quarter of an hour or more, nearly all of it lm_head.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from deploy.local import MODELS
from device_service.model.interface import Span, StepBatch
from gateway.tokenizer import Tokenizer
from tests.chip import results, served
from tests.chip.environment import SIMULATOR, name_of
from tests.chip.steps import driving
from tests.chip.steps.driving import Plan, Row
from tests.real_model.texts import LONG_TEXT

pytestmark = pytest.mark.real_model
NAME = "gemma3-270m"
PROMPT = "The capital of France is"
NUM_TOKENS = 12
POSITIONS = 32
LEAST_PCC = 0.999


@pytest.fixture(scope="module")
def model_dir() -> Path:
    if name_of(SIMULATOR) != "ttsim":
        pytest.skip("needs the vendor's simulator: make chip-real-model SIMULATOR=…/libttsim_bh.so")
    if not (MODELS[NAME] / "config.json").is_file():
        pytest.fail(f"there is no {MODELS[NAME]}: make model-gemma3-270m brings it", pytrace=False)
    return MODELS[NAME]


@pytest.fixture(scope="module")
def text_rows(model_dir: Path) -> list[Row]:
    """A prompt chunk of a real text, all of its rows read."""
    ids = Tokenizer.from_directory(model_dir).encode(LONG_TEXT, add_bos=True)[:POSITIONS]
    step = StepBatch((Span(0, 0, tuple(ids), POSITIONS),))
    plan = Plan(NAME, model_dir, "bf16", [step])
    return driving.run(plan, SIMULATOR, lambda row: print(driving.line(row), flush=True))


def test_every_layer_of_a_real_text_is_the_references(text_rows: list[Row]) -> None:
    layers = [row for row in text_rows if "layer" in row]
    assert len(layers) == 18
    assert min(row["pcc"] for row in layers) >= LEAST_PCC, layers


def test_the_logits_of_a_real_text_are_the_references(text_rows: list[Row]) -> None:
    (logits,) = (row for row in text_rows if "logits_pcc" in row)
    assert logits["logits_pcc"] >= LEAST_PCC, logits
    assert logits["others"] == 0, logits


def test_the_served_answer_is_torchs(model_dir: Path) -> None:
    told = served.answer(model_dir, SIMULATOR, PROMPT, NUM_TOKENS)
    told["about"] = results.about(SIMULATOR)
    told["sources"] = results.served_sources()
    told["choices"] = served.choices(model_dir, PROMPT, told["token_ids"])
    served.keep(NAME, told)
    print(f"{PROMPT!r} → {told['text']!r}")
    assert "simulated p150" in told["log"]
    assert len(told["token_ids"]) == NUM_TOKENS
    for place, choice in enumerate(told["choices"]):
        if choice["served"] == choice["torch"]:
            continue
        warnings.warn(f"token {place}: {choice}", stacklevel=1)
        assert choice["gap"] <= choice["tie_width"], (place, choice)
