"""Every step of every released model has kernels that fit a board's cores and their memory."""

from __future__ import annotations

from typing import Any

import pytest

from device_service.model.config import parse_config
from device_service.model.tt_plan import FORMATS, Precision
from device_service.model.tt_staging import STAGED_TILES, part, stride
from device_service.model.tt_tensors import Tensors
from device_service.model.tt_weight_reader import qkv_width
from kernels import runtime
from kernels.runtime import N150_GRID, P150_GRID, Format, Grid
from tests.device_service.model.released import E2B, E4B, G12B, G31B, GEMMA3_270M

runtime.choose("sim")

from device_service.model.tt_decoder import layer_shape  # noqa: E402
from device_service.model.tt_operations import Operations  # noqa: E402

CONTEXT_LENGTH = 8192
EPS = 1e-6


class NoTensors(Tensors):
    """Sizes alone."""

    def put(self, host: Any, fmt: Format = "bf16") -> Any:
        return None

    def zeros(self, rows: int, columns: int, fmt: Format = "bf16") -> Any:
        return None


@pytest.mark.parametrize("precision", FORMATS)
@pytest.mark.parametrize("grid", [P150_GRID, N150_GRID], ids=["p150", "n150"])
@pytest.mark.parametrize("raw", [E2B, E4B, G12B, G31B, GEMMA3_270M])
def test_every_launch_of_a_step_can_be_made(raw: dict, grid: Grid, precision: Precision) -> None:
    config = parse_config(raw)
    ops = Operations(grid, NoTensors(None))
    formats, d = FORMATS[precision], config.hidden_size
    layers = {(x.kind, x.owns_kv, x.intermediate_size): x for x in config.layers}
    for layer in layers.values():
        shape = layer_shape(layer)
        ops.norm_linear(d, qkv_width(layer), formats["attention"], EPS)
        ops.mlp(d, layer.intermediate_size, formats["mlp"])
        places = stride(layer, CONTEXT_LENGTH)
        for slots in (1, 3, 32):
            ops.kv_append(shape, slots, STAGED_TILES)
            for waves in (1, layer.num_heads // layer.num_kv_heads):  # decode rows; 32 of a prompt
                ops.qkv_units(shape, slots * waves, layer.owns_kv, EPS)
                ops.attention(shape, slots, waves, places, places, part(layer))
                ops.attention_out(shape, slots * waves, d, formats["attention"])
    ops.residual_norms(d, EPS)
    ops.residual_norm(d, EPS)
    if config.per_layer_input_size:
        ops.ple(d, config.per_layer_input_size, EPS)
    ops.rms_norm(d, EPS)
    ops.linear(d, config.vocab_size, formats["lm_head"])
