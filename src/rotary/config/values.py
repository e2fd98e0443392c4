"""Values of a config's keys, by the type that they must have: a block, a number, an integer, a switch, the type of each layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from .._checks import describe, flag, number

Config = dict[str, Any]
"""A config as a dict, its keys as they are written."""


def block(config: Mapping[str, Any], key: str, name: str = "") -> Config:
    """The block of that name as a new dict, {} where it is missing; TypeError where it is no block.

    name: as messages name it, the key by default.
    """
    value = config.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"{name or key} must be a dict, got {describe(value)}")
    return dict(cast("Mapping[str, Any]", value))


def real(
    config: Mapping[str, Any],
    key: str,
    default: float | None = None,
    name: str = "",
    *,
    at_least: float | None = None,
) -> float:
    """The number of that name as it is written, > 0 or at least `at_least`; ValueError where it is missing and has no default.

    name: as messages name it, the key by default.
    """
    value = config.get(key)
    if value is None:
        if default is None:
            raise ValueError(f"missing {name or key}")
        return default
    number(name or key, value, at_least=at_least)
    return value


def integer(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """The integer >= 1 of that name, which may be written as 8192.0; ValueError where it is missing and has no default."""
    value = real(config, key, default)
    if value != int(value) or value < 1:
        raise ValueError(f"{key} must be an integer >= 1, got {describe(value)}")
    return int(value)


def switch(config: Mapping[str, Any], key: str, default: bool = False) -> bool:
    """The True or False of that name, the default where it is missing; TypeError for anything else, "false" included."""
    value = config.get(key)
    return default if value is None else flag(key, value)


def numbers_of(config: Mapping[str, Any], key: str, *, at_least: float | None = None) -> list[float]:
    """The list of numbers of that name, > 0 or at least `at_least`, [] where it is missing; TypeError for anything else."""
    value: Any = config.get(key)
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise TypeError(f"{key} must be a list of numbers, got {describe(value)}")
    return [
        real({key: item}, key, name=f"{key}[{i}]", at_least=at_least) for i, item in enumerate(cast("list[Any]", value))
    ]


def layer_types_of(config: Mapping[str, Any]) -> list[str]:
    """The type of each layer, [] where the config does not say. TypeError for a layer_types that is no list of names."""
    types: Any = config.get("layer_types")
    if types is None:
        return []
    if not isinstance(types, list | tuple) or not all(isinstance(name, str) for name in cast("list[Any]", types)):
        raise TypeError(f"layer_types must be a list of names, got {describe(types)}")
    return list(cast("list[str]", types))
