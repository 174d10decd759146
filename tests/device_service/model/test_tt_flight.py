"""Two steps in flight, against a stand-in for a card's queue: who waits for whom."""

from __future__ import annotations

import pytest

from device_service.model.tt_flight import Flight
from kernels import runtime


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    events: list[str] = []

    def mark(_device: object) -> int:
        events.append(f"step {len(events)}")
        return len(events) - 1

    monkeypatch.setattr(runtime, "can_trace", lambda: True)
    monkeypatch.setattr(runtime, "mark", mark)
    monkeypatch.setattr(runtime, "wait_for", lambda step: events.append(f"step {step} ended"))
    return events


def test_a_step_is_handed_over_while_the_one_before_runs(events: list[str]) -> None:
    flight = Flight(None)
    flight.hand_over()
    assert events == ["step 0"]
    flight.hand_over()
    assert events == ["step 0", "step 1", "step 0 ended"]
    flight.hand_over()
    assert events[3:] == ["step 3", "step 1 ended"]
    flight.land()
    flight.land()
    assert events[5:] == ["step 3 ended"]


def test_without_fast_dispatch_there_is_nothing_to_wait_for() -> None:
    runtime.choose("sim")
    flight = Flight(None)
    flight.hand_over()
    flight.hand_over()
