"""The device service's settings: flags and environment, parsed once.

Only this file reads the service's own variables. Knows names, units, defaults and limits; knows
nothing of what they are for.
"""

from __future__ import annotations

import argparse
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal, NoReturn

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict

PROGRAM = "python -m device_service"
ENV_PREFIX = "TESSERA_DEVICE_"

MAX_ROWS = 128
"""Of a step on the torch backend, where none are given."""

MAX_KERNEL_ROWS = 32
"""Of a step in kernels: one tile row."""

STEP_TIMEOUT = 300.0
"""Seconds, where none are given."""

# Kubernetes gives every pod such variables for a Service that is named tessera-device.
_SERVICE_LINK = re.compile(r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_\w+)?)")


def _address(value: str) -> str:
    """HOST:PORT; an IPv6 host is in brackets."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\s:/,\[\]]+):(\d{1,5})", value)
    if match is None or int(match[2]) > 65535:
        raise ValueError("must be HOST:PORT, with a port up to 65535")
    return value


def _address_or_off(value: object) -> object:
    return None if value == "off" else value


def _model_directory(value: Path) -> Path:
    if not value.is_dir():
        raise ValueError("must be a directory that exists")
    if not (value / "config.json").is_file():
        raise ValueError("must be a checkpoint directory, with a config.json")
    return value


def _bundle_directory(value: Path) -> Path:
    if not (value / "manifest.json").is_file():
        raise ValueError(
            "must be what python -m device_service.prepare wrote, with a manifest.json"
        )
    return value


def _accelerator(value: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", value):
        raise ValueError("must be cpu, cuda or cuda:N")
    return value


Address = Annotated[str, AfterValidator(_address)]


class SettingsError(Exception):
    """A setting is missing, unknown or out of its limits; one line that names it."""


class Settings(BaseSettings):
    """Tessera's device service: token ids in, readouts out, on one accelerator."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, frozen=True, extra="forbid", protected_namespaces=()
    )

    model: Annotated[Path, AfterValidator(_model_directory)] = Field(
        description="checkpoint directory: config.json and safetensors files"
    )
    backend: Literal["torch", "sim", "tt"] = Field(
        "torch",
        description="what runs the model: torch; tt, TT-Lang kernels on a card or a simulated "
        "chip; or sim, the same kernels in the functional simulator",
    )
    board: Literal["auto", "p150", "p100", "n150", "n300"] = Field(
        "auto",
        description="the board that sim and tt plan for (n300: one of its two chips); auto is the "
        "one that the driver tells, or p150",
    )
    bundle: Annotated[Path, AfterValidator(_bundle_directory)] | None = Field(
        None,
        description="prepared weights (python -m device_service.prepare) that sim and tt map; "
        "without it, they convert the checkpoint's as they start",
    )
    weights: Literal["auto", "bf16", "bfp8", "mixed"] = Field(
        "auto",
        description="number formats of the weights on the board, for sim and tt: bf16; bfp8; "
        "mixed, bfp4 in attention and feed-forward; or auto, the bundle's, without one bf16",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="of linears, attention and KV: float32, bfloat16, or auto, which is bfloat16",
    )
    accelerator: Annotated[str, AfterValidator(_accelerator)] = Field(
        "cpu", description="where the torch backend runs: cpu, cuda or cuda:N"
    )
    threads: int | None = Field(
        None, ge=1, le=1024, description="CPU threads of a step; without it, torch chooses"
    )
    slots: int = Field(16, ge=1, le=1024, description="sequences that may be in flight")
    context_length: int | None = Field(
        None,
        ge=1,
        le=262_144,
        description="positions a sequence may have; without it, the model's own, at most 8192",
    )
    max_rows: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="rows of one step; a live stream never waits longer for prompts than such a "
        f"step takes; without it, {MAX_ROWS} with torch, {MAX_KERNEL_ROWS} with sim and tt, which "
        "take no more",
    )
    max_queued: int = Field(
        256, ge=0, le=100_000, description="sequences that may wait for a slot; more are refused"
    )
    drain_seconds: float = Field(
        30.0, ge=0, le=3600, description="seconds that open sequences may go on after SIGTERM"
    )
    step_timeout: float | None = Field(
        None,
        ge=0,
        le=86_400,
        description="seconds after which a step counts as hung: clients are told, and the program "
        f"ends with exit code 1; 0: never; without it, {STEP_TIMEOUT:g}, on a simulator never",
    )
    listen: Address = Field("127.0.0.1:50051", description="HOST:PORT to serve gRPC at")
    metrics_listen: Annotated[Address | None, BeforeValidator(_address_or_off)] = Field(
        "127.0.0.1:9101",
        description="HOST:PORT to serve Prometheus metrics at, under /metrics; or off",
    )
    name: str | None = Field(
        None,
        min_length=1,
        max_length=256,
        description="the name it is served under; without it, the directory's",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="what is logged to stderr: debug, info, warning or error"
    )

    @field_validator("max_rows")
    @classmethod
    def _fits_a_tile(cls, rows: int | None, others: ValidationInfo) -> int | None:
        backend = others.data.get("backend", "torch")
        if rows is not None and rows > MAX_KERNEL_ROWS and backend != "torch":
            raise ValueError(
                f"must be at most {MAX_KERNEL_ROWS} with --backend {backend}, whose step is one "
                "row of tiles"
            )
        return rows

    @field_validator("bundle", "weights")
    @classmethod
    def _is_read(cls, value: Path | str | None, others: ValidationInfo) -> Path | str | None:
        if value not in (None, "auto") and others.data.get("backend") == "torch":
            raise ValueError("goes with --backend sim or tt; torch reads the checkpoint as it is")
        return value

    @field_validator("precision", "accelerator", "threads")
    @classmethod
    def _is_heeded(cls, value: object, others: ValidationInfo) -> object:
        backend = others.data.get("backend")
        if value not in (None, "auto", "cpu") and backend in ("sim", "tt"):
            raise ValueError(f"goes with --backend torch, and {backend} would not heed it")
        return value

    @property
    def row_limit(self) -> int:
        """Rows of one step."""
        default = MAX_ROWS if self.backend == "torch" else MAX_KERNEL_ROWS
        return default if self.max_rows is None else self.max_rows

    @property
    def step_limit(self) -> float | None:
        """Seconds that a step may take; None: any time."""
        if self.step_timeout is not None:
            return self.step_timeout or None
        is_simulated = self.backend == "tt" and "TT_METAL_SIMULATOR" in os.environ
        return None if is_simulated or self.backend == "sim" else STEP_TIMEOUT


def load_settings(arguments: Sequence[str]) -> Settings:
    """Reads flags, then the environment, then defaults.

    `--help` and unknown flags end the program, as argparse does.

    Raises:
        SettingsError: a setting is missing, bad, unknown or given twice.
    """
    _refuse_repeated(arguments)
    _refuse_unknown_variables(os.environ)
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
    try:
        return Settings(_cli_settings_source=source)  # pyright: ignore[reportCallIssue] the fields come from the sources
    except ValidationError as invalid:
        raise SettingsError("; ".join(map(_problem, invalid.errors()))) from None


class _OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def _refuse_repeated(arguments: Sequence[str]) -> None:
    flags = [argument.partition("=")[0] for argument in arguments if argument.startswith("--")]
    for flag, count in Counter(flags).items():
        if count > 1:
            raise SettingsError(f"{flag} was given {count} times, and takes one value")


def _refuse_unknown_variables(variables: Iterable[str]) -> None:
    for variable in sorted(variables):
        name = variable.removeprefix(ENV_PREFIX)
        if name == variable or _SERVICE_LINK.fullmatch(name):
            continue
        if name.lower() not in Settings.model_fields:
            raise SettingsError(f"the environment variable {variable} names no setting")


def _problem(error: ErrorDetails) -> str:
    field = str(error["loc"][0])
    name = f"--{field.replace('_', '-')} (or {ENV_PREFIX}{field.upper()})"
    if error["type"] == "missing":
        return f"{name} is required"
    problem = error["msg"].removeprefix("Value error, ")
    return f"{name}: {problem[0].lower()}{problem[1:]}, not {str(error['input'])!r}"
