"""The rotary embedding of each layer kind, from either spelling.

`rope_parameters` holds one object a kind (Gemma 4, and Gemma 3 as transformers 5 writes it); older
Gemma 3 files hold `rope_theta`, `rope_local_base_freq` and `rope_scaling`. Knows JSON fields; the
tables themselves are `rope.py`'s.
"""

from __future__ import annotations

from collections.abc import Mapping

from device_service.model.architecture import LayerKind, RopeConfig
from device_service.model.config_fields import ConfigError, Fields, UnsupportedModelError

_OLD_THETA_NAMES = {LayerKind.FULL: "rope_theta", LayerKind.SLIDING: "rope_local_base_freq"}


def rope_configs(
    text: Fields, head_dims: Mapping[LayerKind, int], *, old_spelling: bool
) -> Mapping[LayerKind, RopeConfig]:
    """Resolves the rotary embedding of every kind in `head_dims`.

    Args:
        text: the text model's fields.
        head_dims: H of each kind that the model has.
        old_spelling: whether a file without `rope_parameters` may use the older names.

    Raises:
        UnsupportedModelError: a rotary type or factor that is not served.
        ConfigError: a field is missing or malformed.
    """
    parameters = text.section("rope_parameters")
    thetas: dict[LayerKind, float] = {}
    if old_spelling:
        thetas = {kind: text.positive(name) for kind, name in _OLD_THETA_NAMES.items()}
    if parameters is None and not old_spelling:
        raise ConfigError(f"{text.name_of('rope_parameters')} is missing; it must be an object")
    ropes: dict[LayerKind, RopeConfig] = {}
    for kind, head_dim in head_dims.items():
        if head_dim % 2:
            raise ConfigError(f"head_dim {head_dim} of {kind.value} layers is odd")
        if parameters is not None:
            section = parameters.section(kind.value)
            if section is None:
                raise ConfigError(f"{parameters.name_of(kind.value)} is missing")
        elif kind is LayerKind.FULL:
            section = text.section("rope_scaling") or Fields({})
        else:
            section = Fields({})
        ropes[kind] = _rope(section, head_dim, thetas.get(kind))
    return ropes


def _rope(fields: Fields, head_dim: int, default_theta: float | None) -> RopeConfig:
    theta = fields.positive("rope_theta", default=default_theta)
    rope_type = fields.text("rope_type", default=fields.text("type", default="default"))
    portion = fields.positive("partial_rotary_factor", default=1.0)
    factor = fields.positive("factor", default=None if rope_type == "linear" else 1.0)
    fields.refuse_unread()
    if rope_type not in ("default", "linear", "proportional"):
        raise UnsupportedModelError(
            fields.name_of("rope_type"), rope_type, "'default' or 'linear' or 'proportional'"
        )
    if rope_type == "default" and factor != 1.0:
        raise UnsupportedModelError(fields.name_of("factor"), factor, "1 with rope_type 'default'")
    if portion > 1 or (portion < 1 and rope_type != "proportional"):
        raise UnsupportedModelError(
            fields.name_of("partial_rotary_factor"),
            portion,
            "at most 1 with rope_type 'proportional', 1 with any other",
        )
    return RopeConfig(theta=theta, num_rotated_pairs=int(portion * head_dim // 2), factor=factor)
