"""RotaryEmbedding: the documented module. Its state is its arguments; its buffers are copies that no computation reads."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, overload

import torch
from torch import Tensor
from torch.compiler import is_compiling

from . import _checks, _inputs
from ._angles.cos_sin import radians_and_scale
from ._angles.frequencies import Spectrum
from ._angles.xpos import XPos
from ._embedding.builders import Built
from ._embedding.frequencies import rescaled_base
from ._inputs.words import CONSTRUCTOR, explained
from ._rotation import call
from ._rotation.autograd import How, rotate
from ._subclasses import nested
from ._subclasses.dtensor import distributed
from ._torch import jit_tracing
from ._types import AngleArithmetic, CosSin, Length, Role
from .axes import checked
from .axes import shown as shown_axes
from .scaling.scheme import Scheme, as_schemes

_SHOWN: dict[str, Any] = {
    "use_xpos": False,
    "scale_base": 512,
    "interpolation_factor": 1.0,
    "base": 10000,
    "base_rescale_factor": 1.0,
    "scaling": (),
    "interleaved": False,
    "angles": "exact",
}
"""Attributes that repr shows where they differ from these defaults."""

_REPLACEABLE = ("dim", *_SHOWN, "axes")


class RotaryEmbedding(Built):
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864), exact at every position.

    Plane j of a head turns by position x inv_freq[j] radians, j = 0 .. dim/2 - 1. The channels of one plane, for dim = 8:

        half          a b c d a b c d        interleaved   a a b b c c d d

    Args:
        dim: channels that turn, even; a head may be wider, its later channels pass through.
        use_xpos: let scores decay with distance (Sun et al. 2022, arXiv:2212.10554); queries and keys then have tables of their own.
        scale_base: xPos: the decay is zeta^(distance / scale_base) [token].
        interpolation_factor: positions are divided by it, >= 1 (Chen et al. 2023, arXiv:2306.15595): scaling=Linear(factor), except that
            forward() and inv_freq show it as the documented interface does. In new code take scaling.
        base: of the geometric progression of frequencies, inv_freq[j] = base^(-2j/dim).
        base_rescale_factor: multiplies the base by factor^(dim / (dim - 2)), which stretches the longest wavelength by the factor:
            scaling=NTK(factor). In new code take scaling.
        scaling: a context-extension scheme of rotary.scaling, or several, applied left to right.
        interleaved: which channels form a plane, see above.
        angles: "exact", or "float32" for the arithmetic of transformers, bit for bit.
        axes: for positions of several coordinates (row and column, or time, row and column): dim/2 integers, the coordinate that each
            plane reads; see rotary.axes. Plane j then turns by positions[..., axes[j]] x inv_freq[j].
        device: of the buffers; tables are made wherever positions or x are.

    Raises ValueError or TypeError, naming argument, value and remedy, for anything that cannot be honoured.

    Buffers `inv_freq` (dim/2,) [rad/token] and `scale` (dim/2,) or None mirror the arguments in float32. They are not persistent, stay
    float32 under every cast, and no computation reads them: no cast, copy, meta device or overwritten buffer changes a bit of a result.

    >>> rope = RotaryEmbedding(64)
    >>> q, k = torch.randn(2, 32, 10, 64), torch.randn(2, 8, 10, 64)
    >>> q, k = rope.rotate(q, k)
    """

    _fixed = frozenset({*_REPLACEABLE, "attention_factor", "parts", "_tables"})

    @explained(CONSTRUCTOR)
    def __init__(
        self,
        dim: int,
        use_xpos: bool = False,
        scale_base: float = 512,
        interpolation_factor: float = 1.0,
        base: float = 10000,
        base_rescale_factor: float = 1.0,
        *,
        scaling: Scheme | Sequence[Scheme] | None = None,
        interleaved: bool = False,
        angles: AngleArithmetic = "exact",
        axes: Sequence[int] | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        dim = _checks.even_dim(dim)
        schemes = as_schemes(scaling)
        if axes is not None and use_xpos:
            raise ValueError(
                "xPos is defined for one coordinate: a distance along several has no one decay; leave use_xpos or axes out"
            )
        spectrum = Spectrum(
            dim,
            rescaled_base(base, base_rescale_factor, dim),
            schemes,
            _checks.number("interpolation_factor", interpolation_factor, at_least=1.0),
            _checks.one_of("angles", angles, ("exact", "float32")),
            axes=None if axes is None else checked(axes, dim // 2),
        )
        xpos = XPos(dim, _checks.number("scale_base", scale_base))
        self.base: float | None = base
        self.base_rescale_factor: float = base_rescale_factor
        self.scale_base: float = scale_base
        self.interpolation_factor: float = interpolation_factor
        self._set_up(spectrum, xpos if _checks.flag("use_xpos", use_xpos) else None, interleaved, device)

    def replace(self, **arguments: Any) -> RotaryEmbedding:
        """A new module with some constructor arguments changed, on the same device by default. This one does not change.

        TypeError for an unknown argument, for a module without a base (from_inv_freq, axial), and for a subclass with a constructor
        of its own.

        >>> RotaryEmbedding(64).replace(base=500_000, interleaved=True)
        RotaryEmbedding(64, base=500000, interleaved=True)
        """
        if self.base is None:
            how = "axial" if self.parts else "from_inv_freq"
            raise TypeError(f"this module has no base: make another by RotaryEmbedding.{how}")
        if type(self).__init__ is not RotaryEmbedding.__init__:
            raise TypeError(f"{type(self).__name__} has a constructor of its own: call it with the changed arguments")
        unknown = arguments.keys() - {*_REPLACEABLE, "device"}
        if unknown:
            raise TypeError(f"unknown argument {min(unknown)!r}; known: {', '.join(_REPLACEABLE)}, device")
        own: dict[str, Any] = {name: getattr(self, name) for name in _REPLACEABLE} | {"device": self.inv_freq.device}
        other = type(self)(**(own | arguments))
        if "scaling" not in arguments:  # a temperature may belong to the scheme
            other.temperatures, other.notes = self.temperatures, self.notes
        return other

    # --- the documented pair -------------------------------------------------------------------------------------------------

    def forward(self, seq_len: int, device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
        """The documented pair (freqs, scale) for positions 0 .. seq_len - 1.

        freqs: (seq_len, dim) float32 [rad], position / interpolation_factor x inv_freq, the two halves concatenated.
        scale: with use_xpos (seq_len, dim) float32, zeta^((position - seq_len // 2) / scale_base), centred as documented; otherwise
            0-d, the attention factor, 1.0 without a scheme that has one.

        device: of the results, by default that of the module. Radians in float32 lose precision with the position; cos_sin() and
        rotate() do not. TypeError if seq_len is no integer, ValueError if it is negative.

        >>> freqs, scale = RotaryEmbedding(64, use_xpos=True)(10)
        >>> freqs.shape, scale.shape
        (torch.Size([10, 64]), torch.Size([10, 64]))
        """
        if isinstance(seq_len, Tensor) and (seq_len.ndim or seq_len.is_floating_point()):
            raise TypeError(
                f"forward(seq_len) returns the documented pair (freqs, scale) for a number of tokens, got "
                f"{_checks.describe(seq_len)}; to rotate tensors call rope.rotate(q, k)"
            )
        if isinstance(seq_len, Tensor) and jit_tracing():
            raise ValueError(
                "under jit.trace a length is a tensor, and forward() would record its value as a constant; use cos_sin(torch.arange(n))"
            )
        n = _checks.length("seq_len", seq_len)
        if self.interleaved:
            warnings.warn(
                "forward() returns freqs in two halves, as documented, and this module pairs channels (2j, 2j + 1): use rotate(), or "
                "cos_sin() with apply_rotary(interleaved=True)",
                stacklevel=4,  # past the two frames of nn.Module.__call__
            )
        return radians_and_scale(self._tables, n, _checks.device("device", device) or self.inv_freq.device)

    def cos_sin(
        self,
        positions: int | Tensor,
        dtype: torch.dtype = torch.float32,
        *,
        role: Role | None = None,
        length: Length = None,
    ) -> CosSin:
        """Tables (cos, sin), each (..., dim/2), for positions 0 .. n - 1 where an int n is given, or for a tensor (...).

        positions: integers, exact; or real numbers, float64 or float32. With axes a tensor is (..., coordinates), and an int
            counts on every coordinate.

        The amplitude is folded in: the attention factor, and the decay of xPos. Note that cos_sin(99) makes 99 rows, positions 0 to 98,
        while rotate(offset=99) and cos_sin(torch.tensor(99)) mean position 99.

        dtype: float32 or float64; float16, bfloat16 and the float8 dtypes are rounded from those tables by torch, which may round to
            float32 on the way. |error| <= 3.1e-8 in float32 for every |position| <= 2^31 and amplitude <= 1, about 5e-16 in float64.
        role: "query" or "key", required with use_xpos, ignored without.
        length: tokens in the whole context, int or (batch,) integer tensor, for schemes that depend on it. None means the trained window,
            where positions are an int within it; beyond it, and for positions in a tensor, it is a ValueError.

        Real positions are multiplied by the frequencies in float64: |error| <= 3.1e-8 in float32 for an angle up to 1e7 rad, for an
        interpolation_factor of 1. They receive gradients.

        These tables turn unrotated tensors. Keys that are rotated already have the amplitude: under YaRN, LongRoPE or any attention
        factor, tables of a difference of positions would apply it twice. Move such keys by rerotate.

        TypeError for positions in half precision, which cannot hold neighbouring positions, or a missing role.
        """
        if not is_compiling():
            tables = call.tables_at(self._tables.plan, positions, self.inv_freq, dtype, role, length)
            if tables is not None:
                return tables
        dtype = _checks.floating_dtype("dtype", dtype)
        if type(positions) not in (int, Tensor) and nested.is_jagged(positions):
            return nested.cos_sin(self.cos_sin, positions, dtype, role=role, length=length)
        if type(positions) not in (int, Tensor) and distributed(positions):
            from ._embedding import dtensors  # few processes have DTensors

            return dtensors.cos_sin(self._tables, positions, dtype, **self._own(), role=role, length=length)
        resolved = _inputs.for_cos_sin(
            positions,
            coordinates=0 if self.axes is None else self.coordinates,
            use_xpos=self.use_xpos,
            length=length,
            role=role,
            device=self.inv_freq.device,
        )
        return self._table(resolved, resolved.role, dtype)

    @overload
    def rotate(
        self,
        q: Tensor,
        k: Tensor,
        *,
        offset: int | Tensor = 0,
        positions: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        length: Length = None,
        role: None = None,
        seq_dim: int = -2,
        conjugate: bool = False,
        inplace: bool = False,
    ) -> tuple[Tensor, Tensor]: ...
    @overload
    def rotate(
        self,
        q: Tensor,
        k: None = None,
        *,
        offset: int | Tensor = 0,
        positions: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        length: Length = None,
        role: Role | None = None,
        seq_dim: int = -2,
        conjugate: bool = False,
        inplace: bool = False,
    ) -> Tensor: ...
    def rotate(
        self,
        q: Tensor,
        k: Tensor | None = None,
        *,
        offset: int | Tensor = 0,
        positions: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        length: Length = None,
        role: Role | None = None,
        seq_dim: int = -2,
        conjugate: bool = False,
        inplace: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Rotated (q, k), or q alone where k is None.

        q, k: (batch, heads, seq, head_dim), or any layout with channels last, the sequence at seq_dim and the batch, where there is
            one, at dimension 0; float64, float32, float16 or bfloat16; heads may differ. k longer than q: q takes the last positions.
            For (batch, seq, heads, head_dim) pass seq_dim=1: with as many heads as tokens the shapes cannot tell.
            Nested (jagged) q and k of the same documents: positions count in each. DTensors: the other arguments refer to the whole tensor.
        offset: position of k's first row: int, 0-d or (batch,) integer tensor. Negative positions turn backwards.
        positions: instead of offset, (seq,) or (1 or batch, seq) numbers of k's length, as in cos_sin; with axes (seq, coordinates) or
            (1 or batch, seq, coordinates). offset and cu_seqlens count the same number on every coordinate, as for text.
        cu_seqlens: (documents + 1,) int32 or int64: packed documents, cut alike in all rows, q and k equally long; positions count
            from offset (int or (documents,)) in each.
        length: tokens in the whole context, as in cos_sin; such schemes require it where positions, offset or cu_seqlens are a tensor.
        role: what a single tensor is, "query" or "key"; required with use_xpos where k is None.
        conjugate: turn by minus the angles, which inverts a rotation whose amplitude is 1.
        inplace: write over q and k and return the same objects.

        Returns tensors with the dtypes of q and k and the strides of empty_like, computed in float32 (float64 for float64) and rounded
        once. Decoding token by token with offsets gives the bits of one prefill; packed documents have the bits of each alone.

        TypeError or ValueError, with value, shape and remedy, for what does not fit; RuntimeError where writing in place would be wrong.
        """
        if not is_compiling():
            flags = (self.interleaved, conjugate, inplace)
            rotated = call.rotate_at(
                self._tables.plan, q, k, offset, positions, cu_seqlens, length, role, seq_dim, *flags
            )
            if rotated is not None:
                return rotated
        _inputs.check_flags(conjugate=conjugate, inplace=inplace)
        if type(q) is not Tensor and (nested.is_jagged(q) or distributed(q)):
            options: Any = {"offset": offset, "positions": positions, "cu_seqlens": cu_seqlens, "length": length}
            options |= {"role": role, "seq_dim": seq_dim, "conjugate": conjugate, "inplace": inplace}
            if nested.is_jagged(q):
                return nested.rotate(self.rotate, q, k, **options)
            from ._embedding import dtensors  # few processes have DTensors

            options["windowed"] = self._tables.spectrum.window is not None
            return dtensors.rotate(self._tables, q, k, interleaved=self.interleaved, **self._own(), **options)
        resolved = _inputs.for_rotate(
            q,
            k,
            dim=self.dim,
            coordinates=0 if self.axes is None else self.coordinates,
            use_xpos=self.use_xpos,
            windowed=self._tables.spectrum.window is not None,
            offset=offset,
            positions=positions,
            cu_seqlens=cu_seqlens,
            length=length,
            role=role,
            seq_dim=seq_dim,
        )
        dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
        table = self._table(resolved, resolved.role, dtype, q.dtype)
        how: How = {"seq_dim": resolved.seq_dim, "interleaved": self.interleaved, "conjugate": conjugate}
        if k is None:
            return rotate((q,), (table,), in_place=inplace, traced=resolved.traced, **how)[0]
        k_table = self._table(resolved, "key", dtype, q.dtype) if self.use_xpos else table
        q_table = _inputs.last_rows(table, q.shape[resolved.seq_dim], k.shape[resolved.seq_dim])
        q, k = rotate((q, k), (q_table, k_table), in_place=inplace, traced=resolved.traced, **how)
        return q, k

    def _own(self) -> dict[str, Any]:
        return {"dim": self.dim, "coordinates": 0 if self.axes is None else self.coordinates, "use_xpos": self.use_xpos}

    def _table(
        self, resolved: _inputs.Call, role: Role, dtype: torch.dtype, input_dtype: torch.dtype | None = None
    ) -> CosSin:
        return self._tables.at(
            resolved.positions,
            dtype,
            coordinates=resolved.coordinates,
            role=role,
            length=resolved.length,
            position_range=resolved.position_range,
            input_dtype=input_dtype,
            traced=resolved.traced,
            counted=resolved.counted,
            alike=resolved.counted,
        )

    def extra_repr(self) -> str:
        shown = [f"{self.dim}"]
        if self.base is None:
            shown.append(f"parts={self.parts!r}" if self.parts else "inv_freq=given")
        for name, default in _SHOWN.items():
            value = getattr(self, name)
            if value != default and value is not None:
                shown.append(f"{name}={value!r}")
        if self.axes is not None:
            shown.append(f"axes={shown_axes(self.axes)}")
        if self.attention_factor != 1.0:
            shown.append(f"attention_factor={self.attention_factor:.6g}")
        shown += [f"{name}={getattr(self, name)!r}" for name in ("temperatures", "notes") if getattr(self, name)]
        return ", ".join(shown)
