"""Every layer of a model, from the few fields that files hold.

Settles each layer's kind, heads, window, rotary embedding, KV source and feed-forward width. Knows
JSON fields; knows no tensors and no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from device_service.model.architecture import LayerConfig, LayerKind
from device_service.model.config_fields import ConfigError, Fields, UnsupportedModelError
from device_service.model.config_rope import rope_configs


@dataclass(frozen=True, slots=True)
class _Head:
    """Attention heads of one layer."""

    dim: int
    num_kv: int


def gemma4_layers(text: Fields) -> tuple[LayerConfig, ...]:
    """Resolves the layers of a Gemma 4.

    Raises:
        UnsupportedModelError: a layer that is not served.
        ConfigError: a field is missing, malformed, or contradicts another.
    """
    kinds = _kinds(text)
    if kinds[-1] is not LayerKind.FULL:
        raise UnsupportedModelError(
            text.name_of(f"layer_types[{len(kinds) - 1}]"), kinds[-1].value, "'full_attention'"
        )
    k_eq_v = text.flag("attention_k_eq_v")
    heads = _gemma4_heads(text, kinds, k_eq_v)
    num_shared = text.integer("num_kv_shared_layers", minimum=0, default=0)
    sources = _kv_sources(text, kinds, num_shared)
    head_dims = {kind: heads[kind].dim for kind in kinds}
    ropes = rope_configs(text, head_dims, old_spelling=False)
    window = text.integer("sliding_window", minimum=1)
    intermediate_size = text.integer("intermediate_size", minimum=1)
    widening = 2 if text.flag("use_double_wide_mlp") else 1
    return tuple(
        LayerConfig(
            index=index,
            kind=kind,
            num_heads=_num_heads(text, heads[kind].num_kv),
            num_kv_heads=heads[kind].num_kv,
            head_dim=heads[kind].dim,
            window=window if kind is LayerKind.SLIDING else None,
            rope=ropes[kind],
            kv_source=sources[index],
            k_eq_v=k_eq_v and kind is LayerKind.FULL,
            value_norm=True,
            intermediate_size=intermediate_size * (1 if sources[index] == index else widening),
        )
        for index, kind in enumerate(kinds)
    )


def gemma3_layers(text: Fields) -> tuple[LayerConfig, ...]:
    """Resolves the layers of a Gemma 3; raises as `gemma4_layers` does."""
    kinds = _kinds(text, text.integer("sliding_window_pattern", minimum=1))
    head = _Head(
        text.integer("head_dim", minimum=2), text.integer("num_key_value_heads", minimum=1)
    )
    ropes = rope_configs(text, dict.fromkeys(kinds, head.dim), old_spelling=True)
    window = text.integer("sliding_window", minimum=1)
    intermediate_size = text.integer("intermediate_size", minimum=1)
    return tuple(
        LayerConfig(
            index=index,
            kind=kind,
            num_heads=_num_heads(text, head.num_kv),
            num_kv_heads=head.num_kv,
            head_dim=head.dim,
            window=window if kind is LayerKind.SLIDING else None,
            rope=ropes[kind],
            kv_source=index,
            k_eq_v=False,
            value_norm=False,
            intermediate_size=intermediate_size,
        )
        for index, kind in enumerate(kinds)
    )


def _kinds(text: Fields, pattern: int | None = None) -> tuple[LayerKind, ...]:
    """Each layer's kind: as `layer_types` lists them; where it is absent, every pattern-th full."""
    num_layers = text.integer("num_hidden_layers", minimum=1)
    if pattern is not None and "layer_types" not in text:
        return tuple(
            LayerKind.SLIDING if (index + 1) % pattern else LayerKind.FULL
            for index in range(num_layers)
        )
    names = text.texts("layer_types")
    if len(names) != num_layers:
        raise ConfigError(
            f"{text.name_of('layer_types')} has {len(names)} entries;"
            f" num_hidden_layers is {num_layers}"
        )
    served = [kind.value for kind in LayerKind]
    for index, name in enumerate(names):
        if name not in served:
            raise UnsupportedModelError(
                text.name_of(f"layer_types[{index}]"), name, " or ".join(map(repr, served))
            )
    return tuple(LayerKind(name) for name in names)


def _gemma4_heads(
    text: Fields, kinds: Sequence[LayerKind], k_eq_v: bool
) -> Mapping[LayerKind, _Head]:
    """The heads of each kind, from either spelling."""
    sliding = _Head(
        text.integer("head_dim", minimum=2), text.integer("num_key_value_heads", minimum=1)
    )
    per_layer = text.section("per_layer_config")
    if per_layer is None:
        num_global_kv = text.integer(
            "num_global_key_value_heads", minimum=1, default=sliding.num_kv
        )
        full = _Head(
            text.integer("global_head_dim", minimum=2), num_global_kv if k_eq_v else sliding.num_kv
        )
        return {LayerKind.SLIDING: sliding, LayerKind.FULL: full}
    num_digits = len(str(len(kinds) - 1))
    heads: dict[LayerKind, _Head] = {}
    for index, kind in enumerate(kinds):
        # transformers pads the keys to one width: "05" of 60 layers.
        padded = per_layer.section(f"{index:0{num_digits}}")
        layer = padded or per_layer.section(str(index)) or Fields({})
        head = _Head(
            layer.integer("head_dim", minimum=2, default=sliding.dim),
            layer.integer("num_key_value_heads", minimum=1, default=sliding.num_kv),
        )
        layer.refuse_unread()
        if heads.setdefault(kind, head) != head:
            raise UnsupportedModelError(
                per_layer.name_of(str(index)),
                f"head_dim {head.dim}, num_key_value_heads {head.num_kv}",
                f"the same on every {kind.value} layer",
            )
    per_layer.refuse_unread()
    return heads


def _num_heads(text: Fields, num_kv_heads: int) -> int:
    num_heads = text.integer("num_attention_heads", minimum=1)
    if num_heads % num_kv_heads:
        raise ConfigError(
            f"{text.name_of('num_attention_heads')} {num_heads} is not a multiple of the"
            f" {num_kv_heads} key-value heads"
        )
    return num_heads


def _kv_sources(text: Fields, kinds: Sequence[LayerKind], num_shared: int) -> tuple[int, ...]:
    """The layer whose KV each layer reads: its own, or the last own one of its kind."""
    first_shared = len(kinds) - num_shared
    last_own = {kind: index for index, kind in enumerate(kinds[: max(first_shared, 0)])}
    for index in range(max(first_shared, 0), len(kinds)):
        if kinds[index] not in last_own:
            raise ConfigError(
                f"{text.name_of('num_kv_shared_layers')} {num_shared} leaves layer {index}"
                f" without an earlier {kinds[index].value} layer to share with"
            )
    return tuple(
        index if index < first_shared else last_own[kind] for index, kind in enumerate(kinds)
    )
