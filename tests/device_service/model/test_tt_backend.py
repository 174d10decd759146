"""The decoder in kernels, on the functional simulator, against the reference: the same steps as the
torch backend's, judged by how far the reference in bfloat16 is from itself in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from device_service.model.checkpoint import Checkpoint
from device_service.model.config import load_config
from device_service.model.interface import Span, StepBatch
from device_service.model.reference import ReferenceModel, ReferenceOutputs
from device_service.model.tt_backend import TtModel
from device_service.model.tt_plan import PlanError
from kernels import runtime
from tests.checkpoints import FAMILIES, Family, write_checkpoint

runtime.choose("sim")

from device_service.model.tt_decoder import TtDecoder  # noqa: E402
from device_service.model.tt_operations import Operations  # noqa: E402
from device_service.model.tt_tensors import Tensors  # noqa: E402
from device_service.model.tt_weights import CheckpointWeights  # noqa: E402

GRID = (11, 10)
NUM_SLOTS = 2


class Setup:
    """A small checkpoint, its reference in both precisions, and the decoder in kernels."""

    def __init__(self, folder: Path, family: Family, context_length: int = 128) -> None:
        write_checkpoint(folder, family)
        self.config = load_config(folder)
        checkpoint = Checkpoint.open(folder, self.config)
        self._exact = ReferenceModel(self.config, checkpoint)
        self._rounded = ReferenceModel(self.config, checkpoint, torch.bfloat16)
        tensors = Tensors(None)
        weights = CheckpointWeights(checkpoint, self.config, None, "bf16", lambda _: None)
        operations = Operations(GRID, tensors)
        self.decoder = TtDecoder(
            self.config, weights, tensors, operations, NUM_SLOTS, context_length
        )

    def ids(self, length: int, seed: int = 1) -> list[int]:
        """A prompt."""
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(3, self.config.vocab_size, (length - 1,), generator=generator)
        return [2, *ids.tolist()]

    def references(self, ids: Sequence[int]) -> tuple[ReferenceOutputs, ReferenceOutputs]:
        """In float32 and in bfloat16."""
        return self._exact.run(ids), self._rounded.run(ids)

    def run(self, slot: int, start: int, ids: Sequence[int]) -> tuple[torch.Tensor, list]:
        """One step of one sequence: logits of all its rows, and each layer's residual stream."""
        layers: list[torch.Tensor] = []
        batch = StepBatch((Span(slot, start, tuple(ids), len(ids)),))
        logits = self.decoder.run(batch, lambda _, h: layers.append(h))
        assert logits is not None
        return logits, layers


def distance(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """1 - Pearson's correlation."""
    both = torch.stack((got.flatten().double(), wanted.flatten().double()))
    return 1 - float(torch.corrcoef(both)[0, 1])


@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_and_single_rows_are_as_near_as_the_reference_in_bfloat16(
    family: Family, tmp_path: Path
) -> None:
    setup = Setup(tmp_path, family)
    ids = setup.ids(40)  # further than the ring's window, in chunks of several waves
    exact, rounded = setup.references(ids)
    cap = setup.config.final_logit_softcap
    steps = [setup.run(1, start, ids[start:end]) for start, end in ((0, 19), (19, 20), (20, 40))]
    logits = torch.cat([step[0] for step in steps])
    layers = [torch.cat(parts) for parts in zip(*(step[1] for step in steps), strict=True)]
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    for got, wanted, near in zip(
        [*layers, logits],
        [*exact.layers, exact.logits],
        [*rounded.layers, rounded.logits],
        strict=True,
    ):
        assert distance(got, wanted) <= 2 * distance(near.float(), wanted) + 1e-4
    assert logits[-1].argmax() in exact.logits[-1].topk(3).indices


def test_a_sequence_does_not_depend_on_its_neighbours(tmp_path: Path) -> None:
    setup = Setup(tmp_path, "e4b")
    first, second = setup.ids(9), setup.ids(7, seed=2)
    alone, _ = setup.run(1, 0, second)
    setup.decoder.clear()
    spans = (Span(0, 0, tuple(first), 1), Span(1, 0, tuple(second), len(second)))
    together = setup.decoder.run(StepBatch(spans))
    assert together is not None
    assert torch.equal(together[1:], alone)


def test_a_slot_that_goes_back_gives_the_same_again(tmp_path: Path) -> None:
    setup = Setup(tmp_path, "12b")
    ids = setup.ids(12)
    once, _ = setup.run(0, 0, ids)
    setup.run(0, 8, setup.ids(5, seed=3))
    again, _ = setup.run(0, 8, ids[8:])
    assert torch.equal(again, once[8:])


def test_full_layers_move_to_a_longer_bucket_and_lose_nothing(tmp_path: Path) -> None:
    setup = Setup(tmp_path, "gemma3", context_length=256)
    ids = setup.ids(132)
    for start in range(0, 128, 32):
        setup.run(0, start, ids[start : start + 32])
    logits, _ = setup.run(0, 128, ids[128:])
    exact, rounded = setup.references(ids)
    least = distance(rounded.logits[128:].float(), exact.logits[128:])
    assert distance(logits, exact.logits[128:]) <= 2 * least + 1e-4


def test_the_model_refuses_what_its_board_has_no_room_for(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "e2b")
    with pytest.raises(PlanError, match="slots fit"):
        TtModel.load(
            tmp_path,
            backend="sim",
            board="n150",
            num_slots=10_000_000,
            context_length=512,
            max_rows=32,
            report=lambda _: None,
        )
