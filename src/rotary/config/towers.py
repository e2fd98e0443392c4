"""Vision towers of transformers: the spectra of their axes, from sizes, base and order, and what a caller must know about positions."""

from __future__ import annotations

from .._checks import describe, even_dim, number
from .axial import Arrangement, Axial, Part, even_and_odd, of_centres, side_by_side
from .dialects.dialect import check_read
from .families import Family
from .load import Config
from .names import same, words
from .schemes import Parameters
from .widths import first_integer, one_head

_ORDERS: dict[str, tuple[tuple[int, ...], Arrangement]] = {
    "rows, columns": ((0, 1), "blocks"),
    "columns, rows": ((1, 0), "blocks"),
    "rows and columns in turn": ((0, 1), "alternating"),
    "columns and rows in turn": ((1, 0), "alternating"),
    "frames, rows, columns": ((0, 1, 2), "blocks"),
}
"""The coordinate that each part reads, and the order of planes. Two of them are (row, column), three (frame, row, column)."""

_GRID = "positions are (row, column): rotary.positions.grid(rows, columns)"
_MERGED = (
    "positions are (row, column) in the order in which patches are merged: rotary.positions.merged(rows, columns, {merge}), again for "
    "each frame"
)
_NOTES = {
    "grid": _GRID,
    "merged": _MERGED,
    "frames merged": "positions are (frame, row, column); rows and columns in the order of rotary.positions.merged(rows, columns, {merge})",
    "merged from 1": f"{_MERGED}; they count from 1: add 1",
    "windows": "patches, and their positions with them, are in the order of windows",
    "class token at 0": "the class token in front is at (0, 0): rotary.positions.prefixed",
    "tiles from 1": "positions are (row, column), counted from 1: rotary.positions.grid(rows, columns, start=1); the class token, last, "
    "is at (0, 0)",
    "whole width from 1": "all {head_dim} channels turn before they are cut into heads, so that heads differ: rotate(x) of shape "
    "(..., seq, {head_dim}); positions are (row, column), counted from 1: rotary.positions.grid(rows, columns, start=1)",
    "memory": "keys repeat the positions of the grid for each frame of memory, and their last tokens (pointers to objects) do not turn",
    "smaller grid of keys": "keys of memory are on a grid of memory_attention_rope_k_sizes",
    "global layers": "in layers without windows positions are those of the grid x window_size / columns, as float64",
    "learned class token": "the class token in front has learned angles (class_pos_emb), not a position: put their cos and sin before the "
    "tables",
    "blocks": "channels are paired half an axis apart: rotate x.view(..., 2 * seq, {half}) with cos and sin viewed as (2 * seq, "
    "{quarter}); positions of padding count as 0",
    "centres": "positions are centres of patches, (row, column) in [-1, 1]: rotary.positions.centres(rows, columns); class and register "
    "tokens in front are at 0: rotary.positions.prefixed",
}

_OF_OTHER_FAMILIES = words(
    "qk_rope_head_dim rotary_dim rotary_value use_logn_attn no_rope_layers no_rope_layer_interval layer_rope_theta rope_scaling_layers"
)
"""Keys about rotation that no code of a tower reads."""


def axial_of(rope: Parameters, config: Config, family: Family, head_dim: int) -> Axial:
    """The spectra of a tower's axes. ValueError for a width that is no multiple of 4, TypeError for a key that its code does not read."""
    order, base = family.get("axial", ""), number("rope_theta", rope["rope_theta"])
    _check_keys(rope, order)
    check_read(
        config, _OF_OTHER_FAMILIES, (), "the axes of images", {"rotary_value": (False,), "use_logn_attn": (False,)}
    )
    if order in ("centres", "even and odd planes"):
        _check_divides(head_dim, 4)
        return of_centres(head_dim, base) if order == "centres" else even_and_odd(head_dim, base)
    coordinates, arrangement = _ORDERS[order]
    if len(coordinates) == 3:
        channels = 2 * (head_dim // 3 // 2)  # the rest passes through
    else:
        _check_divides(head_dim, 4)
        channels = head_dim // 2
    return side_by_side(tuple(Part(channels, axis) for axis in coordinates), arrangement)


def width_of_tower(config: Config, family: Family, head_dim: int | None) -> int:
    """Channels of a head: head_dim of the caller or the config, else a width over a number of heads, whose keys the family names.

    ValueError where one is missing, and for more channels than WIDEST.
    """
    if head_dim is not None:
        return even_dim(head_dim)
    width, *heads = family.get("width", ["hidden_size", "num_attention_heads"])
    own = first_integer(config, "head_dim")
    if own is not None and heads:
        return one_head(own)
    hidden, number_of_heads = first_integer(config, width), 1
    for key in heads:
        n = first_integer(config, key)
        if n is None:
            raise ValueError(f"missing {key}; add it, or pass head_dim=")
        number_of_heads *= n
    if hidden is None:
        raise ValueError(f"missing {width}; add it, or pass head_dim=")
    if hidden % number_of_heads:
        raise ValueError(
            f"{width} {hidden} is not a multiple of {' x '.join(heads)} = {number_of_heads}; pass head_dim="
        )
    return one_head(hidden // number_of_heads)


def mapped(config: Config, family: Family) -> Config:
    """The config with num_heads, also where it is under the name num_attention_heads, which transformers allows for it; ValueError where
    the two differ."""
    heads = config.get("num_attention_heads")
    if heads is None or "num_heads" not in family.get("width", ()):
        return config
    return {**config, "num_heads": same("num_heads", config.get("num_heads"), heads, "config", "num_attention_heads")}


def notes_of(config: Config, family: Family, head_dim: int) -> tuple[str, ...]:
    """What the caller must know about positions, one sentence each."""
    words = {
        "head_dim": head_dim,
        "half": head_dim // 2,
        "quarter": head_dim // 4,
        "merge": first_integer(config, "spatial_merge_size", "adapter_merge_size") or "merge",
    }
    return tuple(_NOTES[name].format(**words) for name in family.get("positions", []))


def _check_keys(rope: Parameters, order: str) -> None:
    """ValueError for a scheme, TypeError for any other key that the code of towers does not read."""
    if rope["rope_type"] not in ("default", "axial"):
        raise ValueError(
            f"rope_type {describe(rope['rope_type'])}: the code of this family reads only 'axial': it has no scheme for axes of images; "
            f"RotaryEmbedding.axial takes a module with a scheme for each axis"
        )
    expected = {"rope_type", "rope_theta"} | (
        {"partial_rotary_factor"} if order == "rows and columns in turn" else set[str]()
    )
    for key, value in rope.items():
        if key not in expected:
            raise TypeError(
                f"unexpected key {key!r} ({describe(value)}) in the rope parameters of a vision tower; remove it"
            )


def _check_divides(head_dim: int, by: int) -> None:
    if head_dim % by:
        raise ValueError(
            f"a head of {head_dim} channels is not cut into two axes of whole planes; it must be a multiple of {by}"
        )


def check_whole_width(rope: Parameters, config: Config, width: int) -> None:
    """ValueError unless the partial_rotary_factor selects half of the whole width for rows, as EfficientLoFTR's does: it counts in heads,
    and its code rotates before the width is cut into heads."""
    heads, partial = first_integer(config, "num_attention_heads") or 1, rope.get("partial_rotary_factor", 1.0)
    if number("partial_rotary_factor", partial) > heads or int(width // heads * partial) * 2 != width:
        raise ValueError(
            f"partial_rotary_factor {describe(partial)}: the code of this family needs {heads / 2:g}, half of num_attention_heads, since "
            f"half of its {width} channels read rows and half columns"
        )
