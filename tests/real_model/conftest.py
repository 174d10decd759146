"""The real Gemma 3 270M for these tests. Where it is missing they fail and say what brings it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Gemma3ForCausalLM

from deploy.local import MODELS
from tests.processes import Services, running_services

NUM_THREADS = 2


@pytest.fixture(scope="session")
def model_dir() -> Path:
    directory = MODELS["gemma3-270m"]
    if not (directory / "config.json").is_file():
        pytest.fail(f"there is no {directory}; run `make model-gemma3-270m` first", pytrace=False)
    return directory


@pytest.fixture(scope="session")
def transformers_model(model_dir: Path) -> Any:
    """The reference, in float32."""
    torch.set_num_threads(NUM_THREADS)
    model = Gemma3ForCausalLM.from_pretrained(
        model_dir, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval()


@pytest.fixture(scope="module")
def real_services(model_dir: Path) -> Iterator[Services]:
    """Both real programs on the real model in float32, with a slot for every prompt."""
    device_flags = {
        "precision": "float32",
        "slots": "32",
        "context-length": "1024",
        "threads": str(NUM_THREADS),
    }
    with running_services(model_dir, device_flags=device_flags) as running:
        yield running
