"""What fits a board, and what is said where it does not."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from device_service.model.config import ModelConfig, parse_config
from device_service.model.tt_boards import BOARDS, GIB
from device_service.model.tt_plan import (
    FORMATS,
    PlanError,
    Precision,
    make_plan,
    matrices,
    most_slots,
)
from device_service.model.tt_weights import head_tensors, layer_tensors
from kernels.tiles import num_bytes
from tests.device_service.model.released import E2B, E4B, G12B, G31B

ROOMY = dataclasses.replace(BOARDS["p150"], dram_bytes=1000 * GIB)
MODELS = {"E2B": E2B, "E4B": E4B, "12B": G12B, "31B": G31B}
READ_PER_TOKEN = {"E2B": 2_279_759_104, "E4B": 4_644_441_088}
"""Published: the parameters read for one token, norms included."""
NORMS = {"E2B": 285_952, "E4B": 560_128}


def model(name: str) -> ModelConfig:
    raw: dict[str, Any] = MODELS[name]
    return parse_config(raw)


@pytest.mark.parametrize("name", READ_PER_TOKEN)
def test_the_matrices_are_the_published_parameters(name: str) -> None:
    elements = sum(x.k * x.n for x in matrices(model(name)))
    assert elements == READ_PER_TOKEN[name] - NORMS[name]


def test_bfp8_takes_seventeen_sixteenths_of_a_byte_a_value_but_per_layer_two_bytes() -> None:
    config = model("E4B")
    plan = make_plan(config, BOARDS["p150"], precision="bfp8", slots=1, context_length=128)
    per_layer = 2 * config.hidden_size * config.per_layer_input_size * len(config.layers)
    on_host = config.hidden_size * config.per_layer_input_size * len(config.layers)
    assert [x.k * x.n for x in matrices(config) if x.on_host] == [on_host]
    elements = READ_PER_TOKEN["E4B"] - NORMS["E4B"] - per_layer - on_host
    assert plan.weight_bytes["per_layer"] == 2 * per_layer
    assert sum(plan.weight_bytes.values()) == elements * 17 // 16 + 2 * per_layer


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("precision", FORMATS)
def test_the_plan_counts_what_is_loaded(name: str, precision: Precision) -> None:
    config = model(name)
    plan = make_plan(config, ROOMY, precision=precision, slots=1, context_length=128)
    loaded = [*head_tensors(config, precision)]
    loaded += [x for layer in config.layers for x in layer_tensors(config, layer, precision)]
    large = [x for x in loaded if min(x.shape) > 96]
    assert sum(num_bytes(x.shape, x.fmt) for x in large) == sum(plan.weight_bytes.values())


def test_kv_of_one_sequence_is_as_published() -> None:
    plan = make_plan(model("E4B"), BOARDS["p150"], precision="bf16", slots=1, context_length=8192)
    staged = 128
    assert plan.full_kv_bytes == 16_384 * (8192 + staged)
    assert plan.ring_bytes == 20_971_520 * (512 + staged) // 512


@pytest.mark.parametrize(
    ("name", "board", "precision", "fits"),
    [
        ("E2B", "n150", "bf16", True),
        ("E4B", "n150", "bf16", True),
        ("E4B", "p150", "bf16", True),
        ("12B", "n150", "bf16", False),
        ("12B", "p150", "bf16", True),
        ("31B", "p150", "bf16", False),
        ("31B", "p150", "bfp8", False),
        ("31B", "p150", "mixed", True),
        ("31B", "n150", "mixed", False),
    ],
)
def test_what_fits_which_board(name: str, board: str, precision: Precision, fits: bool) -> None:
    slots = most_slots(model(name), BOARDS[board], precision=precision, context_length=4096)
    assert (slots > 0) == fits


def test_as_many_slots_as_are_said_to_fit_do_fit_and_no_more() -> None:
    config, board = model("E4B"), BOARDS["p150"]
    slots = most_slots(config, board, precision="bfp8", context_length=65_536)
    plan = make_plan(config, board, precision="bfp8", slots=slots, context_length=65_536)
    assert plan.total_bytes <= board.usable_bytes
    with pytest.raises(PlanError, match=f": {slots} slots fit"):
        make_plan(config, board, precision="bfp8", slots=slots + 1, context_length=65_536)


def test_a_refusal_has_the_numbers_and_what_would_fit() -> None:
    with pytest.raises(PlanError) as refused:
        make_plan(model("31B"), BOARDS["p150"], precision="bfp8", slots=1, context_length=4096)
    message = str(refused.value)
    assert message.startswith("bfp8 weights, 1 slots and 4096 positions take ")
    assert message.endswith(f"({BOARDS['p150'].usable_bytes / GIB:.2f}): mixed weights fit")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"slots": 0}, "slots is 0, not 1 to 32"),
        ({"slots": 33}, "slots is 33, not 1 to 32"),
        ({"max_rows": 33}, "max_rows is 33, and a step has at most 32 rows"),
        ({"context_length": 131_073}, "context_length is 131073, not 1 to 131072"),
    ],
)
def test_arguments_out_of_their_limits_are_named(arguments: dict[str, int], said: str) -> None:
    wanted = {"slots": 1, "context_length": 128} | arguments
    with pytest.raises(PlanError, match=said):
        make_plan(model("E2B"), BOARDS["p150"], precision="bf16", **wanted)


def test_the_lines_name_every_part() -> None:
    plan = make_plan(model("E2B"), BOARDS["p150"], precision="mixed", slots=2, context_length=256)
    text = "\n".join(plan.lines())
    for part in ("attention", "mlp", "per_layer", "lm_head", "norms", "rings", "in all", "p150"):
        assert part in text
