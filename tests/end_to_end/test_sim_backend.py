"""The demo model served in TT-Lang kernels on the functional simulator, through both programs."""

from __future__ import annotations

import warnings

from deploy.local import place_of
from gateway.client import Client, Delta
from tests.chip.served import choices
from tests.processes import DEMO_MODEL, running_services

PROMPT = "The day after Friday is"
NUM_TOKENS = 3


def test_the_text_is_the_torch_backends() -> None:
    place = place_of("sim", "")
    flags = {**place.flags, "slots": "1", "context-length": "128"}  # each step takes seconds
    ids: list[int] = []
    with (
        running_services(DEMO_MODEL, device_flags=flags) as services,
        Client(services.gateway_address) as client,
    ):
        options = {"temperature": 0.0, "max_tokens": NUM_TOKENS, "ignore_eos": True}
        for event in client.generate(PROMPT, **options):
            if isinstance(event, Delta):
                ids += event.token_ids
    assert len(ids) == NUM_TOKENS
    for position, choice in enumerate(choices(DEMO_MODEL, PROMPT, ids)):
        if choice["torch"] != choice["served"]:
            assert choice["gap"] <= choice["tie_width"], (position, choice)
            warnings.warn(f"a tie at token {position}: {choice}", stacklevel=1)
