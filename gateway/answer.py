"""One answer as it grows: ids go in, text that may be shown comes out, and an end.

Knows detokenization, stops and limits; knows nothing of devices, sampling or gRPC. Pure: the same
ids give the same deltas, which is why an answer can be resumed from its ids alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from gateway.events import Delta, FinishReason, TokenLogprobs
from gateway.requests import Request
from gateway.stops import StopStrings
from gateway.tokenizer import Piece, Tokenizer


@dataclass(frozen=True, slots=True)
class End:
    """Why an answer ended, and the string or id that did it."""

    reason: FinishReason
    stop_string: str | None = None
    stop_id: int | None = None


class Answer:
    """The ids of an answer, the text that they spell, and whether it has ended.

    It begins with the ids that the client has already; their text is not shown again.

    Attributes:
        token_ids: all of its ids, a stop id included.
        end: why it ended; None while it goes on.
    """

    def __init__(self, request: Request, tokenizer: Tokenizer) -> None:
        self.token_ids: list[int] = []
        self.end: End | None = None
        self._max_tokens = request.max_tokens
        self._stop_ids = request.stop_ids
        self._stop_strings = StopStrings(request.stop_strings)
        self._detokenizer = tokenizer.detokenizer()
        self._logprobs: deque[TokenLogprobs | None] = deque()
        self._num_known = len(request.resume_ids)
        self._num_shown = 0
        for token_id in request.resume_ids:
            if self.end is None:
                self.push(token_id)

    def push(self, token_id: int, logprobs: TokenLogprobs | None = None) -> list[Delta]:
        """Adds an id; returns what may be shown now, and sets `end` if this was the last id."""
        assert self.end is None
        self.token_ids.append(token_id)
        if token_id in self._stop_ids:
            return self.finish(End(FinishReason.STOP, stop_id=token_id))
        self._logprobs.append(logprobs)
        deltas = self._release(self._detokenizer.push(token_id))
        if self.end is None and len(self.token_ids) >= self._max_tokens:
            deltas += self.finish(End(FinishReason.LENGTH))
        return deltas

    def finish(self, end: End) -> list[Delta]:
        """Ends the answer; returns what was held back. A stop string in it is the end instead."""
        deltas = self._release(self._detokenizer.finish())
        if self.end is None:
            self.end = end
            deltas += self._deltas(self._stop_strings.finish())
        return deltas

    def _release(self, pieces: Iterable[Piece]) -> list[Delta]:
        deltas: list[Delta] = []
        for piece in pieces:
            update = self._stop_strings.push(piece)
            deltas += self._deltas(update.released)
            if update.stop is not None:
                self.end = End(FinishReason.STOP, stop_string=update.stop)
                break
        return deltas

    def _deltas(self, pieces: Iterable[Piece]) -> list[Delta]:
        deltas: list[Delta] = []
        for piece in pieces:
            logprobs = [self._logprobs.popleft() for _ in piece.token_ids]
            self._num_shown += len(piece.token_ids)
            if self._num_shown > self._num_known:
                computed = tuple(each for each in logprobs if each is not None)
                deltas.append(Delta(piece.text, piece.token_ids, computed))
        return deltas
