"""The transformers of diffusers: the class that _class_name names decides how many channels each axis has, and in which arithmetic.

Their configs hold widths (axes_dims_rope, rope_axes_dim, axes_dims, axes_dim, rope_dim_list, or none) and a base (rope_theta, theta, or
none). What they leave out is in the code of each class (diffusers 0.42).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ..._checks import describe, index
from ...scaling import NTK
from ..axial import Axial, Part, in_float64, of_fractions, side_by_side
from ..widths import first_integer
from .dialect import Config, Dialect, Spelled, keys, real

_GRID = "positions are (row, column): rotary.positions.grid(rows, columns)"
_VIDEO = "positions are (frame, row, column): rotary.positions.grid(frames, rows, columns)"
_IDS = "positions are the ids of the pipeline, (index, row, column), integers; text stands at (0, 0, 0)"
_FOUR = "positions are the ids of the pipeline, (index, row, column, token), integers; text stands at (0, 0, 0, token)"
_CAPTION = (
    "positions are (token, 0, 0) for the caption and (length of the caption, row, column) for the image, integers"
)
_CROPPED = "positions are (frame, row, column), resampled to the grid of training (get_resize_crop_region_for_grid), as float64"
_CENTRED = (
    "positions are (index of the image, row, column); rows and columns are centred, grid(..., start=-(n - n // 2)); text counts on all "
    "three from max(rows // 2, columns // 2)"
)
_ADVANCING = "positions are (frame, row, column); rows and columns are centred; text counts on all three, and moves the next frame on"
_SCALED = "positions are (frame, row, column) / scale_factor of the call, as float64 where that is not 1"
_RESAMPLED = "positions are (row, column), i x rope_axes_dim // number of patches, integers"
_THIRDS = (
    "positions are (frame, row, column) / interpolation_scale, as float64; channels are paired half an axis apart: rotate "
    "x.view(..., 3 * seq, channels // 3) with cos and sin viewed as (3 * seq, channels // 6)"
)
_SECONDS = "positions are (frame x 24 / fps, row, column), as float64; of images (0, row, column)"
_FRACTIONS = (
    "positions are (time, row, column) as 2 x / (20, 2048, 2048) - 1 with x in seconds or pixels, float64; all channels turn before they "
    "are cut into heads, so that heads differ: rotate(x) of shape (..., seq, channels)"
)
_PATCHES = "positions of patches are the centres between their first and last edge, as 2 x / (20, 2048, 2048) - 1, float64; heads differ"
_MULTIMODAL = "positions are (time, row, column); text counts the same number on each"

Made = tuple[Axial | None, float, bool, tuple[str, ...], Config]
"""The spectra, the base, the pairing, notes, and more keys in transformers' words."""


class _Kind(NamedTuple):
    """How a class makes its frequencies.

    key, sizes: of the channels of each axis, "" where the code fixes them. base_key, base: the same for the base.
    double: frequencies are computed in float64. half: channels are paired half a head apart.
    """

    key: str
    sizes: tuple[int, ...]
    base_key: str
    base: float
    note: str
    double: bool = True
    half: bool = False


_FLUX = _Kind("axes_dims_rope", (16, 56, 56), "", 10000.0, _IDS)
_HUNYUAN = _Kind("rope_axes_dim", (16, 56, 56), "rope_theta", 256.0, _VIDEO, double=False)
_QWEN = _Kind("axes_dims_rope", (16, 56, 56), "", 10000.0, _CENTRED, double=False)
_JOY = _Kind("rope_dim_list", (16, 56, 56), "theta", 256.0, _VIDEO, double=False)
_BY_WIDTHS: dict[str, _Kind] = {
    "FluxTransformer2DModel": _FLUX,
    "ChromaTransformer2DModel": _FLUX,
    "LongCatImageTransformer2DModel": _FLUX,
    "OvisImageTransformer2DModel": _FLUX,
    "BriaTransformer2DModel": _FLUX._replace(base_key="rope_theta"),
    "BriaFiboTransformer2DModel": _FLUX._replace(base_key="rope_theta"),
    "Flux2Transformer2DModel": _Kind("axes_dims_rope", (32, 32, 32, 32), "rope_theta", 2000.0, _FOUR),
    "Flux3Transformer2DModel": _Kind("axes_dims_rope", (32, 32, 32, 32), "rope_theta", 10000.0, _FOUR),
    "Krea2Transformer2DModel": _Kind("axes_dims_rope", (32, 48, 48), "rope_theta", 1000.0, _IDS),
    "HiDreamImageTransformer2DModel": _Kind("axes_dims_rope", (32, 32), "", 10000.0, _IDS),
    "Lumina2Transformer2DModel": _Kind("axes_dim_rope", (32, 32, 32), "", 10000.0, _CAPTION),
    "ZImageTransformer2DModel": _Kind("axes_dims", (32, 48, 48), "rope_theta", 256.0, _CAPTION),
    "BriaFibo2Transformer2DModel": _Kind("axes_dims", (32, 48, 48), "rope_theta", 256.0, _CAPTION),
    "PRXTransformer2DModel": _Kind("axes_dim", (32, 32), "theta", 10000.0, _GRID),
    "MotifVideoTransformer3DModel": _HUNYUAN._replace(double=True),
    "HunyuanVideoTransformer3DModel": _HUNYUAN,
    "HunyuanVideo15Transformer3DModel": _HUNYUAN,
    "HunyuanVideoFramepackTransformer3DModel": _HUNYUAN,
    "HunyuanImageTransformer2DModel": _HUNYUAN._replace(sizes=(64, 64), note=_GRID),
    "JoyImageEditTransformer3DModel": _JOY,
    "JoyImageEditPlusTransformer3DModel": _JOY,
    "QwenImageTransformer2DModel": _QWEN,
    "NucleusMoEImageTransformer2DModel": _QWEN,
    "QwenImage21Transformer2DModel": _QWEN._replace(note=_ADVANCING),
    "Kandinsky5Transformer3DModel": _Kind("axes_dims", (16, 24, 24), "", 10000.0, _SCALED, double=False),
}


def _sixths(d: int) -> tuple[int, ...]:
    """Wan's: twice a sixth of the head for rows and for columns, the rest for frames."""
    return (d - 4 * (d // 6), 2 * (d // 6), 2 * (d // 6))


def _eighths(d: int) -> tuple[int, ...]:
    return (d // 4, d // 8 * 3, d // 8 * 3)


def _halves(d: int) -> tuple[int, ...]:
    return (d // 2, d // 2)


def _thirds(d: int) -> tuple[int, ...]:
    return (d // 3,) * 3


_WAN = _Kind("", (), "", 10000.0, _VIDEO)
_BY_SHARE: dict[str, tuple[Callable[[int], tuple[int, ...]], int, _Kind]] = {
    "WanTransformer3DModel": (_sixths, 128, _WAN),
    "WanVACETransformer3DModel": (_sixths, 128, _WAN),
    "WanAnimateTransformer3DModel": (_sixths, 128, _WAN),
    "SkyReelsV2Transformer3DModel": (_sixths, 128, _WAN),
    "ChronoEditTransformer3DModel": (_sixths, 128, _WAN),
    "AnyFlowTransformer3DModel": (_sixths, 128, _WAN),
    "SanaVideoTransformer3DModel": (_sixths, 112, _WAN),
    "CogVideoXTransformer3DModel": (_eighths, 64, _WAN._replace(double=False, note=_CROPPED)),
    "EasyAnimateTransformer3DModel": (_eighths, 64, _WAN._replace(double=False, note=_CROPPED)),
    "AllegroTransformer3DModel": (_thirds, 96, _WAN._replace(double=False, half=True, note=_THIRDS)),
    "CogView4Transformer2DModel": (_halves, 40, _WAN._replace(double=False, half=True, note=_RESAMPLED)),
    "GlmImageTransformer2DModel": (_halves, 40, _WAN._replace(double=False, half=True, note=_GRID)),
}
"""How the channels of a head are shared, and attention_head_dim where the config has none."""

_REFUSED = {
    "ErnieImageTransformer2DModel": "it turns the two channels of a plane by different angles, which is no rotation: R R^T differs from 1 "
    "by up to 1.00, and scores at equal distances by up to 1.43",
    "MochiTransformer3DModel": "its directions are learned, pos_frequencies of the checkpoint: rotary.cos_sin_of(positions, directions)",
}
_WIDTHS = "axes_dims_rope axes_dim_rope rope_axes_dim axes_dims axes_dim rope_dim_list rope_freq_dim mrope_section"
_HARMLESS = (
    "axes_lens rope_max_seq_len rope_temporal_skip_len time_theta interpolation_scale_t interpolation_scale_h interpolation_scale_w "
    "interpolation_scale spatial_interpolation_scale temporal_interpolation_scale audio_pos_embed_max_pos "
    "use_rotary_positional_embeddings use_layer3d_rope rope_double_precision pos_embed_max_pos "
    "unified_3d_mrope_reset_spatial_ids unified_3d_mrope_temporal_modality_margin time_position_encoding_type"
)
_KEYS = keys(f"{_WIDTHS} {_HARMLESS} rope_theta theta rope_scale rope_type rope_scaling rope_scaling/*")


def _made(config: Config, name: str) -> Made:
    if name in _BY_WIDTHS:
        kind = _BY_WIDTHS[name]
        return _of_channels(config, kind, _widths(config, kind.key, kind.sizes))
    if name in _BY_SHARE:
        share, usual, kind = _BY_SHARE[name]
        head_dim = first_integer(config, "attention_head_dim") or usual
        if name.startswith("ChronoEdit") and 2 * (head_dim // 6) != head_dim // 3:
            raise ValueError(
                f"attention_head_dim {head_dim}: this class makes tables of {_sixths(head_dim)} channels and cuts them by thirds, "
                f"{head_dim // 3}; Wan's own code cuts them as it makes them (WanTransformer3DModel)"
            )
        if name.startswith("CogVideoX") and config.get("use_rotary_positional_embeddings") is not True:
            raise ValueError(
                "use_rotary_positional_embeddings is not true: this model adds positions, and does not rotate"
            )
        return _of_channels(config, kind, share(head_dim))
    if name in _SPECIAL:
        return _SPECIAL[name](config)
    if name in _REFUSED:
        raise ValueError(f"{name} is refused: {_REFUSED[name]}")
    known = ", ".join(sorted((*_BY_WIDTHS, *_BY_SHARE, *_SPECIAL)))
    raise ValueError(f"_class_name {describe(name)} does not rotate, or is not read; known: {known}")


def _of_channels(config: Config, kind: _Kind, channels: tuple[int, ...]) -> Made:
    for n in channels:
        if n < 2 or n % 2:
            raise ValueError(
                f"{kind.key or 'attention_head_dim'} gives the axes {channels} channels, and each must be even"
            )
    base = real(config, kind.base_key, kind.base) if kind.base_key else kind.base
    parts = side_by_side(tuple(Part(n, axis) for axis, n in enumerate(channels)))
    return in_float64(channels, base) if kind.double else parts, base, not kind.half, (kind.note,), {}


def _widths(config: Config, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
    given: Any = config.get(key)
    if given is None:
        return default
    if not isinstance(given, (list, tuple)) or not given:
        raise TypeError(f"{key} must be a list of channels, one number for each axis, got {describe(given)}")
    return tuple(index(f"{key}[{i}]", n) for i, n in enumerate(given))


def _ltx(config: Config) -> Made:
    channels = _all_heads(config, 64)
    return of_fractions(channels, 3, 10000.0, rounded=False), 10000.0, True, (_FRACTIONS,), {}


def _ltx2(config: Config) -> Made:
    kind, base = config.get("rope_type") or "interleaved", real(config, "rope_theta", 10000.0)
    if kind not in ("interleaved", "split"):
        raise ValueError(f"rope_type must be 'interleaved' or 'split' in LTX-2, got {describe(kind)}")
    note = _PATCHES + "; audio has a module of its own, of one coordinate"
    if kind == "split":
        note += "; channels are paired half a head apart: view cos and sin as (seq, heads, head_dim // 2) and make heads the batch"
    return of_fractions(_all_heads(config, 128), 3, base, rounded=True), base, kind == "interleaved", (note,), {}


def _all_heads(config: Config, head_dim: int) -> int:
    heads = first_integer(config, "num_attention_heads") or 32
    return heads * (first_integer(config, "attention_head_dim") or head_dim)


def _cosmos(config: Config) -> Made:
    given: Any = config.get("rope_scale")
    scales = (2.0, 1.0, 1.0) if given is None else given
    if not isinstance(scales, (list, tuple)) or len(scales) != 3:
        raise TypeError(f"rope_scale must be three numbers, got {describe(scales)}")
    factors = [real({"rope_scale": scale}, "rope_scale") for scale in scales]
    channels = _sixths(first_integer(config, "attention_head_dim") or 128)
    schemes = [(NTK(factor),) if factor != 1.0 else () for factor in factors]
    parts = tuple(Part(n, axis, scheme) for axis, (n, scheme) in enumerate(zip(channels, schemes, strict=True)))
    return side_by_side(parts), 10000.0, False, (_SECONDS,), {}


def _minimax(config: Config) -> Made:
    planes, base = first_integer(config, "rope_freq_dim") or 16, real(config, "rope_theta", 10000.0)
    head_dim = first_integer(config, "attention_head_dim") or 128
    return (
        side_by_side(tuple(Part(2 * planes, axis) for axis in range(3))),
        base,
        False,
        (_VIDEO,),
        {"head_dim": head_dim},
    )


def _ideogram(config: Config) -> Made:
    return _dealt_out(
        config, _widths(config, "mrope_section", (24, 20, 20)), first_integer(config, "attention_head_dim") or 256
    )


def _cosmos3(config: Config) -> Made:
    scaling: Any = config.get("rope_scaling") or {}
    sections = _widths(config, "rope_axes_dim", _widths(scaling, "mrope_section", (24, 20, 20)))
    return _dealt_out(config, sections, first_integer(config, "head_dim") or 128)


def _dealt_out(config: Config, sections: tuple[int, ...], head_dim: int) -> Made:
    """One spectrum, as in Qwen3-VL."""
    block = {"rope_type": "default", "mrope_section": list(sections), "mrope_interleaved": True}
    return None, real(config, "rope_theta", 5e6), False, (_MULTIMODAL,), {"rope_scaling": block, "head_dim": head_dim}


_SPECIAL: dict[str, Callable[[Config], Made]] = {
    "LTXVideoTransformer3DModel": _ltx,
    "LTX2VideoTransformer3DModel": _ltx2,
    "CosmosTransformer3DModel": _cosmos,
    "MiniMaxH3Transformer3DModel": _minimax,
    "Ideogram4Transformer2DModel": _ideogram,
    "Cosmos3OmniTransformer": _cosmos3,
}
_OWN: dict[str, frozenset[str]] = {
    "LTX2VideoTransformer3DModel": keys("rope_theta rope_type"),
    "CosmosTransformer3DModel": keys("rope_scale"),
    "MiniMaxH3Transformer3DModel": keys("rope_theta rope_freq_dim"),
    "Ideogram4Transformer2DModel": keys("rope_theta mrope_section"),
    "Cosmos3OmniTransformer": keys("rope_theta rope_scaling rope_axes_dim"),
    "JoyImageEditTransformer3DModel": keys("rope_dim_list theta rope_type"),
    "JoyImageEditPlusTransformer3DModel": keys("rope_dim_list theta rope_type"),
    "CogView4Transformer2DModel": keys("rope_axes_dim"),
}


def _check_owned(config: Config, name: str) -> None:
    """TypeError for a width or a base that another class reads, and this one does not."""
    kind = _BY_WIDTHS.get(name)
    own = _OWN.get(name, frozenset((kind.key, kind.base_key)) if kind else frozenset[str]())
    for key in keys(f"{_WIDTHS} rope_theta theta rope_scale rope_type rope_scaling") - own:
        if config.get(key) is not None:
            raise TypeError(f"{key} ({describe(config[key])}) is not read by {name}; remove it")


def _translate(config: Config) -> Spelled:
    name = str(config["_class_name"])
    axial, base, interleaved, notes, more = _made(config, name)
    _check_owned(config, name)
    heads = (
        {"head_dim": first_integer(config, "attention_head_dim")} if axial is not None and name not in _WHOLE else {}
    )
    spelled = {"rope_theta": base} | {key: value for key, value in (heads | more).items() if value is not None}
    return Spelled(spelled, interleaved=interleaved, notes=notes, axial=axial)


_WHOLE = ("LTXVideoTransformer3DModel", "LTX2VideoTransformer3DModel")
"""Classes that rotate all heads at once."""
DIFFUSERS = Dialect(
    "diffusers transformer",
    "huggingface/diffusers, src/diffusers/models/transformers/transformer_*.py, of the class in _class_name",
    lambda config: isinstance(config.get("_class_name"), str),
    _KEYS,
    _translate,
    stems=("rope", "axes", "mrope"),
)
