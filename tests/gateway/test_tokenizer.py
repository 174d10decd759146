from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from gateway.tokenizer import (
    ChatMessage,
    ChatTemplateError,
    GenerationDefaults,
    Tokenizer,
    TokenizerError,
)
from tests.gateway.conftest import DEMO_MODEL

SHARED = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A copy of the demo model's tokenizer files, to change."""
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(DEMO_MODEL / name, tmp_path / name)
    return tmp_path


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


# --- Text and ids -----------------------------------------------------------------------------


def test_text_is_encoded_as_the_library_does_and_bos_is_put_in_front(tokenizer: Tokenizer) -> None:
    text = "The capital of France\n  is 12345 — naïve 🦊."
    ids = tokenizer.encode(text, add_bos=False)
    backend: Backend = tokenizer._backend  # pyright: ignore[reportPrivateUsage]
    assert ids == backend.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode(text, add_bos=True) == [2, *ids]
    assert tokenizer.bos_token_id == 2


def test_the_real_tokenizer_gives_gemmas_ids(real_tokenizer: Tokenizer) -> None:
    assert real_tokenizer.encode("The capital of France is", add_bos=True) == [
        *(2, 818, 5279, 529, 7001, 563)
    ]
    assert real_tokenizer.vocab_size == 262_145  # one image token more than the text models know


@SHARED
@given(data=st.data())
def test_no_text_becomes_a_control_token(tokenizer: Tokenizer, data: st.DataObject) -> None:
    names = [
        tokenizer.decode([token_id], show_control_tokens=True)
        for token_id in sorted(tokenizer.control_token_ids)
    ]
    parts = st.one_of(
        st.sampled_from(names), st.text(st.sampled_from("<|>turns_of ▁\n"), max_size=9)
    )
    text = "".join(data.draw(st.lists(parts)))
    ids = tokenizer.encode(text, add_bos=False)
    assert tokenizer.control_token_ids.isdisjoint(ids)
    assert tokenizer.decode(ids) == text.replace("▁", " ")


def test_text_with_a_lone_surrogate_is_refused(demo_tokenizer: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match="lone surrogates"):
        demo_tokenizer.encode("a\ud800", add_bos=False)


@SHARED
@given(data=st.data(), show=st.booleans())
def test_ids_are_decoded_as_the_library_does(
    tokenizer: Tokenizer, data: st.DataObject, show: bool
) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1)))
    backend: Backend = tokenizer._backend  # pyright: ignore[reportPrivateUsage]
    expected = backend.decode(ids, skip_special_tokens=not show)
    assert tokenizer.decode(ids, show_control_tokens=show) == expected


def test_control_tokens_are_hidden_unless_asked_for(demo_tokenizer: Tokenizer) -> None:
    ids = [2, 105, *demo_tokenizer.encode("user", add_bos=False), 106]
    assert demo_tokenizer.decode(ids) == "user"
    assert demo_tokenizer.decode(ids, show_control_tokens=True) == "<bos><|turn>user<turn|>"
    assert demo_tokenizer.token_text(106) == "<turn|>"


def test_a_part_of_a_character_alone_is_a_replacement_character(demo_tokenizer: Tokenizer) -> None:
    first, *_ = demo_tokenizer.encode("🦊", add_bos=False)
    assert demo_tokenizer.token_text(first) == "\ufffd"


def test_an_id_beyond_the_vocabulary_is_refused(demo_tokenizer: Tokenizer) -> None:
    size = demo_tokenizer.vocab_size
    with pytest.raises(TokenizerError, match=f"must be below {size} .vocab_size., not {size}"):
        demo_tokenizer.decode([5, size])


# --- Conversations ----------------------------------------------------------------------------


def test_a_conversation_becomes_the_templates_ids(demo_tokenizer: Tokenizer) -> None:
    messages = [ChatMessage("system", "Be brief."), ChatMessage("user", " Hi <turn|> ")]
    ids = demo_tokenizer.encode_chat(messages, enable_thinking=False)
    text = demo_tokenizer.encode
    assert ids == [
        *(2, 105, *text("system\nBe brief.", add_bos=False), 106, *text("\n", add_bos=False)),
        *(105, *text("user\nHi <turn|>", add_bos=False), 106, *text("\n", add_bos=False)),
        *(105, *text("model\n", add_bos=False)),
    ]


def test_the_real_template_is_laid_out_as_the_library_would(real_tokenizer: Tokenizer) -> None:
    messages = [ChatMessage("user", "Hello there"), ChatMessage("assistant", "Hi!")]
    ids = real_tokenizer.encode_chat([*messages, messages[0]], enable_thinking=False)
    # Harmless contents: what all control tokens in the text, taken as such, give.
    text = real_tokenizer.decode(ids, show_control_tokens=True)
    backend = Backend.from_str(real_tokenizer._backend.to_str())  # pyright: ignore[reportPrivateUsage]
    assert ids == backend.encode(text, add_special_tokens=False).ids
    assert text.endswith("<end_of_turn>\n<start_of_turn>model\n")


def test_without_a_chat_template_a_conversation_is_refused(directory: Path) -> None:
    (directory / "chat_template.jinja").unlink()
    tokenizer = Tokenizer.from_directory(directory)
    assert not tokenizer.has_chat_template
    with pytest.raises(ChatTemplateError, match="no chat template"):
        tokenizer.encode_chat([ChatMessage("user", "x")], enable_thinking=False)


@pytest.mark.parametrize(
    "value",
    [
        "{{ bos_token }}<|turn>{{ messages[0].content }}",
        [
            {"name": "tool_use", "template": "nothing"},
            {"name": "default", "template": "{{ bos_token }}<|turn>{{ messages[0].content }}"},
        ],
    ],
)
def test_the_template_may_be_in_the_tokenizers_configuration(directory: Path, value: Any) -> None:
    (directory / "chat_template.jinja").unlink()
    change(directory / "tokenizer_config.json", chat_template=value)
    tokenizer = Tokenizer.from_directory(directory)
    ids = tokenizer.encode_chat([ChatMessage("user", "x")], enable_thinking=False)
    assert ids == [2, 105, *tokenizer.encode("x", add_bos=False)]


# --- Files ------------------------------------------------------------------------------------


def test_the_digest_is_that_of_the_file(demo_tokenizer: Tokenizer) -> None:
    content = (DEMO_MODEL / "tokenizer.json").read_bytes()
    assert demo_tokenizer.digest == hashlib.sha256(content).hexdigest()


def test_only_tokenizer_json_must_be_there(tmp_path: Path) -> None:
    shutil.copy(DEMO_MODEL / "tokenizer.json", tmp_path)
    tokenizer = Tokenizer.from_directory(tmp_path)
    assert tokenizer.bos_token_id == 2
    assert tokenizer.defaults == GenerationDefaults()


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: no such file"):
        Tokenizer.from_directory(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("tokenizer.json", b"{", "not a tokenizer"),
        ("tokenizer.json", b"\xff\x00", "not a tokenizer"),
        ("tokenizer_config.json", b"[1]", "must be a JSON object"),
        ("tokenizer_config.json", b"\xff", "not JSON"),
        ("generation_config.json", b"{,}", "not JSON"),
        ("generation_config.json", b'{"temperature": "hot"}', "temperature must be a number"),
        ("generation_config.json", b'{"top_p": 0}', "top_p must be above 0, up to 1, not 0.0"),
        ("generation_config.json", b'{"eos_token_id": [1, -5]}', "eos_token_id must be an integer"),
        ("chat_template.jinja", b"{% if", "line 1"),
        ("chat_template.jinja", b"\xff", "not UTF-8"),
    ],
)
def test_garbage_in_a_file_is_one_line_with_the_files_name(
    directory: Path, name: str, content: bytes, problem: str
) -> None:
    (directory / name).write_bytes(content)
    with pytest.raises(TokenizerError, match=problem) as caught:
        Tokenizer.from_directory(directory)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tokens_that_the_configuration_names_are_control_tokens(directory: Path) -> None:
    content = json.loads((directory / "tokenizer.json").read_text())
    for token in content["added_tokens"]:
        token["special"] = token["content"] != "<|think|>"
    (directory / "tokenizer.json").write_text(json.dumps(content))
    assert 98 not in Tokenizer.from_directory(directory).control_token_ids
    change(directory / "tokenizer_config.json", extra_special_tokens={"think_token": "<|think|>"})
    tokenizer = Tokenizer.from_directory(directory)
    assert 98 in tokenizer.control_token_ids
    assert 98 not in tokenizer.encode("<|think|>", add_bos=False)
    assert tokenizer.decode([98]) == ""


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word"])
def test_a_control_token_that_takes_text_beside_it_is_refused(directory: Path, flag: str) -> None:
    content = json.loads((directory / "tokenizer.json").read_text())
    content["added_tokens"][2][flag] = True
    (directory / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match="control token <bos> must not have lstrip"):
        Tokenizer.from_directory(directory)


def test_text_that_would_merge_into_a_control_token_is_found_when_loading(directory: Path) -> None:
    content = json.loads((directory / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    taken = next(name for name, token_id in vocabulary.items() if token_id == 0)
    del vocabulary[taken]
    vocabulary["ab"] = 0
    content["model"]["merges"].insert(0, ["a", "b"])
    content["added_tokens"][0]["content"] = "ab"
    (directory / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match="text can become the control token ab"):
        Tokenizer.from_directory(directory)


def test_a_tokenizer_without_all_bytes_is_refused(directory: Path) -> None:
    content = json.loads((directory / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["<not a byte>"] = vocabulary.pop("<0xF0>")
    (directory / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match="must have 256 byte tokens, not 255"):
        Tokenizer.from_directory(directory)


def test_the_checkpoints_sampling_defaults_are_read(directory: Path) -> None:
    values = {
        "do_sample": False,
        "eos_token_id": [1, 106, 50],
        "temperature": 0.7,
        "top_k": 64,
        "top_p": 0.95,
        "repetition_penalty": None,
        "transformers_version": "5.0",
    }
    (directory / "generation_config.json").write_text(json.dumps(values))
    assert Tokenizer.from_directory(directory).defaults == GenerationDefaults(
        temperature=0.7, top_k=64, top_p=0.95, eos_token_ids=(1, 106, 50)
    )
    (directory / "generation_config.json").write_text('{"eos_token_id": 1}')
    assert Tokenizer.from_directory(directory).defaults == GenerationDefaults(eos_token_ids=(1,))


def test_the_tokenizer_is_loaded_without_torch_or_transformers() -> None:
    program = (
        "import sys, gateway.tokenizer, gateway.sampling, gateway.stops; "
        "print([m for m in ('torch', 'transformers', 'grpc') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
