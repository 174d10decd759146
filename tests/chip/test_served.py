"""The demo model served by `--backend tt` on the vendor's simulated chip, through both programs."""

from __future__ import annotations

import warnings

import pytest

from tests.chip import served
from tests.chip.environment import SIMULATOR, name_of
from tests.processes import DEMO_MODEL

pytestmark = pytest.mark.chip
PROMPT = "The day after Friday is"
NUM_TOKENS = 8


@pytest.mark.skipif(name_of(SIMULATOR) != "ttsim", reason="hours on wolfpine: a Python program")
def test_the_text_is_the_torch_backends() -> None:
    told = served.answer(DEMO_MODEL, SIMULATOR, PROMPT, NUM_TOKENS)
    assert len(told["token_ids"]) == NUM_TOKENS
    choices = served.choices(DEMO_MODEL, PROMPT, told["token_ids"])
    for position, choice in enumerate(choices):
        if choice["torch"] != choice["served"]:
            assert choice["gap"] <= choice["tie_width"], (position, choice)
            warnings.warn(f"a tie at token {position}: {choice}", stacklevel=1)
