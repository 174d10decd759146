from __future__ import annotations

import pytest
from pydantic import ValidationError

from gateway.settings import (
    ENV_PREFIX,
    Settings,
    SettingsError,
    load_client_settings,
    load_settings,
)
from tests.processes import DEMO_MODEL

REQUIRED = ["--device", "127.0.0.1:1", "--tokenizer", str(DEMO_MODEL)]


def test_what_is_left_out_has_its_default() -> None:
    settings = load_settings(REQUIRED)
    assert settings.listen == "127.0.0.1:50050"
    assert settings.metrics_listen == "127.0.0.1:9100"
    assert settings.top_candidates == 64
    assert settings.drain_seconds == 30


def test_metrics_may_be_off() -> None:
    assert load_settings([*REQUIRED, "--metrics-listen", "off"]).metrics_listen is None


def test_flags_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV_PREFIX + "LISTEN", "0.0.0.0:1111")
    monkeypatch.setenv(ENV_PREFIX + "MAX_CONCURRENT", "7")
    settings = load_settings([*REQUIRED, "--listen=[::1]:2222"])
    assert settings.listen == "[::1]:2222"
    assert settings.max_concurrent == 7


def test_all_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV_PREFIX + "DEVICE", "device.example:50051")
    monkeypatch.setenv(ENV_PREFIX + "TOKENIZER", str(DEMO_MODEL))
    # What Kubernetes sets for a service of this name is not ours to refuse.
    monkeypatch.setenv(ENV_PREFIX + "SERVICE_HOST", "10.0.0.1")
    assert load_settings([]).device == "device.example:50051"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (REQUIRED[2:], "--device (or TESSERA_GATEWAY_DEVICE) is required"),
        ([*REQUIRED, "--device", "x:1"], "--device was given 2 times, and takes one value; more"),
        ([*REQUIRED, "--listen", "nowhere"], "must be HOST:PORT, with a port up to 65535, not 'no"),
        ([*REQUIRED, "--listen", "a:70000"], "--listen (or TESSERA_GATEWAY_LISTEN): must be HOST"),
        ([*REQUIRED, "--max-concurrent", "0"], "--max-concurrent"),
        ([*REQUIRED, "--max-concurrent", "many"], "not 'many'"),
        ([*REQUIRED, "--drain-seconds", "-1"], "greater than or equal to 0, not '-1'"),
        ([*REQUIRED, "--drain-seconds", "nan"], "--drain-seconds"),
        ([*REQUIRED, "--log-level", "loud"], "'debug', 'info', 'warning' or 'error', not 'loud'"),
        (
            [*REQUIRED[:2], "--tokenizer", "/nowhere"],
            "must be a directory with a tokenizer.json, not '/nowhere'",
        ),
    ],
)
def test_bad_settings_are_named_in_one_line(arguments: list[str], says: str) -> None:
    with pytest.raises(SettingsError) as failure:
        load_settings(arguments)
    assert says in str(failure.value)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("flag", ["--lissten", "--dev", "--max_concurrent"])
def test_an_unknown_flag_is_named(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        load_settings([*REQUIRED, flag, "1"])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert flag in error
    assert error.count("\n") == 1


def test_every_setting_has_help_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        load_settings(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for name, field in Settings.model_fields.items():
        assert "--" + name.replace("_", "-") in text
        assert field.description
    assert "(required)" in text
    assert "(default: 127.0.0.1:50050)" in text


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        load_settings(REQUIRED).device = "other:1"  # pyright: ignore[reportAttributeAccessIssue]


def test_the_command_takes_its_server_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert load_client_settings().server == "127.0.0.1:50050"
    monkeypatch.setenv("TESSERA_SERVER", "gateway:1")
    assert load_client_settings().server == "gateway:1"
    monkeypatch.setenv("TESSERA_SERVER", "gateway")
    with pytest.raises(SettingsError, match="TESSERA_SERVER: must be HOST:PORT"):
        load_client_settings()
