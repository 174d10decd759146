"""The decoder in kernels: rows of a step in, logits of the rows that are read out.

One tile row of activations goes from kernel to kernel through the device's DRAM; what a step needs
besides (masks, tables, selections) is uploaded before its first kernel. A layer is eight launches
at most. Runs on the functional simulator and on real ttnn alike: `kernels.runtime` was chosen
before this is imported. Shapes use the key of `README.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from device_service.model.architecture import LayerConfig, ModelConfig
from device_service.model.interface import StepBatch
from device_service.model.tt_caches import Caches
from device_service.model.tt_flight import Flight
from device_service.model.tt_inputs import DeviceKindStep, Embeddings, upload_kind
from device_service.model.tt_operations import LayerShape, Operations
from device_service.model.tt_plan import FORMATS, MASKS
from device_service.model.tt_staging import STAGED_TILES, Staging, part
from device_service.model.tt_step import Row, kind_step, rows_of
from device_service.model.tt_tensors import Tensor, Tensors
from device_service.model.tt_traces import Traces
from device_service.model.tt_weight_reader import padded_head, qkv_width
from device_service.model.tt_weights import TtWeights
from kernels.runtime import TILE, Format

Observe = Callable[[int, torch.Tensor], None]
"""Gets a layer's index and its residual stream, [B, D]."""

Weights = Mapping[str, Tensor]


class TtDecoder:
    """All weights and KV caches on the device, and the order of the kernels."""

    def __init__(
        self,
        config: ModelConfig,
        weights: TtWeights,
        tensors: Tensors,
        operations: Operations,
        num_slots: int,
        context_length: int,
    ) -> None:
        self._config = config
        self._tensors = tensors
        self._operations = operations
        self._num_slots = num_slots
        self._context_length = context_length
        self._formats = FORMATS[weights.precision]
        self._masks: Format = MASKS[weights.precision]
        self._embeddings = Embeddings(config, weights)
        self._head = weights.head()
        self._layers: list[Weights] = [weights.layer(layer) for layer in config.layers]
        self._staging = Staging(num_slots)
        self._caches = Caches(config.layers, num_slots, context_length, tensors)
        self._traces = Traces(tensors)
        self._flight = Flight(tensors.device)

    def clear(self) -> None:
        """Empties all slots: what they hold is masked from now on."""
        self._staging.clear()

    def settle(self) -> None:
        """Returns when no step runs any more."""
        self._flight.land()

    def run(self, batch: StepBatch, observe: Observe | None = None) -> torch.Tensor | None:
        """Runs a step's rows; where none is read, it may still run on return (`tt_flight`).

        Args:
            batch: within the limits; at most 32 rows.
            observe: sees each layer's residual stream; costs a transfer a layer.

        Returns:
            Logits [R, V] of the rows that are read, before the softcap; None if there are none.
        """
        self._tensors.begin_step()
        rows = rows_of(batch)
        ends = [(x.slot, x.start, x.start + len(x.token_ids) - 1) for x in batch.spans]
        self._caches.move(self._staging.place(ends))
        steps = self._upload_steps(rows)
        ids = [row.token_id for row in rows]
        embedded = self._embeddings.of(ids)
        inputs = self._upload_per_layer(ids, embedded)
        h = self._tensors.upload("embedded", embedded)
        read = [i for i, row in enumerate(rows) if row.is_read]

        def see(index: int, residual: Tensor) -> None:
            if observe is not None:
                observe(index, self._tensors.get(residual)[: len(rows)].clone())

        def launch() -> Tensor:
            last = self._run_layers(h, steps, inputs, see, whole=bool(read))
            return self._logits(last) if read else last

        shapes = tuple((kind, step.sizes.shape) for kind, step in steps.items())
        shape = (shapes, bool(read))
        result = self._traces.run(shape, launch) if observe is None else launch()
        self._flight.hand_over()
        return self._tensors.get(result)[read] if read else None

    def _run_layers(
        self,
        h: Tensor,
        steps: Mapping[str, DeviceKindStep],
        inputs: Mapping[int, Tensor],
        see: Callable[[int, Tensor], None],
        *,
        whole: bool,
    ) -> Tensor:
        """The residual stream behind the last layer, or, if not `whole`, the last that writes keys.

        What follows that one need not run for rows that nobody reads.
        """
        count = len(self._layers) if whole else self._config.first_shared_layer
        for layer in self._config.layers[:count]:
            h = self._layer(layer, h, steps[layer.kind.value], inputs.get(layer.index))
            see(layer.index, h)
        return h

    # --- what a step brings -----------------------------------------------------------------------

    def _upload_steps(self, rows: Sequence[Row]) -> Mapping[str, DeviceKindStep]:
        """One for each kind of layer: all layers of a kind have the same heads."""
        kinds = {layer.kind.value: layer for layer in self._config.layers}
        return {
            kind: upload_kind(
                kind,
                kind_step(layer, rows, self._num_slots, self._context_length),
                self._tensors,
                self._masks,
            )
            for kind, layer in kinds.items()
        }

    def _upload_per_layer(self, ids: list[int], embedded: torch.Tensor) -> Mapping[int, Tensor]:
        """Each layer's [32, P]; none where the model has none."""
        if not self._config.per_layer_input_size:
            return {}
        inputs = self._embeddings.per_layer(ids, embedded)
        return {i: self._tensors.upload(f"pli {i}", one) for i, one in enumerate(inputs)}

    # --- one layer --------------------------------------------------------------------------------

    def _layer(
        self, layer: LayerConfig, h: Tensor, step: DeviceKindStep, per_layer_input: Tensor | None
    ) -> Tensor:
        ops, eps, d = self._operations, self._config.rms_norm_eps, self._config.hidden_size
        weights, f = self._layers[layer.index], layer.intermediate_size
        a = self._attention(layer, h, step, weights)
        h1, x, m, y = (self._buffer(name, d) for name in ("h1", "x", "m", f"h {layer.index % 2}"))
        ops.residual_norms(d, eps)(
            a, weights["post_attention_norm"], h, weights["pre_feedforward_norm"], h1, x
        )
        ops.mlp(d, f, self._formats["mlp"])(x, weights["gate"], weights["up"], weights["down"], m)
        post = weights["post_feedforward_norm"]
        if per_layer_input is None:
            ops.residual_norm(d, eps)(m, post, h1, weights["scalar"], y)
            return y
        ops.ple(d, self._config.per_layer_input_size, eps)(
            m,
            post,
            h1,
            per_layer_input,
            weights["per_layer_gate"],
            weights["per_layer_projection"],
            weights["post_per_layer_norm"],
            weights["scalar"],
            y,
        )
        return y

    def _attention(
        self, layer: LayerConfig, h: Tensor, step: DeviceKindStep, weights: Weights
    ) -> Tensor:
        """`o_proj · softmax(q · kᵀ + mask) · v` of the normed residual stream."""
        ops, d, fmt = self._operations, self._config.hidden_size, self._formats["attention"]
        shape, sizes, tables = layer_shape(layer), step.sizes, step.tables
        cache = self._caches.of(layer)
        qkv = self._projections(layer, h, weights)
        units = sizes.chunks * shape.kv_heads * TILE
        q = self._tensors.buffer("q", units, shape.head_dim)
        out = self._tensors.buffer("attended", units, shape.head_dim)
        self._split(layer, qkv, step, q, weights)
        masks = tables["mask"], tables["mask_staged"]
        ops.attention(shape, sizes.slots, sizes.waves, sizes.length, cache.stride, part(layer))(
            q, cache.k, cache.v, cache.k_staged, cache.v_staged, *masks, out
        )
        a = self._buffer("a", d)
        ops.attention_out(shape, sizes.chunks, d, fmt)(out, tables["from_units"], weights["o"], a)
        return a

    def _projections(self, layer: LayerConfig, h: Tensor, weights: Weights) -> Tensor:
        """q, k and v of the normed residual stream, side by side, raw."""
        d, eps = self._config.hidden_size, self._config.rms_norm_eps
        width = qkv_width(layer)
        qkv = self._buffer("qkv", width)
        project = self._operations.norm_linear(d, width, self._formats["attention"], eps)
        project(h, weights["input_norm"], weights["qkv"], qkv)
        return qkv

    def _split(
        self, layer: LayerConfig, qkv: Tensor, step: DeviceKindStep, q: Tensor, weights: Weights
    ) -> None:
        """Queries to attention's units; keys and values of all rows to staging."""
        ops, shape, tables = self._operations, layer_shape(layer), step.tables
        split = ops.qkv_units(shape, step.sizes.chunks, layer.owns_kv, self._config.rms_norm_eps)
        selections = tables["to_units"], tables["tokens"]
        inputs = (qkv, *selections, weights["head_norms"], tables["cos"], tables["sin"])
        if not layer.owns_kv:
            split(*inputs, q)
            return
        width = shape.kv_heads * shape.head_dim
        k = self._buffer("k", width)
        if layer.value_norm:
            v = self._buffer("v", width)
            split(*inputs, q, k, v)
        else:
            v = qkv
            split(*inputs, q, k)
        cache = self._caches.of(layer)
        append = ops.kv_append(shape, step.sizes.slots, STAGED_TILES)
        append(k, v, tables["append"], cache.k_staged, cache.v_staged)

    def _logits(self, h: Tensor) -> Tensor:
        ops, d, v = self._operations, self._config.hidden_size, self._config.vocab_size
        normed, logits = self._buffer("final", d), self._buffer("logits", v)
        ops.rms_norm(d, self._config.rms_norm_eps)(h, self._head["norm"], normed)
        ops.linear(d, v, self._formats["lm_head"])(normed, self._head["lm_head"], logits)
        return logits

    def _buffer(self, name: str, width: int) -> Tensor:
        """A tile row of that name."""
        return self._tensors.buffer(name, TILE, width)


def layer_shape(layer: LayerConfig) -> LayerShape:
    """A layer's heads, for the kernels."""
    return LayerShape(
        layer.num_heads,
        layer.num_kv_heads,
        padded_head(layer.head_dim),
        layer.head_dim,
        layer.k_eq_v,
        layer.value_norm,
    )
