"""What a config requires besides the rotation: temperatures of queries, layers that do not rotate, keys without effect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch

from .._checks import describe, flag
from ..scaling import Scheme
from ..scaling.temperature import Llama4, LogN, MScale, Temperature
from .families import FAMILIES, Family
from .load import Config
from .schemes import FIXED_NTK, INERT_WITH_ALPHA, factor_of
from .values import integer, numbers_of, real, switch
from .widths import MOST_LAYERS, first_integer


def temperatures(rope: Mapping[str, Any], config: Config) -> tuple[Temperature, ...]:
    """The temperatures that multiply queries of layers that rotate. rope: the rope parameters of these layers.

    mscale_all_dim is a temperature only in models with qk_rope_head_dim (DeepSeek), whose code applies it in the softmax.
    """
    result: list[Temperature] = []
    if rope["rope_type"] == "yarn" and rope.get("mscale_all_dim") and config.get("qk_rope_head_dim") is not None:
        result.append(MScale(factor_of(rope, config), rope["mscale_all_dim"]))
    if rope.get("llama_4_scaling_beta"):
        result.append(Llama4(rope["llama_4_scaling_beta"], rope["original_max_position_embeddings"]))
    if switch(config, "use_logn_attn"):
        result.append(LogN(integer(config, "seq_length")))
    return tuple(result)


def notes(rope: Mapping[str, Any], config: Config, family: Family) -> tuple[str, ...]:
    """What the caller must do because RotaryEmbedding does not, one sentence each. ValueError where layers need separate modules."""
    lines = [f"queries are multiplied by the temperature {temperature}" for temperature in temperatures(rope, config)]
    if config.get("qk_rope_head_dim") is not None:
        lines.append(
            f"only the slice of qk_rope_head_dim = {config['qk_rope_head_dim']} channels rotates; pass that slice to rotate()"
        )
    lines += [f"layers of type {name!r} do not rotate" for name in unrotated_layer_types(config, family)]
    lines += _notes_on_single_layers(rope, config, family)
    if config.get("rope_scaling_layers") is not None and rope["rope_type"] != "default":
        layers = numbers_of(config, "rope_scaling_layers", at_least=0)
        if len(layers) != config.get("num_hidden_layers"):
            raise ValueError(
                f"rope_scaling_layers {shortened(layers)}: only these layers use the scaling; make one module with it and one without"
            )
    if rope["rope_type"] == "dynamic" and rope.get("alpha") and rope.keys() & INERT_WITH_ALPHA:
        lines.append(f"{', '.join(sorted(rope.keys() & INERT_WITH_ALPHA))} have no effect together with alpha")
    if rope["rope_type"] == "ntk" and config.get("model_type") not in FIXED_NTK and "mixed_b" not in rope:
        lines.append(
            "rope_type ntk is read as the NTK-aware change of base; vLLM reads it as NTKMixed(factor, exponent=1), as GTE means it"
        )
    if switch(config, "rotary_value"):
        lines.append("values are rotated too (rotary_value)")
    return tuple(lines)


NORM_AFTER = (
    "hunyuan_v1_dense",
    "hunyuan_v1_moe",
    "hunyuan_vl",
    "hunyuan_vl_text",
    "llama4_text",
    "nanochat",
    "timesfm2_5",
)
"""Families that normalise queries and keys after their rotation (llama4_text: where use_qk_norm is on)."""
CANCELLED = "the norm after the rotation cancels"
"""The beginning of the note of cancelled(), by which transformers/check.py finds it."""


def cancelled(config: Config, scheme: Scheme | None, base: float, dim: int) -> list[str]:
    """A note where a norm after the rotation undoes the attention factor of the scheme."""
    if scheme is None or config.get("model_type") not in NORM_AFTER or config.get("use_qk_norm") is False:
        return []
    factor = scheme(torch.ones(dim // 2, dtype=torch.float64), base=base, dim=dim)[1]
    if isinstance(factor, torch.Tensor) or factor == 1.0:
        return []
    return [
        f"{CANCELLED} the attention factor {factor:.4g} of {type(scheme).__name__}: this model has none of its temperature"
    ]


def unrotated_layer_types(config: Config, family: Family) -> list[str]:
    """Layer types that the family does not rotate if the config has a sliding window."""
    return family.get("unrotated_layer_types", []) if config.get("sliding_window") is not None else []


def _notes_on_single_layers(rope: Mapping[str, Any], config: Config, family: Family) -> list[str]:
    lines: list[str] = []
    unrotated, why = _unrotated_layers(config, family)
    if unrotated:
        lines.append(f"layers {unrotated} do not rotate ({why})")
        if _tuned(config):
            temperature = Llama4(real(config, "attn_scale", 0.1), integer(config, "floor_scale", 8192), first=1)
            lines.append(f"queries of these layers are multiplied by the temperature {temperature}")
    bases = numbers_of(config, "layer_rope_theta", at_least=0)
    if any(base not in (0, rope["rope_theta"]) for base in bases):
        raise ValueError(
            f"layer_rope_theta gives layers different bases, {shortened(sorted(set(bases)))}; make one module for each base"
        )
    every, count = family.get("unrotated_from_end"), first_integer(config, "num_hidden_layers", most=MOST_LAYERS)
    if not bases and every is not None and count is not None:  # transformers fills a missing layer_rope_theta
        bases = [0 if (count - 1 - layer) % every == 0 else rope["rope_theta"] for layer in range(count)]
    if 0 in bases:
        unrotated = _listed(layer for layer, base in enumerate(bases) if base == 0)
        lines.append(f"layers {unrotated} do not rotate (layer_rope_theta is 0)")
    return lines


def _tuned(config: Config) -> bool:
    """attn_temperature_tuning, which transformers 4.51 wrote as the integer 4."""
    tuning = config.get("attn_temperature_tuning")
    if tuning is None:
        return config.get("model_type") == "llama4_text"
    return bool(tuning) if isinstance(tuning, int) else flag("attn_temperature_tuning", tuning)


def _unrotated_layers(config: Config, family: Family) -> tuple[str, str]:
    """(the layers that do not rotate by no_rope_layers or an interval, the name of that key); "" for none.

    transformers fills a missing or empty no_rope_layers by no_rope_layer_interval, 4 in the families that have these keys.
    """
    flags = _flags(config)  # despite the name of the key, 1 is a layer that rotates
    if flags:
        return _listed(layer for layer, rotates in enumerate(flags) if not rotates), "no_rope_layers"
    every: int | None = config.get("no_rope_layer_interval") or family.get("unrotated_every")
    if every is None:
        return "", ""
    if config.get("model_type") in FAMILIES and "unrotated_every" not in family:
        raise ValueError(
            f"no_rope_layer_interval {describe(every)} is not read in models of type {config['model_type']!r}; write no_rope_layers"
        )
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"no_rope_layer_interval must be an integer >= 1, got {describe(every)}")
    layers = first_integer(config, "num_hidden_layers", most=MOST_LAYERS)
    if layers is None:
        return f"{every - 1}, {2 * every - 1}, ... (every {every}th)", "no_rope_layer_interval"
    return _listed(range(every - 1, layers, every)), "no_rope_layers"


def _flags(config: Config) -> list[int]:
    flags: Any = config.get("no_rope_layers")
    if flags is None:
        return []
    if not isinstance(flags, list | tuple) or any(flag not in (0, 1) for flag in cast("list[Any]", flags)):
        raise TypeError(f"no_rope_layers must be a list with 0 or 1 for each layer, got {describe(flags)}")
    return list(cast("list[int]", flags))


def _listed(layers: Iterable[int]) -> str:
    return shortened(list(layers)).strip("[]")


def shortened(values: Sequence[float], most: int = 64) -> str:
    """A list as messages show it: of a long one the first values and the last.

    >>> shortened([1, 2, 3]), shortened(range(100), most=3)
    ('[1, 2, 3]', '[0, 1, ..., 99]')
    """
    if len(values) <= most:
        return f"[{', '.join(map(str, values))}]"
    return f"[{', '.join(map(str, values[: most - 1]))}, ..., {values[-1]}]"
