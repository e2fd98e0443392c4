"""Parts of a composite config, which holds the configs of several models: the text model by default, or the one that the caller names."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from .._checks import text
from .families import FAMILIES
from .load import Config, rotary_keys

_FILE = Path(__file__).with_name("parts.json")
_TEXT_CONFIGS = ("text_config", "llm_config", "language_config", "thinker_config")


def part_of(config: Config, part: str | None) -> Config:
    """The sub-config under that key, or under keys with dots between; the text model for None.

    A part that is published without a model_type of its own, or with that of the whole (Qwen2.5-VL, Qwen3-VL), gets the one that its
    class has in transformers. TypeError for a part that is no string; ValueError, with the parts that rotate, for a key that the config
    does not have.
    """
    if part is None:
        return text_part(config)
    whole = config
    for key in text("part", part, "vision_config").split("."):
        sub_config = whole.get(key)
        if not isinstance(sub_config, dict):
            names = ", ".join(rotating(config)) or "none that rotates"
            raise ValueError(f"the config has no part {part!r}; its parts: {names}")
        whole = _typed(whole, key, cast(Config, sub_config))
    return whole


def rotating(config: Config, prefix: str = "") -> list[str]:
    """Keys of the sub-configs that rotate, nested ones with dots."""
    return list(_rotating(_sub_configs(config), prefix))


def text_part(config: Config) -> Config:
    """The sub-config of the text model if the config is a composite of several models, else the config itself.

    ValueError for a composite config with rotary keys both outside and inside, or with other sub-configs that rotate.
    """
    if config.get("model_type") in FAMILIES:
        return config
    name = _text_config_of(config)
    if name:
        if rotary_keys(config):
            raise ValueError(
                f"composite config with {', '.join(rotary_keys(config))} outside its {name}; pass one of the two: "
                f"config[{name!r}], or the config without {name}"
            )
        return text_part(cast(Config, config[name]))
    if not rotary_keys(config):
        parts = rotating(config)
        if parts:
            raise ValueError(f"composite config; pass part= one of its sub-configs that rotate: {', '.join(parts)}")
    return config


def key_of_text_part(config: Config) -> str:
    """The key of the sub-config that text_part() returns, a nested one with dots; "" where it returns the config itself."""
    name = "" if config.get("model_type") in FAMILIES else _text_config_of(config)
    inner = key_of_text_part(cast(Config, config[name])) if name else ""
    return f"{name}.{inner}" if inner else name


def _text_config_of(config: Config) -> str:
    """The first key of a text model's config that the config has, "" if there is none."""
    return next((name for name in _TEXT_CONFIGS if isinstance(config.get(name), dict)), "")


def _sub_configs(config: Config) -> dict[str, Config]:
    return {
        key: _typed(config, key, cast(Config, value))
        for key, value in config.items()
        if isinstance(value, dict) and (str(key).endswith("config") or "model_type" in value)
    }


def _rotating(sub_configs: dict[str, Config], prefix: str) -> Iterator[str]:
    for name, sub_config in sub_configs.items():
        if _rotates(sub_config):
            yield prefix + name
        else:
            yield from _rotating(_sub_configs(sub_config), f"{prefix}{name}.")


def _rotates(config: Config) -> bool:
    return bool(rotary_keys(config)) or config.get("model_type") in FAMILIES


def _typed(whole: Config, key: str, part: Config) -> Config:
    """The part with the model_type that transformers gives it, where it has none of its own."""
    model_type: Any = whole.get("model_type")
    type_of_part = _types_of_parts().get(model_type, {}).get(key) if isinstance(model_type, str) else None
    if type_of_part is None or part.get("model_type") not in (None, "", model_type):
        return part
    return {**part, "model_type": type_of_part}


@functools.cache
def _types_of_parts() -> dict[str, dict[str, str]]:
    """model_type of a composite config -> key of a part -> model_type of that part, for parts that rotate (transformers 5.23)."""
    return cast("dict[str, dict[str, str]]", json.loads(_FILE.read_text(encoding="utf-8")))
