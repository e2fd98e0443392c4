"""Frequencies of a class of diffusers, from its config: by the table of diffusers_classes.py, or by the formula of the class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ..._checks import WIDEST, count, describe
from ...scaling import NTK
from ..axial import Axial, Part, in_float64, of_fractions, side_by_side
from ..names import same
from ..widths import first_integer
from .dialect import Config, block, only, real, switch
from .diffusers_classes import (
    AS_FRACTIONS,
    BY_SHARE,
    BY_WIDTHS,
    IN_SECONDS,
    ON_VIDEO,
    PATCH_FRACTIONS,
    REFUSED,
    WITH_TEXT,
    AxesOfClass,
    sixths,
)


class Frequencies(NamedTuple):
    """What a config of diffusers determines.

    axial: the spectra of the axes; None for one spectrum that is dealt out to several coordinates.
    base: of the frequencies. interleaved: whether neighbouring channels form a plane. note: what the caller must know about positions.
    keys: further keys in the words of transformers.
    """

    axial: Axial | None
    base: float
    interleaved: bool
    note: str
    keys: Config | None = None


def frequencies_of(config: Config, name: str) -> Frequencies:
    """The frequencies of the class of that name. ValueError or TypeError for a class that does not rotate or is not read, and for widths
    that do not fit it."""
    if name in BY_WIDTHS:
        axes = _rotating_text(config, name, BY_WIDTHS[name])
        return _of_channels(config, axes, _widths(config, axes.key, axes.sizes))
    if name in BY_SHARE:
        share, default, axes = BY_SHARE[name]
        head_dim = first_integer(config, "attention_head_dim", most=WIDEST) or default
        if name.startswith("ChronoEdit") and 2 * (head_dim // 6) != head_dim // 3:
            raise ValueError(
                f"attention_head_dim {head_dim}: this class makes tables of {sixths(head_dim)} channels and cuts them by thirds, "
                f"{head_dim // 3}; Wan's own code cuts them as it makes them (WanTransformer3DModel)"
            )
        if name.startswith("CogVideoX") and config.get("use_rotary_positional_embeddings") is not True:
            raise ValueError(
                "use_rotary_positional_embeddings is not true: this model adds positions, and does not rotate"
            )
        return _of_channels(config, axes, share(head_dim))
    if name in BY_FORMULA:
        return BY_FORMULA[name](config)
    if name in REFUSED:
        raise ValueError(f"{name} is refused: {REFUSED[name]}")
    known = ", ".join(sorted((*BY_WIDTHS, *BY_SHARE, *BY_FORMULA)))
    raise ValueError(f"_class_name {describe(name)} does not rotate, or is not read; known: {known}")


def _rotating_text(config: Config, name: str, axes: AxesOfClass) -> AxesOfClass:
    """The same with a note where rope_type lets JoyImage rotate text too; ValueError for a rope_type that its code does not have."""
    rope_type = config.get("rope_type")
    if not name.startswith("JoyImage") or rope_type in (None, "rope"):
        return axes
    if rope_type != "mrope":
        raise ValueError(f"rope_type must be 'rope' or 'mrope' in {name}, got {describe(rope_type)}")
    if name != "JoyImageEditTransformer3DModel":  # the other class does not read it
        return axes
    return axes._replace(note=f"{axes.note}; text counts the same number on each, from the largest of the video + 1")


def _of_channels(config: Config, axes: AxesOfClass, channels: tuple[int, ...]) -> Frequencies:
    for n in channels:
        if n < 2 or n % 2:
            raise ValueError(
                f"{axes.key or 'attention_head_dim'} gives the axes {channels} channels, and each must be even"
            )
    base = real(config, axes.base_key, axes.base) if axes.base_key else axes.base
    if axes.in_float64:
        axial = in_float64(channels, base)
    else:
        axial = side_by_side(tuple(Part(n, axis) for axis, n in enumerate(channels)))
    return Frequencies(axial, base, not axes.half, axes.note)


def _widths(config: Config, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
    widths: Any = config.get(key)
    if widths is None:
        return default
    if not isinstance(widths, (list, tuple)) or not widths:
        raise TypeError(f"{key} must be a list of channels, one number for each axis, got {describe(widths)}")
    channels = tuple(count(f"{key}[{i}]", n) for i, n in enumerate(widths))
    if sum(channels) > WIDEST:
        raise ValueError(f"{key} must have at most {WIDEST:,} channels together, got {describe(sum(channels))}")
    return channels


def _ltx(config: Config) -> Frequencies:
    channels = _all_heads(config, 64)
    return Frequencies(of_fractions(channels, 3, 10000.0, rounded=False), 10000.0, True, AS_FRACTIONS)


def _ltx2(config: Config) -> Frequencies:
    rope_type, base = config.get("rope_type") or "interleaved", real(config, "rope_theta", 10000.0)
    if rope_type not in ("interleaved", "split"):
        raise ValueError(f"rope_type must be 'interleaved' or 'split' in LTX-2, got {describe(rope_type)}")
    note = PATCH_FRACTIONS + "; audio has a module of its own, of one coordinate"
    if rope_type == "split":
        note += "; channels are paired half a head apart: view cos and sin as (seq, heads, head_dim // 2) and make heads the batch"
    axial = of_fractions(_all_heads(config, 128), 3, base, rounded=True)
    return Frequencies(axial, base, rope_type == "interleaved", note)


def _all_heads(config: Config, head_dim: int) -> int:
    """Channels of all heads together, which these classes rotate before they are cut into heads."""
    heads = first_integer(config, "num_attention_heads", most=WIDEST) or 32
    channels = heads * (first_integer(config, "attention_head_dim", most=WIDEST) or head_dim)
    return (
        first_integer(
            {"num_attention_heads x attention_head_dim": channels},
            "num_attention_heads x attention_head_dim",
            most=WIDEST,
        )
        or 0
    )


def _cosmos(config: Config) -> Frequencies:
    scales: Any = config.get("rope_scale")
    scales = (2.0, 1.0, 1.0) if scales is None else scales
    if not isinstance(scales, (list, tuple)) or len(scales) != 3:
        raise TypeError(f"rope_scale must be three numbers, got {describe(scales)}")
    factors = [real({"rope_scale": scale}, "rope_scale") for scale in scales]
    channels = sixths(first_integer(config, "attention_head_dim", most=WIDEST) or 128)
    schemes = [(NTK(factor),) if factor != 1.0 else () for factor in factors]
    parts = tuple(Part(n, axis, scheme) for axis, (n, scheme) in enumerate(zip(channels, schemes, strict=True)))
    return Frequencies(side_by_side(parts), 10000.0, False, IN_SECONDS)


def _minimax(config: Config) -> Frequencies:
    planes, base = first_integer(config, "rope_freq_dim", most=WIDEST) or 16, real(config, "rope_theta", 10000.0)
    head_dim = first_integer(config, "attention_head_dim", most=WIDEST) or 128
    axial = side_by_side(tuple(Part(2 * planes, axis) for axis in range(3)))
    return Frequencies(axial, base, False, ON_VIDEO, {"head_dim": head_dim})


def _ideogram(config: Config) -> Frequencies:
    return _dealt_out(
        config,
        _widths(config, "mrope_section", (24, 20, 20)),
        first_integer(config, "attention_head_dim", most=WIDEST) or 256,
    )


def _cosmos3(config: Config) -> Frequencies:
    """The class reads mrope_section of rope_scaling, where rope_axes_dim is missing, and nothing else of that block."""
    scaling, base = block(config, "rope_scaling"), real(config, "rope_theta", 5e6)
    only(scaling, "rope_scaling", "mrope_section", "mrope_interleaved", "rope_type", "type", "rope_theta")
    for key in ("rope_type", "type"):
        if scaling.get(key) not in (None, "default", "mrope"):
            raise ValueError(
                f"rope_scaling.{key} {describe(scaling[key])}: Cosmos3OmniTransformer has no scheme; remove rope_scaling"
            )
    if not switch(scaling, "mrope_interleaved", True):
        raise ValueError("rope_scaling.mrope_interleaved is False, and Cosmos3OmniTransformer deals planes out in turn")
    same("rope_theta", base, scaling.get("rope_theta"), "config", "rope_scaling")
    default = (24, 20, 20)
    stated, sections = _widths(config, "rope_axes_dim", ()), _widths(scaling, "mrope_section", ())
    sections = (
        same("rope_axes_dim", stated or None, sections or None, "config", "rope_scaling.mrope_section") or default
    )
    return _dealt_out(config, sections, first_integer(config, "head_dim", most=WIDEST) or 128)


def _dealt_out(config: Config, sections: tuple[int, ...], head_dim: int) -> Frequencies:
    """One spectrum that is dealt out to three coordinates, as in Qwen3-VL."""
    rope = {"rope_type": "default", "mrope_section": list(sections), "mrope_interleaved": True}
    base = real(config, "rope_theta", 5e6)
    return Frequencies(None, base, False, WITH_TEXT, {"rope_scaling": rope, "head_dim": head_dim})


BY_FORMULA: dict[str, Callable[[Config], Frequencies]] = {
    "LTXVideoTransformer3DModel": _ltx,
    "LTX2VideoTransformer3DModel": _ltx2,
    "CosmosTransformer3DModel": _cosmos,
    "MiniMaxH3Transformer3DModel": _minimax,
    "Ideogram4Transformer2DModel": _ideogram,
    "Cosmos3OmniTransformer": _cosmos3,
}
"""Class -> the function that makes its frequencies from a config, for classes that no table describes."""
