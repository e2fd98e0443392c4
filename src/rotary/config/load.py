"""Load a config from a dict, a file, a published name or a config object of transformers."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from .._checks import describe, text
from . import published
from .files import FOLDER, content
from .names import about_rotation
from .published import shipped
from .silence import OF_OTHER_THINGS
from .values import Config

# Keys that show that a model rotates. names.about_rotation() finds more: also keys without which a model may rotate or not.
_ROTARY_KEY = re.compile(r"(^|_)(m?rope|rotary)(_|$)|^use_(dynamic_ntk|logn_attn)$|^dual_chunk_attention_config$")
_NOT_ROTARY = {"ignore_keys_at_rope_validation"}
# Keys that some config classes of transformers store under another name (n_embd), and map by their attribute_map.
_MAPPED = ("hidden_size", "num_attention_heads", "max_position_embeddings")


def load(config: Any) -> Config:
    """The config as a new dict. A config object of transformers gets its mapped names too: hidden_size, where it stores n_embd.

    config: a dict, the path of a file or of its folder, a published name, or a config object. TypeError for anything else, and for keys
    and a model_type that are no strings; ValueError where there is no such file; ImportError where its format needs a package.
    """
    keys = _loaded(config)
    check_names(keys, "config")
    return keys


def check_names(config: Mapping[Any, Any], name: str) -> None:
    """TypeError for a key that is no string, as YAML and Python allow, and for such a model_type; in the blocks that are read too.

    Blocks about other things may number their entries (id2label of a config object).
    """
    for key, value in config.items():
        if not isinstance(key, str):
            raise TypeError(f"the keys of {name} must be strings, got {describe(key)}")
        if isinstance(value, Mapping) and key not in OF_OTHER_THINGS and key != "per_layer_config":
            block = cast("Mapping[Any, Any]", value)
            if key.endswith("config") or "model_type" in block or about_rotation(key):
                check_names(block, key)
    if config.get("model_type") is not None:
        text("model_type" if name == "config" else f"model_type of {name}", config["model_type"], "llama")


def _loaded(config: Any) -> Config:
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
    try:
        exists = path.exists()
    except OSError:  # a text that is too long for a path, such as the content of a config
        raise ValueError(
            f"config is a str of {len(name)} characters, which is no path; pass json.loads(text) for a JSON text"
        ) from None
    if not exists and name.lower() in shipped():
        path = published.path(name)
    if path.is_dir():
        path = next((path / file for file in FOLDER if (path / file).is_file()), path / FOLDER[0])
    if not path.is_file():
        raise ValueError(
            f"no config at {str(path)!r}; pass the path of a config.json, params.json, model_config.yaml or .gguf file, or of its folder, "
            f"or the name of a published config: {', '.join(shipped())}"
        )
    return content(path)


def rotary_keys(config: Mapping[str, Any]) -> list[str]:
    """The keys whose name is about rotation and whose value is not None."""
    return [
        key
        for key, value in config.items()
        if _ROTARY_KEY.search(str(key)) and key not in _NOT_ROTARY and value is not None
    ]
