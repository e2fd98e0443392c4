"""Which coordinate each plane reads: the mrope_section of a config, and the order that its family's code gives the planes."""

from __future__ import annotations

from typing import Any, cast

from .. import axes
from .._checks import count, describe, flag
from .families import Family
from .load import Config
from .names import Contradiction
from .schemes import Parameters

KEYS = ("mrope_section", "mrope_interleaved", "interleaved")
"""Keys of rope parameters about coordinates. `interleaved` is Qwen3-Omni's name for mrope_interleaved."""

_NOTE = "positions have three coordinates, (time, row, column): rotary.positions.multimodal makes them, and offset= counts for text"


def is_dealt_out(rope: Parameters, family: Family) -> bool:
    """Whether one spectrum is divided among several coordinates."""
    return "axes" in family or "mrope_section" in rope


def axes_of(rope: Parameters, family: Family, planes: int) -> axes.Axes:
    """The coordinate that each plane reads.

    A family's code decides the order (transformers 5.23); for an unknown model_type mrope_interleaved does, as in vLLM
    (model_executor/layers/rotary_embedding/mrope.py). ValueError for sections that do not fit, and for a key that contradicts the family.
    """
    order = family.get("axes", "strided" if _interleaved(rope) else "sections")
    if order == "alternating":
        return axes.alternating(2, planes)
    section: Any = rope.get("mrope_section", family.get("sections"))
    if not isinstance(section, list | tuple) or len(cast("list[Any]", section)) != 3:
        raise ValueError(f"mrope_section must be three numbers of planes, got {describe(section)}")
    sections = [count(f"mrope_section[{i}]", n) for i, n in enumerate(cast("list[Any]", section))]
    interleaved = _interleaved(rope)
    if interleaved is not None and interleaved != (order == "strided"):
        raise Contradiction(
            f"mrope_interleaved = {interleaved} contradicts the code of this family, which deals planes out {_ORDER_IN_WORDS[order]}"
        )
    # The code takes slices with a step of 3 (apply_interleaved_mrope): a slice ends at the last plane, however long its section is, and
    # planes that no slice takes keep the time.
    if order == "strided":
        return tuple(j % 3 if j < 3 * sections[j % 3] else 0 for j in range(planes))
    if sum(sections) != planes:
        raise ValueError(f"mrope_section {tuple(sections)} has {sum(sections)} planes, the head {planes}")
    if order == "rows and columns first":
        if sections[0] != sections[1]:
            raise ValueError(f"mrope_section must begin with two equal numbers in this family, got {tuple(sections)}")
        return (1, 2) * sections[0] + (0,) * sections[2]
    return axes.sections(*sections)


_ORDER_IN_WORDS = {
    "sections": "in blocks",
    "strided": "in turn",
    "rows and columns first": "rows and columns in turn, then the time",
}


def _interleaved(rope: Parameters) -> bool | None:
    """The value of mrope_interleaved under either of its names, None where the config has neither."""
    flags: list[Any] = [rope[key] for key in ("mrope_interleaved", "interleaved") if rope.get(key) is not None]
    return flag("mrope_interleaved", flags[0]) if flags else None


def without(rope: Parameters) -> Parameters:
    """The rope parameters without those about coordinates; "default" for the rope_type "mrope" of older configs."""
    plain = {key: value for key, value in rope.items() if key not in KEYS}
    return {**plain, "rope_type": "default"} if plain.get("rope_type") == "mrope" else plain


def note(config: Config) -> str:
    """What the caller must know about positions."""
    return _NOTE if config.get("model_type") != "neomme" else "positions have two coordinates, (row, column)"
