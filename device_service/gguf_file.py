"""A Gemma 3 GGUF file as checked, typed values: its configuration, its vocabulary, its tensors.

Knows the GGUF spelling of Gemma 3 (metadata keys `gemma3.*`, tensors `blk.N.*`); knows nothing of
the released form that `import_gguf.py` writes. What is missing or differs is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]

ARCHITECTURE = "gemma3"
# Not in the metadata of most files: the pattern and the theta of every released Gemma 3.
SLIDING_WINDOW_PATTERN = 6
LOCAL_ROPE_THETA = 10_000.0
# The 27B scales queries by hidden_size / num_heads, the others by head_dim; GGUF readers know it by
# the number of layers, for no key carries it.
NUM_LAYERS_OF_27B = 62
UNUSED_TOKEN = 5
"""`token_type` of an entry that only pads the vocabulary."""


class GgufError(ValueError):
    """The file cannot be imported; the message says what, where and what would do."""


@dataclass(frozen=True, slots=True)
class Gemma3Config:
    """What the metadata says of the model's forward pass."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    sliding_window: int
    sliding_window_pattern: int
    """Every so many layers, one is full."""
    rms_norm_eps: float
    rope_theta: float
    rope_local_theta: float
    rope_linear_factor: float | None
    """Of the full layers; None: not scaled."""
    final_logit_softcap: float | None
    query_pre_attn_scalar: int


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The token ids that the file declares."""

    tokens: tuple[str, ...]
    """[V] as GGUF spells them."""
    unused: frozenset[int]
    """Ids of entries that only pad the vocabulary."""
    bos_id: int
    eos_id: int
    pad_id: int
    unknown_id: int
    end_of_turn_id: int | None
    chat_template: str | None


class GgufFile:
    """An open Gemma 3 GGUF file; tensors stay on disk until they are asked for."""

    def __init__(self, path: Path) -> None:
        """Reads the metadata and checks that every tensor is there, in the right shape.

        Raises:
            GgufError: not a GGUF file, truncated, another architecture, or something is missing.
            OSError: the file cannot be read.
        """
        self._path = path
        self._reader = _open(path)
        architecture = self._text("general.architecture")
        if architecture != ARCHITECTURE:
            raise GgufError(
                f"{path}: general.architecture is {architecture!r}; only {ARCHITECTURE!r} (Gemma 3 "
                "text) is imported"
            )
        if (parts := self._integer("split.count", 1)) > 1:
            raise GgufError(f"{path}: split.count is {parts}; merge the parts into one file first")
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self.config = self._read_config()
        self.vocabulary = self._read_vocabulary()
        self._check_tensors()

    def chunks(self, name: str, max_bytes: int = 1 << 24) -> Iterator[F32]:
        """The rows of a tensor, dequantized to float32, in pieces of at most about `max_bytes`.

        Raises:
            GgufError: the quantization of the tensor is unknown to the gguf library.
        """
        tensor = self._tensors[name]
        rows = tensor.data
        if rows.ndim == 1:
            yield self._dequantize(tensor, rows)
            return
        num_rows = max(1, max_bytes // (4 * int(tensor.shape[0])))
        for start in range(0, len(rows), num_rows):
            yield self._dequantize(tensor, rows[start : start + num_rows])

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, outermost dimension first."""
        return tuple(int(size) for size in reversed(self._tensors[name].shape))

    def _dequantize(self, tensor: gguf.ReaderTensor, rows: npt.NDArray[Any]) -> F32:
        try:
            values = gguf.dequantize(rows, tensor.tensor_type)
        except NotImplementedError as error:
            raise GgufError(
                f"{self._path}: tensor {tensor.name} is quantized as {tensor.tensor_type.name}, "
                "which the gguf library cannot undo"
            ) from error
        return np.ascontiguousarray(values, np.float32)

    def _read_config(self) -> Gemma3Config:
        embedding = self._tensors.get("token_embd.weight")
        if embedding is None:
            raise GgufError(f"{self._path}: tensor token_embd.weight is missing")
        head_dim = self._integer("gemma3.attention.key_length")
        if (value_dim := self._integer("gemma3.attention.value_length", head_dim)) != head_dim:
            raise GgufError(
                f"{self._path}: gemma3.attention.value_length is {value_dim}; it must equal "
                f"key_length, {head_dim}"
            )
        num_layers = self._integer("gemma3.block_count")
        hidden_size = self._integer("gemma3.embedding_length")
        num_heads = self._integer("gemma3.attention.head_count")
        return Gemma3Config(
            num_layers=num_layers,
            hidden_size=hidden_size,
            intermediate_size=self._integer("gemma3.feed_forward_length"),
            num_heads=num_heads,
            num_kv_heads=self._integer("gemma3.attention.head_count_kv"),
            head_dim=head_dim,
            vocab_size=int(embedding.shape[-1]),
            context_length=self._integer("gemma3.context_length"),
            sliding_window=self._integer("gemma3.attention.sliding_window"),
            sliding_window_pattern=self._integer(
                "gemma3.attention.sliding_window_pattern", SLIDING_WINDOW_PATTERN
            ),
            rms_norm_eps=self._number("gemma3.attention.layer_norm_rms_epsilon"),
            rope_theta=self._number("gemma3.rope.freq_base"),
            rope_local_theta=self._number("gemma3.rope.freq_base_swa", LOCAL_ROPE_THETA),
            rope_linear_factor=self._rope_linear_factor(),
            final_logit_softcap=self._number("gemma3.final_logit_softcapping", 0.0) or None,
            query_pre_attn_scalar=hidden_size // num_heads
            if num_layers == NUM_LAYERS_OF_27B
            else head_dim,
        )

    def _rope_linear_factor(self) -> float | None:
        kind = self._text("gemma3.rope.scaling.type", "none")
        if kind == "none":
            return None
        if kind != "linear":
            raise GgufError(
                f"{self._path}: gemma3.rope.scaling.type is {kind!r}; it must be 'linear' or 'none'"
            )
        return self._number("gemma3.rope.scaling.factor")

    def _read_vocabulary(self) -> Vocabulary:
        tokens = tuple(self._strings("tokenizer.ggml.tokens"))
        if len(tokens) != self.config.vocab_size:
            raise GgufError(
                f"{self._path}: tokenizer.ggml.tokens has {len(tokens)} entries; token_embd.weight "
                f"has {self.config.vocab_size} rows"
            )
        types = self._contents("tokenizer.ggml.token_type", [])
        end_of_turn = self._integer("tokenizer.ggml.eot_token_id", -1)
        return Vocabulary(
            tokens=tokens,
            unused=frozenset(i for i, kind in enumerate(types) if kind == UNUSED_TOKEN),
            bos_id=self._token_id("bos"),
            eos_id=self._token_id("eos"),
            pad_id=self._token_id("padding"),
            unknown_id=self._token_id("unknown"),
            end_of_turn_id=None if end_of_turn < 0 else self._token_id("eot"),
            chat_template=self._text("tokenizer.chat_template", "") or None,
        )

    def _token_id(self, role: str) -> int:
        key = f"tokenizer.ggml.{role}_token_id"
        value = self._integer(key)
        if value >= self.config.vocab_size:
            raise GgufError(
                f"{self._path}: {key} is {value}; it must be below the vocabulary's size, "
                f"{self.config.vocab_size}"
            )
        return value

    def _check_tensors(self) -> None:
        expected = tensor_shapes(self.config)
        if missing := [name for name in expected if name not in self._tensors]:
            raise GgufError(f"{self._path}: {_counted(missing, 'tensor')} missing")
        if unknown := [name for name in self._tensors if name not in expected]:
            raise GgufError(
                f"{self._path}: {_counted(unknown, 'tensor')} unknown to Gemma 3 text models"
            )
        for name, shape in expected.items():
            if self.shape(name) != shape:
                raise GgufError(
                    f"{self._path}: tensor {name} has shape {self.shape(name)}; by the metadata it "
                    f"must be {shape}"
                )

    def _contents(self, key: str, default: Any) -> Any:
        field = self._reader.get_field(key)
        if field is None:
            if default is None:
                raise GgufError(f"{self._path}: metadata {key} is missing")
            return default
        return field.contents()

    def _typed(self, key: str, default: Any, kind: type, description: str) -> Any:
        value = self._contents(key, default)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise GgufError(f"{self._path}: metadata {key} is {value!r}; it must be {description}")
        return value

    def _text(self, key: str, default: str | None = None) -> str:
        return self._typed(key, default, str, "a string")

    def _integer(self, key: str, default: int | None = None) -> int:
        return self._typed(key, default, int, "an integer")

    def _number(self, key: str, default: float | None = None) -> float:
        value = self._typed(key, default, float, "a floating-point number")
        # float32 in the file: 1e-06 rather than 9.999999974752427e-07.
        return float(str(np.float32(value)))

    def _strings(self, key: str) -> list[str]:
        return self._typed(key, None, list, "a list of strings")


def tensor_shapes(config: Gemma3Config) -> dict[str, tuple[int, ...]]:
    """Every tensor of the model by its GGUF name, with its shape, outermost dimension first."""
    hidden, head = config.hidden_size, config.head_dim
    query, key_value = config.num_heads * head, config.num_kv_heads * head
    layer = {
        "attn_norm": (hidden,),
        "attn_q": (query, hidden),
        "attn_k": (key_value, hidden),
        "attn_v": (key_value, hidden),
        "attn_output": (hidden, query),
        "attn_q_norm": (head,),
        "attn_k_norm": (head,),
        "post_attention_norm": (hidden,),
        "ffn_norm": (hidden,),
        "ffn_gate": (config.intermediate_size, hidden),
        "ffn_up": (config.intermediate_size, hidden),
        "ffn_down": (hidden, config.intermediate_size),
        "post_ffw_norm": (hidden,),
    }
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (config.vocab_size, hidden)}
    for index in range(config.num_layers):
        shapes |= {f"blk.{index}.{name}.weight": shape for name, shape in layer.items()}
    return shapes | {"output_norm.weight": (hidden,)}


def _open(path: Path) -> gguf.GGUFReader:
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise GgufError(f"{path}: not a GGUF file (it does not begin with 'GGUF')")
    try:
        return gguf.GGUFReader(path)
    except (ValueError, IndexError, KeyError) as error:
        # The library reads past the end of a short file and fails on what it finds there.
        raise GgufError(f"{path}: truncated or damaged GGUF file ({error})") from error


def _counted(names: list[str], noun: str) -> str:
    if len(names) == 1:
        return f"{noun} {names[0]} is"
    return f"{len(names)} {noun}s, {names[0]} the first, are"
