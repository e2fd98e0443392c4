"""Collect the rope parameters of one layer type, in whichever spelling a config has them, as one flat dict in transformers' 5.x names.

    4.x    rope_theta, rope_scaling = {"type" or "rope_type": ..., ...}, partial_rotary_factor, all at the top level
    5.x    rope_parameters = {"rope_type": ..., "rope_theta": ..., ...}, or one such dict per layer type
    older  rotary_emb_base, rotary_pct (GPT-NeoX), rope_local_base_freq (Gemma 3), global_rope_theta (ModernBERT)

A value that is given twice must be the same twice. An unknown key about rotation is an error that names the nearest known one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, cast

from .._checks import describe, number
from .families import FAMILIES, Family
from .load import Config, rotary_keys

ByLayerType = dict[str, dict[str, Any] | None]
"""Rope parameters for each layer type, None for a type that does not rotate."""

SYNONYMS = {
    "rotary_emb_base": "rope_theta",
    "rotary_embedding_base": "rope_theta",
    "rotary_pct": "partial_rotary_factor",
    "global_rope_theta": "rope_theta",
    "local_rope_theta": "rope_local_base_freq",
}
KNOWN_KEYS = {
    "rope_theta",
    "rope_local_base_freq",
    "rope_scaling",
    "rope_parameters",
    "rope_interleave",
    "rope_scaling_layers",
    "layer_rope_theta",
    "no_rope_layers",
    "no_rope_layer_interval",
    "partial_rotary_factor",
    "original_max_position_embeddings",
    "qk_rope_head_dim",
    "rotary",
    "rotary_dim",
    "rotary_value",
    "use_dynamic_ntk",
    "use_logn_attn",
    "use_mem_rope",
    "use_rotary_embedding",
    "dual_chunk_attention_config",
    *SYNONYMS,
}
_OLD_ROPE_TYPES = {"su": "longrope"}
_SCHEME_KEYS = {
    "factor",
    "alpha",
    "beta_fast",
    "beta_slow",
    "low_freq_factor",
    "high_freq_factor",
    "short_factor",
    "long_factor",
}


def parameters(config: Config, layer_type: str | None) -> dict[str, Any]:
    """{"rope_type", "rope_theta", ...} for layers of that type. Keys whose value is None are left out."""
    family = _family(config)
    top_level, shared, by_layer_type = _collect(config, family)
    if by_layer_type is None:
        _check_layer_type(layer_type, config)
        rope = shared
    else:
        rope = _of_layer_type(by_layer_type, layer_type)
        top_level = _defaults(top_level, by_layer_type)
    rope = _with_rope_type({key: value for key, value in rope.items() if value is not None})
    for key in ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings"):
        default = {key: top_level[key]} if top_level.get(key) is not None else {}
        rope = _merged("rope parameters", rope, "config", default)
    _add_family_defaults(rope, family, config)
    return rope


def layer_types(config: Config) -> tuple[str, ...]:
    """The layer types that rotate, if their rope parameters differ; () if all layers share one set."""
    _, _, by_layer_type = _collect(config, _family(config))
    if by_layer_type is None or len({repr(rope) for rope in by_layer_type.values()}) == 1:
        return ()
    return tuple(name for name, rope in by_layer_type.items() if rope is not None)


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown name: the nearest known name, or all of them if none is near."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


def _family(config: Config) -> Family:
    return FAMILIES.get(config.get("model_type"), {})  # type: ignore[arg-type]


def _collect(config: Config, family: Family) -> tuple[dict[str, Any], dict[str, Any], ByLayerType | None]:
    """(top-level rotary keys under their 5.x names, rope parameters, the same per layer type or None if all layers share them)."""
    unknown = [key for key in rotary_keys(config) if key not in KNOWN_KEYS]
    if unknown:
        key = unknown[0]
        raise TypeError(f"unknown rotary key {key!r} ({describe(config[key])}) in the config{nearest(key, KNOWN_KEYS)}")
    top_level = _top_level(config)
    rope = _merged(
        "rope_scaling", _mapping(config, "rope_scaling"), "rope_parameters", _mapping(config, "rope_parameters")
    )
    if rope and all(isinstance(value, Mapping) or value is None for value in rope.values()):
        return top_level, rope, cast(ByLayerType, rope)
    return top_level, rope, _split(top_level, rope, family)


def _mapping(config: Config, key: str) -> dict[str, Any]:
    value = config.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"{key} must be a dict, got {describe(value)}")
    return dict(cast("Mapping[str, Any]", value))


def _top_level(config: Config) -> dict[str, Any]:
    keys = {key: config[key] for key in KNOWN_KEYS if key in config and key not in SYNONYMS}
    for synonym, name in SYNONYMS.items():
        if config.get(synonym) is not None:
            number(synonym, config[synonym])
            keys = _merged(name, keys, synonym, {name: config[synonym]})
    return keys


def _merged(a_source: str, a: dict[str, Any], b_source: str, b: dict[str, Any]) -> dict[str, Any]:
    """Both dicts in one; ValueError for a key with two different values. None counts as absent."""
    for key in a.keys() & b.keys():
        if a[key] is not None and b[key] is not None and a[key] != b[key]:
            raise ValueError(
                f"conflicting {key}: {describe(a[key])} in {a_source}, {describe(b[key])} in {b_source}; keep one"
            )
    return a | {key: value for key, value in b.items() if value is not None or key not in a}


def _split(top_level: dict[str, Any], rope: dict[str, Any], family: Family) -> ByLayerType | None:
    """Rope parameters per layer type from a 4.x config, None if the family has one set for all layers.

    In 4.x the scaling belongs to full attention only, and both bases are top-level keys: they are moved out of top_level.
    """
    bases = family.get("base")
    if not isinstance(bases, dict):
        if top_level.get("rope_local_base_freq") is not None:
            raise ValueError(
                f"rope_local_base_freq {describe(top_level['rope_local_base_freq'])} needs a model_type with two layer types, and the "
                f"config has none; write rope_parameters per layer type"
            )
        return None
    if set(bases) != {"full_attention", "sliding_attention"} or family.get("scaled"):
        raise ValueError(
            f"missing rope_parameters per layer type: this model_type has one set each for {', '.join(bases)}"
        )
    full_base, local_base = top_level.pop("rope_theta", None), top_level.pop("rope_local_base_freq", None)
    sliding_base: Any = bases["sliding_attention"]
    if local_base is not None:
        number("rope_local_base_freq", local_base)
        sliding_base = local_base
    elif full_base is not None and bases["full_attention"] == bases["sliding_attention"]:
        sliding_base = full_base  # Olmo 3: both layer types have one base, and no key exists for a second
    rope = _merged("rope_scaling", rope, "config", {"rope_theta": full_base} if full_base is not None else {})
    return {
        "full_attention": {"rope_theta": bases["full_attention"]} | rope,
        "sliding_attention": {"rope_theta": sliding_base},
    }


def _of_layer_type(by_layer_type: ByLayerType, layer_type: str | None) -> dict[str, Any]:
    if layer_type is None:
        if len({repr(rope) for rope in by_layer_type.values()}) > 1:
            raise ValueError(
                f"the config has rope parameters per layer type; pass layer_type= one of {', '.join(by_layer_type)}"
            )
        layer_type = next(iter(by_layer_type))
    if layer_type not in by_layer_type:
        raise ValueError(f"unknown layer_type {layer_type!r}{nearest(layer_type, by_layer_type)}")
    rope = by_layer_type[layer_type]
    if rope is None:
        raise ValueError(f"layers of type {layer_type!r} do not rotate: their rope parameters are None")
    return dict(rope)


def _check_layer_type(layer_type: str | None, config: Config) -> None:
    types: list[str] = config.get("layer_types") or []
    if layer_type is not None and layer_type not in types:
        raise ValueError(
            f"unknown layer_type {layer_type!r}: the config has one set of rope parameters for all layers"
            + (nearest(layer_type, set(types)) if types else "")
        )


def _defaults(top_level: dict[str, Any], by_layer_type: ByLayerType) -> dict[str, Any]:
    """top_level without the keys that the layer types give themselves.

    A top-level key is the default of all layer types if none of them gives it. Otherwise it must repeat the value of one of them.
    """
    defaults = dict(top_level)
    for key in ("rope_theta", "partial_rotary_factor"):
        values = [rope[key] for rope in by_layer_type.values() if rope and rope.get(key) is not None]
        if values:
            repeated = defaults.pop(key, None)
            if repeated is not None and repeated not in values:
                raise ValueError(
                    f"conflicting {key}: {describe(repeated)} in config, {values!r} in its layer types; keep one"
                )
    return defaults


def _with_rope_type(rope: dict[str, Any]) -> dict[str, Any]:
    """The same with one key rope_type instead of "type" or "rope_type", "default" if there is neither."""
    types = {_OLD_ROPE_TYPES.get(rope[key], rope[key]) for key in ("type", "rope_type") if key in rope}
    if len(types) > 1:
        raise ValueError(f"conflicting rope_type {rope['rope_type']!r} and type {rope['type']!r}; keep one")
    scheme_keys = sorted(rope.keys() & _SCHEME_KEYS)
    if not types and scheme_keys:
        key = scheme_keys[0]
        raise ValueError(f"missing rope_type: {key!r} ({describe(rope[key])}) belongs to a scheme, and none is named")
    others = {key: value for key, value in rope.items() if key != "type"}
    return others | {"rope_type": types.pop() if types else "default"}


def _add_family_defaults(rope: dict[str, Any], family: Family, config: Config) -> None:
    """Add the base and the partial_rotary_factor of the family if they are missing. ValueError if the family has no base either."""
    name = config.get("model_type")
    if family.get("scaled") and not config.get("rope_parameters") and not config.get("rope_scaling"):
        raise ValueError(f"missing rope_parameters (or rope_scaling): models of type {name!r} have no plain rotation")
    if "rope_theta" not in rope:
        base = family.get("base", 10000.0)
        if name not in FAMILIES or isinstance(base, dict):
            raise ValueError(
                f"missing rope_theta: model_type {name!r} does not determine a base; write rope_theta, 10000.0 in most older models"
            )
        rope["rope_theta"] = base
    if "partial_rotary_factor" not in rope and "partial" in family and not config.get("qk_rope_head_dim"):
        rope["partial_rotary_factor"] = family["partial"]
