"""The torch backend on a CUDA device, against the reference on the CPU; skipped without one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from device_service.model.checkpoint import Checkpoint
from device_service.model.config import load_config
from device_service.model.reference import ReferenceModel
from device_service.model.torch_backend import Dtype, TorchModel
from tests.checkpoints import FAMILIES, Family, random_token_ids, write_checkpoint
from tests.correlation import distance
from tests.device_service.model.torch_models import greedy, load_small, logits_of, run, span

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def load(model_dir: Path, dtype: Dtype) -> TorchModel:
    return load_small(model_dir, dtype, device="cuda")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_give_the_references_logits(tmp_path: Path, family: Family, dtype: Dtype) -> None:
    model = load(write_checkpoint(tmp_path, family), dtype)
    config = load_config(tmp_path)
    checkpoint = Checkpoint.open(tmp_path, config)
    ids = random_token_ids(90)
    exact = ReferenceModel(config, checkpoint).run(ids).logits
    rounded = ReferenceModel(config, checkpoint, torch.bfloat16).run(ids).logits.float()
    bound = 1e-9 if dtype == "float32" else 2 * distance(rounded, exact) + 1e-4
    for chunk in (32, 7, 1):
        assert distance(logits_of(model, 0, ids, chunk=chunk), exact) <= bound


def test_a_sequence_decodes_alone_as_it_does_beside_another(tmp_path: Path) -> None:
    model = load(write_checkpoint(tmp_path, "e2b"), "float32")
    prompt = random_token_ids(20)
    alone = greedy(model, 0, prompt, 20)
    other = random_token_ids(30, seed=9)
    tokens: list[int] = []
    run(model, span(1, 0, prompt[:-1], 0), span(2, 0, other[:3], 0))
    last = prompt[-1]
    for i in range(20):
        run(model, span(1, 19 + i, [last]), span(2, 3 + i, other[i : i + 1]))
        last = int(model.full_rows(1)[0].argmax())
        tokens.append(last)
    assert tokens == alone
