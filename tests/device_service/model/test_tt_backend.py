"""The decoder in kernels, on the functional simulator, against the reference: the same steps as the
torch backend's, judged by how far the reference in bfloat16 is from itself in float32.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from device_service.model.checkpoint import Checkpoint
from device_service.model.config import load_config
from device_service.model.interface import Span, StepBatch
from device_service.model.reference import ReferenceModel, ReferenceOutputs
from device_service.model.stepped_model import model_info
from device_service.model.tt_backend import TtModel, warm_spans
from device_service.model.tt_plan import PlanError, Precision
from device_service.model.tt_staging import length_read
from kernels import runtime
from tests.checkpoints import FAMILIES, Family, write_checkpoint
from tests.correlation import distance

runtime.choose("sim")

from device_service.model.tt_decoder import TtDecoder  # noqa: E402
from device_service.model.tt_operations import SIMULATED_GRID, Operations  # noqa: E402
from device_service.model.tt_step import kind_step, rows_of  # noqa: E402
from device_service.model.tt_tensors import Tensors  # noqa: E402
from device_service.model.tt_weights import CheckpointWeights  # noqa: E402

NUM_SLOTS = 2


class Setup:
    """A small checkpoint, its reference in both precisions, and the decoder in kernels."""

    def __init__(
        self,
        folder: Path,
        family: Family,
        context_length: int = 128,
        window: int | None = None,
        room_bytes: int | None = None,
        precision: Precision = "bf16",
        **overrides: int,
    ) -> None:
        write_checkpoint(folder, family, overrides=overrides)
        self.config = load_config(folder)
        if window is not None:
            layers = tuple(
                x if x.window is None else dataclasses.replace(x, window=window)
                for x in self.config.layers
            )
            self.config = dataclasses.replace(self.config, layers=layers)
        checkpoint = Checkpoint.open(folder, self.config)
        self._exact = ReferenceModel(self.config, checkpoint)
        self._rounded = ReferenceModel(self.config, checkpoint, torch.bfloat16)
        tensors = Tensors(None, room_bytes)
        weights = CheckpointWeights(checkpoint, self.config, None, precision, lambda _: None)
        operations = Operations(SIMULATED_GRID, tensors)
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

    def check_as_near(
        self, ids: Sequence[int], layers: Sequence[torch.Tensor], raw_logits: torch.Tensor
    ) -> ReferenceOutputs:
        """Every layer and the logits are at most twice as far as bfloat16 alone; the exact ones."""
        exact, rounded = self.references(ids)
        cap = self.config.final_logit_softcap
        logits = raw_logits if cap is None else cap * torch.tanh(raw_logits / cap)
        for got, wanted, near in zip(
            [*layers, logits],
            [*exact.layers, exact.logits],
            [*rounded.layers, rounded.logits],
            strict=True,
        ):
            assert distance(got, wanted) <= 2 * distance(near.float(), wanted) + 1e-4
        return exact


@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_and_single_rows_are_as_near_as_the_reference_in_bfloat16(
    family: Family, tmp_path: Path
) -> None:
    setup = Setup(tmp_path, family)
    ids = setup.ids(24)  # further than the window, in several waves
    steps = [setup.run(1, start, ids[start:end]) for start, end in ((0, 23), (23, 24))]
    logits = torch.cat([step[0] for step in steps])
    layers = [torch.cat(parts) for parts in zip(*(step[1] for step in steps), strict=True)]
    exact = setup.check_as_near(ids, layers, logits)
    assert logits[-1].argmax() in exact.logits[-1].topk(3).indices


def test_a_row_that_no_block_of_tiles_divides_has_its_per_layer_part_in_kernels_of_their_own(
    tmp_path: Path,
) -> None:
    setup = Setup(tmp_path, "e2b", hidden_size=160)  # the demo model's: five tiles
    ids = setup.ids(12)
    logits, layers = setup.run(0, 0, ids)
    setup.check_as_near(ids, layers, logits)


@pytest.mark.parametrize("precision", ["bf16", "bfp8"])
def test_a_row_has_the_same_bits_however_its_sequence_was_cut_and_whoever_is_beside_it(
    precision: Precision, tmp_path: Path
) -> None:
    setup = Setup(tmp_path, "e4b", precision=precision)  # with bfp8, masks are bfp4
    ids, other = setup.ids(70), setup.ids(40, seed=2)
    logits = [setup.run(0, start, ids[start : start + 32])[0] for start in (0, 32)]
    expected = torch.cat([*logits, setup.run(0, 64, ids[64:])[0]])
    setup.decoder.clear()
    got: list[torch.Tensor] = []
    done = beside = 0
    for count, neighbours in ((5, 3), (27, 5), (1, 30), (30, 1), (7, 0)):
        spans = [Span(1, done, tuple(ids[done : done + count]), count)]
        if neighbours:
            spans.append(Span(0, beside, tuple(other[beside : beside + neighbours]), 1))
        step = setup.decoder.run(StepBatch(tuple(spans)))
        assert step is not None
        got.append(step[:count])
        done, beside = done + count, beside + neighbours
    assert torch.equal(torch.cat(got), expected)


def test_a_slot_that_goes_back_gives_the_same_again(tmp_path: Path) -> None:
    setup = Setup(tmp_path, "12b")
    ids = setup.ids(12)
    once, _ = setup.run(0, 0, ids)
    setup.run(0, 8, setup.ids(5, seed=3))
    again, _ = setup.run(0, 8, ids[8:])
    assert torch.equal(again, once[8:])


def test_a_slot_that_goes_back_behind_its_staging_has_its_positions_loaded(tmp_path: Path) -> None:
    setup = Setup(tmp_path, "gemma3", context_length=192, window=200)
    ids = setup.ids(160)
    once = [setup.run(0, start, ids[start : start + 32])[0] for start in range(0, 160, 32)]
    again, _ = setup.run(0, 40, ids[40:44])  # tile rows 0 and 1 are in the cache alone
    assert torch.equal(again, once[1][8:12])


def test_caches_grow_past_a_bucket_and_lose_nothing(tmp_path: Path) -> None:
    setup = Setup(tmp_path, "gemma3", context_length=256, room_bytes=1)
    ids, last = setup.ids(196), 192
    assert length_read(last - 1, 256) < length_read(last, 256)
    for start in range(0, last, 32):
        setup.run(0, start, ids[start : start + 32])
    logits, _ = setup.run(0, last, ids[last:])  # its buffers have taken the place of the others
    exact, rounded = setup.references(ids)
    least = distance(rounded.logits[last:].float(), exact.logits[last:])
    assert distance(logits, exact.logits[last:]) <= 2 * least + 1e-4


def test_layers_that_write_no_keys_do_not_run_for_rows_that_nobody_reads(tmp_path: Path) -> None:
    setup = Setup(tmp_path, "e2b")
    seen: list[int] = []
    batch = StepBatch((Span(0, 0, (2, 5, 6), 0),))
    assert setup.decoder.run(batch, lambda index, _: seen.append(index)) is None
    assert seen == list(range(setup.config.first_shared_layer))
    assert len(seen) < len(setup.config.layers)


class Card:
    """Fast dispatch, as if the functional simulator had it: a replay runs what was recorded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        self._marks = itertools.count()
        monkeypatch.setattr(runtime, "can_trace", lambda: True)
        monkeypatch.setattr(runtime, "record", lambda _, launch: (launch, launch()))
        monkeypatch.setattr(runtime, "replay", self._replay)
        monkeypatch.setattr(runtime, "release", lambda *_: None)
        monkeypatch.setattr(runtime, "mark", self._mark)
        monkeypatch.setattr(runtime, "wait_for", lambda n: self.events.append(f"{n} ended"))
        self._get_tensor = runtime.get
        monkeypatch.setattr(runtime, "get", self._get)

    def _replay(self, _device: object, trace: Callable[[], object]) -> None:
        self.events.append("replay")
        trace()

    def _get(self, tensor: object) -> torch.Tensor:
        self.events.append("get")
        return self._get_tensor(tensor)

    def _mark(self, _device: object) -> int:
        n = next(self._marks)
        self.events.append(f"{n} handed over")
        return n


def test_on_a_card_steps_are_replayed_and_a_chunk_is_handed_over_while_another_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched = Setup(tmp_path, "gemma3")
    card = Card(monkeypatch)
    replayed = Setup(tmp_path, "gemma3")
    ids = launched.ids(6)
    spans = [Span(0, n, (ids[n],), n % 2) for n in range(6)]  # every other one is read
    for span in spans:
        card.events.clear()
        wanted = launched.decoder.run(StepBatch((span,)))
        card.events.clear()
        got = replayed.decoder.run(StepBatch((span,)))
        if span.num_readouts:
            assert wanted is not None
            assert got is not None
            assert torch.equal(got, wanted)
    n = len(spans) - 1
    assert card.events == ["replay", f"{n} handed over", f"{n - 1} ended", "get"]
    card.events.clear()
    replayed.decoder.run(StepBatch((spans[-2],)))
    replayed.decoder.settle()
    assert card.events == ["replay", f"{n + 1} handed over", f"{n} ended", f"{n + 1} ended"]


def test_the_model_refuses_what_its_board_has_no_room_for(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "e2b")
    with pytest.raises(PlanError, match="slots is 33, not 1 to 32"):
        load(tmp_path, num_slots=33)
    with pytest.raises(PlanError, match="max_rows is 33, and a step has at most 32"):
        load(tmp_path, max_rows=33)


def load(model_dir: Path, *, num_slots: int = 2, max_rows: int = 32) -> TtModel:
    return TtModel.load(
        model_dir,
        backend="sim",
        board="n150",
        precision=None,
        bundle_dir=None,
        num_slots=num_slots,
        context_length=512,
        max_rows=max_rows,
        report=lambda _: None,
    )


@pytest.mark.parametrize("family", ["e2b", "31b"])
def test_after_the_warm_up_no_step_needs_another_program(family: Family, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, family)
    config = load_config(tmp_path)
    slots, context = 5, 300
    info = model_info(
        config, Checkpoint.open(tmp_path, config), tmp_path,
        num_slots=slots, context_length=context, max_rows=32, backend="tt", precision="bfloat16",
        accelerator="a card", ring_size=64, max_rewind=32,
    )  # fmt: skip

    def shapes(*spans: Span) -> list[tuple[int, int, int]]:
        rows = rows_of(StepBatch(spans))
        return [kind_step(x, rows, slots, context).shape for x in config.layers[-2:]]

    warm = {shape for span in warm_spans(info) for shape in shapes(span)}
    generator = torch.Generator().manual_seed(1)

    def draw(most: int) -> int:
        return int(torch.randint(most, (), generator=generator))

    for _ in range(50):
        in_use = torch.randperm(slots, generator=generator)[: 1 + draw(slots)].tolist()
        lengths = [1 + draw(32 // len(in_use)) for _ in in_use]
        starts = [draw(context - length + 1) for length in lengths]
        spans = [
            Span(slot, start, (2,) * length, draw(2))
            for slot, start, length in zip(in_use, starts, lengths, strict=True)
        ]
        assert set(shapes(*spans)) <= warm
