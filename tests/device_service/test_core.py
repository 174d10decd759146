from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from device_service.core import MAX_FAILED_STEPS, Core
from device_service.errors import Code
from device_service.messages import (
    AdvanceCommand,
    CloseCommand,
    Command,
    FailedEvent,
    InspectCommand,
    OpenCommand,
    ReadoutColumns,
    Report,
    StreamEnd,
)
from device_service.model.interface import F32, ReadoutOptions, StepBatch, StepReadouts
from tests.fakes.model import FakeModel

STREAM = 1
OPTIONS = ReadoutOptions(top_candidates=4)


def open_command(number: int, ids: list[int], *, full: bool = False) -> OpenCommand:
    return OpenCommand(number, tuple(ids), OPTIONS, full, 0)


def advance(number: int, position: int, *ids: int) -> AdvanceCommand:
    return AdvanceCommand(number, position, ids)


@dataclass
class Told:
    """All that the clients of a core were told."""

    best: list[tuple[int, int, int, int]] = field(default_factory=list)
    """stream, sequence, position, best candidate"""
    rows: list[tuple[int, int, F32]] = field(default_factory=list)
    closed: list[int] = field(default_factory=list)
    failed: list[FailedEvent] = field(default_factory=list)
    ends: dict[int, StreamEnd] = field(default_factory=dict)
    columns: list[ReadoutColumns] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)


class Clients:
    """A core with its model, driven by hand."""

    def __init__(self, model: FakeModel, max_queued: int = 8) -> None:
        self.model = model
        self.now = 0.0
        self.core = Core(model, max_queued, clock=lambda: self.now)
        self.told = Told()
        self.core.open_stream(STREAM)

    def send(self, *commands: Command, stream: int = STREAM) -> None:
        self.core.handle(stream, commands, self.now)
        self._take()

    def step(self) -> bool:
        ran = self.core.step()
        self._take()
        return ran

    def run(self) -> Told:
        while self.step():
            pass
        self._take()
        return self.told

    def _take(self) -> None:
        events, report = self.core.take_events()
        told = self.told
        told.reports.append(report)
        for stream, happened in events.items():
            if happened.readouts is not None:
                told.columns.append(happened.readouts)
                told.best += _best(stream, happened.readouts)
            told.rows += [
                (row.sequence, row.position, np.frombuffer(row.logits, "<f4"))
                for row in happened.full_rows
            ]
            told.closed += happened.closed
            told.failed += happened.failed
            if happened.end is not None:
                told.ends[stream] = happened.end


def _best(stream: int, columns: ReadoutColumns) -> list[tuple[int, int, int, int]]:
    firsts = np.cumsum([0, *columns.candidate_counts])[:-1]
    return [
        (stream, int(number), int(position), int(columns.candidate_ids[first]))
        for number, position, first in zip(
            columns.sequences, columns.positions, firsts, strict=True
        )
    ]


def expected_best(model: FakeModel, ids: list[int]) -> int:
    return int(np.argmax(model.expected_logits(ids)))


def test_an_open_is_answered_at_its_last_position_and_an_advance_at_each_of_its_ids() -> None:
    clients = Clients(model := FakeModel())
    clients.send(open_command(7, [2, 3, 4]))
    clients.run()
    clients.send(advance(7, 3, 5, 6))
    told = clients.run()
    assert told.best == [
        (STREAM, 7, 2, expected_best(model, [2, 3, 4])),
        (STREAM, 7, 3, expected_best(model, [2, 3, 4, 5])),
        (STREAM, 7, 4, expected_best(model, [2, 3, 4, 5, 6])),
    ]


def test_the_same_advance_again_gives_the_same_answer() -> None:
    clients = Clients(FakeModel())
    clients.send(open_command(7, [2, 3]))
    clients.run()
    clients.send(advance(7, 2, 5), advance(7, 2, 5))
    first, again = clients.run().best[1:]
    assert first == again


def test_a_rewind_beyond_the_rings_runs_the_kept_ids_again() -> None:
    model = FakeModel(max_rows=4, ring_size=11, max_rewind=4, context_length=64)
    clients = Clients(model)
    ids = [2, *range(3, 32)]
    clients.send(open_command(7, ids))
    clients.run()
    clients.send(advance(7, 5, 40, 41))
    told = clients.run()
    assert [position for _, _, position, _ in told.best] == [29, 5, 6]
    assert told.best[2][3] == expected_best(model, [*ids[:5], 40, 41])
    assert model.violations == []


def test_a_long_prompt_never_keeps_a_live_sequence_waiting_for_more_than_a_step() -> None:
    model = FakeModel(max_rows=8, context_length=256)
    clients = Clients(model)
    clients.send(open_command(1, [2]))
    clients.run()
    clients.send(open_command(2, [3] * 200))
    length = 1
    while not any(number == 2 for _, number, _, _ in clients.told.best):
        clients.send(advance(1, length, 5))
        length += 1
        clients.step()
        assert len([b for b in clients.told.best if b[1] == 1]) == length
    assert max(batch.num_rows for batch in model.batches) == 8


def test_full_rows_come_with_every_answer_when_asked_for_and_behind_an_inspect() -> None:
    clients = Clients(model := FakeModel())
    clients.send(open_command(1, [2, 3], full=True), open_command(2, [2, 4]), InspectCommand(2))
    told = clients.run()
    clients.send(InspectCommand(2))
    assert [(number, position) for number, position, _ in told.rows] == [(1, 1), (2, 1), (2, 1)]
    assert np.array_equal(told.rows[0][2], model.expected_logits([2, 3]))
    assert np.array_equal(told.rows[2][2], model.expected_logits([2, 4]))


def test_an_inspect_is_answered_though_a_close_comes_with_it() -> None:
    clients = Clients(model := FakeModel())
    clients.send(open_command(1, [2, 3]))
    clients.run()
    clients.send(InspectCommand(1), CloseCommand(1))
    told = clients.run()
    ((number, position, row),) = told.rows
    assert (number, position, told.closed) == (1, 1, [1])
    assert np.array_equal(row, model.expected_logits([2, 3]))


def test_a_close_frees_the_slot_while_the_prompt_runs() -> None:
    clients = Clients(FakeModel(max_rows=4))
    clients.send(open_command(1, [2] * 100))
    clients.step()
    clients.send(CloseCommand(1))
    assert clients.told.closed == [1]
    assert clients.told.reports[-1].load.free_slots == 4
    assert not clients.step()


def test_who_has_nothing_to_run_waits_for_the_steps_that_may_still_run() -> None:
    clients = Clients(model := FakeModel(max_rows=4))
    clients.send(open_command(1, [2] * 100))
    for _ in range(3):
        clients.step()
    assert model.settled == 0
    clients.send(CloseCommand(1))
    clients.step()
    assert model.settled == len(model.batches) == 3


def test_a_number_may_be_used_again_after_close_in_the_same_message() -> None:
    clients = Clients(model := FakeModel())
    clients.send(open_command(1, [2]), CloseCommand(1), open_command(1, [3]))
    assert clients.run().best == [(STREAM, 1, 0, expected_best(model, [3]))]


def test_a_second_open_under_a_number_leaves_the_first_unharmed() -> None:
    clients = Clients(model := FakeModel())
    clients.send(open_command(1, [2]), open_command(1, [3]))
    told = clients.run()
    (failure,) = told.failed
    assert (failure.error.code, failure.closed) == (Code.INVALID_ARGUMENT, False)
    assert told.best == [(STREAM, 1, 0, expected_best(model, [2]))]


def test_a_full_queue_refuses_with_the_time_to_try_again() -> None:
    clients = Clients(FakeModel(num_slots=1), max_queued=1)
    clients.send(*(open_command(number, [2]) for number in (1, 2, 3)))
    (failure,) = clients.run().failed
    assert failure.sequence == 3
    assert (failure.error.code, failure.closed) == (Code.RESOURCE_EXHAUSTED, True)
    assert failure.error.retry_after_ms > 0
    clients.send(CloseCommand(1))
    assert (STREAM, 2) in {best[:2] for best in clients.run().best}


def test_those_with_higher_priority_get_a_slot_first() -> None:
    clients = Clients(FakeModel(num_slots=1))
    low, high = (OpenCommand(n, (2,), OPTIONS, False, p) for n, p in ((2, 0), (3, 5)))
    clients.send(open_command(1, [2]), low, high, CloseCommand(1))
    assert [number for _, number, _, _ in clients.run().best] == [3]


def test_too_many_unanswered_commands_are_refused_and_the_sequence_goes_on() -> None:
    clients = Clients(FakeModel())
    clients.send(open_command(1, [2]), *(advance(1, 1, 5) for _ in range(17)))
    told = clients.run()
    (failure,) = told.failed
    assert (failure.error.code, failure.closed) == (Code.RESOURCE_EXHAUSTED, False)
    assert len(told.best) == 17


def test_a_failed_step_loses_its_sequences_and_no_other() -> None:
    model = FakeModel()
    clients = Clients(model)
    clients.send(open_command(1, [2, 3]))
    clients.run()
    model.fail_next = 1
    clients.send(open_command(2, [2]), open_command(3, [2]))
    clients.run()
    assert {failure.sequence for failure in clients.told.failed} == {2, 3}
    assert all(x.closed and x.error.code == Code.INTERNAL for x in clients.told.failed)
    clients.send(advance(1, 2, 4), open_command(2, [9, 9]))
    best = clients.run().best[1:]
    assert {(number, token) for _, number, _, token in best} == {
        (1, expected_best(model, [2, 3, 4])),
        (2, expected_best(model, [9, 9])),
    }


def report_after_failures(clients: Clients) -> Report:
    """What is told once as many steps have failed as break the engine."""
    for number in range(MAX_FAILED_STEPS):
        clients.send(open_command(number, [2]))
        clients.run()
    return clients.told.reports[-1]


def test_failing_steps_in_a_row_break_the_engine_and_say_why() -> None:
    model = FakeModel()
    clients = Clients(model)
    clients.send(open_command(9, [2]))
    clients.run()
    model.fail_next = MAX_FAILED_STEPS
    report = report_after_failures(clients)
    assert "told to fail" in report.broken
    assert not report.load.accepting
    (idle,) = [failure for failure in clients.told.failed if failure.sequence == 9]
    assert idle.error.code == Code.UNAVAILABLE
    assert idle.closed
    clients.send(open_command(1, [2]))
    assert clients.told.failed[-1].error.code == Code.UNAVAILABLE


class PartlyInfinite(FakeModel):
    """Gives not-a-number to any step of slot 0."""

    def step(self, batch: StepBatch) -> StepReadouts:
        readouts = super().step(batch)
        readouts.logsumexps[readouts.slots == 0] = np.nan
        return readouts


def test_logits_that_are_no_numbers_lose_their_sequence_and_no_neighbour() -> None:
    clients = Clients(model := PartlyInfinite())
    clients.send(open_command(1, [2]), open_command(2, [3]))
    told = clients.run()
    (failure,) = told.failed
    assert (failure.sequence, failure.error.code, failure.closed) == (1, Code.INTERNAL, True)
    assert told.best == [(STREAM, 2, 0, expected_best(model, [3]))]


def test_steps_without_one_finite_number_break_the_engine_as_failures_do() -> None:
    report = report_after_failures(Clients(PartlyInfinite(num_slots=1)))
    assert "the last with logits that are not finite numbers" in report.broken
    assert not report.load.accepting


def test_a_shared_prefix_does_not_run_again() -> None:
    model = FakeModel(num_slots=2)
    clients = Clients(model)
    prompt = [2, *range(3, 43)]
    clients.send(open_command(1, prompt), CloseCommand(1))
    clients.send(open_command(1, prompt))
    clients.run()
    clients.send(CloseCommand(1), open_command(2, [*prompt, 50]))
    told = clients.run()
    assert model.batches[-1].num_rows == 1
    assert told.best[-1] == (STREAM, 2, 41, expected_best(model, [*prompt, 50]))
    assert sum(report.reused_tokens for report in told.reports) == 41


def test_times_are_from_arrival_over_earlier_steps_to_the_last() -> None:
    class Timed(FakeModel):
        def step(self, batch: StepBatch) -> StepReadouts:
            clients.now += 0.25
            return super().step(batch)

    clients = Clients(Timed(max_rows=4))
    clients.send(open_command(1, [2] * 10))
    clients.now += 0.5
    (columns,) = clients.run().columns
    assert columns.queued_us.tolist() == [500_000]
    assert columns.prefill_us.tolist() == [500_000]
    assert columns.compute_us.tolist() == [250_000]


def test_an_ended_stream_gets_its_answers_first_and_a_dropped_one_nothing() -> None:
    clients = Clients(FakeModel(max_rows=4))
    clients.core.open_stream(2)
    clients.send(open_command(1, [2] * 9))
    clients.send(open_command(1, [3] * 9), stream=2)
    clients.core.end_stream(STREAM)
    clients.core.drop_stream(2)
    told = clients.run()
    assert [best[0] for best in told.best] == [STREAM]
    assert told.ends == {STREAM: StreamEnd(Code.OK)}
    assert told.reports[-1].load.open_sequences == 0


def test_draining_refuses_opens_lets_sequences_go_on_and_ends_streams_without_any() -> None:
    clients = Clients(FakeModel())
    clients.core.open_stream(2)
    clients.send(open_command(1, [2]))
    clients.core.drain()
    clients.send(open_command(2, [2]), advance(1, 1, 5))
    told = clients.run()
    assert told.failed[0].error.code == Code.UNAVAILABLE
    assert len(told.best) == 2
    assert set(told.ends) == {2}
    assert not clients.core.is_empty
    clients.send(CloseCommand(1))
    assert told.ends[STREAM].code == Code.UNAVAILABLE
    assert clients.core.is_empty


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), ring=st.booleans())
def test_whatever_clients_do_every_answer_is_that_of_the_sequence_alone(
    seed: int, ring: bool
) -> None:
    rng = random.Random(seed)
    model = FakeModel(
        num_slots=3, max_rows=6, context_length=96, ring_size=13 if ring else None, max_rewind=None
    )
    clients = Clients(model, max_queued=4)
    clients.core.open_stream(2)
    ids_of: dict[tuple[int, int], list[int]] = {}
    wanted: dict[tuple[int, int], list[tuple[int, int]]] = {}
    live: list[tuple[int, int]] = []

    def sent(stream: int, command: Command) -> bool:
        before = len(clients.told.failed)
        clients.send(command, stream=stream)
        return len(clients.told.failed) == before

    for number in range(60):
        action = rng.random()
        if action < 0.3:
            key = (rng.choice((1, 2)), number)
            prompt = [2] * rng.choice((1, 40)) + [
                rng.randrange(64) for _ in range(rng.randrange(20))
            ]
            if sent(key[0], open_command(number, prompt)):
                live.append(key)
                ids_of[key] = prompt
                wanted[key] = [(len(prompt) - 1, expected_best(model, prompt))]
        elif action < 0.4 and live:
            stream, closing = live.pop(rng.randrange(len(live)))
            assert sent(stream, CloseCommand(closing))
        elif live:
            key = rng.choice(live)
            ids = ids_of[key]
            position = max(1, len(ids) - rng.choice((0, 0, 0, 1, 5, 60)))
            drafts = [rng.randrange(64) for _ in range(rng.randint(1, 3))]
            fits = position + len(drafts) <= model.info.context_length
            if fits and sent(key[0], advance(key[1], position, *drafts)):
                ids_of[key] = ids = [*ids[:position], *drafts]
                wanted[key] += [
                    (end, expected_best(model, ids[: end + 1])) for end in range(position, len(ids))
                ]
        for _ in range(rng.randrange(3)):
            clients.step()
    unfinished = live
    while unfinished:  # those that wait get the slots of those that are done
        told = clients.run()
        done = [key for key in unfinished if key in {best[:2] for best in told.best}]
        assert done, "somebody starves"
        for stream, number in done:
            assert sent(stream, CloseCommand(number))
        unfinished = [key for key in unfinished if key not in done]
    got: dict[tuple[int, int], list[tuple[int, int]]] = {key: [] for key in wanted}
    for stream, number, position, token in clients.told.best:
        got[stream, number].append((position, token))
    for key, answers in got.items():
        assert answers == (wanted[key] if key in live else wanted[key][: len(answers)])
    assert model.violations == []
    assert clients.told.reports[-1].load.free_slots == 3
