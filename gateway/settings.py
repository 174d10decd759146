"""Settings of the gateway and of the command: flags and environment, parsed once.

Only this file reads the environment. It knows names, units, defaults and
limits; it knows nothing of what they are for.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal, NoReturn, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict

PROGRAM = "python -m gateway"
ENV_PREFIX = "TESSERA_GATEWAY_"

T = TypeVar("T")


def address(value: str) -> str:
    """HOST:PORT, checked; an IPv6 host is in brackets."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\s:/,\[\]]+):(\d{1,5})", value)
    if match is None or int(match[2]) > 65535:
        raise ValueError("must be HOST:PORT, with a port up to 65535")
    return value


def _address_or_off(value: object) -> object:
    return None if value == "off" else value


def _tokenizer_directory(value: Path) -> Path:
    if not (value / "tokenizer.json").is_file():
        raise ValueError("must be a directory with a tokenizer.json")
    return value


Address = Annotated[str, AfterValidator(address)]


class SettingsError(Exception):
    """A setting is missing, unknown or out of its limits; one line that names it."""


class Settings(BaseSettings):
    """Tessera's gateway: text in, text out, over a device service."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")

    device: Address = Field(description="HOST:PORT of the device service")
    tokenizer: Annotated[Path, AfterValidator(_tokenizer_directory)] = Field(
        description="directory of the checkpoint's tokenizer.json, chat template and "
        "generation_config.json; the weights need not be there"
    )
    listen: Address = Field("127.0.0.1:50050", description="HOST:PORT to serve gRPC at")
    metrics_listen: Annotated[Address | None, BeforeValidator(_address_or_off)] = Field(
        "127.0.0.1:9100",
        description="HOST:PORT to serve Prometheus metrics at, under /metrics; or off",
    )
    max_concurrent: int = Field(
        1024, ge=1, le=100_000, description="requests at a time; further ones are refused"
    )
    top_candidates: int = Field(
        64,
        ge=1,
        le=4096,
        description="candidates that a device sends per token; with more of them, the full row of "
        "logits is needed less often",
    )
    drain_seconds: float = Field(
        30.0, ge=0, le=3600, description="seconds that running answers may take after SIGTERM"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="what is logged to stderr: debug, info, warning or error"
    )


class ClientSettings(BaseSettings):
    """What the `tessera` command takes from the environment."""

    model_config = SettingsConfigDict(env_prefix="TESSERA_", frozen=True, extra="ignore")

    server: Address = Field("127.0.0.1:50050", description="HOST:PORT of the gateway")


def load_settings(arguments: Sequence[str]) -> Settings:
    """Reads flags, then the environment, then defaults.

    `--help` and unknown flags end the program, as argparse does. Unknown TESSERA_GATEWAY_ variables
    do not: Kubernetes makes some for a service of that name.

    Raises:
        SettingsError: a setting is missing, bad or given twice.
    """
    _refuse_repeated(arguments)
    source: CliSettingsSource[argparse.ArgumentParser] = CliSettingsSource(
        Settings,
        root_parser=_OneLineParser(
            prog=PROGRAM,
            description=f"{Settings.__doc__} Each flag can be given as an environment variable "
            f"instead, e.g. {ENV_PREFIX}LISTEN.",
            allow_abbrev=False,
        ),
        cli_parse_args=list(arguments),
        cli_kebab_case=True,
    )
    return _checked(lambda: Settings(_cli_settings_source=source), _flag)  # pyright: ignore[reportCallIssue] the fields come from the sources


def load_client_settings() -> ClientSettings:
    """Reads the environment of the `tessera` command.

    Raises:
        SettingsError: a setting is bad.
    """
    return _checked(lambda: ClientSettings(), lambda name: f"TESSERA_{name.upper()}")  # pyright: ignore[reportCallIssue] as above


class _OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def _refuse_repeated(arguments: Sequence[str]) -> None:
    flags = [argument.partition("=")[0] for argument in arguments if argument.startswith("--")]
    for flag, count in Counter(flags).items():
        if count > 1:
            note = "; more than one device is not supported yet" if flag == "--device" else ""
            raise SettingsError(f"{flag} was given {count} times, and takes one value{note}")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')} (or {ENV_PREFIX}{name.upper()})"


def _checked(load: Callable[[], T], display: Callable[[str], str]) -> T:
    try:
        return load()
    except ValidationError as invalid:
        raise SettingsError(
            "; ".join(_problem(error, display) for error in invalid.errors())
        ) from None


def _problem(error: ErrorDetails, display: Callable[[str], str]) -> str:
    name = display(str(error["loc"][0]))
    if error["type"] == "missing":
        return f"{name} is required"
    problem = error["msg"].removeprefix("Value error, ")
    return f"{name}: {problem[0].lower()}{problem[1:]}, not {str(error['input'])!r}"
