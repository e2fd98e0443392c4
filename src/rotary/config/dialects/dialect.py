"""Dialect: one way to write a rotation into a config, as a value; and Spelled, a config of a dialect in the words of transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..._checks import describe
from ...scaling import Scheme
from ..axial import Axial
from ..families import FAMILIES, unrotated
from ..names import differ, same
from ..names import words as keys
from ..silence import check_everything_is_owned
from ..values import Config, block, integer, numbers_of, real, switch

__all__ = [
    "Config",
    "Dialect",
    "Spelled",
    "block",
    "check_read",
    "could_be",
    "integer",
    "keys",
    "numbers_of",
    "only",
    "real",
    "respelled",
    "switch",
]


@dataclass(frozen=True)
class Spelled:
    """A config in the words of transformers.

    interleaved: the pairing that the dialect fixes; None where model_type decides.
    pairing_unknown: why the caller must say the pairing, "" where it is known.
    schemes: schemes after that of rope_scaling. notes: what the dialect leaves open or drops, one sentence each.
    axial: the spectra of its axes, where the dialect determines them.
    dialect: its name.
    """

    config: Config
    interleaved: bool | None = None
    pairing_unknown: str = ""
    schemes: tuple[Scheme, ...] = ()
    notes: tuple[str, ...] = ()
    axial: Axial | None = None
    dialect: str = ""


@dataclass(frozen=True)
class Dialect:
    """A way to write a config.

    name: as messages and `rotary show` give it. source: the repository and file that define what its keys mean.
    recognises: whether a config is of this dialect.
    keys: every key about rotation that it has, "block/key" inside a block. Any other key about rotation is an error.
    translate: the same config in the words of transformers, without these keys.
    stems: beginnings of names that are about rotation in this dialect alone.
    """

    name: str
    source: str
    recognises: Callable[[Config], bool]
    keys: frozenset[str]
    translate: Callable[[Config], Spelled]
    stems: tuple[str, ...] = ()

    def read(self, config: Config) -> Spelled:
        """The config in the words of transformers. TypeError for a key about rotation that the dialect does not have."""
        check_everything_is_owned(config, self.name, self.keys, self.stems)
        return replace(self.translate(config), dialect=self.name)


def could_be(config: Config, *names: str) -> bool:
    """Whether model_type is one of these, or none of transformers' own, whose configs have no keys of other dialects."""
    name: Any = config.get("model_type")
    return name in names or not (name in FAMILIES or name in unrotated())


def respelled(config: Config, drop: frozenset[str], **new: Any) -> Config:
    """The config without the keys in `drop` and with the new ones that are not None; ValueError where it has one with another value."""
    result = {key: value for key, value in config.items() if key not in drop}
    for key, value in new.items():
        if value is not None:
            result[key] = same(key, result.get(key), value, "config", "its own keys") if key in result else value
    return result


def only(config: Mapping[str, Any], name: str, *known: str) -> None:
    """TypeError for a key of a block that is not among the known ones."""
    for key, value in config.items():
        if key not in known and value is not None:
            raise TypeError(f"unexpected key {key!r} ({describe(value)}) in {name}; known: {', '.join(known)}")


def check_read(
    config: Mapping[str, Any],
    about_schemes: Iterable[str],
    read: Iterable[str],
    selected: str,
    idle: Mapping[str, tuple[Any, ...]],
) -> None:
    """ValueError for a key about schemes that has no effect with the scheme that the config selects.

    about_schemes: the dialect's keys about schemes. read: those that the selected scheme reads. selected: what selects it, for the message.
    idle: values of keys that change nothing, which the dialect's own programs write whatever the scheme is.
    """
    for key in sorted(frozenset(about_schemes) - frozenset(read)):
        value = config.get(key)
        if value is not None and not any(_equal(value, harmless) for harmless in idle.get(key, ())):
            raise ValueError(
                f"{key} ({describe(value)}) has no effect with {selected}; remove it, or select the scheme that it belongs to"
            )


def _equal(value: Any, harmless: Any) -> bool:
    """Whether two values are the same, True being no 1."""
    return isinstance(value, bool) == isinstance(harmless, bool) and not differ(value, harmless)
