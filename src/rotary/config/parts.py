"""Parts of a composite config: the text model by default, another one where the caller names it."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from .._checks import describe
from .families import FAMILIES
from .load import Config, rotary_keys

_FILE = Path(__file__).with_name("parts.json")
_TEXT_CONFIGS = ("text_config", "llm_config", "language_config", "thinker_config")


def part_of(config: Config, part: str | None) -> Config:
    """The sub-config under that key, or under keys with dots between; the text model for None.

    A part that is published without a model_type of its own, or with that of the whole (Qwen2.5-VL, Qwen3-VL), gets the one that its
    class has in transformers. ValueError, with the parts that rotate, for a key that the config does not have.
    """
    if part is None:
        return text_part(config)
    found = config
    for key in part.split("."):
        inner = found.get(key)
        if not isinstance(inner, dict):
            known = ", ".join(rotating(config)) or "none that rotates"
            raise ValueError(f"the config has no part {describe(part)}; its parts: {known}")
        found = _typed(found, key, cast(Config, inner))
    return found


def rotating(config: Config, prefix: str = "") -> list[str]:
    """Keys of the sub-configs that rotate, nested ones with dots."""
    return list(_rotating(_sub_configs(config), prefix))


def text_part(config: Config) -> Config:
    """The sub-config of the text model if the config is a composite of several models, else the config itself.

    ValueError for a composite config with rotary keys both outside and inside, or with other sub-configs that rotate.
    """
    if config.get("model_type") in FAMILIES:
        return config
    for name in _TEXT_CONFIGS:
        if isinstance(config.get(name), dict):
            if rotary_keys(config):
                raise ValueError(
                    f"composite config with {', '.join(rotary_keys(config))} outside its {name}; pass one of the two: "
                    f"config[{name!r}], or the config without {name}"
                )
            return text_part(cast(Config, config[name]))
    if not rotary_keys(config):
        found = rotating(config)
        if found:
            raise ValueError(f"composite config; pass part= one of its sub-configs that rotate: {', '.join(found)}")
    return config


def _sub_configs(config: Config) -> dict[str, Config]:
    return {
        key: _typed(config, key, cast(Config, value))
        for key, value in config.items()
        if isinstance(value, dict) and (key.endswith("config") or "model_type" in value)
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
    kind: Any = whole.get("model_type")
    known = _known().get(kind, {}).get(key) if isinstance(kind, str) else None
    if known is None or part.get("model_type") not in (None, "", kind):
        return part
    return {**part, "model_type": known}


@functools.cache
def _known() -> dict[str, dict[str, str]]:
    """model_type of a composite config -> key of a part -> model_type of that part, for parts that rotate (transformers 5.23)."""
    return cast("dict[str, dict[str, str]]", json.loads(_FILE.read_text(encoding="utf-8")))
