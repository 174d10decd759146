"""Reads a checkpoint's tokenizer files, and refuses what is not of Gemma's construction.

Knows tokenizer.json, tokenizer_config.json, chat_template.jinja and generation_config.json; knows
nothing of how they are used.
"""

from __future__ import annotations

import hashlib
import json
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, cast

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from gateway.chat_template import ChatTemplate, ChatTemplateError
from gateway.generation_config import GenerationDefaults

_DECODERS = [
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
]
_MAX_MESSAGE_CHARACTERS = 200


class TokenizerError(ValueError):
    """A tokenizer that can't be loaded, or text or ids that it can't take: one sentence."""


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """What the files say."""

    backend: Backend
    """Treats control tokens spelled in text as text."""
    digest: str
    """SHA-256 (hex) of tokenizer.json."""
    vocab_size: int
    control_tokens: Mapping[str, int]
    """Id of each control token's spelling."""
    byte_ids: Mapping[int, int]
    """Byte of each byte token's id."""
    bos_token_id: int | None
    chat_template: ChatTemplate | None
    defaults: GenerationDefaults


def read_tokenizer_files(directory: Path) -> TokenizerFiles:
    """Reads the files of a checkpoint directory; only tokenizer.json must be there.

    Raises:
        TokenizerError: a file is missing, garbage, or of a construction that is not served.
    """
    path = directory / "tokenizer.json"
    content = _read(path)
    if content is None:
        raise TokenizerError(f"{path}: no such file")
    try:
        backend = Backend.from_buffer(content)
    except Exception as error:  # the library raises nothing narrower
        raise TokenizerError(f"{path}: not a tokenizer: {_brief(error)}") from None
    config_path = directory / "tokenizer_config.json"
    config = _read_json(config_path)
    named_tokens = _named_tokens(config)
    try:
        control_tokens = _mark_control_tokens(backend, named_tokens)
        byte_ids = _check_construction(backend, control_tokens)
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from None
    bos = named_tokens.get("bos_token", "<bos>")
    return TokenizerFiles(
        backend=backend,
        digest=hashlib.sha256(content).hexdigest(),
        vocab_size=backend.get_vocab_size(with_added_tokens=True),
        control_tokens=control_tokens,
        byte_ids=byte_ids,
        bos_token_id=backend.token_to_id(bos),
        chat_template=_read_chat_template(directory, config, list(control_tokens), named_tokens),
        defaults=_read_defaults(directory / "generation_config.json"),
    )


def _named_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """The tokens that tokenizer_config.json gives a name: name → spelling."""
    extra = config.get("extra_special_tokens")
    entries = {**config, **(cast("dict[str, Any]", extra) if isinstance(extra, dict) else {})}
    named: dict[str, str] = {}
    for name, value in entries.items():
        if isinstance(value, dict):
            spelling = cast("dict[str, Any]", value).get("content")
        else:
            spelling = value
        if name.endswith("_token") and isinstance(spelling, str):
            named[name] = spelling
    return named


def _mark_control_tokens(backend: Backend, named_tokens: Mapping[str, str]) -> dict[str, int]:
    """Makes the backend treat alike the control tokens of tokenizer.json and those with a name."""
    named = set(named_tokens.values())
    control_tokens: dict[str, int] = {}
    for token_id, token in backend.get_added_tokens_decoder().items():
        if token.special or token.content in named:
            if token.lstrip or token.rstrip or token.single_word:
                raise TokenizerError(
                    f"control token {token.content} must not have lstrip, rstrip or single_word"
                )
            control_tokens[token.content] = token_id
    backend.add_special_tokens([AddedToken(each, normalized=False) for each in control_tokens])
    backend.encode_special_tokens = True
    return control_tokens


def _check_construction(backend: Backend, control_tokens: Mapping[str, int]) -> dict[int, int]:
    """Refuses what detokenization could not be exact for; returns the byte of each byte token."""
    decoder = json.loads(backend.decoder.__getstate__()) if backend.decoder else None
    if decoder is None or decoder.get("decoders") != _DECODERS:
        raise TokenizerError(
            f"decoder must be Replace ▁ by a space, ByteFallback, Fuse; not {_brief(decoder)}"
        )
    size = backend.get_vocab_size(with_added_tokens=True)
    if backend.id_to_token(size - 1) is None:
        raise TokenizerError(f"ids must have no gaps: {size - 1} is none of {size}")
    byte_ids: dict[int, int] = {}
    # What the decoder takes for a byte: two hexadecimal digits, as Rust reads them.
    digits = string.hexdigits
    for spelling in map("".join, [*product(digits, digits), *product("+", digits)]):
        if (token_id := backend.token_to_id(f"<0x{spelling}>")) is not None:
            byte_ids[token_id] = int(spelling, 16)
    if len(set(byte_ids.values())) < 256:
        raise TokenizerError(f"must have 256 byte tokens, not {len(set(byte_ids.values()))}")
    for spelling in control_tokens:
        ids = backend.encode(spelling, add_special_tokens=False).ids
        if not set(ids).isdisjoint(control_tokens.values()):
            raise TokenizerError(f"text can become the control token {spelling}")
    return byte_ids


def _read_chat_template(
    directory: Path,
    config: Mapping[str, Any],
    control_tokens: list[str],
    named_tokens: Mapping[str, str],
) -> ChatTemplate | None:
    path = directory / "chat_template.jinja"
    content = _read(path)
    if content is None:
        path = directory / "tokenizer_config.json"
        source = _default_template(config.get("chat_template"))
    else:
        try:
            source = content.decode()
        except UnicodeDecodeError:
            raise TokenizerError(f"{path}: not UTF-8") from None
    if source is None:
        return None
    try:
        return ChatTemplate(source, control_tokens, named_tokens)
    except ChatTemplateError as error:
        raise TokenizerError(f"{path}: {error}") from None


def _default_template(value: object) -> str | None:
    """A template, or the one called "default" of a list of named ones."""
    if isinstance(value, list):
        for entry in cast("list[dict[str, Any]]", value):
            if entry.get("name") == "default":
                value = entry.get("template")
    return value if isinstance(value, str) else None


def _read_defaults(path: Path) -> GenerationDefaults:
    try:
        return GenerationDefaults.from_json(_read_json(path))
    except TokenizerError:
        raise
    except ValueError as error:
        raise TokenizerError(f"{path}: {error}") from None


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TokenizerError(f"{path}: {error.strerror}") from None


def _read_json(path: Path) -> dict[str, Any]:
    """The object in the file; empty where there is no file."""
    content = _read(path)
    if content is None:
        return {}
    try:
        value: object = json.loads(content)
    except ValueError as error:
        raise TokenizerError(f"{path}: not JSON: {_brief(error)}") from None
    if not isinstance(value, dict):
        raise TokenizerError(f"{path}: must be a JSON object")
    return cast("dict[str, Any]", value)


def _brief(value: object) -> str:
    return re.sub(r"\s+", " ", str(value))[:_MAX_MESSAGE_CHARACTERS]
