"""A checkpoint's text tensors, found in its files, checked against the configuration, and mapped.

Knows safetensors files, single or sharded, and the names in them; knows no forward pass. Nothing
is read but headers until a tensor's values are used.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import torch

from device_service.model.architecture import ModelConfig
from device_service.model.checkpoint_tensors import (
    expected_tensors,
    is_computed,
    text_name,
    unused_tensors,
)
from device_service.model.safetensors_file import (
    DTYPES,
    CheckpointError,
    SafetensorsFile,
    StoredTensor,
)

__all__ = ["Checkpoint", "CheckpointError", "expected_tensors", "tokenizer_digest"]

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_SAMPLE_BYTES = 48 * 1024
"""Of each tensor, in the digest: under 30 MB for the largest checkpoint that is served."""


class Checkpoint:
    """The tensors that a model's forward pass reads, and no others."""

    def __init__(
        self, config: ModelConfig, sources: Mapping[str, tuple[SafetensorsFile, StoredTensor]]
    ) -> None:
        """Takes tensors already checked; use `open`."""
        self._config = config
        self._sources = dict(sources)

    @classmethod
    def open(cls, model_dir: Path, config: ModelConfig) -> Checkpoint:
        """Maps a checkpoint's files and checks every tensor's presence, shape and type.

        Args:
            model_dir: holds `model.safetensors`, or shards and `model.safetensors.index.json`.
            config: what the checkpoint must be of.

        Raises:
            CheckpointError: naming the tensor or the file that is wrong, and what was expected.
        """
        expected, unused = expected_tensors(config), unused_tensors(config)
        sources: dict[str, tuple[SafetensorsFile, StoredTensor]] = {}
        stored_names: dict[str, str] = {}
        for file, entry in _stored_tensors(model_dir):
            name = text_name(entry.name)
            if name is None or name in unused or is_computed(name):
                continue
            if name not in expected:
                raise CheckpointError(
                    f"{file.file} holds tensor {entry.name}, which is no part of the"
                    f" configured {config.model_type} of {len(config.layers)} layers"
                )
            if name in sources:
                raise CheckpointError(
                    f"{file.file} holds tensor {entry.name}, which"
                    f" {sources[name][0].file} already holds as {stored_names[name]}"
                )
            _check(file, entry, expected[name])
            sources[name] = (file, entry)
            stored_names[name] = entry.name
        for name, shape in expected.items():
            if name not in sources:
                raise CheckpointError(
                    f"{model_dir} lacks tensor {name}, expected with shape {list(shape)}"
                )
        return cls(config, sources)

    def __iter__(self) -> Iterator[str]:
        """The names, without prefix."""
        return iter(self._sources)

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor as stored, mapped from its file: no copy is made.

        Args:
            name: without prefix, such as "layers.3.self_attn.q_proj.weight".
        """
        file, entry = self._sources[name]
        return file.tensor(entry.name)

    def release_pages(self) -> None:
        """Tells the system that what was read so far need not stay in memory.

        Tensors stay valid; their values are read from the files again when used again.
        """
        for file in {file for file, _ in self._sources.values()}:
            file.release_pages()

    def digest(self) -> str:
        """Which model this is: hex SHA-256 of the configuration and of every tensor.

        Of each tensor the name, type and shape and a sample of the contents count (the first, the
        middle and the last 16 KiB), so 16 GB take a moment. How the tensors are spread over files
        and prefixed does not matter.
        """
        digest = hashlib.sha256(_canonical(self._config).encode())
        for name in sorted(self._sources):
            file, entry = self._sources[name]
            digest.update(f"\n{name} {entry.dtype} {entry.shape}\n".encode())
            digest.update(file.sample(entry.name, _SAMPLE_BYTES))
        return digest.hexdigest()


def tokenizer_digest(model_dir: Path) -> str:
    """Hex SHA-256 of `tokenizer.json`; empty where there is none."""
    file = model_dir / "tokenizer.json"
    if not file.exists():
        return ""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _canonical(config: ModelConfig) -> str:
    return json.dumps(dataclasses.asdict(config), sort_keys=True, default=lambda x: x.value)


def _check(file: SafetensorsFile, entry: StoredTensor, shape: tuple[int, ...]) -> None:
    if entry.shape != shape:
        raise CheckpointError(
            f"{file.file}: tensor {entry.name} has shape {list(entry.shape)},"
            f" expected {list(shape)}"
        )
    if entry.dtype not in DTYPES:
        raise CheckpointError(
            f"{file.file}: tensor {entry.name} has type {entry.dtype},"
            f" expected {' or '.join(DTYPES)}"
        )


def _stored_tensors(model_dir: Path) -> Iterator[tuple[SafetensorsFile, StoredTensor]]:
    index_file = model_dir / INDEX_FILE
    if not index_file.exists():
        if not (model_dir / SINGLE_FILE).exists():
            raise CheckpointError(f"{model_dir} holds neither {SINGLE_FILE} nor {INDEX_FILE}")
        file = SafetensorsFile(model_dir / SINGLE_FILE)
        for entry in file.tensors.values():
            yield file, entry
        return
    weight_map = _read_index(index_file)
    for shard in sorted(set(weight_map.values())):
        file = SafetensorsFile(model_dir / shard)
        for name, entry in file.tensors.items():
            if name in weight_map and weight_map[name] != shard:
                raise CheckpointError(
                    f"{file.file} holds tensor {name}, which {INDEX_FILE} places in"
                    f" {weight_map[name]}"
                )
            yield file, entry
        for name in weight_map:
            if weight_map[name] == shard and name not in file.tensors:
                raise CheckpointError(
                    f"{file.file} lacks tensor {name}, which {INDEX_FILE} places there"
                )


def _read_index(file: Path) -> Mapping[str, str]:
    try:
        raw: object = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is not a readable JSON file: {error}") from error
    fields = cast("dict[str, object]", raw) if isinstance(raw, dict) else {}
    weight_map = fields.get("weight_map")
    entries = cast("dict[str, object]", weight_map) if isinstance(weight_map, dict) else {}
    if not entries:
        raise CheckpointError(f"{file} has no weight_map of tensor names to shard files")
    for name, shard in entries.items():
        # A plain name: an index must not reach outside its own directory.
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise CheckpointError(f"{file} places tensor {name} in {shard!r}, not a file name")
    return cast("dict[str, str]", entries)
