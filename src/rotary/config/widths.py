"""Widths: how many channels a head has, and how many of them turn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._checks import WIDEST, describe, digits, even_dim, number
from .names import Contradiction
from .values import block, layer_types_of

MOST_LAYERS = 2**16
"""The most layers of a model that are accepted, far more than any has: a wrong number in a config must not fill the memory."""


def width_of_head(config: Mapping[str, Any], layer_type: str | None, head_dim: int | None) -> int:
    """Channels of a head, or of its rotated slice (MLA), in layers of that type. head_dim: the caller's, which replaces the config's.

    ValueError where the config does not say or says more than WIDEST, TypeError where a size is no integer.
    """
    return even_dim(head_dim) if head_dim is not None else one_head(_stated_width(config, layer_type))


def one_head(channels: int) -> int:
    """The same number; ValueError for more channels than any head has."""
    if channels > WIDEST:
        raise ValueError(f"head_dim must be at most {WIDEST:,} channels; is it the size of one head?")
    return channels


def _stated_width(config: Mapping[str, Any], layer_type: str | None) -> int:
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
    hidden = first_integer(config, "hidden_size", "n_embd", "d_model", most=None)
    heads = first_integer(config, "num_attention_heads", "n_head", "n_heads", "encoder_num_attention_heads")
    if hidden is None or heads is None:
        raise ValueError(
            "missing head_dim, and the config lacks hidden_size and num_attention_heads to derive it from; pass head_dim="
        )
    if hidden % heads:
        raise ValueError(
            f"hidden_size {digits(hidden)} is not a multiple of num_attention_heads {heads}; pass head_dim="
        )
    return hidden // heads


def check_derived(config: Mapping[str, Any]) -> None:
    """ValueError for a head_dim that the family's code does not read."""
    hidden, heads = first_integer(config, "hidden_size"), first_integer(config, "num_attention_heads")
    width = config.get("head_dim")
    if width is not None and (hidden is None or heads is None or width * heads != hidden):
        raise ValueError(
            f"head_dim {describe(width)} is not read in this family, whose heads have hidden_size {hidden} / num_attention_heads {heads} "
            f"channels; remove it, or pass head_dim="
        )


def _width_in_layers(config: Mapping[str, Any], key: str, layer_type: str | None) -> int:
    """The value of key in layers of that type: global_head_dim or per_layer_config may replace it."""
    if layer_type == "full_attention" and key == "head_dim" and "per_layer_config" not in config:
        return first_integer(config, "global_head_dim", key) or 0
    per_layer, types = block(config, "per_layer_config"), layer_types_of(config)
    if layer_type is None or not per_layer or layer_type not in types:
        return _positive_integer(key, config[key])
    for layer in per_layer:
        if not str(layer).isdecimal():
            raise TypeError(f"per_layer_config must have numbers of layers as its keys, got {describe(layer)}")
    layers = {int(layer): block(per_layer, layer, f"per_layer_config.{layer}") for layer in per_layer}
    values = {
        _positive_integer(key, layers.get(i, {}).get(key, config[key]))
        for i, name in enumerate(types)
        if name == layer_type
    }
    if len(values) != 1:
        raise ValueError(
            f"{key} differs among layers of type {layer_type!r}: {describe(sorted(values))}; pass head_dim="
        )
    return values.pop()


def first_integer(config: Mapping[str, Any], *keys: str, most: int | None = 2**63 - 1) -> int | None:
    """The first of these keys that is not None, as an integer >= 1 and at most `most`; None if all are."""
    for key in keys:
        if config.get(key) is not None:
            return _positive_integer(key, config[key], most)
    return None


def _positive_integer(key: str, value: Any, most: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{key} must be an integer, got {describe(value)}")
    if value < 1:
        raise ValueError(f"{key} must be >= 1, got {digits(value)}")
    if most is not None and value > most:
        raise ValueError(f"{key} must be at most {most:,}, got {describe(value)}")
    return value


def _share(channels: int, partial: float) -> int:
    """The number of channels that a partial_rotary_factor selects, rounded down as in transformers."""
    return int(one_head(channels) * partial)


def rotated_width(rope: Mapping[str, Any], config: Mapping[str, Any], head_dim: int) -> int:
    """Channels that turn, of head_dim. ValueError for none, an odd number, too many, or two keys that disagree."""
    partial = number("partial_rotary_factor", rope.get("partial_rotary_factor", 1.0))
    if partial > 1.0:
        raise ValueError(f"partial_rotary_factor must be at most 1, got {partial}")
    if rope["rope_type"] == "proportional":
        source, dim = "head_dim", head_dim
    elif config.get("qk_rope_head_dim") is not None:
        source, dim = "qk_rope_head_dim", head_dim
        whole = config.get("head_dim")
        if config.get("rotary_dim") not in (None, dim):
            raise Contradiction(
                f"conflicting rotary_dim {describe(config['rotary_dim'])} and qk_rope_head_dim {dim}; keep one"
            )
        if "partial_rotary_factor" in rope and whole not in (None, dim) and _share(whole, partial) != dim:
            raise Contradiction(
                f"conflicting qk_rope_head_dim {dim} and partial_rotary_factor {partial} of head_dim {whole}; keep one"
            )
    elif config.get("rotary_dim") is not None:
        source, dim = "rotary_dim", _positive_integer("rotary_dim", config["rotary_dim"])
        if "partial_rotary_factor" in rope and _share(head_dim, partial) != dim:
            raise Contradiction(
                f"conflicting rotary_dim {dim} and partial_rotary_factor {partial} of head_dim {head_dim}; keep one"
            )
    else:
        source, dim = f"partial_rotary_factor {partial} x head_dim {head_dim}", _share(head_dim, partial)
    if dim < 2 or dim % 2 or dim > head_dim:
        raise ValueError(
            f"{source} gives {digits(dim)} rotated channels of {head_dim}; an even number from 2 to {head_dim} is needed"
        )
    return dim
