"""Frequencies of a class of diffusers, from its config: by the table of diffusers_classes.py, or by the formula of the class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ..._checks import describe, index
from ...scaling import NTK
from ..axial import Axial, Part, in_float64, of_fractions, side_by_side
from ..widths import first_integer
from .dialect import Config, real
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
        axes = BY_WIDTHS[name]
        return _of_channels(config, axes, _widths(config, axes.key, axes.sizes))
    if name in BY_SHARE:
        share, default, axes = BY_SHARE[name]
        head_dim = first_integer(config, "attention_head_dim") or default
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
    return tuple(index(f"{key}[{i}]", n) for i, n in enumerate(widths))


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
    heads = first_integer(config, "num_attention_heads") or 32
    return heads * (first_integer(config, "attention_head_dim") or head_dim)


def _cosmos(config: Config) -> Frequencies:
    scales: Any = config.get("rope_scale")
    scales = (2.0, 1.0, 1.0) if scales is None else scales
    if not isinstance(scales, (list, tuple)) or len(scales) != 3:
        raise TypeError(f"rope_scale must be three numbers, got {describe(scales)}")
    factors = [real({"rope_scale": scale}, "rope_scale") for scale in scales]
    channels = sixths(first_integer(config, "attention_head_dim") or 128)
    schemes = [(NTK(factor),) if factor != 1.0 else () for factor in factors]
    parts = tuple(Part(n, axis, scheme) for axis, (n, scheme) in enumerate(zip(channels, schemes, strict=True)))
    return Frequencies(side_by_side(parts), 10000.0, False, IN_SECONDS)


def _minimax(config: Config) -> Frequencies:
    planes, base = first_integer(config, "rope_freq_dim") or 16, real(config, "rope_theta", 10000.0)
    head_dim = first_integer(config, "attention_head_dim") or 128
    axial = side_by_side(tuple(Part(2 * planes, axis) for axis in range(3)))
    return Frequencies(axial, base, False, ON_VIDEO, {"head_dim": head_dim})


def _ideogram(config: Config) -> Frequencies:
    return _dealt_out(
        config, _widths(config, "mrope_section", (24, 20, 20)), first_integer(config, "attention_head_dim") or 256
    )


def _cosmos3(config: Config) -> Frequencies:
    scaling: Any = config.get("rope_scaling") or {}
    sections = _widths(config, "rope_axes_dim", _widths(scaling, "mrope_section", (24, 20, 20)))
    return _dealt_out(config, sections, first_integer(config, "head_dim") or 128)


def _dealt_out(config: Config, sections: tuple[int, ...], head_dim: int) -> Frequencies:
    """One spectrum that is dealt out to three coordinates, as in Qwen3-VL."""
    block = {"rope_type": "default", "mrope_section": list(sections), "mrope_interleaved": True}
    base = real(config, "rope_theta", 5e6)
    return Frequencies(None, base, False, WITH_TEXT, {"rope_scaling": block, "head_dim": head_dim})


BY_FORMULA: dict[str, Callable[[Config], Frequencies]] = {
    "LTXVideoTransformer3DModel": _ltx,
    "LTX2VideoTransformer3DModel": _ltx2,
    "CosmosTransformer3DModel": _cosmos,
    "MiniMaxH3Transformer3DModel": _minimax,
    "Ideogram4Transformer2DModel": _ideogram,
    "Cosmos3OmniTransformer": _cosmos3,
}
"""Class -> the function that makes its frequencies from a config, for classes that no table describes."""
