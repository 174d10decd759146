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
        self.cannot_record = False
        self._recording = False

    def launch(self) -> str:
        self.launched += not self._recording
        return "logits"

    def record(self, _device: Any, launch: Callable[[], object]) -> tuple[object, object]:
        if self.cannot_record:
            raise RuntimeError("the trace region is full")
        self._recording = True
        result = launch()
        self._recording = False
        return object(), result


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    card = Card()
    monkeypatch.setattr(runtime, "can_trace", lambda: True)
    monkeypatch.setattr(runtime, "record", card.record)
    monkeypatch.setattr(runtime, "replay", lambda _, trace: card.replayed.append(trace))
    monkeypatch.setattr(runtime, "release", lambda _, trace: card.released.append(trace))
    return card


def test_a_shape_is_launched_once_then_recorded_and_replayed(card: Card) -> None:
    traces = Traces(Tensors(None))
    for shape in ("one", "two", "one", "one", "two"):
        assert traces.run(shape, card.launch) == "logits"
    assert card.launched == 2
    first, again, other = card.replayed
    assert first is again
    assert first is not other


def test_an_allocation_makes_recordings_void(card: Card) -> None:
    tensors = Tensors(None)
    traces = Traces(tensors)
    for _ in range(2):
        traces.run("one", card.launch)
    tensors.allocated += 1
    traces.run("one", card.launch)
    assert (card.launched, len(card.replayed), card.released) == (2, 1, card.replayed)


def test_an_allocation_by_another_shape_means_a_launch_before_a_recording(card: Card) -> None:
    tensors = Tensors(None)
    traces = Traces(tensors)

    def allocate() -> str:
        tensors.allocated += 1
        return card.launch()

    traces.run("one", card.launch)
    traces.run("two", allocate)
    traces.run("one", card.launch)
    assert (card.launched, card.replayed) == (3, [])
    traces.run("two", card.launch)
    assert (card.launched, len(card.replayed)) == (3, 1)


def test_the_shape_that_was_not_run_for_longest_makes_way(card: Card) -> None:
    traces = Traces(Tensors(None))
    for shape in (*range(MOST), *range(MOST), 0, MOST, MOST):
        traces.run(shape, card.launch)
    assert card.launched == MOST + 1
    assert card.released == [card.replayed[1]]
    replayed = len(card.replayed)
    traces.run(0, card.launch)
    assert card.replayed[replayed] is card.replayed[0]
    traces.run(1, card.launch)
    assert card.replayed[replayed + 1] is not card.replayed[1]


def test_where_nothing_can_be_recorded_every_step_is_launched(
    card: Card, caplog: pytest.LogCaptureFixture
) -> None:
    traces = Traces(Tensors(None))
    for shape in ("one", "one", "two"):
        traces.run(shape, card.launch)
    card.cannot_record = True
    for _ in range(3):
        assert traces.run("two", card.launch) == "logits"
    assert (card.launched, card.released) == (5, card.replayed)
    assert caplog.text.count("a step could not be recorded") == 1


def test_without_traces_every_step_is_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "can_trace", lambda: False)
    card = Card()
    traces = Traces(Tensors(None))
    traces.run("one", card.launch)
    traces.run("one", card.launch)
    assert card.launched == 2
