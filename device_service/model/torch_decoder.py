"""The decoder in torch: rows of a step in, logits of the rows that are read out.

Knows weights and formulas; knows no limits and no readouts. Rows that nobody reads stop as soon as
their last keys and values are written: layers that share their KV need not run for them. Shapes use
the key of `README.md`: B rows, R rows that are read, D hidden, L layers, P per-layer-input width,
V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from device_service.model.architecture import ModelConfig
from device_service.model.checkpoint import Checkpoint
from device_service.model.interface import ReportProgress, StepBatch
from device_service.model.kv_cache import KVCache
from device_service.model.torch_layer import TorchLayer, WeightLoader
from device_service.model.torch_rows import place_rows, read_row_index

Tensor = torch.Tensor


class TorchDecoder:
    """All weights, and the KV caches of all slots."""

    def __init__(
        self,
        config: ModelConfig,
        checkpoint: Checkpoint,
        dtype: torch.dtype,
        device: torch.device,
        report: ReportProgress,
    ) -> None:
        self._config = config
        self._dtype = dtype
        self._device = device
        loader = WeightLoader(checkpoint, config, dtype, device)
        # Both tables stay in their files; only the rows of a step's ids are ever read.
        self._embeddings = checkpoint.tensor("embed_tokens.weight")
        self._embedding_scale = float(torch.tensor(config.hidden_size**0.5, dtype=dtype))
        self._lm_head = loader.linear("embed_tokens")
        self._norm = loader.norm("norm")
        checkpoint.release_pages()
        if config.per_layer_input_size:
            self._per_layer_embeddings = checkpoint.tensor("embed_tokens_per_layer.weight")
            self._per_layer_projection = loader.linear("per_layer_model_projection")
            self._per_layer_norm = loader.norm("per_layer_projection_norm")
        self._layers: list[TorchLayer] = []
        for layer in config.layers:
            self._layers.append(TorchLayer(layer, loader))
            checkpoint.release_pages()
            if (layer.index + 1) % 10 == 0 or layer is config.layers[-1]:
                report(f"loaded {layer.index + 1} of {len(config.layers)} layers")
        self._last_writer = max(layer.index for layer in config.layers if layer.owns_kv)
        self._kinds = list({layer.kind: layer for layer in config.layers}.values())

    def new_caches(self, ring_size: int, context_length: int) -> dict[int, KVCache]:
        """Empty caches for one slot."""
        return {
            layer.index: KVCache(
                layer.num_kv_heads,
                layer.head_dim,
                context_length if layer.window is None else ring_size,
                context_length,
                self._dtype,
                self._device,
            )
            for layer in self._config.layers
            if layer.owns_kv
        }

    def run(self, batch: StepBatch, caches: list[dict[int, KVCache]]) -> Tensor | None:
        """Runs a step's rows.

        Args:
            batch: within the limits.
            caches: of all slots; those of the batch advance.

        Returns:
            Final hidden states [R, D] of the rows that are read; None if there are none.
        """
        spans, device = batch.spans, self._device
        ids = torch.tensor([x for span in spans for x in span.token_ids])
        rows = place_rows(spans, self._kinds, device, only_read=False)
        index = read_row_index(spans, device)
        h = self._embed(ids)
        per_layer_inputs = self._per_layer_inputs(ids, h)
        for layer in self._layers:
            x = layer.attention_input(h)
            layer.write_keys_values(x, rows, caches)
            if layer.layer.index == self._last_writer and len(index) < len(ids):
                if not len(index):
                    return None
                rows = place_rows(spans, self._kinds, device, only_read=True)
                h, x = h[index], x[index]
                if per_layer_inputs is not None:
                    per_layer_inputs = per_layer_inputs[index]
            p = None if per_layer_inputs is None else per_layer_inputs[:, layer.layer.index]
            h = layer.advance(h, x, p, rows, caches)
        return F.rms_norm(h, self._norm.shape, self._norm, self._config.rms_norm_eps)

    def raw_logits(self, hidden: Tensor) -> Tensor:
        """Logits [R, V] of final hidden states [R, D], before the softcap, in the model's dtype."""
        return self._lm_head(hidden.to(self._dtype))

    def _embed(self, ids: Tensor) -> Tensor:
        """`e = E[id] · dtype(√D)`: float32 [B, D]."""
        return self._embeddings[ids].to(self._device).float() * self._embedding_scale

    def _per_layer_inputs(self, ids: Tensor, e: Tensor) -> Tensor | None:
        """`pli = (ctx + tok) / √2`: [B, L, P]; None where the model has no per-layer inputs."""
        config, size = self._config, self._config.per_layer_input_size
        if not size:
            return None
        shape = (len(ids), len(config.layers), size)
        tok = self._per_layer_embeddings[ids].to(self._device).float().view(shape) * size**0.5
        ctx = self._per_layer_projection(e.to(self._dtype)).view(shape).float()
        ctx *= config.hidden_size**-0.5
        ctx = F.rms_norm(ctx, (size,), self._per_layer_norm, config.rms_norm_eps)
        return ((ctx + tok) * 2.0**-0.5).to(self._dtype)
