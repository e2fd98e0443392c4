"""Spectra of several coordinates as values: one spectrum for each axis, or the frequency of every plane."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ..axes import Axes
from ..scaling import Scheme

Arrangement = Literal["blocks", "alternating"]


class Part(NamedTuple):
    """The spectrum of one axis: its channels, the coordinate that it reads, and its schemes, applied left to right."""

    channels: int
    axis: int
    scaling: tuple[Scheme, ...] = ()


@dataclass(frozen=True)
class Axial:
    """Planes whose frequencies are not those of one spectrum.

    parts, order: as RotaryEmbedding.axial takes them. inv_freq: instead of parts, the frequency of each plane [rad per unit of its
    coordinate], for from_inv_freq; 0 for a plane that does not turn. axes: the coordinate that each plane reads.
    extent: the length of the interval of real coordinates, 2 for [-1, 1]; 0 for integers.
    """

    parts: tuple[Part, ...] = ()
    order: Arrangement = "blocks"
    inv_freq: tuple[float, ...] = ()
    axes: Axes = ()
    extent: float = 0.0

    @property
    def dim(self) -> int:
        """Channels that turn, or whose planes have frequency 0."""
        return sum(part.channels for part in self.parts) if self.parts else 2 * len(self.inv_freq)


def side_by_side(parts: tuple[Part, ...], order: Arrangement = "blocks") -> Axial:
    """One spectrum for each part, in blocks or plane by plane in turn; frequencies are float32, as those of one-axis modules."""
    runs = [(part.axis,) * (part.channels // 2) for part in parts]
    groups = zip(*runs, strict=True) if order == "alternating" else runs
    return Axial(parts, order, axes=tuple(axis for group in groups for axis in group))


def _power(base: float, exponent: float) -> float:
    """base^exponent; ValueError where that is more than a float can hold."""
    try:
        return base**exponent
    except OverflowError:
        raise ValueError(f"base {base} is too small: its frequencies are too large for a float") from None


def in_float64(channels: tuple[int, ...], base: float) -> Axial:
    """One spectrum for each coordinate, in blocks of these channels, for a model that computes its frequencies in float64."""
    inv_freq = tuple(_power(base, -2 * j / n) for n in channels for j in range(n // 2))
    return Axial(inv_freq=inv_freq, axes=tuple(axis for axis, n in enumerate(channels) for _ in range(n // 2)))


def of_centres(head_dim: int, base: float) -> Axial:
    """DINOv3: 2 pi base^(-4j / head_dim) for rows, then the same for columns, at centres of patches in [-1, 1].

    Source: facebookresearch/dinov3, dinov3/layers/rope_position_encoding.py; transformers, models/dinov3_vit/modeling_dinov3_vit.py.
    """
    planes = head_dim // 4
    of_one_axis = tuple(2 * math.pi * _power(base, -4 * j / head_dim) for j in range(planes))
    return Axial(inv_freq=of_one_axis * 2, axes=(0,) * planes + (1,) * planes, extent=2.0)


def even_and_odd(head_dim: int, base: float) -> Axial:
    """Pixtral: planes 0, 2, .. of one spectrum read rows, 1, 3, .. columns, in two blocks; in float32, as in the model.

    Source: mistralai/mistral-inference, src/mistral_inference/rope.py (precompute_freqs_cis_2d).
    """
    import torch

    whole = (
        torch.tensor([_power(base, -2 * j / head_dim) for j in range(head_dim // 2)], dtype=torch.float64)
        .float()
        .tolist()
    )
    planes = head_dim // 4
    return Axial(inv_freq=(*whole[0::2], *whole[1::2]), axes=(0,) * planes + (1,) * planes)


def of_fractions(channels: int, coordinates: int, base: float, *, rounded: bool) -> Axial:
    """LTX: pi/2 base^(i / (n - 1)), i = 0 .. n - 1, for each of the coordinates in turn, at fractions in [-1, 1], over all heads.

    channels: of all heads. Planes that are left over come first and do not turn. rounded: whether frequencies are rounded to float32, as
    in LTX-2.
    Source: Lightricks/LTX-Video, ltx_video/models/transformers/transformer3d.py; diffusers, transformer_ltx.py and transformer_ltx2.py.
    """
    import torch

    n = channels // (2 * coordinates)
    exact = math.pi / 2 * base ** torch.linspace(0, 1, n, dtype=torch.float64)
    frequencies: list[float] = (exact.float() if rounded else exact).tolist()
    at_rest = channels // 2 - n * coordinates
    inv_freq = (*(0.0 for _ in range(at_rest)), *(f for f in frequencies for _ in range(coordinates)))
    return Axial(inv_freq=inv_freq, axes=(*(0 for _ in range(at_rest)), *tuple(range(coordinates)) * n), extent=2.0)


def of_atoms(planes: int, spatial: int, uid: int, spatial_base: float, uid_base: float) -> Axial:
    """ESMFold2: x, y and z of an atom, then the number of its molecule; planes that are left over come last and do not turn.

    planes: of the head; spatial: of each of x, y and z; uid: of the number. Frequencies are base^(-j / n).
    Source: transformers 5.23, models/esmfold2/modeling_esmfold2.py (EsmFold2RotaryEmbedding).
    """
    places = tuple(_power(spatial_base, -j / spatial) for j in range(spatial))
    numbers = tuple(_power(uid_base, -j / uid) for j in range(uid))
    at_rest = planes - 3 * spatial - uid
    axes = (0,) * spatial + (1,) * spatial + (2,) * spatial + (3,) * (uid + at_rest)
    return Axial(inv_freq=(*places * 3, *numbers, *(0.0,) * at_rest), axes=axes)
