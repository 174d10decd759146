"""Turns a Gemma 3 GGUF file into a checkpoint directory in released form.

    python -m device_service.import_gguf FILE --tokenizer TOKENIZER_JSON --out DIR

Knows how released Gemma 3 text checkpoints are spelled; the GGUF side is `gguf_file.py`. The device
service never imports this: once written, the directory is a checkpoint like any other.

Linear weights and the embedding are dequantized and rounded to bfloat16. RMSNorm weights: a GGUF
holds 1 + w in float32, the released form w. w is written in bfloat16 where 1 + w gives the GGUF's
value back exactly in float32 (so for a GGUF made from a released checkpoint), else in float32.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from device_service.gguf_file import Gemma3Config, GgufError, GgufFile, Vocabulary, tensor_shapes
from device_service.safetensors_writer import Tensor, write_checkpoint

F32 = npt.NDArray[np.float32]
ReportProgress = Callable[[str], None]

MAX_SHARD_BYTES = 4_000_000_000
END_OF_TURN = "<end_of_turn>"
RELEASED_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def import_gguf(
    file: Path,
    tokenizer_json: Path,
    out: Path,
    report: ReportProgress,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes the checkpoint directory `out`, whole or not at all.

    Args:
        file: a Gemma 3 GGUF.
        tokenizer_json: the model's tokenizer in the format of the tokenizers library.
        out: a directory that does not exist yet, or is empty.
        report: told what is being done, line by line.
        max_shard_bytes: more tensor data than this goes into several files.

    Raises:
        GgufError: the file, the tokenizer or `out` will not do.
        OSError: something cannot be read or written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise GgufError(f"{out} exists and is not an empty directory; name a new one")
    report(f"reading {file}")
    source = GgufFile(file)
    num_parameters = sum(np.prod(shape) for shape in tensor_shapes(source.config).values())
    report(f"Gemma 3, {source.config.num_layers} layers, {num_parameters / 1e6:,.0f} M parameters")
    check_tokenizer(tokenizer_json, source.vocabulary)
    report(f"the tokenizer agrees on all {len(source.vocabulary.tokens):,} tokens")
    with _whole_or_nothing(out) as partial:
        write_checkpoint(partial, released_tensors(source), max_shard_bytes, report)
        shutil.copyfile(tokenizer_json, partial / "tokenizer.json")
        _write_json(partial / "config.json", released_config(source.config, source.vocabulary))
        _write_json(partial / "generation_config.json", generation_config(source.vocabulary))
        _write_json(partial / "tokenizer_config.json", tokenizer_config(source))
        if source.vocabulary.chat_template:
            template = partial / "chat_template.jinja"
            template.write_text(source.vocabulary.chat_template, encoding="utf-8")
    report(f"wrote {out}")


def released_tensors(source: GgufFile) -> list[Tensor]:
    """All tensors in released form, under their released names."""
    tensors: list[Tensor] = []
    for name in tensor_shapes(source.config):
        if name.endswith("norm.weight"):
            tensors.append(_norm_tensor(source, name))
        else:
            tensors.append(_linear_tensor(source, name))
    return tensors


def released_name(name: str) -> str:
    """`blk.3.attn_q.weight` → `model.layers.3.self_attn.q_proj.weight`."""
    if not name.startswith("blk."):
        ends = {"token_embd.weight": "embed_tokens", "output_norm.weight": "norm"}
        return f"model.{ends[name]}.weight"
    _, index, part, _ = name.split(".")
    return f"model.layers.{index}.{RELEASED_NAMES[part]}.weight"


def released_config(config: Gemma3Config, vocabulary: Vocabulary) -> dict[str, object]:
    """`config.json` as Gemma 3 text models are released."""
    factor = config.rope_linear_factor
    pattern = config.sliding_window_pattern
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": None,
        "bos_token_id": vocabulary.bos_id,
        "eos_token_id": _stop_ids(vocabulary),
        "final_logit_softcapping": config.final_logit_softcap,
        "head_dim": config.head_dim,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": config.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": config.intermediate_size,
        "layer_types": [
            "sliding_attention" if (index + 1) % pattern else "full_attention"
            for index in range(config.num_layers)
        ],
        "max_position_embeddings": config.context_length,
        "model_type": "gemma3_text",
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "num_key_value_heads": config.num_kv_heads,
        "pad_token_id": vocabulary.pad_id,
        "query_pre_attn_scalar": config.query_pre_attn_scalar,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_local_base_freq": config.rope_local_theta,
        "rope_scaling": {"factor": factor, "rope_type": "linear"} if factor else None,
        "rope_theta": config.rope_theta,
        "sliding_window": config.sliding_window,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": config.vocab_size,
    }


def generation_config(vocabulary: Vocabulary) -> dict[str, object]:
    """`generation_config.json`, with the sampling that Gemma 3 is released with."""
    return {
        "bos_token_id": vocabulary.bos_id,
        "do_sample": True,
        "eos_token_id": _stop_ids(vocabulary),
        "pad_token_id": vocabulary.pad_id,
        "top_k": 64,
        "top_p": 0.95,
    }


def tokenizer_config(source: GgufFile) -> dict[str, object]:
    """`tokenizer_config.json`: the names of the control tokens."""
    vocabulary = source.vocabulary
    return {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": vocabulary.tokens[vocabulary.bos_id],
        "clean_up_tokenization_spaces": False,
        "eos_token": vocabulary.tokens[vocabulary.eos_id],
        "model_max_length": source.config.context_length,
        "pad_token": vocabulary.tokens[vocabulary.pad_id],
        "tokenizer_class": "GemmaTokenizer",
        "unk_token": vocabulary.tokens[vocabulary.unknown_id],
    }


def check_tokenizer(tokenizer_json: Path, vocabulary: Vocabulary) -> None:
    """Checks that the tokenizer spells every id as the GGUF does; it may know further ids.

    Raises:
        GgufError: it is no tokenizer, or an id differs; the message shows the first.
    """
    try:
        raw: Any = json.loads(tokenizer_json.read_text(encoding="utf-8"))
        ids: dict[str, int] = raw["model"]["vocab"]
        tokens = {index: token for token, index in ids.items()}
        tokens |= {added["id"]: added["content"] for added in raw["added_tokens"]}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise GgufError(
            f"{tokenizer_json}: not a tokenizer.json with a vocabulary ({error})"
        ) from error
    for index, token in enumerate(vocabulary.tokens):
        # GGUF spells runs of spaces as spaces, the tokenizer as ▁.
        if index not in vocabulary.unused and tokens.get(index) != token.replace(" ", "▁"):
            raise GgufError(
                f"{tokenizer_json}: not this model's tokenizer: id {index} is "
                f"{tokens.get(index)!r}, in the GGUF {token!r}"
            )


def _linear_tensor(source: GgufFile, name: str) -> Tensor:
    def read() -> Iterator[bytes]:
        for rows in source.chunks(name):
            yield _bfloat16(rows).tobytes()

    return Tensor(released_name(name), "BF16", source.shape(name), read)


def _norm_tensor(source: GgufFile, name: str) -> Tensor:
    one = np.float32(1)
    (stored,) = source.chunks(name)
    weight = stored - one
    rounded = _bfloat16(weight)
    restored = gguf.dequantize(rounded, gguf.GGMLQuantizationType.BF16) + one
    if np.array_equal(restored, stored):
        return Tensor(released_name(name), "BF16", weight.shape, lambda: [rounded.tobytes()])
    return Tensor(released_name(name), "F32", weight.shape, lambda: [weight.tobytes()])


def _bfloat16(values: F32) -> npt.NDArray[np.uint8]:
    """The bytes of the values rounded to nearest, ties to even."""
    return gguf.quantize(values, gguf.GGMLQuantizationType.BF16)


def _stop_ids(vocabulary: Vocabulary) -> int | list[int]:
    ids = {vocabulary.eos_id}
    if vocabulary.end_of_turn_id is not None:
        ids.add(vocabulary.end_of_turn_id)
    if vocabulary.chat_template and END_OF_TURN in vocabulary.tokens:
        # An instruction-tuned model ends its turns with it, whatever the file calls eos.
        ids.add(vocabulary.tokens.index(END_OF_TURN))
    return min(ids) if len(ids) == 1 else sorted(ids)


def _write_json(path: Path, value: dict[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def _whole_or_nothing(out: Path) -> Generator[Path]:
    """A directory beside `out` that becomes `out` at the end, and vanishes on failure."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.parent / f".{out.name}.partial-{os.getpid()}"
    partial.mkdir()
    try:
        yield partial
        # Onto an empty directory this replaces it.
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial)
        raise


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m device_service.import_gguf",
        description="Turns a Gemma 3 GGUF file into a checkpoint directory in released form.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the GGUF file")
    parser.add_argument(
        "--tokenizer",
        type=Path,
        required=True,
        metavar="TOKENIZER_JSON",
        help="the model's tokenizer.json",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new directory")
    options = parser.parse_args(arguments)
    try:
        import_gguf(
            options.file, options.tokenizer, options.out, lambda line: print(line, flush=True)
        )
    except (GgufError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
