"""Where a config comes from: a dict, a config.json, a config object of transformers; and which part of it turns text."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from .families import FAMILIES

Config = dict[str, Any]

_ABOUT_ROTATION = re.compile(r"(^|_)(m?rope|rotary)(_|$)|^use_(dynamic_ntk|logn_attn)$|^dual_chunk_attention_config$")
_NOT_ABOUT_ROTATION = {"ignore_keys_at_rope_validation"}
_TEXT_PARTS = ("text_config", "llm_config", "language_config", "thinker_config")
_MAPPED = ("hidden_size", "num_attention_heads", "max_position_embeddings")


def load(config: Any) -> Config:
    """The config as a plain dict, with the names that transformers maps (n_embd is hidden_size) beside the ones it stores."""
    if isinstance(config, Mapping):
        return dict(cast("Mapping[str, Any]", config))
    if isinstance(config, (str, os.PathLike)):
        path = Path(cast(str, config))
        path = path / "config.json" if path.is_dir() else path
        if not path.is_file():
            raise ValueError(
                f"no config at {str(path)!r}: a path to a config.json, or to the folder that holds one, is needed"
            )
        loaded = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(loaded, dict):
            raise TypeError(f"{str(path)!r} holds {type(loaded).__name__}, not a JSON object")
        return cast(Config, loaded)
    if not hasattr(config, "to_dict"):
        raise TypeError(
            f"config must be a dict, a path to a config.json or a transformers config, got {type(config).__name__}"
        )
    found: Config = config.to_dict()
    names: Mapping[str, str] = getattr(type(config), "attribute_map", {})
    for name in _MAPPED:
        if name in names and found.get(names[name]) is not None:
            found.setdefault(name, found[names[name]])
    return found


def rotary_keys(config: Mapping[str, Any]) -> list[str]:
    """The keys that are about rotation by their name, and say something."""
    return [
        key
        for key, value in config.items()
        if _ABOUT_ROTATION.search(key) and key not in _NOT_ABOUT_ROTATION and value is not None
    ]


def text_part(config: Config) -> Config:
    """The config itself, or the part of it that describes the text model, where the config is a frame around several models."""
    if config.get("model_type") in FAMILIES:
        return config
    parts = _parts(config)
    for name in _TEXT_PARTS:
        if name in parts:
            if rotary_keys(config):
                raise ValueError(
                    f"{', '.join(rotary_keys(config))} stand beside {name}, which has keys of its own; pass the part that is meant"
                )
            return text_part(parts[name])
    if not rotary_keys(config):
        turning = list(_turning(parts))
        if turning:
            raise ValueError(f"the config is a frame around {', '.join(turning)}; pass the part that is meant")
    return config


def _parts(config: Config) -> dict[str, Config]:
    return {
        key: cast(Config, part)
        for key, part in config.items()
        if isinstance(part, dict) and (key.endswith("config") or "model_type" in part)
    }


def _turning(parts: dict[str, Config], prefix: str = "") -> Iterator[str]:
    for name, part in parts.items():
        if rotary_keys(part) or part.get("model_type") in FAMILIES:
            yield prefix + name
        else:
            yield from _turning(_parts(part), f"{prefix}{name}.")
