"""What a config requires besides the rotation: temperatures of queries, layers that do not rotate, keys without effect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..scaling.temperature import Llama4, LogN, MScale, Temperature
from .families import Family
from .load import Config
from .schemes import INERT_WITH_ALPHA


def temperatures(rope: Mapping[str, Any], config: Config) -> tuple[Temperature, ...]:
    """The temperatures that multiply queries of rotated layers. rope: the rope parameters of these layers.

    mscale_all_dim is a temperature only in models with qk_rope_head_dim (DeepSeek), whose code applies it in the softmax.
    """
    result: list[Temperature] = []
    if rope["rope_type"] == "yarn" and rope.get("mscale_all_dim") and config.get("qk_rope_head_dim") is not None:
        trained: int = rope["original_max_position_embeddings"]
        result.append(
            MScale(rope.get("factor", config.get("max_position_embeddings", trained) / trained), rope["mscale_all_dim"])
        )
    if rope.get("llama_4_scaling_beta"):
        result.append(Llama4(rope["llama_4_scaling_beta"], rope["original_max_position_embeddings"]))
    if config.get("use_logn_attn") and config.get("seq_length") is not None:
        result.append(LogN(config["seq_length"]))
    return tuple(result)


def notes(rope: Mapping[str, Any], config: Config, family: Family) -> tuple[str, ...]:
    """What the caller must do because RotaryEmbedding does not. ValueError where layers need separate modules."""
    lines = [f"queries are multiplied by the temperature {temperature}" for temperature in temperatures(rope, config)]
    if config.get("qk_rope_head_dim") is not None:
        lines.append(
            f"only the slice of qk_rope_head_dim = {config['qk_rope_head_dim']} channels rotates; pass that slice to rotate()"
        )
    lines += [f"layers of type {name!r} do not rotate" for name in unrotated_layer_types(config, family)]
    lines += _notes_on_single_layers(rope, config)
    layers: list[int] | None = config.get("rope_scaling_layers")
    if layers is not None and rope["rope_type"] != "default" and len(layers) != config.get("num_hidden_layers"):
        raise ValueError(
            f"rope_scaling_layers {layers}: only these layers use the scaling; make one module with it and one without"
        )
    if rope["rope_type"] == "dynamic" and rope.get("alpha") and rope.keys() & INERT_WITH_ALPHA:
        lines.append(f"{', '.join(sorted(rope.keys() & INERT_WITH_ALPHA))} have no effect together with alpha")
    if config.get("rotary_value"):
        lines.append("values are rotated too (rotary_value)")
    return tuple(lines)


def unrotated_layer_types(config: Config, family: Family) -> list[str]:
    """Layer types that the family does not rotate if the config has a sliding window."""
    return family.get("unrotated_layer_types", []) if config.get("sliding_window") is not None else []


def _notes_on_single_layers(rope: Mapping[str, Any], config: Config) -> list[str]:
    lines: list[str] = []
    flags: list[int] = config.get("no_rope_layers") or []  # despite the name of the key, 1 is a layer that rotates
    if not all(flags):
        unrotated = _listed(layer for layer, rotates in enumerate(flags) if not rotates)
        lines.append(f"layers {unrotated} do not rotate (no_rope_layers)")
        if config.get("attn_temperature_tuning"):
            temperature = Llama4(config.get("attn_scale", 0.1), int(config.get("floor_scale", 8192)), first=1)
            lines.append(f"queries of these layers are multiplied by the temperature {temperature}")
    bases: list[float] = config.get("layer_rope_theta") or []
    if any(base not in (0, rope["rope_theta"]) for base in bases):
        raise ValueError(
            f"layer_rope_theta gives layers different bases, {sorted(set(bases))}; make one module for each base"
        )
    if 0 in bases:
        unrotated = _listed(layer for layer, base in enumerate(bases) if base == 0)
        lines.append(f"layers {unrotated} do not rotate (layer_rope_theta is 0)")
    return lines


def _listed(layers: Iterable[int]) -> str:
    return ", ".join(map(str, layers))
