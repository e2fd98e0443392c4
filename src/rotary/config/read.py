"""read(config) -> Arguments: what RotaryEmbedding needs, and in words what a config asks for beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..arguments import even_dim, flag, number
from ..scaling import Scheme
from ..scaling.temperature import Temperature
from .beside import notes, still_layer_types, temperatures
from .build import scheme
from .families import FAMILIES, REASONS, Family
from .parameters import nearest, parameters
from .source import Config, load, rotary_keys, text_part

# Keys that change the rotation in a way that depends on the length and that no scheme here has.
_OTHERWISE = {
    "use_dynamic_ntk": "stretches the base with the length: NTK(2 ** ceil(log2(length / seq_length) + 1) - 1) beyond seq_length; set "
    "it to False for contexts within seq_length, or give RotaryEmbedding that scheme",
    "dual_chunk_attention_config": "counts positions anew in every chunk; remove it for contexts within its "
    "original_max_position_embeddings",
}


@dataclass(frozen=True)
class Arguments:
    """What a config says about rotation.

    dim: channels that turn. base: of the frequencies. scaling: schemes, left to right. interleaved: the pairing.
    head_dim: channels of a head (of its rotated slice, where the model cuts one off: MLA).
    window: tokens of the context the model was trained at before any extension; target: tokens it is meant for. None where unsaid.
    temperatures: what queries are multiplied by beside the rotation; RotaryEmbedding does not apply them.
    notes: what else the config asks of the caller, in words.
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
    """Everything a model's config says about rotation.

    config: a dict, the path of a config.json or of its folder, or a config object of transformers, 4.x or 5.x spelling; of a frame
        around several models the text model.
    layer_type: which layers are meant, where they differ ("full_attention", "sliding_attention").
    head_dim, interleaved: where the config does not say, or to overrule it; pairing comes from model_type, and is "half" where that
        is unknown, as in every converted checkpoint of transformers.

    ValueError or TypeError, with key, value and the nearest known name, for an unknown or missing key, one that says two things, an
    impossible number, and a rotation that RotaryEmbedding cannot do. Keys that are not about rotation are not looked at.
    """
    found = text_part(load(config))
    name = found.get("model_type")
    family: Family = FAMILIES.get(name, {})  # type: ignore[arg-type]
    _check_rotates(found, name)
    found = {**family.get("sizes", {}), **found}
    if "refused" in family:
        raise ValueError(f"models of type {name!r} are refused: {_reason(family['refused'], found, family, head_dim)}")
    if layer_type in still_layer_types(found, family):
        raise ValueError(f"layers of type {layer_type!r} do not rotate in models of type {name!r}")
    longest = _first(found, "max_position_embeddings")
    rope = parameters(found, layer_type)
    made = scheme(rope, found)
    base = number("rope_theta", rope["rope_theta"])
    head = _head_dim(found, layer_type, head_dim)
    return Arguments(
        dim=_dim(rope, found, head),
        base=base,
        scaling=() if made is None else (made,),
        interleaved=_pairing(found, family) if interleaved is None else flag("interleaved", interleaved),
        head_dim=head,
        window=_first(rope, "original_max_position_embeddings") or longest,
        target=longest,
        temperatures=temperatures(rope, found),
        notes=notes(rope, found, family),
    )


def _check_rotates(config: Config, name: Any) -> None:
    for key, still in (("use_mem_rope", False), ("use_rotary_embedding", False), ("rotary", False), ("alibi", True)):
        if config.get(key) is still and (name in FAMILIES or key != "alibi"):
            raise ValueError(f"the config says {key} = {still}: this model does not rotate")
    asks = FAMILIES[name].get("asks") if name in FAMILIES else None
    if asks is not None and config.get(asks) not in ("rotary", "rope"):
        raise ValueError(f"the config says {asks} = {config.get(asks)!r}: this model does not rotate")
    for key, remedy in _OTHERWISE.items():
        if config.get(key):
            raise ValueError(f"{key} = {config[key]!r} {remedy}")
    if name not in FAMILIES and not rotary_keys(config):
        known = nearest(name, FAMILIES) if isinstance(name, str) and "?" in nearest(name, FAMILIES) else ""
        raise ValueError(f"no rotary key in the config, and model_type {name!r} is not known to rotate{known}")


def _reason(code: str, config: Config, family: Family, head_dim: int | None) -> str:
    try:
        rope = parameters(config, None)
        dim = _dim(rope, config, _head_dim(config, None, head_dim))
        plain = f"RotaryEmbedding({dim}, base={rope['rope_theta']}" + (
            ", interleaved=True)" if family.get("interleaved") else ")"
        )
    except (TypeError, ValueError):
        plain = "a plain RotaryEmbedding"
    return REASONS[code].format(plain=plain)


def _head_dim(config: Config, layer_type: str | None, given: int | None) -> int:
    if given is not None:
        return even_dim(given)
    if config.get("qk_rope_head_dim") is not None:
        return _whole("qk_rope_head_dim", config["qk_rope_head_dim"])
    sliced = [key for key in ("kv_lora_rank", "qk_nope_head_dim") if config.get(key) is not None]
    if sliced:
        raise ValueError(
            f"missing qk_rope_head_dim, the width of the slice that turns, beside {sliced[0]}; or pass head_dim="
        )
    for key in ("head_dim", "attention_head_dim", "kv_channels"):
        if config.get(key) is not None:
            return _of_layer_type(config, key, layer_type)
    hidden = _first(config, "hidden_size", "n_embd", "d_model")
    heads = _first(config, "num_attention_heads", "n_head", "n_heads", "encoder_num_attention_heads")
    if hidden is None or heads is None:
        raise ValueError(
            "missing head_dim: the config has neither it nor hidden_size and num_attention_heads; pass head_dim="
        )
    if hidden % heads:
        raise ValueError(f"hidden_size {hidden} is not a multiple of num_attention_heads {heads}; pass head_dim=")
    return hidden // heads


def _of_layer_type(config: Config, key: str, layer_type: str | None) -> int:
    """The value of layers of that type, where per_layer_config says it for single layers, or global_head_dim for full attention."""
    if layer_type == "full_attention" and key == "head_dim" and "per_layer_config" not in config:
        return _first(config, "global_head_dim", key) or 0
    single: Mapping[str, Any] = config.get("per_layer_config") or {}
    types: list[str] = config.get("layer_types") or []
    if layer_type is None or not single or layer_type not in types:
        return _whole(key, config[key])
    layers = {int(layer): value for layer, value in single.items()}
    values = {layers.get(i, {}).get(key, config[key]) for i, kind in enumerate(types) if kind == layer_type}
    if len(values) != 1:
        raise ValueError(f"{key} differs among layers of type {layer_type!r}: {sorted(values)}; pass head_dim=")
    return _whole(key, values.pop())


def _first(config: Mapping[str, Any], *keys: str) -> int | None:
    """The value of the first of these keys that says something, a whole number."""
    for key in keys:
        if config.get(key) is not None:
            return _whole(key, config[key])
    return None


def _whole(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{key} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{key} must be >= 1, got {value}")
    return value


def _dim(rope: Mapping[str, Any], config: Config, head_dim: int) -> int:
    partial = number("partial_rotary_factor", rope.get("partial_rotary_factor", 1.0))
    if partial > 1.0:
        raise ValueError(f"partial_rotary_factor must be at most 1, got {partial}")
    if rope["rope_type"] == "proportional":
        said, dim = "head_dim", head_dim
    elif config.get("qk_rope_head_dim") is not None:
        said, dim = "qk_rope_head_dim", head_dim
        whole = config.get("head_dim")
        if "partial_rotary_factor" in rope and whole not in (None, dim) and int(whole * partial) != dim:
            raise ValueError(
                f"conflicting qk_rope_head_dim {dim} and partial_rotary_factor {partial} of head_dim {whole}; keep one"
            )
    elif config.get("rotary_dim") is not None:
        said, dim = "rotary_dim", _whole("rotary_dim", config["rotary_dim"])
        if "partial_rotary_factor" in rope and int(head_dim * partial) != dim:
            raise ValueError(
                f"conflicting rotary_dim {dim} and partial_rotary_factor {partial} of head_dim {head_dim}; keep one"
            )
    else:
        said, dim = f"partial_rotary_factor {partial} x head_dim {head_dim}", int(head_dim * partial)
    if dim < 2 or dim % 2 or dim > head_dim:
        raise ValueError(
            f"{said} gives {dim} rotated channels of {head_dim}: an even number, at least 2 and at most {head_dim}, is needed"
        )
    return dim


def _pairing(config: Config, family: Family) -> bool:
    """DeepSeek's models say it themselves, by rope_interleave. Unknown ones that rotate a slice cut off pair either way: no guess."""
    said = config.get("rope_interleave")
    if said is None and config.get("qk_rope_head_dim") is not None and config.get("model_type") not in FAMILIES:
        raise ValueError(
            f"model_type {config.get('model_type')!r} is not known, and models with qk_rope_head_dim differ in their pairing; pass "
            f"interleaved=, True for those that follow DeepSeek-V3"
        )
    return family.get("interleaved", False) if said is None else flag("rope_interleave", said)
