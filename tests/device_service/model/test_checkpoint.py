"""Checkpoints: what is mapped, and every wrong file with the message that names it."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from device_service.model.checkpoint import (
    Checkpoint,
    CheckpointError,
    expected_tensors,
    tokenizer_digest,
)
from device_service.model.config import load_config
from device_service.model.weights import norm_weight
from tests.checkpoints import FAMILIES, Family, write_checkpoint

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PREFIX = "model.language_model."
Q_PROJ = "layers.3.self_attn.q_proj.weight"


def opened(model_dir: Path) -> Checkpoint:
    return Checkpoint.open(model_dir, load_config(model_dir))


def rewrite(model_dir: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Changes the tensors of a single-file checkpoint."""
    tensors = {name: x.clone() for name, x in load_file(model_dir / SINGLE).items()}
    change(tensors)
    save_file(tensors, model_dir / SINGLE)


def rename(model_dir: Path, prefix: str) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[name.replace(PREFIX, prefix)] = tensors.pop(name)

    rewrite(model_dir, change)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sharded", [False, True], ids=["single", "sharded"])
def test_exactly_the_expected_tensors_are_there(
    tmp_path: Path, family: Family, sharded: bool
) -> None:
    write_checkpoint(tmp_path, family, sharded=sharded)
    config = load_config(tmp_path)
    checkpoint = Checkpoint.open(tmp_path, config)
    shapes = {name: tuple(checkpoint.tensor(name).shape) for name in checkpoint}
    assert shapes == expected_tensors(config)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_are_those_stored(tmp_path: Path, dtype: torch.dtype) -> None:
    write_checkpoint(tmp_path, "e2b", dtype=dtype)
    checkpoint, stored = opened(tmp_path), load_file(tmp_path / SINGLE)
    for name in checkpoint:
        assert checkpoint.tensor(name).dtype is dtype
        assert torch.equal(checkpoint.tensor(name), stored[PREFIX + name])


@pytest.mark.parametrize("prefix", ["model.language_model.", "language_model.model.", "model.", ""])
def test_every_prefix_is_understood(tmp_path: Path, prefix: str) -> None:
    write_checkpoint(tmp_path, "gemma3")
    expected = opened(tmp_path).digest()
    rename(tmp_path, prefix)
    assert opened(tmp_path).digest() == expected


def test_tensors_are_views_of_the_file(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "e2b")
    checkpoint = opened(tmp_path)
    once, again = (checkpoint.tensor("embed_tokens_per_layer.weight") for _ in range(2))
    assert once.data_ptr() == again.data_ptr()


def test_tensors_outlive_the_checkpoint_and_a_release_of_pages(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "e2b")
    checkpoint = opened(tmp_path)
    tensor = checkpoint.tensor(Q_PROJ)
    before = tensor.clone()
    checkpoint.release_pages()
    del checkpoint
    assert torch.equal(tensor, before)


def test_norm_weights_carry_gemma3s_two_foldings(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "gemma3", dtype=torch.bfloat16)
    config, checkpoint = load_config(tmp_path), opened(tmp_path)
    for name, scale in (
        ("norm.weight", 1.0),
        ("layers.0.self_attn.k_norm.weight", 1.0),
        ("layers.0.self_attn.q_norm.weight", 1 / 8),
    ):
        folded = norm_weight(checkpoint, config, name)
        assert folded.dtype is torch.float32
        assert torch.equal(folded, (1 + checkpoint.tensor(name).float()) * scale)


def test_norm_weights_of_gemma4_are_the_stored_ones(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "e2b")
    config, checkpoint = load_config(tmp_path), opened(tmp_path)
    name = "layers.0.self_attn.q_norm.weight"
    assert torch.equal(norm_weight(checkpoint, config, name), checkpoint.tensor(name))


def test_the_digest_ignores_how_tensors_are_spread_over_files(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "single", "e2b")
    write_checkpoint(tmp_path / "sharded", "e2b", sharded=True, text_config=False)
    assert opened(tmp_path / "single").digest() == opened(tmp_path / "sharded").digest()


def test_the_digest_tells_weights_types_and_configurations_apart(tmp_path: Path) -> None:
    digests = {
        opened(write_checkpoint(tmp_path / "a", "e2b")).digest(),
        opened(write_checkpoint(tmp_path / "b", "e2b", seed=1)).digest(),
        opened(write_checkpoint(tmp_path / "c", "e2b", dtype=torch.bfloat16)).digest(),
        opened(write_checkpoint(tmp_path / "d", "e2b", overrides={"sliding_window": 8})).digest(),
    }
    assert len(digests) == 4
    assert all(len(digest) == 64 for digest in digests)


def test_the_digest_sees_one_changed_layer_scalar(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "e2b")
    before = opened(tmp_path).digest()
    rewrite(tmp_path, lambda tensors: tensors[f"{PREFIX}layers.7.layer_scalar"].mul_(2))
    assert opened(tmp_path).digest() != before


def test_the_tokenizer_digest_is_of_its_file(tmp_path: Path) -> None:
    assert tokenizer_digest(tmp_path) == ""
    (tmp_path / "tokenizer.json").write_bytes(b"abc")
    assert tokenizer_digest(tmp_path) == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def drop(name: str) -> Callable[[Path], None]:
    return lambda model_dir: rewrite(model_dir, lambda tensors: tensors.pop(PREFIX + name))


def put(name: str, tensor: torch.Tensor) -> Callable[[Path], None]:
    return lambda model_dir: rewrite(model_dir, lambda tensors: tensors.update({name: tensor}))


def truncate(keep: Callable[[int], int]) -> Callable[[Path], None]:
    def damage(model_dir: Path) -> None:
        content = (model_dir / SINGLE).read_bytes()
        (model_dir / SINGLE).write_bytes(content[: keep(len(content))])

    return damage


def with_header(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(model_dir: Path) -> None:
        content = (model_dir / SINGLE).read_bytes()
        (size,) = struct.unpack("<Q", content[:8])
        header = change(content[8 : 8 + size])
        data = content[8 + size :]
        (model_dir / SINGLE).write_bytes(struct.pack("<Q", len(header)) + header + data)

    return damage


def with_entry(change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def edit(header: bytes) -> bytes:
        entries = json.loads(header)
        change(entries[PREFIX + Q_PROJ])
        return json.dumps(entries).encode()

    return with_header(edit)


def twice(header: bytes) -> bytes:
    entries = json.loads(header)
    entry = json.dumps({PREFIX + Q_PROJ: entries[PREFIX + Q_PROJ]})[1:-1]
    return header.rstrip()[:-1] + b"," + entry.encode() + b"}"


WRONG_FILES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no file": (lambda d: (d / SINGLE).unlink(), "", "holds neither model.safetensors nor"),
    "missing": (drop(Q_PROJ), Q_PROJ, "expected with shape [128, 64]"),
    "missing layer scalar": (drop("layers.0.layer_scalar"), "layers.0.layer_scalar", "[1]"),
    "missing PLE table": (drop("embed_tokens_per_layer.weight"), "embed_tokens_per_layer", "320"),
    "extra": (put(f"{PREFIX}extra.weight", torch.zeros(1)), "extra.weight", "no part of"),
    "extra layer": (
        put(f"{PREFIX}layers.8.layer_scalar", torch.ones(1)), "layers.8.layer_scalar", "8 layers",
    ),
    "untied head": (put("lm_head.weight", torch.zeros(320, 64)), "lm_head.weight", "no part of"),
    "wrong shape": (
        put(PREFIX + Q_PROJ, torch.zeros(64, 128)), Q_PROJ, "[64, 128], expected [128, 64]",
    ),
    "transposed scalar": (
        put(f"{PREFIX}layers.0.layer_scalar", torch.tensor(1.0)), "layer_scalar", "expected [1]",
    ),
    "wrong type": (
        put(PREFIX + Q_PROJ, torch.zeros(128, 64, dtype=torch.int8)), Q_PROJ,
        "I8, expected F32 or BF16 or F16",
    ),
    "two prefixes": (
        put("model." + Q_PROJ, torch.zeros(128, 64)), Q_PROJ, "already holds as",
    ),
    "empty": (truncate(lambda size: 0), SINGLE, "cannot be mapped"),
    "no header": (truncate(lambda size: 5), SINGLE, "truncated: 5 bytes"),
    "half a header": (truncate(lambda size: 100), SINGLE, "truncated"),
    "half the data": (truncate(lambda size: size - 1), SINGLE, "truncated: tensor"),
    "garbage": (lambda d: (d / SINGLE).write_bytes(b"\xff" * 64), SINGLE, "no safetensors file"),
    "garbage header": (with_header(lambda x: b"\xff" * len(x)), SINGLE, "not JSON"),
    "header of another kind": (with_header(lambda x: b"[]"), SINGLE, "not a JSON object"),
    "tensor twice": (with_header(twice), Q_PROJ, "twice"),
    "entry without offsets": (
        with_entry(lambda x: x.pop("data_offsets")), Q_PROJ, "damaged header",
    ),
    "entry with negative sizes": (
        with_entry(lambda x: x.update(shape=[-128, -64])), Q_PROJ, "damaged header",
    ),
    "entry of another size": (
        with_entry(lambda x: x.update(shape=[128, 65])), Q_PROJ, "damaged header",
    ),
    "entry beyond the file": (
        with_entry(lambda x: x.update(data_offsets=[1 << 40, (1 << 40) + 32768])), Q_PROJ,
        "truncated",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_FILES)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, case: str) -> None:
    damage, named, message = WRONG_FILES[case]
    write_checkpoint(tmp_path, "e2b")
    damage(tmp_path)
    with pytest.raises(CheckpointError) as error:
        opened(tmp_path)
    assert named in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def shard_of(model_dir: Path, name: str) -> Path:
    return model_dir / json.loads((model_dir / INDEX).read_text())["weight_map"][name]


def edit_index(change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def damage(model_dir: Path) -> None:
        index = json.loads((model_dir / INDEX).read_text())
        change(index["weight_map"])
        (model_dir / INDEX).write_text(json.dumps(index))

    return damage


def lose_from_shard(model_dir: Path) -> None:
    shard = shard_of(model_dir, PREFIX + Q_PROJ)
    tensors = {name: x.clone() for name, x in load_file(shard).items()}
    del tensors[PREFIX + Q_PROJ]
    save_file(tensors, shard)


def copy_to_another_shard(model_dir: Path) -> None:
    source = shard_of(model_dir, PREFIX + Q_PROJ)
    other = next(x for x in sorted(model_dir.glob("*.safetensors")) if x != source)
    tensors = {name: x.clone() for name, x in load_file(other).items()}
    tensors[PREFIX + Q_PROJ] = torch.zeros(128, 64)
    save_file(tensors, other)


WRONG_SHARDS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "absent shard": (
        lambda d: (d / "model-00002-of-00003.safetensors").unlink(),
        "model-00002-of-00003.safetensors", "is missing",
    ),
    "index names an absent shard": (
        edit_index(lambda x: x.update({PREFIX + Q_PROJ: "model-9.safetensors"})), Q_PROJ,
        "model-9.safetensors",
    ),
    "tensor not in its shard": (lose_from_shard, Q_PROJ, "places there"),
    "tensor in two shards": (copy_to_another_shard, Q_PROJ, "places in"),
    "tensor nowhere": (
        lambda d: (lose_from_shard(d), edit_index(lambda x: x.pop(PREFIX + Q_PROJ))(d)), Q_PROJ,
        "expected with shape [128, 64]",
    ),
    "index outside": (
        edit_index(lambda x: x.update({PREFIX + Q_PROJ: "../model.safetensors"})), Q_PROJ,
        "not a file name",
    ),
    "index with numbers": (edit_index(lambda x: x.update({"a": 3})), "a", "not a file name"),
    "index without map": (lambda d: (d / INDEX).write_text("{}"), INDEX, "no weight_map"),
    "index not JSON": (lambda d: (d / INDEX).write_text("{"), INDEX, "not a readable JSON"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_SHARDS)
def test_wrong_shards_are_refused_by_name(tmp_path: Path, case: str) -> None:
    damage, named, message = WRONG_SHARDS[case]
    write_checkpoint(tmp_path, "e2b", sharded=True)
    damage(tmp_path)
    with pytest.raises(CheckpointError) as error:
        opened(tmp_path)
    assert named in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_tensors_that_some_writers_add_are_skipped(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "e2b")
    expected = opened(tmp_path).digest()
    put(f"{PREFIX}rotary_emb.inv_freq", torch.zeros(4))(tmp_path)
    put("model.audio_tower.x", torch.zeros(4, dtype=torch.int8))(tmp_path)
    put("model.embed_vision.embedding_projection.weight", torch.zeros(4))(tmp_path)
    assert opened(tmp_path).digest() == expected
