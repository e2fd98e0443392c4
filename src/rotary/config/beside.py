"""What a config asks for beside the rotation: temperatures of queries, layers that do not rotate, keys without effect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..scaling.temperature import Llama4, LogN, MScale, Temperature
from .build import INERT_WITH_ALPHA
from .families import Family
from .source import Config


def temperatures(rope: Mapping[str, Any], config: Config) -> tuple[Temperature, ...]:
    """What queries of rotating layers are multiplied by. DeepSeek's models put mscale_all_dim into the softmax, others do not."""
    found: list[Temperature] = []
    if rope["rope_type"] == "yarn" and rope.get("mscale_all_dim") and config.get("qk_rope_head_dim") is not None:
        trained: int = rope["original_max_position_embeddings"]
        found.append(
            MScale(rope.get("factor", config.get("max_position_embeddings", trained) / trained), rope["mscale_all_dim"])
        )
    if rope.get("llama_4_scaling_beta"):
        found.append(Llama4(rope["llama_4_scaling_beta"], rope["original_max_position_embeddings"]))
    if config.get("use_logn_attn") and config.get("seq_length") is not None:
        found.append(LogN(config["seq_length"]))
    return tuple(found)


def notes(rope: Mapping[str, Any], config: Config, family: Family) -> tuple[str, ...]:
    """In words, what the caller must do, since a module for rotation cannot. ValueError where layers need modules of their own."""
    said = [f"queries are multiplied by the temperature {temperature}" for temperature in temperatures(rope, config)]
    if config.get("qk_rope_head_dim") is not None:
        said.append(
            f"only the slice of qk_rope_head_dim = {config['qk_rope_head_dim']} channels turns; give rotate() that slice"
        )
    said += [f"layers of type {kind!r} do not rotate" for kind in still_layer_types(config, family)]
    said += _still_layers(rope, config)
    layers: list[int] | None = config.get("rope_scaling_layers")
    if layers is not None and rope["rope_type"] != "default" and len(layers) != config.get("num_hidden_layers"):
        raise ValueError(
            f"rope_scaling_layers {layers}: the scaling holds for some layers only; make one module with it and one without"
        )
    if rope["rope_type"] == "dynamic" and rope.get("alpha") and rope.keys() & INERT_WITH_ALPHA:
        said.append(f"{', '.join(sorted(rope.keys() & INERT_WITH_ALPHA))} have no effect beside alpha")
    if config.get("rotary_value"):
        said.append("values are rotated too (rotary_value)")
    return tuple(said)


def still_layer_types(config: Config, family: Family) -> list[str]:
    """Layer types that the family leaves unrotated beside its sliding window."""
    return family.get("still", []) if config.get("sliding_window") is not None else []


def _still_layers(rope: Mapping[str, Any], config: Config) -> list[str]:
    said: list[str] = []
    flags: list[int] = config.get("no_rope_layers") or []  # 1 where a layer rotates, in spite of the name
    if not all(flags):
        said.append(f"layers {_listed(i for i, turns in enumerate(flags) if not turns)} do not rotate (no_rope_layers)")
        if config.get("attn_temperature_tuning"):
            temperature = Llama4(config.get("attn_scale", 0.1), int(config.get("floor_scale", 8192)), first=1)
            said.append(f"on these, queries are multiplied by the temperature {temperature}")
    bases: list[float] = config.get("layer_rope_theta") or []
    if any(base not in (0, rope["rope_theta"]) for base in bases):
        raise ValueError(
            f"layer_rope_theta gives layers bases of their own, {sorted(set(bases))}; make a module for each"
        )
    if 0 in bases:
        said.append(
            f"layers {_listed(i for i, base in enumerate(bases) if base == 0)} do not rotate (layer_rope_theta is 0)"
        )
    return said


def _listed(layers: Any) -> str:
    return ", ".join(map(str, layers))
