"""Reads `DecodeRequest`s: protobuf commands into plain ones, checked against the model's limits.

Knows the contract and the limits; knows no state: whether a sequence is open, the core says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from device_service.errors import Code, CommandError, invalid
from device_service.messages import (
    AdvanceCommand,
    CloseCommand,
    Command,
    InspectCommand,
    OpenCommand,
    RefusedCommand,
)
from device_service.model.interface import ModelInfo, ReadoutOptions
from tessera.device.v1 import device_pb2 as pb

DEFAULT_TOP_CANDIDATES = 64
MIN_TEMPERATURE = 0.01
MAX_TEMPERATURE = 100.0
MAX_PRIORITY = 100


def read_request(request: pb.DecodeRequest, info: ModelInfo) -> list[Command]:
    """The commands in order; one that breaks a limit becomes a `RefusedCommand` in its place."""
    return [_read_command(command, info) for command in request.commands]


def _read_command(command: pb.Command, info: ModelInfo) -> Command:
    action = command.WhichOneof("action")
    try:
        match action:
            case "open":
                return _read_open(command.sequence, command.open, info)
            case "advance":
                return _read_advance(command.sequence, command.advance, info)
            case "inspect":
                return InspectCommand(command.sequence)
            case "close":
                return CloseCommand(command.sequence)
            case None:
                raise invalid(
                    "action", "action is not set: set one of open, advance, inspect, close"
                )
    except CommandError as error:
        return RefusedCommand(command.sequence, action == "open", error)


def _read_open(sequence: int, message: pb.Open, info: ModelInfo) -> OpenCommand:
    token_ids = tuple(message.token_ids)
    if not 1 <= len(token_ids) <= info.context_length:
        raise invalid(
            "open.token_ids",
            f"open.token_ids has {len(token_ids):,} ids: it must have 1 to {info.context_length:,} "
            "(context_length)",
        )
    _check_vocabulary("open.token_ids", token_ids, info)
    if abs(message.priority) > MAX_PRIORITY:
        raise invalid(
            "open.priority",
            f"open.priority is {message.priority}: it must be -{MAX_PRIORITY} to {MAX_PRIORITY}",
        )
    if message.HasField("prediction"):
        raise CommandError(
            Code.UNIMPLEMENTED,
            "open.prediction",
            "open.prediction is not implemented: leave it out",
        )
    options = _read_options(message.readout, info)
    return OpenCommand(sequence, token_ids, options, message.readout.full, message.priority)


def _read_options(message: pb.ReadoutOptions, info: ModelInfo) -> ReadoutOptions:
    limit = info.max_top_candidates
    if message.top_candidates > limit:
        raise invalid(
            "open.readout.top_candidates",
            f"open.readout.top_candidates is {message.top_candidates:,}: it must be at most "
            f"{limit:,} (max_top_candidates)",
        )
    temperature = message.temperature
    # The field holds float32, whose 0.01 lies a little below 0.01.
    lowest = float(np.float32(MIN_TEMPERATURE))
    # Written so that NaN fails too.
    if temperature != 0 and not lowest <= temperature <= MAX_TEMPERATURE:
        raise invalid(
            "open.readout.temperature",
            f"open.readout.temperature is {temperature:g}: it must be 0 (for 1) or "
            f"{MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g}",
        )
    assert math.isfinite(temperature)
    return ReadoutOptions(
        message.top_candidates or min(DEFAULT_TOP_CANDIDATES, limit), temperature or 1.0
    )


def _read_advance(sequence: int, message: pb.Advance, info: ModelInfo) -> AdvanceCommand:
    token_ids = tuple(message.token_ids)
    if not 1 <= len(token_ids) <= info.max_rows:
        raise invalid(
            "advance.token_ids",
            f"advance.token_ids has {len(token_ids):,} ids: it must have 1 to {info.max_rows:,} "
            "(max_rows)",
        )
    _check_vocabulary("advance.token_ids", token_ids, info)
    end = message.position + len(token_ids)
    if message.position == 0:
        raise invalid(
            "advance.position", "advance.position is 0: it must be at least 1, after the prompt"
        )
    if end > info.context_length:
        raise invalid(
            "advance.position",
            f"advance.position is {message.position:,} and would end at {end:,}: the end must be "
            f"at most {info.context_length:,} (context_length)",
        )
    return AdvanceCommand(sequence, message.position, token_ids)


def _check_vocabulary(field: str, token_ids: Sequence[int], info: ModelInfo) -> None:
    if max(token_ids) < info.vocab_size:
        return
    index, token_id = next((i, x) for i, x in enumerate(token_ids) if x >= info.vocab_size)
    raise invalid(
        f"{field}[{index}]",
        f"{field}[{index}] is {token_id}: it must be below {info.vocab_size} (vocab_size)",
    )
