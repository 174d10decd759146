"""Makes tokenizer.json, tokenizer_config.json and chat_template.jinja: Gemma 4's own in small.

The same construction: BPE with byte fallback, "▁" for a space, no prefix space, digits one by one,
and Gemma's special tokens at Gemma's ids. The same text gives the same file.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

from corpus.documents import documents
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

VOCAB_SIZE = 1536
NUM_DOCUMENTS = 20_000
FIRST_PIECE = 107  # what lies below is Gemma's, or unused
SPECIAL_TOKENS = {
    0: "<pad>", 1: "<eos>", 2: "<bos>", 3: "<unk>", 4: "<mask>",
    46: "<|tool>", 47: "<tool|>", 48: "<|tool_call>", 49: "<tool_call|>",
    50: "<|tool_response>", 51: "<tool_response|>",
    98: "<|think|>", 100: "<|channel>", 101: "<channel|>", 105: "<|turn>", 106: "<turn|>",
}  # fmt: skip

CHAT_TEMPLATE = """\
{{ bos_token }}
{%- for message in messages -%}
    {%- if message['role'] == 'assistant' -%}
        {%- set role = 'model' -%}
    {%- elif message['role'] in ('system', 'user', 'model') -%}
        {%- set role = message['role'] -%}
    {%- else -%}
        {{ raise_exception('Unknown role: ' ~ message['role']) }}
    {%- endif -%}
    {%- if role == 'system' and not loop.first -%}
        {{ raise_exception('A system message must come first') }}
    {%- endif -%}
    {%- set text = message['content'] -%}
    {%- if role == 'model' -%}
        {#- Past thinking is not shown again. -#}
        {%- set text = text.split('<channel|>')[-1] -%}
    {%- endif -%}
    {{ '<|turn>' ~ role ~ '\\n' ~ text | trim ~ '<turn|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<|turn>model\\n' }}
{%- endif -%}
"""


def learned_merges(texts: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Pieces and merges from text: within words, never over digits or punctuation."""
    trainee = Tokenizer(models.BPE())
    trainee.normalizer = normalizers.Replace(" ", "▁")
    # A word takes the space before it; everything else stands alone.
    trainee.pre_tokenizer = pre_tokenizers.Split(Regex("▁?[A-Za-z]+|[\\s\\S]"), "isolated")
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - FIRST_PIECE - 256,
        min_frequency=20,
        show_progress=False,
        initial_alphabet=[chr(code) for code in range(32, 127)] + ["\n", "▁"],
        limit_alphabet=97,
    )
    trainee.train_from_iterator(texts, trainer)
    model: dict[str, Any] = json.loads(trainee.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return pieces, [(left, right) for left, right in model["merges"]]


def special(identifier: int, content: str) -> dict[str, Any]:
    """A token that text reaches only by its whole name."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": identifier, "content": content, **flags, "special": True}


def build_tokenizer(directory: Path) -> None:
    """Writes the three files."""
    texts = [
        text
        for document in islice(documents(seed=1), NUM_DOCUMENTS)
        for text in (document.text, *(f"{turn.role}\n{turn.text}" for turn in document.turns))
    ]
    pieces, merges = learned_merges(texts)
    pieces.remove(" ")
    pieces.remove("\n")
    vocabulary = [SPECIAL_TOKENS.get(i, f"<unused{i}>") for i in range(FIRST_PIECE)]
    vocabulary += ["\n", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    vocabulary += [f"<unused{i}>" for i in range(len(vocabulary), VOCAB_SIZE)]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [special(*item) for item in SPECIAL_TOKENS.items()],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {piece: identifier for identifier, piece in enumerate(vocabulary)},
            "merges": merges,
        },
    }
    write_json(directory / "tokenizer.json", tokenizer)
    write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_bos_token": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 2048,
            "padding_side": "left",
            "pad_token": "<pad>",
            "eos_token": "<eos>",
            "bos_token": "<bos>",
            "unk_token": "<unk>",
            "mask_token": "<mask>",
        },
    )
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Readable JSON with a newline at the end."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    build_tokenizer(Path(__file__).resolve().parent)
