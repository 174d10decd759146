"""A bundle: a model's weights as the device holds them, in files that are mapped and not converted.

    manifest.json           which checkpoint, board, precision and format version; what is finished,
                            with shapes, formats and SHA-256 of every file
    layer-00/qkv.tensorbin  one tensor (`kernels.tensorbin`); names and formats as `layer_tensors`
    head/lm_head.tensorbin

`python -m device_service.prepare` writes it, part by part. Tables that are looked up on the host
are not in it: they stay mapped in the checkpoint. `kernels.runtime` was chosen before a device
tensor is asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import torch
from pydantic import TypeAdapter, ValidationError

from device_service.model.architecture import LayerConfig, ModelConfig
from device_service.model.checkpoint import Checkpoint
from device_service.model.interface import ReportProgress
from device_service.model.tt_plan import Precision
from device_service.model.tt_tensors import Tensor
from device_service.model.tt_weight_reader import WeightReader
from device_service.model.tt_weights import (
    DeviceTensor,
    head_tensors,
    layer_tensors,
    report_layer,
)
from kernels import runtime
from kernels.runtime import Format
from kernels.tensorbin import SUFFIX, file_bytes

VERSION = 1
"""Of the format: what files hold and how they are named. Another's bundles are refused."""
MANIFEST = "manifest.json"
HEAD = "head"
_PREPARE = "python -m device_service.prepare"


class BundleError(ValueError):
    """A bundle is not there, not finished, damaged, or of something else; one line says what."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A file of a bundle."""

    shape: tuple[int, int]
    format: Format
    sha256: str
    """Of the whole file, hex."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle is of, and what of it is finished."""

    version: int
    board: str
    precision: Precision
    checkpoint_digest: str
    parts: Mapping[str, Mapping[str, StoredTensor]]
    """By part (`layer-00`, …, `head`) and name; only finished parts."""

    def check_is_for(
        self, directory: Path, checkpoint_digest: str, board: str, precision: Precision | None
    ) -> None:
        """Refuses a bundle of something else.

        Raises:
            BundleError: it is of another checkpoint, for another board, or not in `precision`.
        """
        if self.checkpoint_digest != checkpoint_digest:
            raise BundleError(
                f"{directory} is of another checkpoint (digest {self.checkpoint_digest[:12]}…,"
                f" the model's is {checkpoint_digest[:12]}…): {_another(directory)}"
            )
        if self.board != board:
            raise BundleError(
                f"{directory} is for a {self.board}, and the board is {board}:"
                f" {_another(directory)}"
            )
        if precision is not None and self.precision != precision:
            raise BundleError(
                f"{directory} holds {self.precision} weights, and {precision} are wanted:"
                f" {_another(directory)}"
            )


def part_of(layer: LayerConfig) -> str:
    """The name of a layer's part."""
    return f"layer-{layer.index:02}"


def parts_of(config: ModelConfig, precision: Precision) -> Mapping[str, tuple[DeviceTensor, ...]]:
    """Everything that a finished bundle holds, by part."""
    parts = {part_of(x): layer_tensors(config, x, precision) for x in config.layers}
    return parts | {HEAD: head_tensors(config, precision)}


def file_of(directory: Path, part: str, name: str) -> Path:
    """Where a tensor is."""
    return directory / part / f"{name}{SUFFIX}"


def read_manifest(directory: Path) -> Manifest:
    """What the bundle says of itself.

    Raises:
        BundleError: there is none, it is damaged, or of another format version.
    """
    file = directory / MANIFEST
    try:
        raw: object = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(f"{directory} is no bundle: it has no {MANIFEST}") from error
    except (OSError, ValueError) as error:
        raise BundleError(f"{file} cannot be read: {error}") from error
    fields = cast("dict[str, object]", raw) if isinstance(raw, dict) else {}
    if (version := fields.get("version")) != VERSION:
        raise BundleError(
            f"{directory} has format version {version!r}, and this program's is {VERSION}:"
            f" {_another(directory)}"
        )
    try:
        return TypeAdapter(Manifest).validate_python(fields)
    except ValidationError as invalid:
        error = invalid.errors()[0]
        where = ".".join(map(str, error["loc"]))
        raise BundleError(f"{file} is damaged: {where}: {error['msg']}") from None


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Replaces the manifest, at once and durably."""
    file, partial = directory / MANIFEST, directory / f".{MANIFEST}.partial"
    with partial.open("w", encoding="utf-8") as stream:
        json.dump(asdict(manifest), stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    partial.rename(file)
    sync_directory(directory)


def sync_directory(directory: Path) -> None:
    """Makes renames inside it durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_sizes(directory: Path, part: str, tensors: Mapping[str, StoredTensor]) -> None:
    """Refuses a part with a file that is missing or not as long as its tensor.

    Raises:
        BundleError: naming the file.
    """
    for name, tensor in tensors.items():
        file, wanted = file_of(directory, part, name), file_bytes(tensor.shape, tensor.format)
        try:
            size = file.stat().st_size
        except OSError as error:
            raise BundleError(f"{file} is missing: {_again(directory)}") from error
        if size != wanted:
            raise BundleError(f"{file} has {size} bytes, not {wanted}: {_again(directory)}")


def check_digests(directory: Path, part: str, tensors: Mapping[str, StoredTensor]) -> None:
    """Reads a part and refuses it where a byte has changed.

    Raises:
        BundleError: naming the file.
    """

    def digest(name: str) -> str:
        with file_of(directory, part, name).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, found in zip(tensors, pool.map(digest, tensors), strict=True):
            if found != tensors[name].sha256:
                file = file_of(directory, part, name)
                raise BundleError(f"{file} is damaged (SHA-256): {_again(directory)}")


class Bundle:
    """A finished bundle that fits what it is wanted for; files are read when they are loaded."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        """Takes a manifest already checked; use `open`."""
        self.directory = directory
        self.manifest = manifest

    @classmethod
    def open(
        cls,
        directory: Path,
        config: ModelConfig,
        *,
        checkpoint_digest: str,
        board: str,
        precision: Precision | None = None,
    ) -> Bundle:
        """Checks that a bundle is whole and of this model; sizes of files, not yet their bytes.

        Args:
            directory: the bundle.
            config: the model.
            checkpoint_digest: `Checkpoint.digest` of the weights that it must be of.
            board: a name in `tt_boards.BOARDS`.
            precision: what it must hold; None takes any.

        Raises:
            BundleError: it is not, and what to do.
        """
        manifest = read_manifest(directory)
        manifest.check_is_for(directory, checkpoint_digest, board, precision)
        for part, tensors in parts_of(config, manifest.precision).items():
            stored = manifest.parts.get(part)
            if stored is None:
                raise BundleError(
                    f"{directory} is not finished, {part} is next: {_again(directory)}"
                )
            if not holds(stored, tensors):
                raise BundleError(
                    f"{directory}: {part} is not what this program's kernels read:"
                    f" {_another(directory)}"
                )
            check_sizes(directory, part, stored)
        return cls(directory, manifest)


def holds(stored: Mapping[str, StoredTensor], tensors: tuple[DeviceTensor, ...]) -> bool:
    """Whether a part has exactly these tensors."""
    found = {DeviceTensor(name, x.shape, x.format) for name, x in stored.items()}
    return found == set(tensors)


class BundleWeights:
    """Loads a bundle; see `tt_weights.TtWeights`. Every file's digest is checked before its use."""

    def __init__(
        self,
        bundle: Bundle,
        checkpoint: Checkpoint,
        config: ModelConfig,
        device: Tensor,
        report: ReportProgress,
    ) -> None:
        self._bundle = bundle
        self._reader = WeightReader(checkpoint, config)
        self._config = config
        self._device = device
        self._report = report

    @property
    def precision(self) -> Precision:
        """See `TtWeights`."""
        return self._bundle.manifest.precision

    def layer(self, layer: LayerConfig) -> Mapping[str, Tensor]:
        """See `TtWeights`."""
        loaded = self._load(part_of(layer))
        report_layer(self._config, layer, self._report)
        return loaded

    def head(self) -> Mapping[str, Tensor]:
        """See `TtWeights`."""
        return self._load(HEAD)

    def host(self, name: str) -> torch.Tensor:
        """See `TtWeights`."""
        return self._reader.host(name)

    def _load(self, part: str) -> Mapping[str, Tensor]:
        directory, stored = self._bundle.directory, self._bundle.manifest.parts[part]
        check_digests(directory, part, stored)
        return {
            name: runtime.load(file_of(directory, part, name), x.shape, x.format, self._device)
            for name, x in stored.items()
        }


def _another(directory: Path) -> str:
    return f"name another, or delete it and run {_PREPARE} --out {directory}"


def _again(directory: Path) -> str:
    return f"run {_PREPARE} --out {directory} again, which mends it"
