"""Ids to text, one at a time: what may be shown is shown as soon as its text is final.

Knows the construction of Gemma's decoder (replace, byte fallback, fuse); knows nothing of files,
chat or stops.

The decoder works token by token, but for bytes: a run of byte tokens is one string of UTF-8, or, if
it is not valid, one U+FFFD for each byte. So a run's text is final only when the run ends. Control
tokens show nothing and do not end a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.piece import Piece


class TokenTexts:
    """What each id shows, found when first needed.

    Args:
        vocab_size: ids that may have a text; others show nothing.
        byte_ids: the byte of each byte token.
        hidden_ids: ids that show nothing.
        decode: the text of an id that is neither.
    """

    def __init__(
        self,
        vocab_size: int,
        byte_ids: Mapping[int, int],
        hidden_ids: frozenset[int],
        decode: Callable[[int], str],
    ) -> None:
        self.bytes = dict(byte_ids)
        self.known: list[Piece | None] = [None] * vocab_size
        self._hidden_ids = hidden_ids
        self._decode = decode

    def piece(self, token_id: int) -> Piece:
        """The id, which is no byte token, with its text."""
        if token_id >= len(self.known):
            return Piece((token_id,), "")
        piece = self.known[token_id]
        if piece is None:
            text = "" if token_id in self._hidden_ids else self._decode(token_id)
            piece = self.known[token_id] = Piece((token_id,), text)
        return piece

    def shows(self, token_id: int) -> bool:
        """Whether the id is no control token and in the vocabulary."""
        return token_id < len(self.known) and token_id not in self._hidden_ids


class Detokenizer:
    """The text of one answer, as it grows. `Tokenizer.detokenizer` makes one.

    The texts of all pieces, one after the other, are `Tokenizer.decode` of all ids. To go on with
    an answer of which n ids have been shown, push those again and drop the pieces that lie within
    the first n ids; the last of these may come only with the ids that follow.
    """

    __slots__ = ("_held_bytes", "_held_ids", "_num_run_ids", "_texts")

    def __init__(self, texts: TokenTexts) -> None:
        self._texts = texts
        self._held_ids: list[int] = []
        self._held_bytes = bytearray()
        self._num_run_ids = 0  # held ids up to the last byte

    def push(self, token_id: int) -> list[Piece]:
        """Adds an id; returns the pieces whose text is final now."""
        texts = self._texts
        if token_id in texts.bytes:
            self._held_ids.append(token_id)
            self._held_bytes.append(texts.bytes[token_id])
            self._num_run_ids = len(self._held_ids)
            return []
        if not self._held_ids:
            return [texts.piece(token_id)]
        if not texts.shows(token_id):
            self._held_ids.append(token_id)
            return []
        return [*self.finish(), texts.piece(token_id)]

    def finish(self) -> list[Piece]:
        """The pieces that are still held: the answer ends here."""
        if not self._held_ids:
            return []
        run = tuple(self._held_ids[: self._num_run_ids])
        behind = self._held_ids[self._num_run_ids :]
        pieces = [Piece(run, bytes_text(self._held_bytes)), *map(self._texts.piece, behind)]
        self._held_ids.clear()
        self._held_bytes.clear()
        self._num_run_ids = 0
        return pieces


def bytes_text(run: bytes | bytearray) -> str:
    """The text of a run of byte tokens."""
    try:
        return run.decode()
    except UnicodeDecodeError:
        return "\N{REPLACEMENT CHARACTER}" * len(run)
