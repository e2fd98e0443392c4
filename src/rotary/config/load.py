"""Load a config from a dict, a file, a published name or a transformers config, and find the sub-config of the text model."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from .._checks import describe
from . import published
from .families import FAMILIES
from .files import FOLDER, content
from .published import shipped

Config = dict[str, Any]

# What shows that a config rotates; names.about_rotation() knows more, and asks what a key is about.
_ROTARY_KEY = re.compile(r"(^|_)(m?rope|rotary)(_|$)|^use_(dynamic_ntk|logn_attn)$|^dual_chunk_attention_config$")
_NOT_ROTARY = {"ignore_keys_at_rope_validation"}
_TEXT_CONFIGS = ("text_config", "llm_config", "language_config", "thinker_config")
# Keys that some config classes of transformers store under another name (n_embd), and map by their attribute_map.
_MAPPED = ("hidden_size", "num_attention_heads", "max_position_embeddings")


def load(config: Any) -> Config:
    """The config as a plain dict. A transformers config gets its mapped names too: hidden_size, where it stores n_embd."""
    if isinstance(config, Mapping):
        return dict(cast("Mapping[str, Any]", config))
    if isinstance(config, (str, os.PathLike)):
        return _load_file(Path(cast(str, config)), str(config))
    if not hasattr(config, "to_dict"):
        raise TypeError(
            f"config must be a dict, the path of a config.json, the name of a published config or a transformers config, got "
            f"{describe(config)}"
        )
    keys: Config = config.to_dict()
    stored_names: Mapping[str, str] = getattr(type(config), "attribute_map", {})
    for name in _MAPPED:
        if name in stored_names and keys.get(stored_names[name]) is not None:
            keys.setdefault(name, keys[stored_names[name]])
    return keys


def _load_file(path: Path, name: str) -> Config:
    if not path.exists() and name.lower() in shipped():
        path = published.path(name)
    if path.is_dir():
        path = next((path / each for each in FOLDER if (path / each).is_file()), path / FOLDER[0])
    if not path.is_file():
        raise ValueError(
            f"no config at {str(path)!r}; pass the path of a config.json, params.json, model_config.yaml or .gguf file, or of its folder, "
            f"or the name of a published config: {', '.join(shipped())}"
        )
    return content(path)


def rotary_keys(config: Mapping[str, Any]) -> list[str]:
    """The keys whose name is about rotation and whose value is not None."""
    return [
        key for key, value in config.items() if _ROTARY_KEY.search(key) and key not in _NOT_ROTARY and value is not None
    ]


def text_part(config: Config) -> Config:
    """The sub-config of the text model if the config is a composite of several models, else the config itself.

    ValueError for a composite config with rotary keys both outside and inside, or with other sub-configs that rotate.
    """
    if config.get("model_type") in FAMILIES:
        return config
    sub_configs = _sub_configs(config)
    for name in _TEXT_CONFIGS:
        if name in sub_configs:
            if rotary_keys(config):
                raise ValueError(
                    f"composite config with {', '.join(rotary_keys(config))} outside its {name}; pass one of the two: "
                    f"config[{name!r}], or the config without {name}"
                )
            return text_part(sub_configs[name])
    if not rotary_keys(config):
        rotating = list(_rotating(sub_configs))
        if rotating:
            raise ValueError(f"composite config; pass one of its sub-configs that rotate: {', '.join(rotating)}")
    return config


def _sub_configs(config: Config) -> dict[str, Config]:
    return {
        key: cast(Config, value)
        for key, value in config.items()
        if isinstance(value, dict) and (key.endswith("config") or "model_type" in value)
    }


def _rotating(sub_configs: dict[str, Config], prefix: str = "") -> Iterator[str]:
    """Names of the sub-configs that rotate, nested ones with dots."""
    for name, sub_config in sub_configs.items():
        if rotary_keys(sub_config) or sub_config.get("model_type") in FAMILIES:
            yield prefix + name
        else:
            yield from _rotating(_sub_configs(sub_config), f"{prefix}{name}.")
