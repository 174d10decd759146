"""What a plan may hold, and that nobody starves over many steps of any load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from device_service.scheduler import PROMPT_SHARE, RowRequest, Scheduler, Share

MAX_STEPS = 400
SLOW_MACHINE = [HealthCheck.too_slow]


def decode(slot: int, num_rows: int, ready: int = 0) -> RowRequest:
    return RowRequest(slot, num_rows, num_rows, is_prompt=False, priority=0, ready=ready)


def prompt(
    slot: int, num_rows: int, ready: int = 0, priority: int = 0, num_readouts: int = 1
) -> RowRequest:
    return RowRequest(slot, num_rows, num_readouts, True, priority, ready)


@dataclass
class Load:
    """Sequences over time: each slot runs its requests one after the other."""

    max_rows: int
    waiting: dict[int, list[RowRequest]]
    """By slot, `ready` still unset."""
    scheduler: Scheduler = field(init=False)
    running: dict[int, RowRequest] = field(default_factory=dict[int, RowRequest])
    ordinal: int = 0

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.max_rows)

    def step(self) -> tuple[list[RowRequest], list[Share]]:
        """The requests that were there, and the plan, which is then carried out."""
        for slot, queue in self.waiting.items():
            if queue and slot not in self.running:
                self.running[slot] = replace(queue.pop(0), ready=self.ordinal)
                self.ordinal += 1
        requests = list(self.running.values())
        shares = self.scheduler.plan(iter(requests))
        for share in shares:
            left = self.running[share.slot].num_rows - share.num_rows
            assert left >= 0
            if left == 0:
                del self.running[share.slot]
                continue
            request = replace(self.running[share.slot], num_rows=left)
            # As in `Sequence.request`: ids that had to run again are followed by an advance's own.
            reruns_over = request.num_readouts > 1 and left == request.num_readouts
            self.running[share.slot] = replace(request, is_prompt=not reruns_over)
        return requests, shares


@st.composite
def loads(draw: st.DrawFn, num_requests: int = 6, num_priorities: int = 3) -> Load:
    max_rows = draw(st.sampled_from([1, 2, 3, 4, 7, 16, 32]))

    @st.composite
    def requests(draw: st.DrawFn) -> RowRequest:
        kind = draw(st.sampled_from(["token", "drafts", "prompt", "rerun"]))
        if kind == "token":
            return decode(0, 1)
        if kind == "drafts":
            return decode(0, draw(st.integers(1, max_rows)))
        priority = draw(st.integers(1, num_priorities))
        if kind == "prompt":
            return prompt(0, draw(st.integers(1, 4 * max_rows)), priority=priority)
        readouts = draw(st.integers(1, max_rows))
        rows = readouts + draw(st.integers(1, 3 * max_rows))
        return prompt(0, rows, priority=priority, num_readouts=readouts)

    slots = draw(st.integers(1, 6))
    return Load(
        max_rows,
        {
            slot: [
                replace(request, slot=slot)
                for request in draw(st.lists(requests(), max_size=num_requests))
            ]
            for slot in range(slots)
        },
    )


def by_slot(requests: Sequence[RowRequest]) -> dict[int, RowRequest]:
    return {request.slot: request for request in requests}


@given(load=loads())
@settings(max_examples=120, deadline=None, suppress_health_check=SLOW_MACHINE)
def test_every_plan_of_a_long_run_keeps_the_rules(load: Load):
    for _ in range(MAX_STEPS):
        requests, shares = load.step()
        assert bool(shares) == bool(requests)
        if not requests:
            return
        slots = [share.slot for share in shares]
        assert len(set(slots)) == len(slots), "at most one share a slot"
        assert sum(share.num_rows for share in shares) <= load.max_rows
        for share in shares:
            request = by_slot(requests)[share.slot]
            assert 1 <= share.num_rows <= request.num_rows
            left = request.num_rows - share.num_rows
            if request.is_prompt:
                assert left == 0 or left >= request.num_readouts, "readout rows run in one step"
            else:
                assert left == 0, "rows of an advance run in one step"
    raise AssertionError(f"rows are left after {MAX_STEPS} steps")


@given(load=loads())
@settings(max_examples=120, deadline=None, suppress_health_check=SLOW_MACHINE)
def test_nothing_that_fits_is_left_out(load: Load):
    for _ in range(MAX_STEPS):
        requests, shares = load.step()
        rows = {share.slot: share.num_rows for share in shares}
        prompts = [request for request in requests if request.is_prompt]
        decode_rows = sum(rows.get(r.slot, 0) for r in requests if not r.is_prompt)
        limit = load.max_rows - (max(1, load.max_rows // PROMPT_SHARE) if prompts else 0)
        for request in requests:
            if not request.is_prompt:
                assert request.slot in rows or decode_rows + request.num_rows > limit
        if sum(rows.values()) < load.max_rows:
            for request in prompts:
                left = request.num_rows - rows[request.slot]
                assert left in (0, request.num_readouts), "only readout rows may wait for room"
        if not requests:
            return


@given(load=loads())
@settings(max_examples=120, deadline=None, suppress_health_check=SLOW_MACHINE)
def test_the_first_advance_runs_in_this_step_or_in_the_next(load: Load):
    head: int | None = None
    for _ in range(MAX_STEPS):
        requests, shares = load.step()
        ran = {share.slot for share in shares}
        decodes = sorted((r for r in requests if not r.is_prompt), key=lambda r: r.ready)
        if not decodes:
            head = None
            continue
        first = decodes[0]
        if first.slot in ran:
            head = None
            continue
        assert head != first.ready, "the first advance was passed over twice"
        head = first.ready
        assert first.num_rows > load.max_rows - max(1, load.max_rows // PROMPT_SHARE)
        assert any(request.is_prompt and request.slot in ran for request in requests)


@given(load=loads())
@settings(max_examples=120, deadline=None, suppress_health_check=SLOW_MACHINE)
def test_of_two_steps_one_runs_the_first_prompt(load: Load):
    waited = False
    for _ in range(MAX_STEPS):
        requests, shares = load.step()
        prompts = [request for request in requests if request.is_prompt]
        if not prompts:
            waited = False
            continue
        first = min(prompts, key=lambda request: (-request.priority, request.ready))
        ran = first.slot in {share.slot for share in shares}
        assert ran or not waited, "a prompt was passed over twice"
        waited = not ran


@given(max_rows=st.integers(4, 64), data=st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=SLOW_MACHINE)
def test_short_advances_leave_a_waiting_prompt_a_quarter_of_the_step(
    max_rows: int, data: st.DataObject
):
    longest = max_rows - max_rows // PROMPT_SHARE
    sizes = data.draw(st.lists(st.integers(1, longest), min_size=1, max_size=80))
    shares = Scheduler(max_rows).plan(
        [decode(slot, rows, ready=slot) for slot, rows in enumerate(sizes)]
        + [prompt(1000, 10 * max_rows)]
    )
    assert shares[-1].slot == 1000
    assert shares[-1].num_rows >= max_rows // PROMPT_SHARE
    assert sum(share.num_rows for share in shares) == max_rows, "and nothing is left unused"


@given(max_rows=st.integers(1, 64), num_slots=st.integers(1, 80))
@settings(max_examples=50, deadline=None, suppress_health_check=SLOW_MACHINE)
def test_without_prompts_advances_take_the_whole_step(max_rows: int, num_slots: int):
    shares = Scheduler(max_rows).plan([decode(slot, 1, ready=slot) for slot in range(num_slots)])
    assert len(shares) == min(max_rows, num_slots)


def test_advances_run_in_the_order_in_which_they_became_ready():
    requests = [decode(0, 2, ready=3), decode(1, 2, ready=1), decode(2, 2, ready=2)]
    assert Scheduler(4).plan(requests) == [Share(1, 2), Share(2, 2)]


def test_prompts_run_by_priority_and_then_by_age():
    requests = [
        prompt(0, 3, ready=1),
        prompt(1, 3, ready=3, priority=5),
        prompt(2, 3, ready=2, priority=5),
        prompt(3, 3, ready=0, priority=-5),
    ]
    assert Scheduler(8).plan(requests) == [Share(2, 3), Share(1, 3), Share(0, 2)]


def test_priority_does_not_reorder_advances():
    late = replace(decode(0, 2, ready=9), priority=100)
    assert Scheduler(3).plan([late, decode(1, 2, ready=1)]) == [Share(1, 2)]


def test_a_long_advance_that_does_not_fit_lets_shorter_ones_pass_and_is_first_next_time():
    scheduler = Scheduler(8)
    first, long, short = decode(0, 4, 0), decode(1, 5, 1), decode(2, 2, 2)
    assert scheduler.plan([first, long, short]) == [Share(0, 4), Share(2, 2)]
    assert scheduler.plan([long, decode(0, 4, 3)])[0] == Share(1, 5)


def test_an_advance_of_a_whole_step_and_a_prompt_take_turns():
    scheduler = Scheduler(8)
    requests = [decode(0, 8), prompt(1, 100)]
    plans = [scheduler.plan(requests) for _ in range(4)]
    assert plans == [[Share(0, 8)], [Share(1, 8)]] * 2


def test_the_readout_rows_of_a_prompt_wait_for_a_step_that_holds_them_all():
    scheduler = Scheduler(8)
    assert scheduler.plan([prompt(0, 10, num_readouts=5)]) == [Share(0, 5)]
    assert scheduler.plan([prompt(0, 9, num_readouts=2)]) == [Share(0, 7)]


def test_without_requests_a_step_is_empty():
    assert Scheduler(8).plan([]) == []
