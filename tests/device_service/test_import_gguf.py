"""The GGUF importer: what it writes is what was released, and what it cannot import it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from device_service.gguf_file import GgufFile, tensor_shapes
from device_service.import_gguf import import_gguf, main, released_name
from device_service.model.config import LayerKind, load_config
from tests.device_service.gguf_files import VOCAB_SIZE, GgufRecipe, released

Q8_0 = gguf.GGMLQuantizationType.Q8_0
F16 = gguf.GGMLQuantizationType.F16
F32 = gguf.GGMLQuantizationType.F32


def run_import(recipe: GgufRecipe, folder: Path, **options: int) -> Path:
    out = folder / "model"
    tokenizer = recipe.write_tokenizer(folder / "tok.json")
    import_gguf(recipe.write(folder / "m.gguf"), tokenizer, out, lambda _: None, **options)
    return out


def read_json(path: Path) -> dict[str, object]:
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_converted_checkpoint_comes_back_bit_for_bit(tmp_path: Path) -> None:
    recipe = GgufRecipe()
    imported = load_file(run_import(recipe, tmp_path) / "model.safetensors")
    expected = released(recipe.released_weights())
    assert imported.keys() == expected.keys()
    for name, values in expected.items():
        assert imported[name].dtype == torch.bfloat16, name
        assert np.array_equal(imported[name].float().numpy(), values), name


def test_the_names_are_those_that_converters_to_gguf_take() -> None:
    config = GgufRecipe().config
    converter = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA3, config.num_layers)
    for name in tensor_shapes(config):
        assert converter.get_name(released_name(name), try_suffixes=(".weight",)) == name


def test_transformers_computes_the_same_from_the_imported_directory(tmp_path: Path) -> None:
    recipe = GgufRecipe()
    out = run_import(recipe, tmp_path)
    imported, loading = Gemma3ForCausalLM.from_pretrained(
        out, dtype=torch.float32, output_loading_info=True
    )
    assert not any(loading.values())
    original = Gemma3ForCausalLM(Gemma3TextConfig.from_pretrained(out)).eval()
    weights = {k: torch.from_numpy(v) for k, v in released(recipe.released_weights()).items()}
    original.load_state_dict(weights | {"lm_head.weight": weights["model.embed_tokens.weight"]})
    ids = torch.arange(2, 32)[None]
    with torch.no_grad():
        assert torch.equal(imported(ids).logits, original(ids).logits)


def test_quantized_weights_are_dequantized_and_rounded_to_bfloat16(tmp_path: Path) -> None:
    shape = (64, 64)
    random = np.random.default_rng(1)
    scales = random.uniform(0.001, 0.1, (64, 2, 1)).astype(np.float16)
    steps = random.integers(-128, 128, (64, 2, 32), np.int8)
    blocks = np.concatenate([scales.view(np.uint8), steps.view(np.uint8)], axis=-1).reshape(64, -1)
    half = random.normal(size=shape).astype(np.float16)
    recipe = GgufRecipe(
        tensors={"blk.0.attn_q.weight": (blocks, Q8_0), "blk.1.attn_q.weight": (half, F16)}
    )
    imported = load_file(run_import(recipe, tmp_path) / "model.safetensors")
    exact = (scales.astype(np.float32) * steps).reshape(shape)
    for layer, values in enumerate((exact, half.astype(np.float32))):
        rounded = torch.from_numpy(values).bfloat16()
        assert torch.equal(imported[f"model.layers.{layer}.self_attn.q_proj.weight"], rounded)


def test_a_norm_that_bfloat16_would_change_is_written_in_float32(tmp_path: Path) -> None:
    stored = np.linspace(0.6, 1.9, 64, dtype=np.float32)
    recipe = GgufRecipe(tensors={"blk.3.ffn_norm.weight": (stored, F32)})
    out = run_import(recipe, tmp_path)
    imported = load_file(out / "model.safetensors")
    odd = imported.pop("model.layers.3.pre_feedforward_layernorm.weight")
    assert odd.dtype == torch.float32
    assert np.array_equal(1 + odd.numpy(), stored)
    assert {tensor.dtype for tensor in imported.values()} == {torch.bfloat16}
    model = Gemma3ForCausalLM.from_pretrained(out, dtype=torch.float32)
    assert torch.equal(model.model.layers[3].pre_feedforward_layernorm.weight, odd)


def test_a_large_tensor_is_read_in_pieces_that_make_up_the_whole(tmp_path: Path) -> None:
    recipe = GgufRecipe()
    source = GgufFile(recipe.write(tmp_path / "m.gguf"))
    pieces = list(source.chunks("token_embd.weight", max_bytes=10 * 4 * 64))
    assert [len(piece) for piece in pieces] == [10, 10, 10, 10, 8]
    expected = recipe.released_weights()["token_embd.weight"]
    assert np.array_equal(np.concatenate(pieces), expected)


def test_more_than_a_shard_holds_goes_into_several_files_with_an_index(tmp_path: Path) -> None:
    recipe = GgufRecipe()
    out = run_import(recipe, tmp_path, max_shard_bytes=60_000)
    index = read_json(out / "model.safetensors.index.json")
    files = sorted(path.name for path in out.glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    found: dict[str, str] = {}
    for file in files:
        assert (out / file).stat().st_size < 60_000 + 10_000
        with safe_open(out / file, "np") as shard:
            found |= dict.fromkeys(shard.keys(), file)
    assert index["weight_map"] == found
    expected = released(recipe.released_weights())
    assert found.keys() == expected.keys()
    total = sum(values.size for values in expected.values()) * 2
    assert index["metadata"] == {"total_size": total}
    _, loading = Gemma3ForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(loading.values())


def test_the_device_service_reads_the_configuration_as_gemma_3(tmp_path: Path) -> None:
    config = load_config(run_import(GgufRecipe(), tmp_path))
    assert config.model_type == "gemma3_text"
    assert (config.hidden_size, config.vocab_size, len(config.layers)) == (64, VOCAB_SIZE, 7)
    assert [layer.kind for layer in config.layers].index(LayerKind.FULL) == 5
    assert config.layers[6].kind is LayerKind.SLIDING
    assert config.layers[0].window == 8
    assert config.rms_norm_eps == 1e-6
    assert (config.layers[0].rope.theta, config.layers[5].rope.theta) == (1e4, 1e6)
    assert config.eos_token_ids == (1,)


def test_linear_rope_scaling_reaches_the_full_layers_only(tmp_path: Path) -> None:
    scaling = {"gemma3.rope.scaling.type": "linear", "gemma3.rope.scaling.factor": 8.0}
    config = load_config(run_import(GgufRecipe(metadata=scaling), tmp_path))
    assert (config.layers[0].rope.factor, config.layers[5].rope.factor) == (1.0, 8.0)


def test_the_27b_scales_its_queries_by_hidden_size_per_head(tmp_path: Path) -> None:
    out = run_import(GgufRecipe(num_layers=62, hidden_size=64, num_heads=4), tmp_path)
    assert read_json(out / "config.json")["query_pre_attn_scalar"] == 16


def test_an_instruction_tuned_file_brings_its_template_and_stops_at_the_end_of_a_turn(
    tmp_path: Path,
) -> None:
    template = "{{ bos_token }}{# Grüße #}\n"
    out = run_import(GgufRecipe(metadata={"tokenizer.chat_template": template}), tmp_path)
    assert (out / "chat_template.jinja").read_text(encoding="utf-8") == template
    assert read_json(out / "generation_config.json")["eos_token_id"] == [1, 5]
    assert load_config(out).eos_token_ids == (1, 5)


def test_a_base_model_has_no_template_and_stops_at_eos(tmp_path: Path) -> None:
    out = run_import(GgufRecipe(), tmp_path)
    assert not (out / "chat_template.jinja").exists()
    assert read_json(out / "generation_config.json")["eos_token_id"] == 1
    assert read_json(out / "tokenizer_config.json")["bos_token"] == "<bos>"
    assert (out / "tokenizer.json").read_bytes() == (tmp_path / "tok.json").read_bytes()


def test_padding_of_the_vocabulary_need_not_be_in_the_tokenizer(tmp_path: Path) -> None:
    recipe = GgufRecipe(
        metadata={"tokenizer.ggml.token_type": [1] * (VOCAB_SIZE - 1) + [5]},
    )
    tokenizer = recipe.write_tokenizer(tmp_path / "tok.json", **{f"t{VOCAB_SIZE - 1}": 1000})
    import_gguf(recipe.write(tmp_path / "m.gguf"), tokenizer, tmp_path / "out", lambda _: None)
    assert (tmp_path / "out" / "config.json").is_file()


def test_an_empty_directory_may_become_the_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert (run_import(GgufRecipe(), tmp_path) / "model.safetensors").is_file()


REFUSED: dict[str, tuple[GgufRecipe, str]] = {
    "another architecture": (
        GgufRecipe(architecture="llama"),
        "general.architecture is 'llama'; only 'gemma3'",
    ),
    "Gemma 3n": (
        GgufRecipe(architecture="gemma3n"),
        "general.architecture is 'gemma3n'; only 'gemma3'",
    ),
    "a missing size": (
        GgufRecipe(metadata={"gemma3.block_count": None}),
        "metadata gemma3.block_count is missing",
    ),
    "a mistyped size": (
        GgufRecipe(metadata={"gemma3.block_count": "seven"}),
        "metadata gemma3.block_count is 'seven'; it must be an integer",
    ),
    "no vocabulary": (
        GgufRecipe(metadata={"tokenizer.ggml.tokens": None}),
        "metadata tokenizer.ggml.tokens is missing",
    ),
    "a vocabulary of another size": (
        GgufRecipe(metadata={"tokenizer.ggml.tokens": ["<pad>"]}),
        "tokenizer.ggml.tokens has 1 entries; token_embd.weight has 48 rows",
    ),
    "a control token outside the vocabulary": (
        GgufRecipe(metadata={"tokenizer.ggml.bos_token_id": 48}),
        "tokenizer.ggml.bos_token_id is 48; it must be below the vocabulary's size, 48",
    ),
    "an unknown scaling of positions": (
        GgufRecipe(metadata={"gemma3.rope.scaling.type": "yarn"}),
        "gemma3.rope.scaling.type is 'yarn'; it must be 'linear' or 'none'",
    ),
    "values wider than keys": (
        GgufRecipe(metadata={"gemma3.attention.value_length": 64}),
        "gemma3.attention.value_length is 64; it must equal key_length, 32",
    ),
    "one part of several": (
        GgufRecipe(metadata={"split.count": 2}),
        "split.count is 2; merge the parts",
    ),
    "a missing tensor": (
        GgufRecipe(tensors={"blk.2.ffn_up.weight": None}),
        "tensor blk.2.ffn_up.weight is missing",
    ),
    "no embedding": (
        GgufRecipe(tensors={"token_embd.weight": None}),
        "tensor token_embd.weight is missing",
    ),
    "an unknown tensor": (
        GgufRecipe(tensors={"output.weight": (np.zeros((48, 64), np.float32), F32)}),
        "tensor output.weight is unknown to Gemma 3 text models",
    ),
    "a tensor of another shape": (
        GgufRecipe(tensors={"blk.0.attn_k.weight": (np.zeros((64, 64), np.float32), F32)}),
        "tensor blk.0.attn_k.weight has shape (64, 64); by the metadata it must be (32, 64)",
    ),
    "an unknown quantization": (
        GgufRecipe(
            tensors={
                "blk.4.ffn_up.weight": (
                    np.zeros((96, 64), np.int8),
                    gguf.GGMLQuantizationType.I8,
                )
            }
        ),
        "tensor blk.4.ffn_up.weight is quantized as I8, which the gguf library cannot undo",
    ),
}


def refusal(capsys: pytest.CaptureFixture[str], file: Path, tokenizer: Path, out: Path) -> str:
    """The only line on stderr of an import that must fail and leave nothing behind."""
    before = set(file.parent.rglob("*"))
    assert main([str(file), "--tokenizer", str(tokenizer), "--out", str(out)]) == 1
    assert set(file.parent.rglob("*")) == before
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(("recipe", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_imported_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], recipe: GgufRecipe, message: str
) -> None:
    tokenizer = recipe.write_tokenizer(tmp_path / "tok.json")
    file = recipe.write(tmp_path / "m.gguf")
    assert f"{file}: {message}" in refusal(capsys, file, tokenizer, tmp_path / "out")


@pytest.mark.parametrize("share", [0.0001, 0.001, 0.003, 0.01, 0.3, 0.9999])
def test_a_truncated_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], share: float
) -> None:
    recipe = GgufRecipe()
    tokenizer = recipe.write_tokenizer(tmp_path / "tok.json")
    file = recipe.write(tmp_path / "m.gguf")
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    line = refusal(capsys, file, tokenizer, tmp_path / "out")
    assert f"{file}: truncated or damaged GGUF file" in line


@pytest.mark.parametrize("content", [b"", b"GG", b"PK\x03\x04 a zip file"])
def test_a_file_that_is_no_gguf_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(content)
    assert "not a GGUF file" in refusal(capsys, file, tmp_path / "tok.json", tmp_path / "out")


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "none.gguf"
    assert str(file) in refusal(capsys, file, tmp_path / "tok.json", tmp_path / "out")


def test_another_models_tokenizer_is_refused_with_the_first_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = GgufRecipe()
    tokenizer = recipe.write_tokenizer(tmp_path / "tok.json", t20=30, t30=20)
    file = recipe.write(tmp_path / "m.gguf")
    line = refusal(capsys, file, tokenizer, tmp_path / "out")
    assert "not this model's tokenizer: id 20 is 't30', in the GGUF 't20'" in line


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model": {"vocab": []}}'])
def test_what_is_no_tokenizer_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    tokenizer = tmp_path / "tok.json"
    tokenizer.write_text(content)
    file = GgufRecipe().write(tmp_path / "m.gguf")
    assert f"{tokenizer}: not a tokenizer.json" in refusal(
        capsys, file, tokenizer, tmp_path / "out"
    )


def test_a_directory_with_something_in_it_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = GgufRecipe()
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    file, tokenizer = recipe.write(tmp_path / "m.gguf"), recipe.write_tokenizer(tmp_path / "t.json")
    assert f"{out} exists and is not an empty directory" in refusal(capsys, file, tokenizer, out)
    assert (out / "precious.txt").read_text() == "mine"


def test_an_interrupted_import_leaves_nothing_behind(tmp_path: Path) -> None:
    recipe = GgufRecipe()
    file, tokenizer = recipe.write(tmp_path / "m.gguf"), recipe.write_tokenizer(tmp_path / "t.json")

    def interrupt(line: str) -> None:
        if line.startswith("writing"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_gguf(file, tokenizer, tmp_path / "out", interrupt)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.gguf", "t.json"]
