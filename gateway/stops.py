"""Stop strings over a stream of pieces: what may be shown, and where the answer ends.

Knows text and pieces; knows nothing of tokenizers, of stop ids or of requests. Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.piece import Piece

MAX_STOP_STRINGS = 16
MAX_STOP_CHARACTERS = 256


class InvalidStop(ValueError):  # noqa: N818 (it says what it is)
    """A list of stop strings outside of its limits.

    Attributes:
        index: of the string at fault; None where the list is.
        value: a count of strings or of characters.
        limit: what is allowed.
    """

    def __init__(self, index: int | None, value: int, limit: str) -> None:
        where = "stop" if index is None else f"stop[{index}]"
        super().__init__(f"{where} must have {limit}, not {value:,}")
        self.index = index
        self.value = value
        self.limit = limit


def check_stop_strings(stops: Sequence[str]) -> None:
    """Raises InvalidStop unless they are at most 16 strings of 1 to 256 characters."""
    if len(stops) > MAX_STOP_STRINGS:
        raise InvalidStop(None, len(stops), f"at most {MAX_STOP_STRINGS} strings")
    for index, stop in enumerate(stops):
        if not 1 <= len(stop) <= MAX_STOP_CHARACTERS:
            raise InvalidStop(index, len(stop), f"1 to {MAX_STOP_CHARACTERS} characters")


@dataclass(frozen=True, slots=True)
class StopUpdate:
    """What a piece brought about."""

    released: list[Piece]
    """Pieces that may be shown now. The last one's text is cut where a stop string begins."""
    stop: str | None
    """The stop string that ended the answer."""


class StopStrings:
    """Holds back pieces while their text could be the beginning of a stop string.

    Pieces are released whole, ids with all of their text, so that a client that has some of them
    can go on from their ids. The one exception is the end: of the piece in which a stop string
    begins, the text before it is shown, with the ids of that piece and of all after it.

    The stop string that is complete first in the text wins, of those the longest: how the text is
    cut into pieces does not matter. Nothing of it or after it is shown.

    Args:
        stops: at most 16 strings of 1 to 256 characters.

    Raises:
        InvalidStop: they are not.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        check_stop_strings(stops)
        self._stops = tuple(stops)
        self._beginnings = {stop[:size] for stop in stops for size in range(1, len(stop))}
        self._longest = max(map(len, stops), default=0)
        self._held: deque[Piece] = deque()
        self._held_text = ""

    def push(self, piece: Piece) -> StopUpdate:
        """Adds a piece. After a `stop`, push nothing more."""
        if not self._stops:
            return StopUpdate([piece], None)
        self._held.append(piece)
        self._held_text += piece.text
        found = self._find()
        if found is None:
            released = self._release(len(self._held_text) - self._suspect_size())
            return StopUpdate(released, None)
        start, stop = found
        text = self._held_text[:start]
        released = self._release(start)
        shown = sum(len(before.text) for before in released)
        rest = tuple(token_id for held in self._held for token_id in held.token_ids)
        self.finish()
        return StopUpdate([*released, Piece(rest, text[shown:])], stop)

    def finish(self) -> list[Piece]:
        """The pieces that are still held: nothing follows, so they begin no stop string."""
        released = list(self._held)
        self._held.clear()
        self._held_text = ""
        return released

    def _find(self) -> tuple[int, str] | None:
        """The stop string in the held text that is complete first, and where it begins."""
        first: tuple[int, int, str] | None = None
        for stop in self._stops:
            start = self._held_text.find(stop)
            if start >= 0:
                found = (start + len(stop), start, stop)
                first = found if first is None else min(first, found)
        return None if first is None else first[1:]

    def _suspect_size(self) -> int:
        """Characters of the longest end of the held text that begins a stop string."""
        text = self._held_text
        for size in range(min(len(text), self._longest - 1), 0, -1):
            if text[-size:] in self._beginnings:
                return size
        return 0

    def _release(self, num_characters: int) -> list[Piece]:
        """Takes out the pieces that lie wholly within the first characters of the held text."""
        released: list[Piece] = []
        size = 0
        while self._held and size + len(self._held[0].text) <= num_characters:
            size += len(self._held[0].text)
            released.append(self._held.popleft())
        self._held_text = self._held_text[size:]
        return released
