"""read(config) -> Arguments: the arguments of RotaryEmbedding, and notes on what the config requires besides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .._checks import WIDEST, describe, even_dim, flag, number
from ..scaling import Scheme
from ..scaling.temperature import Temperature
from .extras import notes, temperatures, unrotated_layer_types
from .families import FAMILIES, REASONS, Family
from .load import Config, load, rotary_keys, text_part
from .normalize import nearest, parameters
from .schemes import make_scheme

_UNSUPPORTED = {
    "use_dynamic_ntk": "changes the base with the length: NTK(2 ** ceil(log2(length / seq_length) + 1) - 1) beyond seq_length; set "
    "it to False for contexts within seq_length, or pass that scheme to RotaryEmbedding",
    "dual_chunk_attention_config": "restarts positions in every chunk; remove it for contexts within its "
    "original_max_position_embeddings",
}
"""Keys that change the rotation with the length in a way that no scheme of rotary.scaling does."""


@dataclass(frozen=True)
class Arguments:
    """The rotation that a config describes.

    dim: number of rotated channels. base: base of the frequencies. scaling: schemes, applied left to right.
    interleaved: true if neighbouring channels form a plane, false for half a head apart.
    head_dim: channels of a head, or of its rotated slice in models that rotate a separate slice (MLA).
    window: context length [token] before any extension; target: context length that the model is meant for. None if not in the config.
    temperatures: factors of the queries besides the rotation; RotaryEmbedding does not apply them.
    notes: what else the caller must do, one sentence each.
    """

    dim: int
    base: float
    scaling: tuple[Scheme, ...]
    interleaved: bool
    head_dim: int
    window: int | None = None
    target: int | None = None
    temperatures: tuple[Temperature, ...] = ()
    notes: tuple[str, ...] = ()


def read(
    config: Any, *, layer_type: str | None = None, head_dim: int | None = None, interleaved: bool | None = None
) -> Arguments:
    """Read everything about rotation from a model's config.

    config: a dict, the path of a config.json or of its folder, the name of a published config (see shipped()), or a config object of
        transformers; in the spelling of transformers 4.x or 5.x. Of a composite config the text model is read.
    layer_type: the type of the layers to read, if they differ ("full_attention", "sliding_attention").
    head_dim, interleaved: replace the values of the config, or supply those it lacks. Without interleaved, the pairing follows from
        model_type; for an unknown one it is half, as in every checkpoint that was converted for transformers.

    ValueError or TypeError, with key, value and the nearest known name, for an unknown or missing key, conflicting values, an
    impossible number, and a rotation that RotaryEmbedding does not have. Keys that are not about rotation are not examined.
    """
    config = text_part(load(config))
    name = config.get("model_type")
    family: Family = FAMILIES.get(name, {})
    _check_rotates(config, name)
    config = {**family.get("sizes", {}), **config}
    if "refused" in family:
        raise ValueError(f"models of type {name!r} are refused: {_reason(family['refused'], config, family, head_dim)}")
    if layer_type in unrotated_layer_types(config, family):
        raise ValueError(f"layers of type {layer_type!r} do not rotate in models of type {name!r}")
    target = _first(config, "max_position_embeddings")
    rope = parameters(config, layer_type)
    scheme = make_scheme(rope, config)
    base = number("rope_theta", rope["rope_theta"])
    head_dim = _head_dim(config, layer_type, head_dim)
    return Arguments(
        dim=_dim(rope, config, head_dim),
        base=base,
        scaling=() if scheme is None else (scheme,),
        interleaved=_pairing(config, family) if interleaved is None else flag("interleaved", interleaved),
        head_dim=head_dim,
        window=_first(rope, "original_max_position_embeddings") or target,
        target=target,
        temperatures=temperatures(rope, config),
        notes=notes(rope, config, family),
    )


def _check_rotates(config: Config, name: Any) -> None:
    for key, off in (("use_mem_rope", False), ("use_rotary_embedding", False), ("rotary", False), ("alibi", True)):
        if config.get(key) is off and (name in FAMILIES or key != "alibi"):
            raise ValueError(f"the config has {key} = {off}: this model does not rotate")
    switch = FAMILIES[name].get("enabled_by") if name in FAMILIES else None
    if switch is not None and config.get(switch) not in ("rotary", "rope"):
        raise ValueError(f"the config has {switch} = {config.get(switch)!r}: this model does not rotate")
    for key, effect in _UNSUPPORTED.items():
        if config.get(key):
            raise ValueError(f"{key} ({describe(config[key])}) {effect}")
    if name not in FAMILIES and not rotary_keys(config):
        suggestion = nearest(name, FAMILIES) if isinstance(name, str) and "?" in nearest(name, FAMILIES) else ""
        raise ValueError(f"no rotary key in the config, and model_type {name!r} is not known to rotate{suggestion}")


def _reason(refused: str, config: Config, family: Family, head_dim: int | None) -> str:
    try:
        rope = parameters(config, None)
        dim = _dim(rope, config, _head_dim(config, None, head_dim))
        plain = f"RotaryEmbedding({dim}, base={rope['rope_theta']}" + (
            ", interleaved=True)" if family.get("interleaved") else ")"
        )
    except (TypeError, ValueError):
        plain = "a plain RotaryEmbedding"
    return REASONS[refused].format(plain=plain)


def _head_dim(config: Config, layer_type: str | None, head_dim: int | None) -> int:
    if head_dim is not None:
        return even_dim(head_dim)
    if config.get("qk_rope_head_dim") is not None:
        return _positive_integer("qk_rope_head_dim", config["qk_rope_head_dim"])
    mla_keys = [key for key in ("kv_lora_rank", "qk_nope_head_dim") if config.get(key) is not None]
    if mla_keys:
        raise ValueError(
            f"missing qk_rope_head_dim, the width of the rotated slice in a model with {mla_keys[0]}; add it, or pass head_dim="
        )
    for key in ("head_dim", "attention_head_dim", "kv_channels"):
        if config.get(key) is not None:
            return _width_in_layers(config, key, layer_type)
    hidden = _first(config, "hidden_size", "n_embd", "d_model")
    heads = _first(config, "num_attention_heads", "n_head", "n_heads", "encoder_num_attention_heads")
    if hidden is None or heads is None:
        raise ValueError(
            "missing head_dim, and the config lacks hidden_size and num_attention_heads to derive it from; pass head_dim="
        )
    if hidden % heads:
        raise ValueError(f"hidden_size {hidden} is not a multiple of num_attention_heads {heads}; pass head_dim=")
    return hidden // heads


def _width_in_layers(config: Config, key: str, layer_type: str | None) -> int:
    """The value of key in layers of that type: global_head_dim or per_layer_config may replace it."""
    if layer_type == "full_attention" and key == "head_dim" and "per_layer_config" not in config:
        return _first(config, "global_head_dim", key) or 0
    per_layer: Mapping[str, Any] = config.get("per_layer_config") or {}
    types: list[str] = config.get("layer_types") or []
    if layer_type is None or not per_layer or layer_type not in types:
        return _positive_integer(key, config[key])
    layers = {int(layer): layer_config for layer, layer_config in per_layer.items()}
    values = {layers.get(i, {}).get(key, config[key]) for i, name in enumerate(types) if name == layer_type}
    if len(values) != 1:
        raise ValueError(f"{key} differs among layers of type {layer_type!r}: {sorted(values)}; pass head_dim=")
    return _positive_integer(key, values.pop())


def _first(config: Mapping[str, Any], *keys: str) -> int | None:
    """The first of these keys that is not None, as an integer >= 1; None if all are."""
    for key in keys:
        if config.get(key) is not None:
            return _positive_integer(key, config[key])
    return None


def _positive_integer(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{key} must be an integer, got {describe(value)}")
    if value < 1:
        raise ValueError(f"{key} must be >= 1, got {value}")
    return value


def _share(channels: int, partial: float) -> int:
    """The channels that a partial_rotary_factor selects, rounded down as transformers does."""
    if channels > WIDEST:
        raise ValueError(f"head_dim must be at most {WIDEST:,} channels; is it the size of one head?")
    return int(channels * partial)


def _dim(rope: Mapping[str, Any], config: Config, head_dim: int) -> int:
    partial = number("partial_rotary_factor", rope.get("partial_rotary_factor", 1.0))
    if partial > 1.0:
        raise ValueError(f"partial_rotary_factor must be at most 1, got {partial}")
    if rope["rope_type"] == "proportional":
        source, dim = "head_dim", head_dim
    elif config.get("qk_rope_head_dim") is not None:
        source, dim = "qk_rope_head_dim", head_dim
        whole = config.get("head_dim")
        if "partial_rotary_factor" in rope and whole not in (None, dim) and _share(whole, partial) != dim:
            raise ValueError(
                f"conflicting qk_rope_head_dim {dim} and partial_rotary_factor {partial} of head_dim {whole}; keep one"
            )
    elif config.get("rotary_dim") is not None:
        source, dim = "rotary_dim", _positive_integer("rotary_dim", config["rotary_dim"])
        if "partial_rotary_factor" in rope and _share(head_dim, partial) != dim:
            raise ValueError(
                f"conflicting rotary_dim {dim} and partial_rotary_factor {partial} of head_dim {head_dim}; keep one"
            )
    else:
        source, dim = f"partial_rotary_factor {partial} x head_dim {head_dim}", _share(head_dim, partial)
    if dim < 2 or dim % 2 or dim > head_dim:
        raise ValueError(
            f"{source} gives {dim} rotated channels of {head_dim}; an even number from 2 to {head_dim} is needed"
        )
    return dim


def _pairing(config: Config, family: Family) -> bool:
    """rope_interleave if the config has it (as DeepSeek's have), else the family's pairing.

    ValueError for an unknown model_type with qk_rope_head_dim: such models exist with either pairing.
    """
    rope_interleave = config.get("rope_interleave")
    if (
        rope_interleave is None
        and config.get("qk_rope_head_dim") is not None
        and config.get("model_type") not in FAMILIES
    ):
        raise ValueError(
            f"unknown model_type {config.get('model_type')!r}, and models with qk_rope_head_dim differ in their pairing; pass "
            f"interleaved=, which is True in models that follow DeepSeek-V3"
        )
    if rope_interleave is None:
        return family.get("interleaved", False)
    return flag("rope_interleave", rope_interleave)
