"""What RotaryEmbedding is made of, and its builders: from_inv_freq, axial, from_config."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from .. import _checks
from .._angles.cos_sin import Tables
from .._angles.frequencies import Spectrum, side_by_side
from .._angles.xpos import XPos
from .._inputs.words import FROM_CONFIG, explained
from .._subclasses.dtensor import dtensor_class
from .._torch import plain_torch
from .._types import AngleArithmetic
from ..axes import Axes, checked
from ..scaling.scheme import Scheme
from .frequencies import frequencies
from .qkv import RotatesPacked

if TYPE_CHECKING:
    from ..config import Arguments
    from ..scaling.temperature import Temperature

Self = TypeVar("Self", bound="Built")


class Built(RotatesPacked):
    """The attributes of RotaryEmbedding, and its builders."""

    dim: int
    use_xpos: bool
    scale_base: float
    interpolation_factor: float
    base: float | None
    base_rescale_factor: float
    scaling: tuple[Scheme, ...]
    interleaved: bool
    angles: AngleArithmetic
    attention_factor: float
    axes: Axes | None
    parts: tuple[int | Built, ...] = ()
    """The parts that axial() received."""
    inv_freq: Tensor
    scale: Tensor | None
    temperatures: tuple[Temperature, ...] = ()
    """Factors on queries that the model of a config applies besides the rotation; rotate() does not: see from_config."""
    notes: tuple[str, ...] = ()
    """What else the model of a config does that the caller must do, one sentence each: see from_config."""

    @classmethod
    def from_inv_freq(
        cls: type[Self],
        inv_freq: Tensor | Sequence[float],
        *,
        attention_factor: float = 1.0,
        interleaved: bool = False,
        angles: AngleArithmetic = "exact",
        axes: Sequence[int] | None = None,
        device: torch.device | str | None = None,
    ) -> Self:
        """A module with the frequencies inv_freq (dim/2,) [rad/token], a model's own, unchanged.

        A float64 tensor stays float64: angles are exact for its 53 bits, and the buffer inv_freq shows their float32 rounding. A
        float32 tensor and a sequence of numbers are taken in float32. A plane of frequency 0 does not turn. axes: as in the constructor.
        attention_factor multiplies cos and sin, for queries and keys. The values are copied: a later change of the tensor has no
        effect.

        TypeError for values that are not floating, or in half precision; ValueError for another shape, values that are not finite or
        have no storage (meta), and a tensor that requires a gradient, which this copy would lose.

        >>> from rotary import RotaryEmbedding
        >>> RotaryEmbedding.from_inv_freq([1.0, 0.01]).dim
        4
        """
        values, double = frequencies(inv_freq)
        if double and angles == "float32":
            raise ValueError(
                "angles='float32' is a float32 product, and inv_freq is float64: give inv_freq.float(), or angles='exact'"
            )
        spectrum = Spectrum(
            2 * len(values),
            None,
            angles=_checks.one_of("angles", angles, ("exact", "float32")),
            values=values,
            values_factor=_checks.number("attention_factor", attention_factor),
            double=double,
            axes=None if axes is None else checked(axes, len(values)),
        )
        return cls._without_base(spectrum, interleaved, device)

    @classmethod
    def axial(
        cls: type[Self],
        *parts: int | Built,
        base: float | None = None,
        axes: Sequence[int] | None = None,
        order: Literal["blocks", "alternating"] = "blocks",
        interleaved: bool = False,
        angles: AngleArithmetic = "exact",
        device: torch.device | str | None = None,
    ) -> Self:
        """Spectra side by side, one for each axis: of images (rows, columns), of video (frames, rows, columns).

        parts: for each axis its channels, even, or a module of one coordinate with a base and schemes of its own. The bits of the tables
            are those of one-axis modules, each at its own coordinate.
        base: of the parts that are numbers of channels, by default 10,000. TypeError where there is none of them.
        axes: the coordinate that each part reads, by default 0, 1, ...; (1, 0) for a model whose first block reads columns.
        order: of the planes: "blocks", all planes of a part together, or "alternating", the first planes of all parts, then the second.
        interleaved, angles, device: as in the constructor; parts that are modules must agree in the first two.

        ValueError for parts that differ in pairing, arithmetic or attention factor, that have xPos or several coordinates, and for
        alternating parts of different size.

        >>> from rotary import RotaryEmbedding
        >>> rope = RotaryEmbedding.axial(16, 56, 56, interleaved=True)  # Flux: an index, row and column
        >>> rope.dim, rope.coordinates
        (128, 3)
        """
        angles = _checks.one_of("angles", angles, ("exact", "float32"))
        if not parts:
            raise ValueError("axial() needs the channels of each axis, as axial(64, 64)")
        if base is not None and all(isinstance(part, Built) for part in parts):
            raise TypeError(
                "base is of parts that are numbers of channels, and each part here is a module: leave it out"
            )
        base = 10000 if base is None else _checks.number("base", base)
        spectra: list[Spectrum] = []
        for i, part in enumerate(parts):
            if not isinstance(part, Built):
                if not hasattr(part, "__index__"):
                    raise TypeError(
                        f"part {i} must be its channels, an integer, or a RotaryEmbedding, got {_checks.describe(part)}"
                    )
                spectra.append(Spectrum(_checks.even_dim(part, f"part {i}"), base, angles=angles))
                continue
            if part.use_xpos or part.axes is not None:
                raise ValueError(
                    f"part {i} has {'xPos' if part.use_xpos else 'axes'}; the parts of an axial module have one coordinate"
                )
            if (part.interleaved, part.angles) != (interleaved, angles):
                raise ValueError(
                    f"part {i} has interleaved={part.interleaved}, angles={part.angles!r}, the module interleaved={interleaved}, "
                    f"angles={angles!r}: a head has one of each"
                )
            spectra.append(part._tables.spectrum)
        coordinates = checked(range(len(parts)) if axes is None else axes, len(parts))
        alternating = _checks.one_of("order", order, ("blocks", "alternating")) == "alternating"
        spectrum = side_by_side(tuple(spectra), coordinates, alternating=alternating)
        module = cls._without_base(spectrum, interleaved, device)
        object.__setattr__(module, "parts", parts)
        return module

    @classmethod
    @explained(FROM_CONFIG)
    def from_config(
        cls: type[Self],
        config: str | os.PathLike[str] | Mapping[str, Any] | Any,
        *,
        part: str | None = None,
        layer_type: str | None = None,
        head_dim: int | None = None,
        interleaved: bool | None = None,
        angles: AngleArithmetic = "exact",
        device: torch.device | str | None = None,
    ) -> Self:
        """The module that a model's config asks for. rotary.config.read lists what is accepted and what is refused.

        config: a dict, the path of a config.json or of its folder, a config object of transformers, or the name of a config that
            comes with the package (rotary.config.shipped()); an existing path is preferred to a name.
        part: which part of a composite config, "vision_config"; by default the text model.

        What the config asks for besides the rotation is kept in `temperatures` and `notes`, shown by repr, and is a UserWarning:
        DeepSeek-V3 multiplies its logits by a temperature, and only a slice of its heads turns.

        >>> from rotary import RotaryEmbedding
        >>> RotaryEmbedding.from_config("llama-3.1-8b").attention_factor
        1.0
        """
        from .. import config as configs

        read = configs.read(config, part=part, layer_type=layer_type, head_dim=head_dim, interleaved=interleaved)
        module = cls._of_arguments(read, angles, device)
        module.temperatures, module.notes = read.temperatures, read.notes
        if read.notes:
            warnings.warn(f"the config asks for more than a rotation: {'; '.join(read.notes)}", stacklevel=3)
        return module

    @classmethod
    def _of_arguments(
        cls: type[Self], read: Arguments, angles: AngleArithmetic, device: torch.device | str | None
    ) -> Self:
        """The module of the arguments that a config asks for. Frequencies that are float32 numbers stay float32."""
        how: Any = {"interleaved": read.interleaved, "angles": angles, "device": device}
        if read.inv_freq:
            with plain_torch():  # also where a model is built on the meta device
                values = torch.tensor(read.inv_freq, dtype=torch.float64)
                in_float32 = values.float()
                short = torch.equal(in_float32.double(), values)
            if short:
                values = in_float32
            elif angles == "float32":
                raise ValueError(
                    "angles='float32' is transformers' arithmetic for text and grids; this model turns by frequencies in float64, or by "
                    "real positions: leave angles out"
                )
            return cls.from_inv_freq(values, axes=read.axes, **how)
        if read.parts:
            parts = [
                cls(part.channels, base=read.base, scaling=part.scaling, **how) if part.scaling else part.channels
                for part in read.parts
            ]
            base = read.base if any(isinstance(part, int) for part in parts) else None
            return cls.axial(*parts, base=base, axes=[part.axis for part in read.parts], order=read.order, **how)
        return cls(read.dim, base=read.base, scaling=read.scaling, axes=read.axes, **how)

    @classmethod
    def _without_base(
        cls: type[Self], spectrum: Spectrum, interleaved: bool, device: torch.device | str | None
    ) -> Self:
        module = cls.__new__(cls)  # past the constructor, which makes frequencies from a base
        nn.Module.__init__(module)
        module.base, module.base_rescale_factor = None, 1.0
        module.scale_base, module.interpolation_factor = 512, 1.0
        module._set_up(spectrum, None, interleaved, device)
        return module

    def _set_up(
        self, spectrum: Spectrum, xpos: XPos | None, interleaved: bool, device: torch.device | str | None
    ) -> None:
        device = _checks.device("device", device)
        self.dim = spectrum.dim
        self.use_xpos = xpos is not None
        self.interleaved = _checks.flag("interleaved", interleaved)
        self.angles = spectrum.angles
        self.scaling = spectrum.schemes
        self.attention_factor = spectrum.attention_factor
        self.axes = spectrum.axes
        self._tables = Tables(spectrum, xpos)
        if dtensor_class() is not None:
            from .._rotation import shards  # few processes have DTensors

            shards.register()
        self._register_mirrors({"inv_freq": spectrum.inv_freq, "scale": xpos.zeta if xpos else None}, device)

    @property
    def coordinates(self) -> int:
        """How many numbers a position has: 1 without axes."""
        return 1 if self.axes is None else max(self.axes) + 1
