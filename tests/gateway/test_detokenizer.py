"""Pieces against the library's own decode of all ids at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from gateway.piece import Piece
from gateway.tokenizer import Tokenizer, TokenizerError

SHARED = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TEXT = st.text(
    st.one_of(
        st.characters(codec="utf-8"),
        st.sampled_from("ab ▁\n\t<>|0é\u0301\u200d👩👩\u200d👩\u200d👧🇩🇪ﬁ漢字\u202eעب\ufffd\0"),
    )
)


def pieces_of(tokenizer: Tokenizer, ids: list[int]) -> list[Piece]:
    detokenizer = tokenizer.detokenizer()
    pieces = [piece for token_id in ids for piece in detokenizer.push(token_id)]
    return pieces + detokenizer.finish()


def byte_ids(tokenizer: Tokenizer, data: bytes) -> list[int]:
    backend: Backend = tokenizer._backend  # pyright: ignore[reportPrivateUsage]
    ids = [backend.token_to_id(f"<0x{byte:02X}>") for byte in data]
    assert None not in ids
    return ids


@st.composite
def id_sequences(draw: st.DrawFn, tokenizer: Tokenizer) -> list[int]:
    """Any ids, often bytes (of whole characters, of parts, of nonsense) and control tokens."""
    controls = sorted(tokenizer.control_token_ids)
    part = st.one_of(
        st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=4),
        st.lists(st.sampled_from(controls), min_size=1, max_size=3),
        st.binary(min_size=1, max_size=6).map(lambda data: byte_ids(tokenizer, data)),
        TEXT.map(lambda text: byte_ids(tokenizer, text.encode())),
        TEXT.map(lambda text: byte_ids(tokenizer, text.encode()[:-1])),
        TEXT.map(lambda text: tokenizer.encode(text, add_bos=False)),
    )
    return [token_id for ids in draw(st.lists(part, max_size=6)) for token_id in ids]


@SHARED
@given(data=st.data())
def test_pieces_of_any_ids_join_to_the_text_of_all_of_them(
    tokenizer: Tokenizer, data: st.DataObject
) -> None:
    ids = data.draw(id_sequences(tokenizer))
    pieces = pieces_of(tokenizer, ids)
    assert "".join(piece.text for piece in pieces) == tokenizer.decode(ids)
    assert [token_id for piece in pieces for token_id in piece.token_ids] == ids


@SHARED
@given(data=st.data())
def test_a_piece_is_final_whatever_ids_follow(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(id_sequences(tokenizer))
    detokenizer = tokenizer.detokenizer()
    shown = [piece for token_id in ids for piece in detokenizer.push(token_id)]
    text = "".join(piece.text for piece in shown)
    more = data.draw(id_sequences(tokenizer))
    assert tokenizer.decode(ids + more).startswith(text)
    # Shown ids give the same pieces again: an answer can go on from them.
    num_ids = sum(len(piece.token_ids) for piece in shown)
    assert pieces_of(tokenizer, ids[:num_ids]) == shown


@SHARED
@given(text=TEXT)
def test_text_comes_back_as_it_was(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_bos=False)
    # The decoder knows no "▁" but as a space.
    spaced = text.replace("▁", " ")
    assert tokenizer.decode(ids) == spaced
    assert "".join(piece.text for piece in pieces_of(tokenizer, ids)) == spaced


def test_a_token_with_final_text_is_shown_at_once(tokenizer: Tokenizer) -> None:
    detokenizer = tokenizer.detokenizer()
    ids = tokenizer.encode("The capital of France", add_bos=False)
    for token_id in ids:
        (piece,) = detokenizer.push(token_id)
        assert piece == Piece((token_id,), tokenizer.decode([token_id]))


def test_bytes_are_held_until_their_run_ends_and_control_tokens_do_not_end_it(
    demo_tokenizer: Tokenizer,
) -> None:
    first, *middle, last = byte_ids(demo_tokenizer, "🦊".encode())
    (a,) = demo_tokenizer.encode("a", add_bos=False)
    turn = 106
    detokenizer = demo_tokenizer.detokenizer()
    assert detokenizer.push(turn) == [Piece((turn,), "")]
    assert detokenizer.push(first) == []
    assert detokenizer.push(turn) == []
    assert [detokenizer.push(token_id) for token_id in (*middle, last)] == [[], [], []]
    assert detokenizer.push(turn) == []
    assert detokenizer.push(a) == [
        Piece((first, turn, *middle, last), "🦊"),
        Piece((turn,), ""),
        Piece((a,), "a"),
    ]
    assert detokenizer.finish() == []


def test_one_invalid_byte_makes_every_byte_of_its_run_a_replacement_character(
    demo_tokenizer: Tokenizer,
) -> None:
    ids = byte_ids(demo_tokenizer, b"ok\xff")
    assert pieces_of(demo_tokenizer, ids) == [Piece(tuple(ids), "\ufffd\ufffd\ufffd")]
    assert demo_tokenizer.decode(ids) == "\ufffd\ufffd\ufffd"


def test_an_id_that_only_the_model_knows_shows_nothing(demo_tokenizer: Tokenizer) -> None:
    beyond = demo_tokenizer.vocab_size + 7
    assert pieces_of(demo_tokenizer, [beyond]) == [Piece((beyond,), "")]


@pytest.mark.parametrize(
    "decoder",
    [
        None,
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
    ],
)
def test_a_decoder_of_another_construction_is_refused_by_name(
    tmp_path: Path, demo_tokenizer: Tokenizer, decoder: dict[str, object] | None
) -> None:
    backend: Backend = demo_tokenizer._backend  # pyright: ignore[reportPrivateUsage]
    content = json.loads(backend.to_str())
    content["decoder"] = decoder
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match="decoder must be Replace"):
        Tokenizer.from_directory(tmp_path)
