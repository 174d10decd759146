"""A bundle gives what converting the checkpoint gives, bit for bit, and refuses what it is not for.

What is refused while it is written is in tests/device_service/test_prepare.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from device_service.model import tt_bundle
from device_service.model.checkpoint import Checkpoint, CheckpointError
from device_service.model.config import load_config
from device_service.model.tt_bundle import Bundle, BundleError, BundleWeights
from device_service.model.tt_plan import Precision
from device_service.model.tt_prepare import prepare
from device_service.model.tt_weights import CheckpointWeights, TtWeights, layer_tensors
from kernels import runtime
from tests.checkpoints import FAMILIES, Family, write_checkpoint
from tests.damage import put_values

runtime.choose("sim")


class Prepared:
    """A small checkpoint and a bundle of it."""

    def __init__(self, folder: Path, precision: Precision = "bfp8") -> None:
        self.model_dir = folder / "model"
        self.directory = folder / "bundle"
        self.config = load_config(self.model_dir)
        self.checkpoint = Checkpoint.open(self.model_dir, self.config)
        self.precision: Precision = precision

    @classmethod
    def made(cls, folder: Path, family: Family, precision: Precision) -> Prepared:
        write_checkpoint(folder / "model", family)
        prepare(folder / "model", folder / "bundle", precision, "p150", lambda _: None)
        return cls(folder, precision)

    def open(self, board: str = "p150", precision: Precision | None = None) -> Bundle:
        return Bundle.open(
            self.directory,
            self.config,
            checkpoint_digest=self.checkpoint.digest(),
            board=board,
            precision=precision,
        )

    def loaded(self) -> BundleWeights:
        return BundleWeights(self.open(), self.checkpoint, self.config, None, lambda _: None)

    def converted(self) -> CheckpointWeights:
        report: Callable[[str], None] = lambda _: None  # noqa: E731
        return CheckpointWeights(self.checkpoint, self.config, None, self.precision, report)

    def change_manifest(self, change: Callable[[dict[str, Any]], object]) -> None:
        file = self.directory / "manifest.json"
        manifest = json.loads(file.read_text())
        change(manifest)
        file.write_text(json.dumps(manifest))


def everything(weights: TtWeights, prepared: Prepared) -> Mapping[str, Any]:
    tensors = {f"head {name}": tensor for name, tensor in weights.head().items()}
    for layer in prepared.config.layers:
        tensors |= {f"{layer.index} {name}": x for name, x in weights.layer(layer).items()}
    return tensors


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    Prepared.made(folder, "e4b", "bfp8")
    return folder


@pytest.fixture
def prepared(kept: Path, tmp_path: Path) -> Prepared:
    """E4B in little, in bfp8: a copy to spoil."""
    shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    return Prepared(tmp_path)


@pytest.mark.parametrize(
    ("family", "precision"), [*((family, "bfp8") for family in FAMILIES), ("e4b", "bf16")]
)
def test_a_bundle_gives_the_bits_and_formats_that_converting_gives(
    family: Family, precision: Precision, tmp_path: Path
) -> None:
    prepared = Prepared.made(tmp_path, family, precision)
    loaded = everything(prepared.loaded(), prepared)
    converted = everything(prepared.converted(), prepared)
    assert loaded.keys() == converted.keys()
    for name, tensor in converted.items():
        assert loaded[name].dtype == tensor.dtype, name
        assert torch.equal(runtime.get(loaded[name]), runtime.get(tensor)), name
    assert prepared.loaded().precision == prepared.converted().precision == precision


def test_loading_a_bundle_reads_no_matrix_of_the_checkpoint_and_converts_nothing(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = prepared.loaded()
    read: list[str] = []
    stored = Checkpoint.tensor

    def noted(self: Checkpoint, name: str) -> torch.Tensor:
        read.append(name)
        return stored(self, name)

    def never(*_: object) -> None:
        raise AssertionError("converted")

    monkeypatch.setattr(Checkpoint, "tensor", noted)
    monkeypatch.setattr("kernels.tiles.to_tiles", never)
    monkeypatch.setattr("kernels.tiles.to_block_float", never)
    everything(weights, prepared)
    assert not read
    weights.host("embed_tokens")
    assert read == ["embed_tokens.weight"]


def test_tables_of_the_host_are_the_checkpoints(prepared: Prepared) -> None:
    weights, config = prepared.loaded(), prepared.config
    size = config.per_layer_input_size
    shapes = {
        "embed_tokens": (config.vocab_size, config.hidden_size),
        "embed_tokens_per_layer": (config.vocab_size, size * len(config.layers)),
        "per_layer_model_projection": (size * len(config.layers), config.hidden_size),
        "per_layer_projection_norm": (size,),
    }
    for name, shape in shapes.items():
        table = weights.host(name)
        assert table.shape == shape
        stored = prepared.checkpoint.tensor(f"{name}.weight")
        assert torch.equal(table, stored.to(table.dtype))
        assert torch.equal(table, prepared.converted().host(name))


def test_mixed_weights_are_four_bits_in_attention_and_feed_forward(tmp_path: Path) -> None:
    prepared = Prepared.made(tmp_path, "e2b", "mixed")
    parts = prepared.open().manifest.parts
    formats = {name: x.format for name, x in parts["layer-00"].items()}
    four = {"qkv", "o", "gate", "up", "down"}
    assert {name for name, fmt in formats.items() if fmt == "bfp4"} == four
    assert formats["per_layer_gate"] == "bf16"
    assert parts["head"]["lm_head"].format == "bfp8"
    assert set(prepared.loaded().layer(prepared.config.layers[0])) == set(formats)


def _rename(manifest: dict[str, Any]) -> None:
    manifest["parts"]["layer-01"]["other"] = manifest["parts"]["layer-01"].pop("qkv")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.update(version=2), "has format version 2, and this program's is 1"),
        (lambda m: m.pop("version"), "has format version None"),
        (lambda m: m.update(checkpoint_digest="0" * 64), r"another checkpoint \(digest 000000"),
        (lambda m: m.update(board="n150"), "is for a n150, and the board is p150"),
        (lambda m: m.update(precision="bf16"), "holds bf16 weights, and bfp8 are wanted"),
        (lambda m: m["parts"].pop("layer-03"), "is not finished, layer-03 is next: run"),
        (lambda m: m["parts"].pop("head"), "is not finished, head is next: run"),
        (_rename, "layer-01 is not what this program's kernels read"),
        (lambda m: m.pop("board"), "manifest.json is damaged: board: Field required"),
        (lambda m: m.update(parts=[]), "manifest.json is damaged: parts: "),
    ],
)
def test_a_bundle_of_something_else_is_refused_in_one_line(
    change: Callable[[dict[str, Any]], object], says: str, prepared: Prepared
) -> None:
    prepared.open(precision="bfp8")
    prepared.change_manifest(change)
    with pytest.raises(BundleError, match=says) as refused:
        prepared.open(precision="bfp8")
    assert "\n" not in str(refused.value)


def test_what_is_no_bundle_is_refused(prepared: Prepared) -> None:
    file = prepared.directory / "manifest.json"
    file.write_text("{")
    with pytest.raises(BundleError, match=r"manifest\.json cannot be read"):
        prepared.open()
    file.unlink()
    with pytest.raises(BundleError, match=r"is no bundle: it has no manifest\.json"):
        prepared.open()


def test_a_file_of_another_size_is_refused_before_anything_is_loaded(prepared: Prepared) -> None:
    file = tt_bundle.file_of(prepared.directory, "layer-02", "down")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(BundleError, match=rf"down\.tensorbin has {len(whole) - 1} bytes, not"):
        prepared.open()
    file.unlink()
    with pytest.raises(BundleError, match=r"down\.tensorbin is missing: run"):
        prepared.open()


@pytest.mark.parametrize("place", [8, -1])
def test_one_changed_bit_is_refused_as_its_layer_is_loaded(place: int, prepared: Prepared) -> None:
    file = tt_bundle.file_of(prepared.directory, "layer-02", "up")
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    weights = prepared.loaded()
    weights.layer(prepared.config.layers[1])
    with pytest.raises(BundleError, match=r"layer-02/up\.tensorbin is damaged \(SHA-256\): run"):
        weights.layer(prepared.config.layers[2])


@pytest.mark.parametrize(
    "name",
    [
        "layers.1.mlp.up_proj.weight",
        "layers.2.self_attn.q_norm.weight",
        "layers.0.input_layernorm.weight",
        "layers.3.layer_scalar",
        "norm.weight",
        "embed_tokens.weight",
        "embed_tokens_per_layer.weight",
        "per_layer_model_projection.weight",
        "per_layer_projection_norm.weight",
    ],
)
def test_converting_refuses_what_is_not_finite_by_name_and_count(name: str, tmp_path: Path) -> None:
    model_dir = write_checkpoint(tmp_path, "e4b")
    values = [float("nan"), float("-inf")][: 1 if name.endswith("scalar") else 2]
    put_values(model_dir, name, values)
    config = load_config(model_dir)
    checkpoint = Checkpoint.open(model_dir, config)

    def load() -> None:
        weights = CheckpointWeights(checkpoint, config, None, "bf16", lambda _: None)
        for layer in config.layers:
            weights.layer(layer)
        weights.head()

    with pytest.raises(CheckpointError, match=rf"{name} holds {len(values)} values that are NaN"):
        load()


def test_what_is_finite_in_float32_only_is_refused(tmp_path: Path) -> None:
    model_dir = write_checkpoint(tmp_path, "12b")
    put_values(model_dir, "layers.0.mlp.down_proj.weight", [3.4e38])
    config = load_config(model_dir)
    checkpoint = Checkpoint.open(model_dir, config)
    weights = CheckpointWeights(checkpoint, config, None, "bfp8", lambda _: None)
    with pytest.raises(CheckpointError, match="holds 1 values that are NaN or infinite in bf"):
        weights.layer(config.layers[0])


def test_progress_tells_of_the_last_layer(prepared: Prepared) -> None:
    lines: list[str] = []
    weights = BundleWeights(
        prepared.open(), prepared.checkpoint, prepared.config, None, lines.append
    )
    for layer in prepared.config.layers:
        loaded = weights.layer(layer)
        tensors = layer_tensors(prepared.config, layer, "bfp8")
        assert {x.name: x.shape for x in tensors} == {n: t.shape for n, t in loaded.items()}
    assert lines == ["loaded 8 of 8 layers"]
