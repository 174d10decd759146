from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.piece import Piece
from gateway.stops import InvalidStop, StopStrings


def pieces_of(texts: list[str]) -> list[Piece]:
    return [Piece((number,), text) for number, text in enumerate(texts)]


def run(stops: list[str], texts: list[str]) -> tuple[list[list[Piece]], str | None]:
    """What each push released, the end's pieces last, and the stop string that was found."""
    strings = StopStrings(stops)
    released: list[list[Piece]] = []
    for piece in pieces_of(texts):
        update = strings.push(piece)
        released.append(update.released)
        if update.stop is not None:
            return released, update.stop
    released.append(strings.finish())
    return released, None


def brute_force(stops: list[str], text: str) -> tuple[str, str | None]:
    """The text before the stop string that is complete first, of those the longest."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            stop = max(complete, key=len)
            return text[: end - len(stop)], stop
    return text, None


letters = st.text("ab", min_size=1, max_size=5)


@settings(max_examples=500, deadline=None)
@given(stops=st.lists(letters, max_size=4), texts=st.lists(st.text("abc", max_size=4), max_size=12))
def test_what_is_shown_is_the_text_before_the_first_complete_stop_string(
    stops: list[str], texts: list[str]
) -> None:
    released, stop = run(stops, texts)
    shown = [piece for pieces in released for piece in pieces]
    expected_text, expected_stop = brute_force(stops, "".join(texts))
    assert "".join(piece.text for piece in shown) == expected_text
    assert stop == expected_stop
    # Ids come in order and none is lost; all pieces but the last are as they were pushed.
    ids = [token_id for piece in shown for token_id in piece.token_ids]
    assert ids == list(range(len(released) - (stop is None)))
    assert all(piece in pieces_of(texts) for piece in shown[: -1 if stop else None])


@settings(max_examples=250, deadline=None)
@given(stops=st.lists(letters, max_size=4), texts=st.lists(st.text("abc", max_size=4), max_size=12))
def test_a_piece_is_held_only_while_it_could_be_part_of_a_stop_string(
    stops: list[str], texts: list[str]
) -> None:
    strings = StopStrings(stops)
    text, num_shown = "", 0
    for piece in pieces_of(texts):
        text += piece.text
        update = strings.push(piece)
        if update.stop is not None:
            return
        num_shown += sum(len(released.text) for released in update.released)
        suspects = [
            start
            for start in range(len(text))
            if any(stop.startswith(text[start:]) for stop in stops)
        ]
        first_suspect = min(suspects, default=len(text))
        assert num_shown <= first_suspect, "a part of a stop string was shown"
        # The piece in which the suspect begins is held, and everything before it is shown.
        held = text[num_shown:first_suspect]
        assert any(held == each.text[: len(held)] for each in pieces_of(texts)) or not held


def test_without_stop_strings_every_piece_passes_at_once() -> None:
    assert run([], ["a", "b"]) == ([[Piece((0,), "a")], [Piece((1,), "b")], []], None)


def test_a_piece_in_which_a_stop_string_may_begin_is_held_whole() -> None:
    released, stop = run(["\n\nQ:"], ["Hello", " world.\n", "\n", "A: yes"])
    assert released == [
        [Piece((0,), "Hello")],
        [],
        [],
        [Piece((1,), " world.\n"), Piece((2,), "\n"), Piece((3,), "A: yes")],
        [],
    ]
    assert stop is None


def test_the_last_piece_is_cut_before_the_stop_string_and_carries_all_ids() -> None:
    released, stop = run(["\n\nQ:"], ["Hello", " world.\n", "\n", "Q: no"])
    assert released == [[Piece((0,), "Hello")], [], [], [Piece((1, 2, 3), " world.")]]
    assert stop == "\n\nQ:"


def test_a_stop_string_alone_leaves_an_empty_piece_with_its_ids() -> None:
    assert run(["STOP"], ["ST", "OP"]) == ([[], [Piece((0, 1), "")]], "STOP")


def test_pieces_without_text_pass_before_a_suspect_and_wait_behind_one() -> None:
    released, stop = run(["ab"], ["", "a", "", "c"])
    assert released == [
        [Piece((0,), "")],
        [],
        [],
        [Piece((1,), "a"), Piece((2,), ""), Piece((3,), "c")],
        [],
    ]
    assert stop is None


def test_what_is_held_at_the_end_of_the_answer_is_shown() -> None:
    assert run(["abc"], ["ab"]) == ([[], [Piece((0,), "ab")]], None)


def test_too_many_stop_strings_are_refused() -> None:
    StopStrings(["x"] * 16)
    with pytest.raises(InvalidStop, match="at most 16 strings, not 17") as caught:
        StopStrings(["x"] * 17)
    assert caught.value.index is None


@pytest.mark.parametrize("stop", ["", "x" * 257])
def test_a_stop_string_of_the_wrong_length_is_refused_by_its_index(stop: str) -> None:
    StopStrings(["x" * 256])
    with pytest.raises(InvalidStop, match=r"stop\[1\] must have 1 to 256 characters") as caught:
        StopStrings(["ok", stop])
    assert caught.value.index == 1
