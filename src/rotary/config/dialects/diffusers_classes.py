"""The classes of diffusers whose channels follow from a table: how many each axis has, the base, the arithmetic, and their positions.

A config of diffusers holds widths and a base, or neither; what it leaves out is in the code of the class (diffusers 0.42). Classes with
a formula of their own are functions in diffusers_frequencies.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

# What a caller must know about positions, a sentence each.
ON_GRID = "positions are (row, column): rotary.positions.grid(rows, columns)"
ON_VIDEO = "positions are (frame, row, column): rotary.positions.grid(frames, rows, columns)"
BY_IDS = "positions are the ids of the pipeline, (index, row, column), integers; text is at (0, 0, 0)"
BY_FOUR_IDS = (
    "positions are the ids of the pipeline, (index, row, column, token), integers; text is at (0, 0, 0, token)"
)
CAPTION_THEN_IMAGE = (
    "positions are (token, 0, 0) for the caption and (length of the caption, row, column) for the image, integers"
)
RESAMPLED_VIDEO = "positions are (frame, row, column), resampled to the grid of training (get_resize_crop_region_for_grid), as float64"
CENTRED_IMAGES = (
    "positions are (index of the image, row, column); rows and columns are centred, grid(..., start=-(n - n // 2)); text counts on all "
    "three from max(rows // 2, columns // 2)"
)
CENTRED_FRAMES = "positions are (frame, row, column); rows and columns are centred; text counts on all three, and moves the next frame on"
SCALED_VIDEO = "positions are (frame, row, column) / scale_factor of the call, as float64 where that is not 1"
RESAMPLED_IMAGE = "positions are (row, column), i x rope_axes_dim // number of patches, integers"
PAIRED_BY_AXIS = (
    "positions are (frame, row, column) / interpolation_scale, as float64; channels are paired half an axis apart: rotate "
    "x.view(..., 3 * seq, channels // 3) with cos and sin viewed as (3 * seq, channels // 6)"
)
IN_SECONDS = "positions are (frame x 24 / fps, row, column), as float64; of images (0, row, column)"
AS_FRACTIONS = (
    "positions are (time, row, column) as 2 x / (20, 2048, 2048) - 1 with x in seconds or pixels, float64; all channels turn before they "
    "are cut into heads, so that heads differ: rotate(x) of shape (..., seq, channels)"
)
PATCH_FRACTIONS = (
    "positions of patches are the centres between their first and last edge, "
    "as 2 x / (20, 2048, 2048) - 1, float64; heads differ"
)
WITH_TEXT = "positions are (time, row, column); text counts the same number on each"


class AxesOfClass(NamedTuple):
    """How a class makes the frequencies of its axes.

    key: the config key with the channels of each axis, "" where the code of the class fixes them; sizes: their default.
    base_key: the config key with the base, "" where the code fixes it; base: its default.
    note: what the caller must know about positions.
    in_float64: whether the class computes its frequencies in float64, and not in float32.
    half: whether channels are paired half a head apart, and not with their neighbours.
    """

    key: str
    sizes: tuple[int, ...]
    base_key: str
    base: float
    note: str
    in_float64: bool = True
    half: bool = False


_FLUX = AxesOfClass("axes_dims_rope", (16, 56, 56), "", 10000.0, BY_IDS)
_HUNYUAN = AxesOfClass("rope_axes_dim", (16, 56, 56), "rope_theta", 256.0, ON_VIDEO, in_float64=False)
_QWEN = AxesOfClass("axes_dims_rope", (16, 56, 56), "", 10000.0, CENTRED_IMAGES, in_float64=False)
_JOY = AxesOfClass("rope_dim_list", (16, 56, 56), "theta", 256.0, ON_VIDEO, in_float64=False)
BY_WIDTHS: dict[str, AxesOfClass] = {
    "FluxTransformer2DModel": _FLUX,
    "ChromaTransformer2DModel": _FLUX,
    "LongCatImageTransformer2DModel": _FLUX,
    "OvisImageTransformer2DModel": _FLUX,
    "BriaTransformer2DModel": _FLUX._replace(base_key="rope_theta"),
    "BriaFiboTransformer2DModel": _FLUX._replace(base_key="rope_theta"),
    "Flux2Transformer2DModel": AxesOfClass("axes_dims_rope", (32, 32, 32, 32), "rope_theta", 2000.0, BY_FOUR_IDS),
    "Flux3Transformer2DModel": AxesOfClass("axes_dims_rope", (32, 32, 32, 32), "rope_theta", 10000.0, BY_FOUR_IDS),
    "Krea2Transformer2DModel": AxesOfClass("axes_dims_rope", (32, 48, 48), "rope_theta", 1000.0, BY_IDS),
    "HiDreamImageTransformer2DModel": AxesOfClass("axes_dims_rope", (32, 32), "", 10000.0, BY_IDS),
    "Lumina2Transformer2DModel": AxesOfClass("axes_dim_rope", (32, 32, 32), "", 10000.0, CAPTION_THEN_IMAGE),
    "ZImageTransformer2DModel": AxesOfClass("axes_dims", (32, 48, 48), "rope_theta", 256.0, CAPTION_THEN_IMAGE),
    "BriaFibo2Transformer2DModel": AxesOfClass("axes_dims", (32, 48, 48), "rope_theta", 256.0, CAPTION_THEN_IMAGE),
    "PRXTransformer2DModel": AxesOfClass("axes_dim", (32, 32), "theta", 10000.0, ON_GRID),
    "MotifVideoTransformer3DModel": _HUNYUAN._replace(in_float64=True),
    "HunyuanVideoTransformer3DModel": _HUNYUAN,
    "HunyuanVideo15Transformer3DModel": _HUNYUAN,
    "HunyuanVideoFramepackTransformer3DModel": _HUNYUAN,
    "HunyuanImageTransformer2DModel": _HUNYUAN._replace(sizes=(64, 64), note=ON_GRID),
    "JoyImageEditTransformer3DModel": _JOY,
    "JoyImageEditPlusTransformer3DModel": _JOY,
    "QwenImageTransformer2DModel": _QWEN,
    "NucleusMoEImageTransformer2DModel": _QWEN,
    "QwenImage21Transformer2DModel": _QWEN._replace(note=CENTRED_FRAMES),
    "Kandinsky5Transformer3DModel": AxesOfClass("axes_dims", (16, 24, 24), "", 10000.0, SCALED_VIDEO, in_float64=False),
}
"""Class -> how it makes frequencies, for classes whose config may hold the channels of each axis."""


def sixths(d: int) -> tuple[int, ...]:
    """The channels (frames, rows, columns) of Wan: twice a sixth of the head for rows and for columns, the rest for frames."""
    return (d - 4 * (d // 6), 2 * (d // 6), 2 * (d // 6))


def _eighths(d: int) -> tuple[int, ...]:
    """The channels (frames, rows, columns) of CogVideoX."""
    return (d // 4, d // 8 * 3, d // 8 * 3)


def _halves(d: int) -> tuple[int, ...]:
    return (d // 2, d // 2)


def _thirds(d: int) -> tuple[int, ...]:
    return (d // 3,) * 3


_WAN = AxesOfClass("", (), "", 10000.0, ON_VIDEO)
BY_SHARE: dict[str, tuple[Callable[[int], tuple[int, ...]], int, AxesOfClass]] = {
    "WanTransformer3DModel": (sixths, 128, _WAN),
    "WanVACETransformer3DModel": (sixths, 128, _WAN),
    "WanAnimateTransformer3DModel": (sixths, 128, _WAN),
    "SkyReelsV2Transformer3DModel": (sixths, 128, _WAN),
    "ChronoEditTransformer3DModel": (sixths, 128, _WAN),
    "AnyFlowTransformer3DModel": (sixths, 128, _WAN),
    "SanaVideoTransformer3DModel": (sixths, 112, _WAN),
    "CogVideoXTransformer3DModel": (_eighths, 64, _WAN._replace(in_float64=False, note=RESAMPLED_VIDEO)),
    "EasyAnimateTransformer3DModel": (_eighths, 64, _WAN._replace(in_float64=False, note=RESAMPLED_VIDEO)),
    "AllegroTransformer3DModel": (_thirds, 96, _WAN._replace(in_float64=False, half=True, note=PAIRED_BY_AXIS)),
    "CogView4Transformer2DModel": (_halves, 40, _WAN._replace(in_float64=False, half=True, note=RESAMPLED_IMAGE)),
    "GlmImageTransformer2DModel": (_halves, 40, _WAN._replace(in_float64=False, half=True, note=ON_GRID)),
}
"""Class -> (channels of a head -> channels of each axis, attention_head_dim where the config has none, how it makes frequencies)."""

REFUSED = {
    "ErnieImageTransformer2DModel": "it turns the two channels of a plane by different angles, which is no rotation: R R^T differs from 1 "
    "by up to 1.00, and scores at equal distances by up to 1.43",
    "MochiTransformer3DModel": "its directions are learned, pos_frequencies of the checkpoint: rotary.cos_sin_of(positions, directions)",
}
"""Class -> why RotaryEmbedding cannot be its rotation."""
