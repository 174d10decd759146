"""`python -m device_service.prepare`: what it writes, goes on with, mends, and refuses."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from device_service.model import tt_prepare as module
from device_service.model.tt_bundle import file_of, read_manifest
from device_service.prepare import main
from tests.checkpoints import write_checkpoint
from tests.damage import put_values

PARTS = [*(f"layer-{n:02}" for n in range(8)), "head"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint and a bundle of it that was written in one go."""
    folder = tmp_path_factory.mktemp("kept")
    write_checkpoint(folder / "model", "e2b")
    assert run(folder) == 0
    return folder


@pytest.fixture
def folder(kept: Path, tmp_path: Path) -> Path:
    shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    return tmp_path


def run(folder: Path, *flags: str) -> int:
    arguments = ["--model", str(folder / "model"), "--out", str(folder / "bundle")]
    return main([*arguments, "--weights", "bfp8", *flags])


def contents(folder: Path) -> dict[str, bytes]:
    files = sorted(x for x in (folder / "bundle").rglob("*") if x.is_file())
    return {str(x.relative_to(folder)): x.read_bytes() for x in files}


def refusal(folder: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    capsys.readouterr()
    assert run(folder, *flags) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def test_progress_is_a_line_a_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(tmp_path / "model", "e2b")
    assert run(tmp_path) == 0
    first, *lines, last = capsys.readouterr().out.splitlines()
    assert first == "looking through the tables that stay on the host"
    assert [line.partition(",")[0] for line in lines] == PARTS
    assert lines[1].startswith("layer-01, 2 of 9: 0.3 MB, ")
    assert lines[1].endswith(" s to go")
    assert last.startswith(f"wrote {tmp_path / 'bundle'}: bfp8 weights for a p150, ")


def test_a_complete_bundle_is_read_and_left_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {x: x.stat().st_mtime_ns for x in (folder / "bundle").rglob("*")}
    assert run(folder) == 0
    assert "is complete: 9 parts, every digest as noted" in capsys.readouterr().out
    assert {x: x.stat().st_mtime_ns for x in (folder / "bundle").rglob("*")} == before


KILLED_BY_ITSELF = """
import os, sys
from device_service.model import tt_prepare
from device_service.prepare import main
name, counter = sys.argv.pop(1), iter(range(1_000_000))
stock = getattr(tt_prepare, name)
def dying(*arguments):
    if next(counter) == 50 or name == "write_manifest" and len(arguments[1].parts) == 4:
        os.kill(os.getpid(), 9)
    return stock(*arguments)
setattr(tt_prepare, name, dying)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("moment", ["_write", "write_manifest"])
def test_who_is_killed_goes_on_and_ends_with_the_same_bytes(
    moment: str, kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Within a layer; and after a layer was moved to its place but not yet noted."""
    out = tmp_path / "bundle"
    flags = ["--weights", "bfp8", "--model", str(kept / "model"), "--out", str(out)]
    killed = subprocess.run([sys.executable, "-c", KILLED_BY_ITSELF, moment, *flags])
    assert killed.returncode == -signal.SIGKILL
    done = read_manifest(out).parts
    assert list(done) == PARTS[:3]
    assert (out / "layer-03").exists() == (moment == "write_manifest")
    assert (out / ".layer-03.partial").exists() == (moment == "_write")
    ages = {x: x.stat().st_mtime_ns for part in done for x in (out / part).iterdir()}
    assert main(flags) == 0
    assert "3 of 9 parts are there, every digest as noted" in capsys.readouterr().out
    assert contents(tmp_path) == contents(kept)
    assert not [x for x in out.iterdir() if x.name.startswith(".")]
    for file, age in ages.items():
        assert file.stat().st_mtime_ns == age


def test_ctrl_c_says_that_the_same_command_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(tmp_path / "model", "e2b")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "to_tiles", interrupted)
    assert run(tmp_path) == 130
    assert capsys.readouterr().err == "interrupted; the same command goes on\n"
    monkeypatch.undo()
    assert run(tmp_path) == 0


@pytest.mark.parametrize("damage", ["bit", "size", "missing"])
def test_a_damaged_part_is_made_again_and_no_other(
    damage: str, kept: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = file_of(folder / "bundle", "layer-04", "gate")
    content = bytearray(file.read_bytes())
    if damage == "bit":
        content[-1] ^= 1
        file.write_bytes(content)
    elif damage == "size":
        file.write_bytes(content[:-1])
    else:
        file.unlink()
    assert run(folder) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"layer-04 is made again: {file} ")
    assert [x.partition(",")[0] for x in lines if " of 9: " in x] == ["layer-04"]
    assert contents(folder) == contents(kept)


def test_another_checkpoint_board_or_precision_is_refused_and_nothing_touched(
    folder: Path, kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cure = f"name another, or delete it and run python -m device_service.prepare --out {folder}"
    said = refusal(folder, capsys, "--board", "n150")
    assert "is for a p150, and the board is n150" in said
    assert cure in said
    said = refusal(folder, capsys, "--weights", "mixed")
    assert "holds bfp8 weights, and mixed are wanted" in said
    put_values(folder / "model", "layers.0.mlp.up_proj.weight", [0.5])
    assert "is of another checkpoint (digest " in refusal(folder, capsys)
    assert contents(folder) == contents(kept)


def test_another_format_version_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "bundle/manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"version": 0}))
    assert "has format version 0, and this program's is 1" in refusal(folder, capsys)


def test_a_directory_of_something_else_is_refused_and_left_as_it_is(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(folder / "bundle")
    (folder / "bundle/layer-00").mkdir(parents=True)
    assert "holds layer-00 and is no bundle" in refusal(folder, capsys)
    assert (folder / "bundle/layer-00").is_dir()
    shutil.rmtree(folder / "bundle")
    (folder / "bundle").write_text("a file")
    assert "exists and is no directory" in refusal(folder, capsys)


def test_a_person_s_own_files_in_a_bundle_stay(folder: Path) -> None:
    (folder / "bundle/notes").mkdir()
    shutil.rmtree(folder / "bundle/layer-00")
    assert run(folder) == 0
    assert (folder / "bundle/notes").is_dir()


def test_two_at_once_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    descriptor = os.open(folder / "bundle", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert "is being written by another program" in refusal(folder, capsys)
    os.close(descriptor)
    assert run(folder) == 0


def test_a_disk_that_is_too_small_is_refused_with_the_numbers(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(folder / "bundle")
    usage = namedtuple("usage", ["total", "used", "free"])
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage(0, 0, 1_230_000))
    said = refusal(folder, capsys)
    assert "needs 2.1 MB more, and its disk has 1.2 MB free" in said


def test_weights_that_are_not_finite_are_refused_by_name_and_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_checkpoint(tmp_path / "model", "e2b")
    put_values(tmp_path / "model", "layers.1.mlp.up_proj.weight", [float("nan"), float("inf")])
    said = refusal(tmp_path, capsys)
    assert "tensor layers.1.mlp.up_proj.weight holds 2 values that are NaN or infinite" in said
    assert list(read_manifest(tmp_path / "bundle").parts) == ["layer-00"]


def test_tables_of_the_host_are_looked_through_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_checkpoint(tmp_path / "model", "e2b")
    put_values(tmp_path / "model", "embed_tokens_per_layer.weight", [float("nan")])
    assert "embed_tokens_per_layer.weight holds 1 values" in refusal(tmp_path, capsys)
    assert not read_manifest(tmp_path / "bundle").parts


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"hidden_size": 72}, "hidden_size is 72, and the kernels need a multiple of 32"),
        ({"num_hidden_layers": 9}, "layer_types"),
    ],
)
def test_a_model_that_the_kernels_do_not_take_is_refused(
    overrides: dict, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    write_checkpoint(model, "e2b", overrides={} if "num_hidden_layers" in overrides else overrides)
    if "num_hidden_layers" in overrides:
        config = json.loads((model / "config.json").read_text())
        config["text_config"] |= overrides
        (model / "config.json").write_text(json.dumps(config))
    assert says in refusal(tmp_path, capsys)
    assert not (tmp_path / "bundle").exists()


def test_a_wrong_precision_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        run(tmp_path, "--weights", "q4")
    assert ended.value.code == 2


def test_it_does_without_ttnn_and_without_a_runtime(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "model", "gemma3")
    code = (
        "import sys; sys.modules.update(ttnn=None, ttl=None); sys.modules['kernels.simulator'] ="
        " None; from device_service.prepare import main; sys.exit(main(sys.argv[1:]))"
    )
    subprocess.run(
        [sys.executable, "-c", code, "--model", tmp_path / "model", "--out", tmp_path / "bundle"],
        check=True,
        capture_output=True,
    )
