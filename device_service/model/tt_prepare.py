"""Writes a bundle: weights transposed, joined, padded, tiled, in the device's number format.

Part after part (a layer; the head) is written beside its place, synced, moved there, and noted in
the manifest: who is interrupted runs the same again and goes on, and what is there already is read
and its digests are checked. Within a part, a tensor a processor. Needs no ttnn, and no runtime.
Loading a bundle is `tt_bundle.py`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from device_service.model.checkpoint import Checkpoint, CheckpointError
from device_service.model.config import load_config
from device_service.model.config_fields import ConfigError
from device_service.model.interface import ReportProgress
from device_service.model.tt_boards import BOARDS
from device_service.model.tt_bundle import (
    HEAD,
    MANIFEST,
    VERSION,
    BundleError,
    Manifest,
    StoredTensor,
    check_digests,
    check_sizes,
    file_of,
    holds,
    part_of,
    parts_of,
    read_manifest,
    sync_directory,
    write_manifest,
)
from device_service.model.tt_plan import PlanError, Precision, make_plan
from device_service.model.tt_weight_reader import TtShapeError, WeightReader
from device_service.model.tt_weights import DeviceTensor, in_format
from kernels.tensorbin import file_bytes, header
from kernels.tiles import to_tiles

ERRORS = (BundleError, CheckpointError, ConfigError, PlanError, TtShapeError, OSError)
"""What `prepare` raises."""


def prepare(
    model_dir: Path, out: Path, precision: Precision, board: str, report: ReportProgress
) -> None:
    """Writes the bundle `out`, or what of it is missing or damaged.

    Args:
        model_dir: config.json and safetensors files.
        out: the bundle: a new or empty directory, or one that an earlier call began.
        precision: of the matrices.
        board: a name in `tt_boards.BOARDS`.
        report: told of every part.

    Raises:
        ConfigError, CheckpointError: the model's files will not do, or a weight is not finite.
        TtShapeError: the kernels' tiles do not divide the model.
        PlanError: not even one sequence fits the board beside such weights.
        BundleError: `out` is something else, or of something else, or in use.
        OSError: the disk is too small, or something cannot be read or written.
    """
    config = load_config(model_dir)
    checkpoint = Checkpoint.open(model_dir, config)
    reader = WeightReader(checkpoint, config)
    make_plan(config, BOARDS[board], precision=precision, slots=1, context_length=1)
    identity = Manifest(VERSION, board, precision, checkpoint.digest(), {})
    parts = parts_of(config, precision)
    layers = {part_of(layer): layer for layer in config.layers}

    def values(part: str) -> Mapping[str, torch.Tensor]:
        return reader.head() if part == HEAD else reader.layer(layers[part]).present()

    with _begun(out, identity) as manifest, _one_thread():
        done = _finished(out, manifest, parts, report)
        missing = {part: _bytes(x) for part, x in parts.items() if part not in done}
        if not missing:
            report(f"{out} is complete: {len(parts)} parts, every digest as noted")
            return
        _clear(out, missing)
        _check_room(out, sum(missing.values()))
        report("looking through the tables that stay on the host")
        reader.check_host()
        begin, written = time.monotonic(), 0
        for number, part in enumerate(parts, 1):
            if part not in missing:
                continue
            stored = _write_part(out, part, parts[part], values(part))
            checkpoint.release_pages()
            done[part] = stored
            in_order = {name: done[name] for name in parts if name in done}
            write_manifest(out, replace(manifest, parts=in_order))
            written += missing[part]
            rate = written / (time.monotonic() - begin)
            left = (sum(missing.values()) - written) / rate
            report(
                f"{part}, {number} of {len(parts)}: {missing[part] / 1e6:,.1f} MB,"
                f" {rate / 1e9:.2f} GB/s, {left:.0f} s to go"
            )
    total = sum(map(_bytes, parts.values()))
    report(f"wrote {out}: {precision} weights for a {board}, {total / 1e6:,.1f} MB")


@contextmanager
def _begun(out: Path, identity: Manifest) -> Generator[Manifest]:
    """The bundle's manifest, new or as far as it came, while no other program writes there."""
    if out.exists() and not out.is_dir():
        raise BundleError(f"{out} exists and is no directory: name another")
    out.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BundleError(f"{out} is being written by another program") from error
        if not (out / MANIFEST).exists():
            foreign = [x.name for x in out.iterdir() if x.name != f".{MANIFEST}.partial"]
            if foreign:
                raise BundleError(f"{out} holds {min(foreign)} and is no bundle: name another")
            write_manifest(out, identity)
        manifest = read_manifest(out)
        digest, board, precision = identity.checkpoint_digest, identity.board, identity.precision
        manifest.check_is_for(out, digest, board, precision)
        yield manifest
    finally:
        os.close(descriptor)


@contextmanager
def _one_thread() -> Generator[None]:
    """Within an operation of torch: the tensors of a part are what goes on at the same time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _finished(
    out: Path,
    manifest: Manifest,
    parts: Mapping[str, tuple[DeviceTensor, ...]],
    report: ReportProgress,
) -> dict[str, Mapping[str, StoredTensor]]:
    """The parts that are there and good; tells of those that are not."""
    done: dict[str, Mapping[str, StoredTensor]] = {}
    for part, stored in manifest.parts.items():
        if part not in parts or not holds(stored, parts[part]):
            continue
        try:
            check_sizes(out, part, stored)
            check_digests(out, part, stored)
        except BundleError as damage:
            report(f"{part} is made again: {str(damage).partition(':')[0]}")
        else:
            done[part] = stored
    if done:
        report(f"{len(done)} of {len(parts)} parts are there, every digest as noted")
    return done


def _clear(out: Path, missing: Iterable[str]) -> None:
    """Removes what an interrupted run left of parts, and damaged ones; nothing else."""
    for part in missing:
        for name in (part, _partial(part)):
            if (out / name).is_dir():
                shutil.rmtree(out / name)


def _partial(part: str) -> str:
    return f".{part}.partial"


def _bytes(tensors: tuple[DeviceTensor, ...]) -> int:
    return sum(file_bytes(x.shape, x.fmt) for x in tensors)


def _check_room(out: Path, needed: int) -> None:
    free = shutil.disk_usage(out).free
    if needed > free:
        raise OSError(
            f"{out} needs {needed / 1e6:,.1f} MB more, and its disk has {free / 1e6:,.1f} MB free"
        )


def _write_part(
    out: Path, part: str, tensors: tuple[DeviceTensor, ...], values: Mapping[str, torch.Tensor]
) -> Mapping[str, StoredTensor]:
    """Writes a part beside its place, then moves it there."""
    partial = _partial(part)
    (out / partial).mkdir()

    def write(tensor: DeviceTensor) -> StoredTensor:
        return _write(file_of(out, partial, tensor.name), tensor, values[tensor.name])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        stored = dict(zip((x.name for x in tensors), pool.map(write, tensors), strict=True))
    sync_directory(out / partial)
    (out / partial).rename(out / part)
    sync_directory(out)
    return stored


def _write(file: Path, tensor: DeviceTensor, values: torch.Tensor) -> StoredTensor:
    tiles = to_tiles(in_format(values, tensor.fmt), tensor.fmt)
    digest = hashlib.sha256()
    with file.open("wb") as stream:
        for piece in (header(tensor.shape, tensor.fmt), tiles.numpy().data):
            digest.update(piece)
            stream.write(piece)
        stream.flush()
        os.fsync(stream.fileno())
    return StoredTensor(tensor.shape, tensor.fmt, digest.hexdigest())
