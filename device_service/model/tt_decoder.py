"""The decoder in kernels: rows of a step in, logits of the rows that are read out.

One tile row of activations goes from kernel to kernel through the device's DRAM; what a step needs
besides (masks, tables, selections) is uploaded before its first kernel. Runs on the functional
simulator and on real ttnn alike: `kernels.runtime` was chosen before this is imported. Shapes use
the key of `README.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from device_service.model.architecture import LayerConfig, LayerKind, ModelConfig
from device_service.model.checkpoint import Checkpoint
from device_service.model.interface import ReportProgress, StepBatch
from device_service.model.tt_operations import Operations
from device_service.model.tt_step import KindStep, Row, kind_step, rows_of, slots_in_use
from device_service.model.tt_weights import (
    LayerWeights,
    WeightReader,
    padded_head,
    values_apart,
)
from kernels import runtime
from kernels.gelu_mul import GELU_TILES
from kernels.kv_append import append_selection
from kernels.runtime import TILE, Format

Tensor = Any
"""A tensor of the chosen runtime, in the device's DRAM."""

Observe = Callable[[int, torch.Tensor], None]
"""Gets a layer's index and its residual stream, [B, D]."""

FULL_LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144)
"""Length buckets of full layers: a program is compiled for each that is needed."""

_F32 = frozenset({"q_norm", "k_norm"})
"""Weights that stay in float32: the head norms."""


@dataclass(slots=True)
class Caches:
    """Keys and values of one layer, all slots: [slots · K · S, H] each, padded heads."""

    k: Tensor
    v: Tensor
    length: int
    """S"""


@dataclass(frozen=True, slots=True)
class _DeviceWave:
    to_units: Tensor
    from_units: Tensor
    mask: Tensor


@dataclass(frozen=True, slots=True)
class _DeviceStep:
    """A `KindStep`, uploaded."""

    cos: Tensor
    sin: Tensor
    append: Tensor
    waves: tuple[_DeviceWave, ...]
    chunks: int


class TtDecoder:
    """All weights and KV caches on the device, and the order of the kernels."""

    def __init__(
        self,
        config: ModelConfig,
        checkpoint: Checkpoint,
        device: Tensor,
        operations: Operations,
        num_slots: int,
        context_length: int,
        report: ReportProgress,
    ) -> None:
        self._config = config
        self._device = device
        self._operations = operations
        self._num_slots = -(-num_slots // 2) * 2  # units of attention are made by two cores or more
        self._context_length = context_length
        reader = WeightReader(checkpoint, config)
        self._embeddings = checkpoint.tensor("embed_tokens.weight")
        self._embedding_scale = float(torch.tensor(config.hidden_size**0.5, dtype=torch.bfloat16))
        self._lm_head = self._put(reader.matrix("embed_tokens"))
        self._norm = self._put(reader.norm("norm"))
        if config.per_layer_input_size:
            self._per_layer_embeddings = checkpoint.tensor("embed_tokens_per_layer.weight")
            self._per_layer_projection = checkpoint.tensor(
                "per_layer_model_projection.weight"
            ).bfloat16()
            self._per_layer_norm = reader.norm("per_layer_projection_norm")[0]
        self._kinds = {layer.kind: layer for layer in config.layers}
        self._layers: list[Mapping[str, Tensor]] = []
        for layer in config.layers:
            self._layers.append(self._upload(reader.layer(layer)))
            checkpoint.release_pages()
            if (layer.index + 1) % 10 == 0 or layer is config.layers[-1]:
                report(f"loaded {layer.index + 1} of {len(config.layers)} layers")
        self._gelu = self._put(torch.cat([torch.full((TILE, TILE), x) for x in GELU_TILES], dim=1))
        self._ones = self._put(torch.ones(TILE, TILE))
        self._buffers: dict[tuple[str, int, int], Tensor] = {}
        self._caches: dict[int, Caches] = {}
        self.clear()

    def clear(self) -> None:
        """Empties all slots."""
        self._caches = {
            layer.index: self._new_caches(layer, self._length(layer, 0))
            for layer in self._config.layers
            if layer.owns_kv
        }

    def run(self, batch: StepBatch, observe: Observe | None = None) -> torch.Tensor | None:
        """Runs a step's rows.

        Args:
            batch: within the limits; at most 32 rows.
            observe: sees each layer's residual stream; costs a transfer a layer.

        Returns:
            Logits [R, V] of the rows that are read, before the softcap; None if there are none.
        """
        rows = rows_of(batch)
        ids = torch.tensor([row.token_id for row in rows])
        embedded = self._embed(ids)
        per_layer = self._per_layer_inputs(ids, embedded)
        steps = self._upload_step(rows)
        h = self._put_rows(embedded)
        for layer in self._config.layers:
            inputs = None if per_layer is None else per_layer[:, layer.index]
            h = self._layer(layer, h, steps[layer.kind], inputs)
            if observe is not None:
                observe(layer.index, runtime.get(h)[: len(rows)].clone())
        read = [i for i, row in enumerate(rows) if row.is_read]
        return runtime.get(self._logits(h))[read] if read else None

    # --- one layer --------------------------------------------------------------------------------

    def _layer(
        self, layer: LayerConfig, h: Tensor, step: _DeviceStep, per_layer_input: torch.Tensor | None
    ) -> Tensor:
        ops, eps, d = self._operations, self._config.rms_norm_eps, self._config.hidden_size
        weights = self._layers[layer.index]
        x = self._run(ops.rms_norm(d, eps), "x", d, h, weights["input_norm"])
        a = self._attention(layer, x, step, weights)
        norm = ops.residual_norm(d, eps)
        h = self._run(norm, "h1", d, a, weights["post_attention_norm"], h, self._ones)
        y = self._run(ops.rms_norm(d, eps), "x", d, h, weights["pre_feedforward_norm"])
        m = self._feed_forward(layer, y, weights)
        scale = weights["scalar"] if per_layer_input is None else self._ones
        h = self._run(norm, "h2", d, m, weights["post_feedforward_norm"], h, scale)
        if per_layer_input is None:
            return h
        p = self._per_layer_block(h, per_layer_input, weights)
        post = weights["post_per_layer_norm"]
        return self._run(norm, "h", d, p, post, h, weights["scalar"])

    def _attention(
        self, layer: LayerConfig, x: Tensor, step: _DeviceStep, weights: Mapping[str, Tensor]
    ) -> Tensor:
        """`o_proj · softmax(q · kᵀ + mask) · v`."""
        ops, size = self._operations, padded_head(layer.head_dim)
        heads, kv_heads, d = layer.num_heads, layer.num_kv_heads, self._config.hidden_size
        q = self._queries(layer, x, step, weights)
        caches = self._caches[layer.kv_source]
        units, length = step.chunks * kv_heads, caches.length
        shape = (heads, kv_heads, size, step.chunks)
        spread = self._buffer("units", units * TILE, size)
        out = self._buffer("attended", units * TILE, size)
        attended = None
        for n, wave in enumerate(step.waves):
            ops.to_heads(*shape)(q, wave.to_units, spread)
            ops.attention(units, length, size)(spread, caches.k, caches.v, wave.mask, out)
            back = self._buffer(f"wave {n}", TILE, heads * size)
            ops.from_heads(*shape)(out, wave.from_units, back)
            if attended is None:
                attended = back
            else:  # each wave has rows of its own, zeros elsewhere
                add, total = ops.residual_add(heads * size), f"waves to {n}"
                attended = self._run(add, total, heads * size, attended, back)
        return self._run(ops.linear(heads * size, d), "a", d, attended, weights["o"])

    def _queries(
        self, layer: LayerConfig, x: Tensor, step: _DeviceStep, weights: Mapping[str, Tensor]
    ) -> Tensor:
        """Queries of the step's rows; its keys and values go to the cache on the way."""
        ops, size, d = self._operations, padded_head(layer.head_dim), self._config.hidden_size
        own = layer.num_kv_heads if layer.owns_kv else 0
        apart = values_apart(layer)
        parts = own if apart else 2 * own
        width = (layer.num_heads + parts) * size
        qkv = self._run(ops.linear(d, width), "qkv", width, x, weights["qkv"])
        split = ops.qkv_heads(
            layer.num_heads, own, size, layer.head_dim, apart, self._config.rms_norm_eps
        )
        q = self._buffer("q", TILE, layer.num_heads * size)
        if not own:
            split(qkv, weights["q_norm"], step.cos, step.sin, q)
            return q
        k, v = self._buffer("k", TILE, own * size), self._buffer("v", TILE, own * size)
        split(qkv, weights["q_norm"], weights["k_norm"], step.cos, step.sin, q, k, v)
        if not layer.value_norm:
            v = self._run(ops.linear(d, own * size), "v_raw", own * size, x, weights["v"])
        caches = self._caches[layer.index]
        append = ops.kv_append(self._num_slots, own, size, caches.length)
        append(k, v, step.append, caches.k, caches.v)
        return q

    def _feed_forward(self, layer: LayerConfig, y: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """`down(gelu(gate y) ⊙ up y)`."""
        ops, d, f = self._operations, self._config.hidden_size, layer.intermediate_size
        gate = self._run(ops.linear(d, f), "gate", f, y, weights["gate"])
        up = self._run(ops.linear(d, f), "up", f, y, weights["up"])
        act = self._run(ops.gelu_mul(f), "act", f, gate, up, self._gelu)
        return self._run(ops.linear(f, d), "m", d, act, weights["down"])

    def _per_layer_block(
        self, h: Tensor, inputs: torch.Tensor, weights: Mapping[str, Tensor]
    ) -> Tensor:
        """`per_layer_projection(gelu(per_layer_input_gate h) ⊙ pli)`."""
        ops, d, p = self._operations, self._config.hidden_size, self._config.per_layer_input_size
        gate = self._run(ops.linear(d, p), "p_gate", p, h, weights["per_layer_gate"])
        act = self._run(ops.gelu_mul(p), "p_act", p, gate, self._put_rows(inputs), self._gelu)
        return self._run(ops.linear(p, d), "p", d, act, weights["per_layer_projection"])

    def _logits(self, h: Tensor) -> Tensor:
        ops, d, v = self._operations, self._config.hidden_size, self._config.vocab_size
        x = self._run(ops.rms_norm(d, self._config.rms_norm_eps), "x", d, h, self._norm)
        return self._run(ops.linear(d, v), "logits", v, x, self._lm_head)

    # --- what a step is made of -------------------------------------------------------------------

    def _upload_step(self, rows: Sequence[Row]) -> Mapping[LayerKind, _DeviceStep]:
        slots = slots_in_use(rows, self._num_slots)
        last = max(row.position for row in rows)
        for layer in self._config.layers:
            if layer.owns_kv:
                self._grow(layer, self._length(layer, last))
        return {
            kind: self._upload_kind(
                layer, kind_step(layer, rows, slots, self._caches[layer.kv_source].length), slots
            )
            for kind, layer in self._kinds.items()
        }

    def _upload_kind(self, layer: LayerConfig, step: KindStep, slots: int) -> _DeviceStep:
        tiles = self._caches[layer.kv_source].length // TILE
        waves = tuple(
            _DeviceWave(self._put(w.to_units), self._put(w.from_units), self._put(w.mask))
            for w in step.waves
        )
        append = append_selection(step.places, self._num_slots, tiles)
        return _DeviceStep(
            self._put(step.cos), self._put(step.sin), self._put(append), waves, slots
        )

    def _embed(self, ids: torch.Tensor) -> torch.Tensor:
        """`e = E[id] · dtype(√D)`: float32 [B, D]."""
        return self._embeddings[ids].float() * self._embedding_scale

    def _per_layer_inputs(self, ids: torch.Tensor, e: torch.Tensor) -> torch.Tensor | None:
        """`pli = (ctx + tok) / √2`: [B, L, P], on the host; None where there are none."""
        config, size = self._config, self._config.per_layer_input_size
        if not size:
            return None
        shape = (len(ids), len(config.layers), size)
        tok = self._per_layer_embeddings[ids].float().view(shape) * size**0.5
        ctx = torch.nn.functional.linear(e.bfloat16(), self._per_layer_projection)
        ctx = ctx.view(shape).float() * config.hidden_size**-0.5
        norm = self._per_layer_norm
        ctx = torch.nn.functional.rms_norm(ctx, (size,), norm, config.rms_norm_eps)
        return (ctx + tok) * 2.0**-0.5

    # --- caches -----------------------------------------------------------------------------------

    def _length(self, layer: LayerConfig, last_position: int) -> int:
        """Places of a slot's cache, so that it holds `last_position`."""
        if layer.window is not None:
            return -(-(layer.window - 1 + TILE) // TILE) * TILE
        whole = -(-self._context_length // TILE) * TILE
        return min(whole, next(n for n in FULL_LENGTHS if n > last_position))

    def _new_caches(self, layer: LayerConfig, length: int) -> Caches:
        shape = (self._num_slots * layer.num_kv_heads * length, padded_head(layer.head_dim))
        return Caches(self._put(torch.zeros(shape)), self._put(torch.zeros(shape)), length)

    def _grow(self, layer: LayerConfig, length: int) -> None:
        """Moves a cache to a longer bucket. Seldom: each bucket is twice the one before."""
        old = self._caches[layer.index]
        if length <= old.length:
            return
        new = self._new_caches(layer, length)

        def longer(cache: Tensor) -> Tensor:
            held = runtime.get(cache).view(-1, old.length, padded_head(layer.head_dim))
            room = (0, 0, 0, length - old.length)
            return self._put(torch.nn.functional.pad(held, room).flatten(0, 1))

        new.k, new.v = longer(old.k), longer(old.v)
        self._caches[layer.index] = new

    # --- tensors ----------------------------------------------------------------------------------

    def _run(
        self, operation: Callable[..., None], name: str, width: int, *inputs: Tensor
    ) -> Tensor:
        """Runs an operation whose last operand is its output, into the buffer of that name."""
        out = self._buffer(name, TILE, width)
        operation(*inputs, out)
        return out

    def _buffer(self, name: str, rows: int, width: int) -> Tensor:
        key = (name, rows, width)
        if key not in self._buffers:
            self._buffers[key] = self._put(torch.zeros(rows, width))
        return self._buffers[key]

    def _put(self, tensor: torch.Tensor, fmt: Format = "bf16") -> Tensor:
        return runtime.put(tensor, fmt, self._device)

    def _put_rows(self, rows: torch.Tensor) -> Tensor:
        """[B, n] → a tile row, zeros behind."""
        return self._put(torch.nn.functional.pad(rows, (0, 0, 0, TILE - len(rows))))

    def _upload(self, weights: LayerWeights) -> Mapping[str, Tensor]:
        found = {field.name: getattr(weights, field.name) for field in fields(weights)}
        return {
            name: self._put(tensor, "f32" if name in _F32 else "bf16")
            for name, tensor in found.items()
            if tensor is not None
        }
