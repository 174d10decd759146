"""The unit in which an answer becomes visible. Knows nothing but itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Piece:
    """The smallest run of ids whose text is final, with that text.

    The text is whole characters; it is empty where the ids show nothing (control tokens).
    """

    token_ids: tuple[int, ...]
    text: str
