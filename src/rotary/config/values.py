"""Values of a config's keys, by the type that they must have: a block, a positive number, the type of each layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from .._checks import describe, number

Config = dict[str, Any]
"""A config as a dict, its keys as they are written."""


def block(config: Mapping[str, Any], key: str) -> Config:
    """The block of that name as a new dict, {} where it is missing; TypeError where it is no block."""
    value = config.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"{key} must be a dict, got {describe(value)}")
    return dict(cast("Mapping[str, Any]", value))


def real(config: Mapping[str, Any], key: str, default: float | None = None, name: str = "") -> float:
    """The number of that name, > 0, as it is written; ValueError where it is missing and has no default.

    name: as messages name it, the key by default.
    """
    value = config.get(key)
    if value is None:
        if default is None:
            raise ValueError(f"missing {name or key}")
        return default
    number(name or key, value)
    return value


def layer_types_of(config: Mapping[str, Any]) -> list[str]:
    """The type of each layer, [] where the config does not say. TypeError for a layer_types that is no list of names."""
    types: Any = config.get("layer_types")
    if types is None:
        return []
    if not isinstance(types, list | tuple) or not all(isinstance(name, str) for name in cast("list[Any]", types)):
        raise TypeError(f"layer_types must be a list of names, got {describe(types)}")
    return list(cast("list[str]", types))
