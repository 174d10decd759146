from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from device_service.settings import Settings, SettingsError, load_settings


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields:
        monkeypatch.delenv(f"TESSERA_DEVICE_{field.upper()}", raising=False)


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text("{}")
    return str(tmp_path)


def test_only_the_model_is_required(model: str) -> None:
    settings = load_settings(["--model", model])
    assert settings.model == Path(model)
    assert settings.backend == "torch"
    assert settings.listen == "127.0.0.1:50051"
    assert settings.context_length is None


def test_a_flag_wins_over_its_variable(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESSERA_DEVICE_MODEL", model)
    monkeypatch.setenv("TESSERA_DEVICE_SLOTS", "5")
    monkeypatch.setenv("TESSERA_DEVICE_MAX_ROWS", "64")
    settings = load_settings(["--slots", "7"])
    assert (settings.slots, settings.max_rows) == (7, 64)


def test_metrics_can_be_off(model: str) -> None:
    assert load_settings(["--model", model, "--metrics-listen", "off"]).metrics_listen is None


def test_settings_are_frozen(model: str) -> None:
    settings = load_settings(["--model", model])
    with pytest.raises(ValidationError):
        settings.slots = 3


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--slots", "0"], ("--slots", "TESSERA_DEVICE_SLOTS", "1", "'0'")),
        (["--slots", "many"], ("--slots", "integer", "'many'")),
        (["--max-rows", "9999"], ("--max-rows", "4096", "'9999'")),
        (["--precision", "int3"], ("--precision", "float32", "bfloat16", "'int3'")),
        (["--accelerator", "abacus"], ("--accelerator", "cpu", "cuda", "'abacus'")),
        (["--backend", "abacus"], ("--backend", "torch", "sim", "tt", "'abacus'")),
        (["--board", "p9000"], ("--board", "p150", "n300", "'p9000'")),
        (["--weights", "q4"], ("--weights", "bf16", "bfp8", "mixed", "'q4'")),
        (["--weights", "bfp8"], ("--weights", "--backend sim or tt", "'bfp8'")),
        (["--backend", "tt", "--precision", "float32"], ("--precision", "torch", "'float32'")),
        (["--backend", "sim", "--threads", "3"], ("--threads", "torch", "sim", "'3'")),
        (["--backend", "tt", "--accelerator", "cuda"], ("--accelerator", "torch", "'cuda'")),
        (["--bundle", "nowhere"], ("--bundle", "device_service.prepare", "'nowhere'")),
        (["--listen", "nowhere"], ("--listen", "HOST:PORT", "'nowhere'")),
        (["--listen", "127.0.0.1:70000"], ("--listen", "65535")),
        (["--drain-seconds", "-1"], ("--drain-seconds", "0", "'-1'")),
        (["--slots", "1", "--slots", "2"], ("--slots", "2 times")),
    ],
)
def test_a_wrong_value_is_told_in_one_line_by_flag_value_and_limit(
    model: str, flags: list[str], says: tuple[str, ...]
) -> None:
    with pytest.raises(SettingsError) as failure:
        load_settings(["--model", model, *flags])
    message = str(failure.value)
    assert "\n" not in message
    for fragment in says:
        assert fragment in message


def test_a_bundle_is_for_the_kernels(model: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").touch()
    flags = ["--model", model, "--bundle", str(tmp_path)]
    assert load_settings([*flags, "--backend", "sim"]).bundle == tmp_path
    with pytest.raises(SettingsError, match=r"--bundle .*goes with --backend sim or tt"):
        load_settings(flags)


def test_a_missing_model_is_told() -> None:
    with pytest.raises(SettingsError, match=r"--model .* is required"):
        load_settings([])


def test_a_directory_that_is_no_checkpoint_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--model .*config\.json"):
        load_settings(["--model", str(tmp_path)])
    with pytest.raises(SettingsError, match=r"--model .*exists"):
        load_settings(["--model", str(tmp_path / "nowhere")])


def test_an_unknown_flag_ends_the_program_with_one_line(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        load_settings(["--model", model, "--slot", "3"])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--slot" in line


def test_an_unknown_variable_fails_by_name(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESSERA_DEVICE_SLOT", "3")
    with pytest.raises(SettingsError, match="TESSERA_DEVICE_SLOT names no setting"):
        load_settings(["--model", model])


def test_what_kubernetes_sets_for_a_service_named_tessera_device_is_no_mistake(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SERVICE_HOST", "SERVICE_PORT", "PORT", "PORT_50051_TCP_ADDR"):
        monkeypatch.setenv(f"TESSERA_DEVICE_{name}", "10.0.0.1")
    load_settings(["--model", model])


def test_help_tells_every_setting_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        load_settings(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for field in Settings.model_fields:
        assert f"--{field.replace('_', '-')} " in text
    assert "default: 127.0.0.1:50051" in text
