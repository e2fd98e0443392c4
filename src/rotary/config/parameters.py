"""The rope parameters of one layer type, from whichever spelling a config uses, as one flat dict in transformers' 5.x names.

    4.x    rope_theta, rope_scaling = {"type" or "rope_type": ..., ...}, partial_rotary_factor, all side by side
    5.x    rope_parameters = {"rope_type": ..., "rope_theta": ..., ...}, or one such dict per layer type
    older  rotary_emb_base, rotary_pct (GPT-NeoX), rope_local_base_freq (Gemma 3), global_rope_theta (ModernBERT)

The same thing said twice must agree. Keys that are about rotation and not known here are errors, with the nearest known name.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, cast

from ..arguments import number
from .families import FAMILIES, Family
from .source import Config, rotary_keys

SYNONYMS = {
    "rotary_emb_base": "rope_theta",
    "rotary_embedding_base": "rope_theta",
    "rotary_pct": "partial_rotary_factor",
    "global_rope_theta": "rope_theta",
    "local_rope_theta": "rope_local_base_freq",
}
KNOWN = {
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
_TYPES = {"su": "longrope"}
_SAYING_HOW = {
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
    """{"rope_type", "rope_theta", ...} for layers of that type; keys whose value is None are left out."""
    family: Family = FAMILIES.get(config.get("model_type"), {})  # type: ignore[arg-type]
    top, given, by_layer = _spelled_out(config, family)
    if by_layer is None:
        _check_layer_type(layer_type, config)
        found = given
    else:
        found = _of_layer(by_layer, layer_type, family)
        top = _fallbacks(top, by_layer)
    found = _one_type({key: value for key, value in found.items() if value is not None})
    for key in ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings"):
        found = _agreeing("rope parameters", found, "config", {key: top[key]} if top.get(key) is not None else {})
    _fill(found, family, config)
    return found


def layer_types(config: Config) -> tuple[str, ...]:
    """The layer types that have rope parameters of their own and rotate; () where all layers share one set."""
    _, _, by_layer = _spelled_out(config, FAMILIES.get(config.get("model_type"), {}))  # type: ignore[arg-type]
    if by_layer is None or len({repr(value) for value in by_layer.values()}) == 1:
        return ()
    return tuple(name for name, value in by_layer.items() if value is not None)


def _spelled_out(
    config: Config, family: Family
) -> tuple[dict[str, Any], dict[str, Any], dict[str, dict[str, Any] | None] | None]:
    """Rotary keys of the config under their 5.x names, its rope parameters, and these per layer type, None where they are one set."""
    unknown = [key for key in rotary_keys(config) if key not in KNOWN]
    if unknown:
        raise TypeError(
            f"unknown rotary key {unknown[0]!r} = {config[unknown[0]]!r} in the config{nearest(unknown[0], KNOWN)}"
        )
    top = _renamed(config)
    given = _agreeing(
        "rope_scaling", _mapping(config, "rope_scaling"), "rope_parameters", _mapping(config, "rope_parameters")
    )
    nested = bool(given) and all(isinstance(value, Mapping) or value is None for value in given.values())
    by_layer = cast("dict[str, dict[str, Any] | None]", given) if nested else _split(top, given, family)
    return top, given, by_layer


def nearest(name: str, known: Iterable[str]) -> str:
    """Words that end an error about an unknown name."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


def _mapping(config: Config, key: str) -> dict[str, Any]:
    value = config.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"{key} must be a dict, got {type(value).__name__} {value!r}")
    return dict(cast("Mapping[str, Any]", value))


def _renamed(config: Config) -> dict[str, Any]:
    top = {key: config[key] for key in KNOWN if key in config and key not in SYNONYMS}
    for key, name in SYNONYMS.items():
        if config.get(key) is not None:
            number(key, config[key])
            top = _agreeing(name, top, key, {name: config[key]})
    return top


def _agreeing(a_name: str, a: dict[str, Any], b_name: str, b: dict[str, Any]) -> dict[str, Any]:
    """Both together; ValueError where they say different things about one key."""
    for key in a.keys() & b.keys():
        if a[key] is not None and b[key] is not None and a[key] != b[key]:
            raise ValueError(f"conflicting {key}: {a_name} says {a[key]!r}, {b_name} says {b[key]!r}; keep one")
    return a | {key: value for key, value in b.items() if value is not None or key not in a}


def _split(top: dict[str, Any], given: dict[str, Any], family: Family) -> dict[str, dict[str, Any] | None] | None:
    """The spelling of 4.x for models with two kinds of layers: the scaling belongs to full attention alone."""
    bases = family.get("base")
    if not isinstance(bases, dict):
        if top.get("rope_local_base_freq") is not None:
            raise ValueError(
                f"rope_local_base_freq {top['rope_local_base_freq']!r} belongs to models with two layer types, and the config names "
                f"no such model_type; write rope_parameters per layer type"
            )
        return None
    if set(bases) != {"full_attention", "sliding_attention"} or family.get("scaled"):
        raise ValueError(
            f"missing rope_parameters per layer type: this model_type has one set each for {', '.join(bases)}"
        )
    full, local = top.pop("rope_theta", None), top.pop("rope_local_base_freq", None)
    if local is not None:
        number("rope_local_base_freq", local)
    plain = bases["full_attention"] == bases["sliding_attention"]  # Olmo 3: one base, and no key for a second
    sliding = {
        "rope_theta": local if local is not None else full if plain and full is not None else bases["sliding_attention"]
    }
    given = _agreeing("rope_scaling", given, "config", {"rope_theta": full} if full is not None else {})
    return {"full_attention": {"rope_theta": bases["full_attention"]} | given, "sliding_attention": sliding}


def _of_layer(by_layer: Mapping[str, Any], layer_type: str | None, family: Family) -> dict[str, Any]:
    if layer_type is None:
        different = {repr(value) for value in by_layer.values()}
        if len(different) > 1:
            raise ValueError(
                f"the config has rope parameters per layer type; pass layer_type= one of {', '.join(by_layer)}"
            )
        layer_type = next(iter(by_layer))
    if layer_type not in by_layer:
        raise ValueError(f"unknown layer_type {layer_type!r}{nearest(layer_type, by_layer)}")
    if by_layer[layer_type] is None:
        raise ValueError(f"layers of type {layer_type!r} do not rotate: their rope parameters are None")
    return dict(by_layer[layer_type])


def _check_layer_type(layer_type: str | None, config: Config) -> None:
    types: list[str] = config.get("layer_types") or []
    if layer_type is not None and layer_type not in types:
        raise ValueError(
            f"layer_type {layer_type!r} given, but the config has one set of rope parameters for all layers"
            + (nearest(layer_type, set(types)) if types else "")
        )


def _fallbacks(top: dict[str, Any], by_layer: Mapping[str, Any]) -> dict[str, Any]:
    """Beside parameters per layer type a key is the value of some of them, or of those that do not say."""
    kept = dict(top)
    for key in ("rope_theta", "partial_rotary_factor"):
        said = [value[key] for value in by_layer.values() if value and value.get(key) is not None]
        if kept.get(key) is not None and said and kept[key] not in said:
            raise ValueError(
                f"conflicting {key}: the config says {kept[key]!r}, its layer types say {said!r}; keep one"
            )
        if len(said) == len(by_layer) or kept[key] in said if key in kept else False:
            del kept[key]
    return kept


def _one_type(found: dict[str, Any]) -> dict[str, Any]:
    kinds = {_TYPES.get(found[key], found[key]) for key in ("type", "rope_type") if key in found}
    if len(kinds) > 1:
        raise ValueError(f"conflicting rope_type {found['rope_type']!r} and type {found['type']!r}; keep one")
    found.pop("type", None)
    extends = sorted(found.keys() & _SAYING_HOW)
    if not kinds and extends:
        raise ValueError(f"missing rope_type beside {extends[0]!r} = {found[extends[0]]!r}: the scheme is not named")
    found["rope_type"] = kinds.pop() if kinds else "default"
    return found


def _fill(found: dict[str, Any], family: Family, config: Config) -> None:
    """What the family fixes and the config leaves unsaid."""
    name = config.get("model_type")
    if family.get("scaled") and not config.get("rope_parameters") and not config.get("rope_scaling"):
        raise ValueError(f"missing rope_parameters (or rope_scaling): models of type {name!r} have no plain rotation")
    if "rope_theta" not in found:
        base = family.get("base", 10000.0)
        if name not in FAMILIES or isinstance(base, dict):
            raise ValueError(
                "missing rope_theta: the config names neither a base nor a model_type that fixes one"
                f" (model_type {name!r}); write rope_theta, 10000.0 in most older models"
            )
        found["rope_theta"] = base
    if "partial_rotary_factor" not in found and "partial" in family and not config.get("qk_rope_head_dim"):
        found["partial_rotary_factor"] = family["partial"]
