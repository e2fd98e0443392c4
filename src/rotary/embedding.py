"""RotaryEmbedding: the documented module. Its state is its arguments; its buffers mirror them, and no computation reads them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, overload

import torch
from torch import Tensor, nn

from . import _checks, _inputs
from ._angles.cos_sin import Tables, radians_and_scale
from ._angles.frequencies import Spectrum
from ._angles.xpos import XPos
from ._buffers import MirrorModule
from ._rotation.autograd import How, rotate
from ._torch import jit_tracing
from ._types import AngleArithmetic, CosSin, Length, Role
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

_REPLACEABLE = ("dim", *_SHOWN)


class RotaryEmbedding(MirrorModule):
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
        device: of the buffers; tables are made wherever positions or x are.

    Raises ValueError or TypeError, naming argument, value and remedy, for anything that cannot be honoured.

    Buffers `inv_freq` (dim/2,) [rad/token] and `scale` (dim/2,) or None mirror the arguments in float32. They are not persistent, stay
    float32 under every cast, and no computation reads them: no cast, copy, meta device or overwritten buffer changes a bit of a result.

    >>> rope = RotaryEmbedding(64)
    >>> q, k = torch.randn(2, 32, 10, 64), torch.randn(2, 8, 10, 64)
    >>> q, k = rope.rotate(q, k)
    """

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
    inv_freq: Tensor
    scale: Tensor | None
    _fixed = frozenset({*_REPLACEABLE, "attention_factor", "_tables"})

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
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        dim = _checks.even_dim(dim)
        schemes = as_schemes(scaling)
        spectrum = Spectrum(
            dim,
            _checks.rescaled_base(base, base_rescale_factor, dim),
            schemes,
            _checks.number("interpolation_factor", interpolation_factor, at_least=1.0),
            _checks.one_of("angles", angles, ("exact", "float32")),
        )
        xpos = XPos(dim, _checks.number("scale_base", scale_base))
        self.base, self.base_rescale_factor = base, base_rescale_factor
        self.scale_base, self.interpolation_factor = scale_base, interpolation_factor
        self._set_up(spectrum, xpos if _checks.flag("use_xpos", use_xpos) else None, interleaved, device)

    @classmethod
    def from_inv_freq(
        cls,
        inv_freq: Tensor | Sequence[float],
        *,
        attention_factor: float = 1.0,
        interleaved: bool = False,
        angles: AngleArithmetic = "exact",
        device: torch.device | str | None = None,
    ) -> RotaryEmbedding:
        """A module with frequencies given as they are, a model's own: inv_freq (dim/2,) [rad/token], taken in float32.

        attention_factor multiplies cos and sin, of queries and keys alike. The values are copied: a later change of the tensor
        changes nothing. TypeError for values that are not floating; ValueError for another shape, values that are not finite or
        not there (meta), and a tensor that requires a gradient, which this copy would cut off.

        >>> RotaryEmbedding.from_inv_freq([1.0, 0.01]).dim
        4
        """
        values = _checks.frequencies(inv_freq)
        spectrum = Spectrum(
            2 * len(values),
            None,
            angles=_checks.one_of("angles", angles, ("exact", "float32")),
            given=values,
            given_factor=_checks.number("attention_factor", attention_factor),
        )
        module = cls.__new__(cls)  # the constructor makes frequencies from a base, which these have not
        nn.Module.__init__(module)
        module.base, module.base_rescale_factor = None, 1.0
        module.scale_base, module.interpolation_factor = 512, 1.0
        module._set_up(spectrum, None, interleaved, device)
        return module

    @classmethod
    def from_config(
        cls,
        config: str | os.PathLike[str] | Mapping[str, Any] | Any,
        *,
        layer_type: str | None = None,
        head_dim: int | None = None,
        interleaved: bool | None = None,
        angles: AngleArithmetic = "exact",
        device: torch.device | str | None = None,
    ) -> RotaryEmbedding:
        """The module a model's config asks for; see rotary.config.read, which says what is accepted and what is refused.

        config: a dict, the path of a config.json or of its folder, a config object of transformers, or the name of a config that
            travels with the package (rotary.config.shipped()); an existing path comes before a name.

        >>> RotaryEmbedding.from_config("llama-3.1-8b").attention_factor
        1.0
        """
        from . import config as configs

        read = configs.read(config, layer_type=layer_type, head_dim=head_dim, interleaved=interleaved)
        return cls(
            read.dim, base=read.base, scaling=read.scaling, interleaved=read.interleaved, angles=angles, device=device
        )

    def _set_up(
        self, spectrum: Spectrum, xpos: XPos | None, interleaved: bool, device: torch.device | str | None
    ) -> None:
        self.dim = spectrum.dim
        self.use_xpos = xpos is not None
        self.interleaved = _checks.flag("interleaved", interleaved)
        self.angles = spectrum.angles
        self.scaling = spectrum.schemes
        self.attention_factor = spectrum.attention_factor
        self._tables = Tables(spectrum, xpos)
        self._register_mirrors({"inv_freq": spectrum.inv_freq, "scale": xpos.zeta if xpos else None}, device)

    def replace(self, **arguments: Any) -> RotaryEmbedding:
        """A new module with some constructor arguments changed, on the same device by default; this one stays as it is.

        TypeError for an unknown argument, for a module made from given frequencies, which has no base to keep, and for a subclass with
        a constructor of its own.

        >>> RotaryEmbedding(64).replace(base=500_000, interleaved=True)
        RotaryEmbedding(64, base=500000, interleaved=True)
        """
        if self.base is None:
            raise TypeError(
                "this module was made from given frequencies: make another by RotaryEmbedding.from_inv_freq"
            )
        if type(self).__init__ is not RotaryEmbedding.__init__:
            raise TypeError(f"{type(self).__name__} has a constructor of its own: call it with the changed arguments")
        unknown = arguments.keys() - {*_REPLACEABLE, "device"}
        if unknown:
            raise TypeError(f"unknown argument {min(unknown)!r}; known: {', '.join(_REPLACEABLE)}, device")
        own: dict[str, Any] = {name: getattr(self, name) for name in _REPLACEABLE} | {"device": self.inv_freq.device}
        return type(self)(**(own | arguments))

    # --- the documented pair -------------------------------------------------------------------------------------------------

    def forward(self, seq_len: int, device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
        """The documented pair (freqs, scale) for positions 0 .. seq_len - 1.

        freqs: (seq_len, dim) float32 [rad], position / interpolation_factor x inv_freq, the two halves concatenated.
        scale: with use_xpos (seq_len, dim) float32, zeta^((position - seq_len // 2) / scale_base), centred as documented; otherwise
            0-d, the attention factor, 1.0 without a scheme that has one.

        device: where the results lie, by default where the module does. Radians in float32 lose precision with the position,
        whatever is done; cos_sin() and rotate() do not. TypeError where seq_len is no integer, ValueError where it is negative.

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
                "forward() lays freqs out by halves, as documented, and this module pairs channels (2j, 2j + 1): use rotate(), or "
                "cos_sin() with apply_rotary(interleaved=True)",
                stacklevel=4,  # past the two frames of nn.Module.__call__
            )
        return radians_and_scale(self._tables, n, self.inv_freq.device if device is None else torch.device(device))

    # --- tables and rotation -------------------------------------------------------------------------------------------------

    def cos_sin(
        self,
        positions: int | Tensor,
        dtype: torch.dtype = torch.float32,
        *,
        role: Role | None = None,
        length: Length = None,
    ) -> CosSin:
        """Tables (cos, sin), each (..., dim/2), for positions 0 .. n - 1 where an int n is given, or for an integer tensor (...).

        The amplitude is folded in: the attention factor, and the decay of xPos. Note that cos_sin(99) makes 99 rows, positions 0 to 98,
        while rotate(offset=99) and cos_sin(torch.tensor(99)) mean position 99.

        dtype: float32 or float64 hold what was computed, half precisions its rounding. |error| <= 3.1e-8 in float32 for every
            |position| <= 2^31 and amplitude <= 1, about 5e-16 in float64.
        role: "query" or "key", required with use_xpos, ignored without.
        length: tokens in the whole context, int or (batch,) integer tensor, for schemes that depend on it; None means the trained
            window, and a position beyond it is then a ValueError.

        TypeError for positions that are not integers or a missing role.
        """
        dtype = _checks.floating_dtype("dtype", dtype)
        call = _inputs.for_cos_sin(
            positions, use_xpos=self.use_xpos, length=length, role=role, device=self.inv_freq.device
        )
        return self._tables.at(
            call.positions,
            dtype,
            role=call.role,
            length=call.length,
            position_range=call.position_range,
            traced=call.traced,
        )

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
        inplace: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Rotated (q, k), or q alone where k is None.

        q, k: (batch, heads, seq, head_dim), or any layout with channels last, the sequence at seq_dim and the batch, where there is
            one, at dimension 0; float64, float32, float16 or bfloat16; heads may differ. k longer than q: q takes the last positions.
            For (batch, seq, heads, head_dim) pass seq_dim=1: with as many heads as tokens the shapes cannot tell.
        offset: position of k's first row: int, 0-d or (batch,) integer tensor. Negative positions turn backwards.
        positions: instead of offset, (seq,) or (1 or batch, seq) integers of k's length.
        cu_seqlens: (documents + 1,) int32 or int64: packed documents, cut alike in all rows, q and k equally long; positions count
            from offset (int or (documents,)) in each.
        length: tokens in the whole context, for schemes that depend on it, as in cos_sin.
        role: "query" or "key", which one tensor alone is; required for it with use_xpos.
        inplace: write over q and k and return the same objects.

        Returns tensors of q's and k's dtypes and the strides of empty_like; the arithmetic is float32 (float64 for float64), rounded
        once. Decoding token by token with offsets gives the bits of one prefill, packed documents those of each alone.

        TypeError or ValueError, with value, shape and remedy, for what does not fit; RuntimeError where writing in place would be wrong.
        Values of tensors on other devices than the CPU are not read: nothing waits for the device.
        """
        call = _inputs.for_rotate(
            q,
            k,
            dim=self.dim,
            use_xpos=self.use_xpos,
            windowed=self._tables.spectrum.window is not None,
            offset=offset,
            positions=positions,
            cu_seqlens=cu_seqlens,
            length=length,
            role=role,
            seq_dim=seq_dim,
        )
        table = self._table(call, call.role, q.dtype)
        how: How = {"seq_dim": call.seq_dim, "interleaved": self.interleaved, "conjugate": False}
        if k is None:
            return rotate((q,), (table,), in_place=inplace, **how)[0]
        k_table = self._table(call, "key", q.dtype) if self.use_xpos else table
        q_table = _inputs.last_rows(table, q.shape[call.seq_dim], k.shape[call.seq_dim])
        q, k = rotate((q, k), (q_table, k_table), in_place=inplace, **how)
        return q, k

    def _table(self, call: _inputs.Call, role: Role, input_dtype: torch.dtype) -> CosSin:
        return self._tables.at(
            call.positions,
            torch.float64 if input_dtype == torch.float64 else torch.float32,
            role=role,
            length=call.length,
            position_range=call.position_range,
            input_dtype=input_dtype,
            traced=call.traced,
        )

    def extra_repr(self) -> str:
        shown = [f"{self.dim}"] if self.base is not None else [f"{self.dim}, inv_freq=given"]
        for name, default in _SHOWN.items():
            value = getattr(self, name)
            if value != default and value is not None:
                shown.append(f"{name}={value!r}")
        if self.attention_factor != 1.0:
            shown.append(f"attention_factor={self.attention_factor:.6g}")
        return ", ".join(shown)
