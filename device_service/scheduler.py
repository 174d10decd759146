"""Which rows go into the next step.

Pure policy over plain integers: no clock, no model, no KV. Decode rows (the ids of an `advance`)
come first, in the order in which they became ready, because a live stream waits for each of them;
prompts take what is left, in chunks. Neither can starve the other:

- while a prompt waits, decode rows leave it a quarter of the step;
- an `advance` too long for the other three quarters may take the whole step when its turn comes,
  but not twice before a prompt has run.

So what a live stream waits for is bounded by one step of `max_rows` rows, however long a prompt is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

PROMPT_SHARE = 4
"""One row in so many is kept for prompts while any waits."""


@dataclass(frozen=True, slots=True)
class RowRequest:
    """The rows that one sequence has to run, as a plan needs to know them."""

    slot: int
    num_rows: int
    """All that are left of the command. At least 1."""
    num_readouts: int
    """Of the last rows; these must run in one step."""
    is_prompt: bool
    """Prompts are cut into chunks; decode rows all want readouts and run together."""
    priority: int
    ready: int
    """Ordinal of the moment when the command could first run: smaller is earlier."""


@dataclass(frozen=True, slots=True)
class Share:
    """The next `num_rows` rows of the sequence in `slot` run in this step."""

    slot: int
    num_rows: int


class Scheduler:
    """Plans steps of at most `max_rows` rows."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._prompt_rows = max(1, max_rows // PROMPT_SHARE)
        self._prompts_passed_over = False

    def plan(self, requests: Iterable[RowRequest]) -> list[Share]:
        """Shares for one step, at most one a slot; empty only without requests.

        Each decode request must fit a step.
        """
        decodes: list[RowRequest] = []
        prompts: list[RowRequest] = []
        for request in requests:
            (prompts if request.is_prompt else decodes).append(request)
        decodes.sort(key=lambda request: request.ready)
        prompts.sort(key=lambda request: (-request.priority, request.ready))

        shares = self._plan_decodes(decodes, prompts_wait=bool(prompts))
        rows_left = self._max_rows - sum(share.num_rows for share in shares)
        self._prompts_passed_over = bool(prompts) and rows_left == 0
        for request in prompts:
            if rows_left == 0:
                break
            share = Share(request.slot, _chunk(request, rows_left))
            shares.append(share)
            rows_left -= share.num_rows
        return shares

    def _plan_decodes(self, decodes: list[RowRequest], prompts_wait: bool) -> list[Share]:
        rows_left = self._max_rows - (self._prompt_rows if prompts_wait else 0)
        shares: list[Share] = []
        if decodes and decodes[0].num_rows > rows_left and not self._prompts_passed_over:
            return [Share(decodes[0].slot, decodes[0].num_rows)]
        for request in decodes:
            # A long one that does not fit lets shorter ones pass: it is first in the next step.
            if request.num_rows <= rows_left:
                shares.append(Share(request.slot, request.num_rows))
                rows_left -= request.num_rows
        return shares


def _chunk(request: RowRequest, rows_left: int) -> int:
    """How many rows of a prompt run when `rows_left` are free: never a part of its readout rows."""
    if request.num_rows <= rows_left:
        return request.num_rows
    return min(rows_left, request.num_rows - request.num_readouts)
