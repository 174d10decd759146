"""The gateway's tokenizer with the real vocabulary: what goes in comes out, byte for byte."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import tokenizers

from gateway.tokenizer import Tokenizer
from tests.real_model.texts import PROMPTS, SURVIVING_TEXTS

pytestmark = pytest.mark.real_model


@pytest.fixture(scope="module")
def tokenizer(model_dir: Path) -> Tokenizer:
    return Tokenizer.from_directory(model_dir)


def streamed(tokenizer: Tokenizer, token_ids: list[int]) -> str:
    detokenizer = tokenizer.detokenizer()
    pieces = [piece for token_id in token_ids for piece in detokenizer.push(token_id)]
    pieces += detokenizer.finish()
    assert [i for piece in pieces for i in piece.token_ids] == token_ids
    return "".join(piece.text for piece in pieces)


@pytest.mark.parametrize("text", SURVIVING_TEXTS.values(), ids=SURVIVING_TEXTS.keys())
def test_text_survives_tokenizing_and_streamed_detokenizing(
    tokenizer: Tokenizer, text: str
) -> None:
    token_ids = tokenizer.encode(text, add_bos=False)
    assert tokenizer.decode(token_ids).encode() == text.encode()
    assert streamed(tokenizer, token_ids).encode() == text.encode()


@pytest.mark.parametrize("text", PROMPTS)
def test_prompts_become_the_ids_of_the_tokenizers_library(
    tokenizer: Tokenizer, model_dir: Path, text: str
) -> None:
    library = tokenizers.Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    assert tokenizer.encode(text, add_bos=True) == library.encode(text).ids


def test_the_whole_vocabulary_streams_as_it_decodes(tokenizer: Tokenizer) -> None:
    token_ids = list(range(tokenizer.vocab_size))
    random.Random(0).shuffle(token_ids)
    assert streamed(tokenizer, token_ids) == tokenizer.decode(token_ids)
