"""Recorded steps against a stand-in for a card's traces: what is recorded, replayed, forgotten."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from device_service.model.tt_tensors import Tensors
from device_service.model.tt_traces import MOST, Traces
from kernels import runtime


class Card:
    """Counts launches, and knows which are recorded."""

    def __init__(self) -> None:
        self.launched = 0
        self.replayed: list[object] = []
        self.released: list[object] = []
        self._recording = False

    def launch(self) -> str:
        self.launched += not self._recording
        return "logits"

    def record(self, _device: Any, launch: Callable[[], object]) -> object:
        self._recording = True
        launch()
        self._recording = False
        return object()


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    card = Card()
    monkeypatch.setattr(runtime, "can_trace", lambda: True)
    monkeypatch.setattr(runtime, "record", card.record)
    monkeypatch.setattr(runtime, "replay", lambda _, trace: card.replayed.append(trace))
    monkeypatch.setattr(runtime, "release", lambda _, trace: card.released.append(trace))
    return card


def test_a_shape_is_launched_once_and_then_replayed(card: Card) -> None:
    traces = Traces(Tensors(None))
    for shape in ("one", "one", "two", "one"):
        assert traces.run(shape, card.launch) == "logits"
    assert card.launched == 2
    assert len(card.replayed) == 2
    assert card.replayed[0] is card.replayed[1]


def test_an_allocation_makes_recordings_void(card: Card) -> None:
    tensors = Tensors(None)
    traces = Traces(tensors)
    traces.run("one", card.launch)
    tensors.allocated += 1
    traces.run("one", card.launch)
    assert (card.launched, card.replayed, len(card.released)) == (2, [], 1)


def test_what_a_launch_allocates_is_part_of_its_recording(card: Card) -> None:
    tensors = Tensors(None)
    traces = Traces(tensors)

    def first() -> str:
        tensors.allocated = 1
        return card.launch()

    traces.run("one", first)
    traces.run("one", card.launch)
    assert (card.launched, len(card.replayed)) == (1, 1)


def test_the_shape_that_was_not_run_for_longest_makes_way(card: Card) -> None:
    traces = Traces(Tensors(None))
    for shape in (*range(MOST), 0, MOST):
        traces.run(shape, card.launch)
    assert (card.launched, len(card.released)) == (MOST + 1, 1)
    traces.run(0, card.launch)
    assert card.launched == MOST + 1
    traces.run(1, card.launch)
    assert card.launched == MOST + 2


def test_without_traces_every_step_is_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "can_trace", lambda: False)
    card = Card()
    traces = Traces(Tensors(None))
    traces.run("one", card.launch)
    traces.run("one", card.launch)
    assert card.launched == 2
