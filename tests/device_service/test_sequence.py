"""A sequence answers its commands in order, whatever comes when, as a plain list of them would."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from device_service.errors import Code, CommandError
from device_service.messages import AdvanceCommand, InspectCommand, OpenCommand, SequenceKey
from device_service.model.interface import ReadoutOptions
from device_service.scheduler import RowRequest
from device_service.sequence import MAX_UNANSWERED, Sequence

SLOT = 3
SLOW_MACHINE = [HealthCheck.too_slow]
PRIORITY = 7
IDS = st.lists(st.integers(0, 9), min_size=1, max_size=4).map(tuple)


def opened(*token_ids: int) -> Sequence:
    command = OpenCommand(1, token_ids, ReadoutOptions(), full=False, priority=PRIORITY)
    return Sequence(SequenceKey(0, 1), command, arrival=0, arrived_at=10.0)


def idle(*token_ids: int) -> Sequence:
    """A sequence whose prompt has run."""
    sequence = opened(*token_ids)
    sequence.admit(SLOT, start=0, ready=0, now=11.0)
    assert sequence.advance_work(len(token_ids), seconds=0.5)
    return sequence


def advance(position: int, *token_ids: int) -> AdvanceCommand:
    return AdvanceCommand(1, position, token_ids)


class SequenceMachine(RuleBasedStateMachine):
    """Commands arrive at any time; the rows of the running one run in chunks of any size."""

    @initialize(prompt=IDS)
    def begin(self, prompt: tuple[int, ...]) -> None:
        self.sequence = opened(*prompt)
        self.projected_length = len(prompt)
        self.queue: list[AdvanceCommand | InspectCommand] = []
        self.last: AdvanceCommand | None = None
        self.ids = list(prompt)
        self.admitted = False
        self.rows: range | None = None
        """Positions that the running command has yet to run."""
        self.readouts = range(0)
        """Positions whose readouts the running command wants."""
        self.answered = range(0)

    def accept(self, command: AdvanceCommand | InspectCommand) -> None:
        code = None
        if len(self.queue) >= MAX_UNANSWERED:
            code = Code.RESOURCE_EXHAUSTED
        elif isinstance(command, AdvanceCommand) and not (
            1 <= command.position <= self.projected_length
        ):
            code = Code.INVALID_ARGUMENT
        if code is None:
            self.sequence.accept(command, arrived_at=20.0)
            self.queue.append(command)
            if isinstance(command, AdvanceCommand):
                self.projected_length = command.position + len(command.token_ids)
                self.last = command
        else:
            with pytest.raises(CommandError) as caught:
                self.sequence.accept(command, arrived_at=20.0)
            assert caught.value.code == code

    @rule(back=st.integers(-2, 8), token_ids=IDS)
    def advance(self, back: int, token_ids: tuple[int, ...]) -> None:
        self.accept(AdvanceCommand(1, max(0, self.projected_length - back), token_ids))

    @rule()
    def inspect(self) -> None:
        self.accept(InspectCommand(1))

    @precondition(lambda self: self.last is not None)
    @rule()
    def send_the_last_advance_again(self) -> None:
        assert self.last is not None
        length = self.projected_length
        self.accept(self.last)
        assert self.projected_length == length

    @precondition(lambda self: not self.admitted)
    @rule(reused=st.integers(0, 3))
    def admit(self, reused: int) -> None:
        assume(reused < len(self.ids))
        self.sequence.admit(SLOT, reused, ready=1, now=15.0)
        self.admitted = True
        self.rows = range(reused, len(self.ids))
        self.readouts = self.rows[-1:]

    @precondition(lambda self: self.admitted and self.rows is None)
    @rule(from_zero=st.booleans())
    def begin_next(self, from_zero: bool) -> None:
        while self.queue and isinstance(self.queue[0], InspectCommand):
            assert self.sequence.pop_inspect(), "an inspect is answered when its turn has come"
            assert self.sequence.answered == self.answered
            self.queue.pop(0)
        assert not self.sequence.pop_inspect()
        if not self.queue:
            assert self.sequence.next_position() is None
            return
        command = self.queue.pop(0)
        assert isinstance(command, AdvanceCommand)
        assert self.sequence.next_position() == command.position
        start = 0 if from_zero else command.position
        self.sequence.begin(start, ready=2)
        self.ids = self.ids[: command.position] + list(command.token_ids)
        self.rows = range(start, len(self.ids))
        self.readouts = range(command.position, len(self.ids))

    @precondition(lambda self: self.rows)
    @rule(chunk=st.integers(1, 6))
    def run(self, chunk: int) -> None:
        assert self.rows is not None
        before = len(self.rows) - len(self.readouts)
        chunk = min(chunk, before) if before else len(self.rows)
        done = self.sequence.advance_work(chunk, seconds=0.5)
        self.rows = self.rows[chunk:]
        assert done == (not self.rows)
        if done:
            self.rows = None
            self.answered = self.readouts

    @invariant()
    def it_holds_the_ids_up_to_the_end_of_the_running_command(self) -> None:
        assert self.sequence.ids == self.ids
        assert self.sequence.answered == self.answered
        assert self.sequence.slot == (SLOT if self.admitted else None)

    @invariant()
    def it_asks_for_the_rows_of_the_running_command_only(self) -> None:
        request = self.sequence.request()
        if self.rows is None:
            assert request is None
            return
        assert not self.sequence.pop_inspect(), "an inspect waits for the answer before it"
        assert self.sequence.next_position() is None, "an advance waits for the answer before it"
        assert request is not None
        assert self.sequence.work is not None
        assert self.sequence.work.next == self.rows.start
        assert (request.slot, request.priority) == (SLOT, PRIORITY)
        assert (request.num_rows, request.num_readouts) == (len(self.rows), len(self.readouts))
        if len(self.readouts) > 1:
            may_be_cut = len(self.rows) > len(self.readouts)
            assert request.is_prompt == may_be_cut, "rows with readouts run together"

    @invariant()
    def it_is_idle_when_all_is_answered(self) -> None:
        assert self.sequence.is_idle == (self.admitted and self.rows is None and not self.queue)

    @invariant()
    def its_queued_rows_are_those_that_have_not_run(self) -> None:
        queued = sum(len(x.token_ids) for x in self.queue if isinstance(x, AdvanceCommand))
        running = len(self.rows or ()) if self.admitted else len(self.ids)
        assert self.sequence.queued_rows == queued + running


def test_commands_are_answered_in_order_in_any_history_of_a_sequence():
    run_state_machine_as_test(
        SequenceMachine,
        settings=settings(
            max_examples=100,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=SLOW_MACHINE,
        ),
    )


@pytest.mark.parametrize("position", [0, 4, 1000])
def test_a_position_beyond_what_has_run_is_refused_with_the_limit(position: int):
    with pytest.raises(CommandError) as caught:
        idle(1, 2, 3).accept(advance(position, 9), arrived_at=20.0)
    assert caught.value.code == Code.INVALID_ARGUMENT
    assert caught.value.field == "advance.position"
    assert f"advance.position is {position:,}" in caught.value.message
    assert "must be 1 to 3" in caught.value.message


def test_positions_are_checked_against_what_the_commands_before_will_have_run():
    sequence = opened(1, 2)
    sequence.accept(advance(2, 5, 6, 7), arrived_at=20.0)
    sequence.accept(advance(5, 8), arrived_at=20.0)
    sequence.accept(advance(1, 9), arrived_at=20.0)
    with pytest.raises(CommandError, match="has run 2 positions"):
        sequence.accept(advance(3, 9), arrived_at=20.0)


def test_a_refused_command_leaves_the_sequence_as_it_was():
    sequence = idle(1, 2)
    with pytest.raises(CommandError):
        sequence.accept(advance(9, 5), arrived_at=20.0)
    assert sequence.is_idle
    assert sequence.next_position() is None
    sequence.accept(advance(2, 5), arrived_at=20.0)
    assert sequence.next_position() == 2


def test_only_so_many_commands_may_wait_and_an_answer_makes_room():
    sequence = idle(1)
    for position in range(1, MAX_UNANSWERED + 1):
        sequence.accept(advance(position, 5), arrived_at=20.0)
    with pytest.raises(CommandError, match=f"{MAX_UNANSWERED} commands unanswered") as caught:
        sequence.accept(InspectCommand(1), arrived_at=20.0)
    assert caught.value.code == Code.RESOURCE_EXHAUSTED
    sequence.begin(start=1, ready=1)
    assert sequence.advance_work(1, seconds=0.5)
    sequence.accept(InspectCommand(1), arrived_at=20.0)


def test_the_same_advance_again_gives_the_same_rows_and_the_same_answer():
    sequence = idle(1, 2, 3)
    seen: list[tuple[list[int], range, RowRequest | None]] = []
    for _ in range(2):
        sequence.accept(advance(3, 7, 8), arrived_at=20.0)
        sequence.begin(start=3, ready=1)
        request = sequence.request()
        assert sequence.advance_work(2, seconds=0.5)
        seen.append((list(sequence.ids), sequence.answered, request))
    assert seen[0] == seen[1] == ([1, 2, 3, 7, 8], range(3, 5), seen[0][2])


def test_a_rewind_forgets_the_ids_behind_it():
    sequence = idle(1, 2, 3, 4)
    sequence.accept(advance(2, 9), arrived_at=20.0)
    sequence.begin(start=2, ready=1)
    assert sequence.ids == [1, 2, 9]


def test_an_inspect_is_answered_between_the_advances_around_it():
    sequence = idle(1)
    for command in (advance(1, 5, 6), InspectCommand(1), advance(3, 7)):
        sequence.accept(command, arrived_at=20.0)
    assert not sequence.pop_inspect()
    sequence.begin(start=1, ready=1)
    assert not sequence.pop_inspect()
    assert sequence.advance_work(2, seconds=0.5)
    assert sequence.pop_inspect()
    assert sequence.answered == range(1, 3)
    assert not sequence.pop_inspect()
    assert sequence.next_position() == 3


def test_ids_that_must_run_again_are_a_prompt_until_the_advances_own_ids_come():
    sequence = idle(1, 2, 3, 4)
    sequence.accept(advance(4, 5, 6), arrived_at=20.0)
    sequence.begin(start=0, ready=9)
    assert sequence.request() == RowRequest(SLOT, 6, 2, True, PRIORITY, 9)
    assert not sequence.advance_work(4, seconds=0.5)
    assert sequence.request() == RowRequest(SLOT, 2, 2, False, PRIORITY, 9)


def test_only_steps_before_the_answering_one_count_as_prefill():
    sequence = opened(1, 2, 3)
    sequence.admit(SLOT, start=0, ready=0, now=11.0)
    work = sequence.work
    assert work is not None
    assert work.arrived_at == 10.0
    for _ in range(2):
        assert not sequence.advance_work(1, seconds=0.25)
    assert sequence.advance_work(1, seconds=4.0)
    assert work.prefill_seconds == 0.5
    assert sequence.answered == range(2, 3), "an open is answered for its last position"


def test_an_advance_has_waited_since_it_arrived():
    sequence = idle(1)
    sequence.accept(advance(1, 5), arrived_at=33.0)
    sequence.begin(start=1, ready=1)
    assert sequence.work is not None
    assert sequence.work.arrived_at == 33.0
