"""Collect the rope parameters of one layer type, in whichever spelling a config has them, as one flat dict in transformers' 5.x names.

    4.x    rope_theta, rope_scaling = {"type" or "rope_type": ..., ...}, partial_rotary_factor, all at the top level
    5.x    rope_parameters = {"rope_type": ..., "rope_theta": ..., ...}, or one such dict per layer type
    older  rotary_emb_base, rotary_pct (GPT-NeoX), rope_local_base_freq (Gemma 3), global_rope_theta (ModernBERT)

A key that occurs twice must have one value. Unknown keys are errors before, in silence.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from .._checks import describe, number, text
from .dialects.transformers import KNOWN_KEYS, SYNONYMS
from .families import FAMILIES, Family
from .load import Config
from .names import SCHEME_KEYS, SCHEME_NAMES, Contradiction, about_rotation, differ, nearest, snake
from .values import block, layer_types_of

ByLayerType = dict[str, dict[str, Any] | None]
"""Rope parameters for each layer type, None for a type that does not rotate."""

_OLD_ROPE_TYPES = {"su": "longrope"}


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
    if by_layer_type is None or _alike(by_layer_type):
        return ()
    return tuple(name for name, rope in by_layer_type.items() if rope is not None)


def _alike(by_layer_type: ByLayerType) -> bool:
    """Whether all layer types have the same rope parameters."""
    first, *others = by_layer_type.values()
    return not any(differ(rope, first) for rope in others)


def _family(config: Config) -> Family:
    return FAMILIES.get(config.get("model_type"), {})  # type: ignore[arg-type]


def _collect(config: Config, family: Family) -> tuple[dict[str, Any], dict[str, Any], ByLayerType | None]:
    """(top-level rotary keys under their 5.x names, rope parameters, the same per layer type or None if all layers share them)."""
    top_level = _top_level(config, family)
    rope = _merged("rope_scaling", block(config, "rope_scaling"), "rope_parameters", block(config, "rope_parameters"))
    rope = {key: value for key, value in rope.items() if value is not None or not _is_parameter(key)}
    if rope and all(isinstance(value, Mapping) or value is None for value in rope.values()):
        _check_layer_type_names(rope)
        return top_level, rope, cast(ByLayerType, rope)
    if family.get("stated"):
        _check_stated(top_level, rope, family)
    return top_level, rope, _split(top_level, rope, family)


def _is_parameter(key: str) -> bool:
    """Whether a key is a rope parameter, and no layer type, which may have None for one that does not rotate."""
    return key == "type" or about_rotation(key)


def _check_layer_type_names(rope: dict[str, Any]) -> None:
    for name in rope:
        if snake(name) in SCHEME_NAMES or snake(name) in ("linear", "dynamic", "default"):
            raise ValueError(
                f"rope parameters contain a block {name!r}, which is the name of a scheme and no layer type; write its keys one level up, "
                f"with rope_type: {name!r}"
            )


def _check_stated(top_level: dict[str, Any], rope: dict[str, Any], family: Family) -> None:
    """ValueError for a config that transformers fills with other defaults than those of the family."""
    base = family.get("base", 10000.0)
    for key, default in (("rope_theta", base), ("partial_rotary_factor", family.get("partial", 1.0))):
        usual = 10000.0 if key == "rope_theta" else 1.0
        if rope and rope.get(key) is None and top_level.get(key) is None and default != usual:
            raise ValueError(
                f"missing {key}: transformers takes {usual} for it where a config of this model_type has other rope parameters, and "
                f"{default} only where it has none; write it"
            )
        if not rope and top_level.get(key) not in (None, default):
            raise ValueError(
                f"{key} {describe(top_level[key])} has no effect at the top level of a config of this model_type; write rope_parameters"
            )


def _top_level(config: Config, family: Family) -> dict[str, Any]:
    """The rotary keys at the top level under their 5.x names. ValueError for two synonyms with different values, and for a base of
    sliding attention under a key that the family's code does not read."""
    local = family.get("local_base")
    for key in ("rope_local_base_freq", "local_rope_theta"):
        if config.get(key) is not None and key != local and isinstance(family.get("base"), dict):
            remedy = f"its key is {local}" if local else "write rope_parameters per layer type"
            raise ValueError(f"{key} ({describe(config[key])}) is not read in models of this model_type; {remedy}")
    keys = {key: config[key] for key in KNOWN_KEYS if key in config and key not in SYNONYMS}
    for synonym, name in SYNONYMS.items():
        if config.get(synonym) is not None:
            number(synonym, config[synonym])
            keys = _merged(name, keys, synonym, {name: config[synonym]})
    return keys


def _merged(a_source: str, a: dict[str, Any], b_source: str, b: dict[str, Any]) -> dict[str, Any]:
    """Both dicts in one; ValueError for a key with two different values. None counts as absent."""
    for key in a.keys() & b.keys():
        if a[key] is not None and b[key] is not None and differ(a[key], b[key]):
            raise Contradiction(
                f"conflicting {key}: {describe(a[key])} in {a_source}, {describe(b[key])} in {b_source}; keep one"
            )
    return a | {key: value for key, value in b.items() if value is not None or key not in a}


def _split(top_level: dict[str, Any], rope: dict[str, Any], family: Family) -> ByLayerType | None:
    """Rope parameters per layer type from a 4.x config, None if the family has one set for all layers.

    In 4.x both bases are top-level keys: they are moved out of top_level. The scaling belongs to full attention alone, except in the
    families that are scaled_everywhere (ModernBERT), since transformers 4 gave its sliding layers a config without rope_scaling
    (Gemma 3: modeling_gemma3.py 4.50, config.rope_scaling = {"rope_type": "default"}).
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
    elif full_base is not None and bases["full_attention"] == sliding_base != full_base:  # Olmo 3
        raise ValueError(
            f"rope_theta {describe(full_base)}: transformers 4 gives it to both layer types, transformers 5 to full attention alone; "
            f"write rope_parameters per layer type"
        )
    rope = _merged("rope_scaling", rope, "config", {"rope_theta": full_base} if full_base is not None else {})
    return {
        "full_attention": {"rope_theta": bases["full_attention"]} | rope,
        "sliding_attention": (_without_base(rope) if family.get("scaled_everywhere") else {})
        | {"rope_theta": sliding_base},
    }


def _without_base(rope: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in rope.items() if key != "rope_theta"}


def _of_layer_type(by_layer_type: ByLayerType, layer_type: str | None) -> dict[str, Any]:
    if layer_type is None:
        if not _alike(by_layer_type):
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
    types = layer_types_of(config)
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
                raise Contradiction(
                    f"conflicting {key}: {describe(repeated)} in config, {describe(values)} in its layer types; keep one"
                )
    return defaults


def _with_rope_type(rope: dict[str, Any]) -> dict[str, Any]:
    """The same with one key rope_type instead of "type" or "rope_type", "default" if there is neither."""
    written = [text(key, rope[key], "yarn") for key in ("type", "rope_type") if key in rope]
    types = {_OLD_ROPE_TYPES.get(name, name) for name in written}
    if len(types) > 1:
        raise Contradiction(f"conflicting rope_type {rope['rope_type']!r} and type {rope['type']!r}; keep one")
    scheme_keys = sorted(rope.keys() & SCHEME_KEYS)
    if not types and scheme_keys:
        key = scheme_keys[0]
        raise ValueError(
            f"missing rope_type: {key!r} ({describe(rope[key])}) belongs to a scheme, and the config names none"
        )
    without_type = {key: value for key, value in rope.items() if key != "type"}
    return without_type | {"rope_type": types.pop() if types else "default"}


def _add_family_defaults(rope: dict[str, Any], family: Family, config: Config) -> None:
    """Add the family's base and partial_rotary_factor to rope parameters without them. ValueError if the family has no base either."""
    name = config.get("model_type")
    if family.get("scaled") and not config.get("rope_parameters") and not config.get("rope_scaling"):
        raise ValueError(f"missing rope_parameters (or rope_scaling): models of type {name!r} have no plain rotation")
    if "rope_theta" not in rope:
        base = family.get("base", 10000.0)
        if name not in FAMILIES or isinstance(base, dict) or family.get("asks_base"):
            raise ValueError(
                f"missing rope_theta: model_type {name!r} does not determine a base; write rope_theta, 10000.0 in most older models"
            )
        rope["rope_theta"] = base
    if "partial_rotary_factor" not in rope and "partial" in family and not config.get("qk_rope_head_dim"):
        rope["partial_rotary_factor"] = family["partial"]
