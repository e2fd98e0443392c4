"""RotaryEmbedding: the documented module. Its state is its arguments; its buffers are mirrors that nothing reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypedDict, cast, overload

import torch
from torch import Tensor, nn

from . import arguments
from .constants import tracing
from .dispatch import How, rotate
from .functional import check_pair, check_rows, check_tensor, last_rows
from .mirrors import Mirrors
from .positions import sequence
from .spectrum import Angles, Length, Spectrum
from .tables import Table, Tables
from .xpos import Role, XPos

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .scaling import Scheme


class Options(TypedDict, total=False):
    """What rotate() takes beside q and k."""

    offset: int | Tensor
    positions: Tensor | None
    cu_seqlens: Tensor | None
    length: Length
    role: Role | None
    seq_dim: int
    inplace: bool


class RotaryEmbedding(Mirrors):
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864), exact at every position.

    Plane j of a head turns by position x inv_freq[j] radians, j = 0 .. dim/2 - 1. The channels of one plane, for dim = 8:

        half          a b c d a b c d        interleaved   a a b b c c d d

    Args:
        dim: channels that turn, even; a head may be wider, its later channels pass through.
        use_xpos: let scores decay with distance (Sun et al. 2022, arXiv:2212.10554); queries and keys then have tables of their own.
        scale_base: xPos: the decay is zeta^(distance / scale_base) [token].
        interpolation_factor: positions are divided by it, >= 1 (Chen et al. 2023, arXiv:2306.15595).
        base: of the geometric progression of frequencies, inv_freq[j] = base^(-2j/dim).
        base_rescale_factor: multiplies the base by factor^(dim / (dim - 2)), which stretches the longest wavelength by the factor.
        scaling: a context-extension scheme of rotary.scaling, or several, applied left to right.
        interleaved: which channels form a plane, see above.
        angles: "exact", or "float32" for the arithmetic of transformers, bit for bit.
        device: of the buffers; tables are made wherever positions or x are.

    Raises ValueError or TypeError, naming argument, value and remedy, for anything that cannot be honoured.

    Buffers `inv_freq` (dim/2,) [rad/token] and `scale` (dim/2,) or None mirror the arguments in float32. They are not persistent, stay
    float32 under every cast, and are read by nothing: no cast, copy, meta device or overwritten buffer changes a bit of a result.

    >>> rope = RotaryEmbedding(64)
    >>> q, k = torch.randn(2, 32, 10, 64), torch.randn(2, 8, 10, 64)
    >>> q, k = rope.rotate(q, k)
    """

    inv_freq: Tensor
    scale: Tensor | None
    base: float | None

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
        angles: Angles = "exact",
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        dim = arguments.even_dim(dim)
        schemes = arguments.schemes(scaling)
        spectrum = Spectrum(
            dim,
            arguments.rescaled_base(base, base_rescale_factor, dim),
            schemes,
            arguments.number("interpolation_factor", interpolation_factor, at_least=1.0),
            arguments.one_of("angles", angles, ("exact", "float32")),
        )
        xpos = XPos(dim, arguments.number("scale_base", scale_base))
        self.base, self.base_rescale_factor = base, base_rescale_factor
        self.scale_base, self.interpolation_factor = scale_base, interpolation_factor
        self._settle(spectrum, xpos if arguments.flag("use_xpos", use_xpos) else None, interleaved, device)

    @classmethod
    def from_inv_freq(
        cls,
        inv_freq: Tensor | Sequence[float],
        *,
        attention_factor: float = 1.0,
        interleaved: bool = False,
        angles: Angles = "exact",
        device: torch.device | str | None = None,
    ) -> RotaryEmbedding:
        """A module with frequencies given as they are, a model's own: inv_freq (dim/2,) [rad/token], taken in float32.

        attention_factor multiplies cos and sin, of queries and keys alike. The values are copied: a later change of the tensor
        changes nothing. TypeError for values that are not floating; ValueError for another shape, values that are not finite or
        not there (meta), and a tensor that requires a gradient, which this copy would cut off.

        >>> RotaryEmbedding.from_inv_freq([1.0, 0.01]).dim
        4
        """
        values = arguments.frequencies(inv_freq)
        module = cls.__new__(cls)
        nn.Module.__init__(module)
        module.base, module.base_rescale_factor = None, 1.0
        module.scale_base, module.interpolation_factor = 512, 1.0
        factor = arguments.number("attention_factor", attention_factor)
        angles = arguments.one_of("angles", angles, ("exact", "float32"))
        spectrum = Spectrum(2 * len(values), None, angles=angles, given=values, given_factor=factor)
        module._settle(spectrum, None, interleaved, device)
        return module

    @classmethod
    def from_config(
        cls,
        config: Any,
        *,
        layer_type: str | None = None,
        head_dim: int | None = None,
        interleaved: bool | None = None,
        angles: Angles = "exact",
        device: torch.device | str | None = None,
    ) -> RotaryEmbedding:
        """The module a model's config asks for; see rotary.config.read, which says what is accepted and what is refused.

        config: a dict, the path of a config.json, or a config object of transformers.
        """
        from . import config as configs

        read = configs.read(config, layer_type=layer_type, head_dim=head_dim, interleaved=interleaved)
        return cls(
            read.dim, base=read.base, scaling=read.scaling, interleaved=read.interleaved, angles=angles, device=device
        )

    def _settle(
        self, spectrum: Spectrum, xpos: XPos | None, interleaved: bool, device: torch.device | str | None
    ) -> None:
        self.dim = spectrum.dim
        self.use_xpos = xpos is not None
        self.interleaved = arguments.flag("interleaved", interleaved)
        self.angles = spectrum.angles
        self.scaling = spectrum.schemes
        self.attention_factor = spectrum.attention_factor
        self._tables = Tables(spectrum, xpos)
        self._show(self._tables.mirrored, device)

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
        n = arguments.length("seq_len", seq_len)
        return self._tables.pair(n, self.inv_freq.device if device is None else torch.device(device))

    # --- tables and rotation -------------------------------------------------------------------------------------------------

    def cos_sin(
        self,
        positions: int | Tensor,
        dtype: torch.dtype = torch.float32,
        *,
        role: Role | None = None,
        length: Length = None,
    ) -> Table:
        """Tables (cos, sin), each (..., dim/2), for positions n, meaning 0 .. n - 1, or an integer tensor (...); amplitude folded in.

        dtype: float32 or float64 hold what was computed, half precisions its rounding. |error| <= 3.1e-8 in float32 for every
            |position| <= 2^31 and amplitude <= 1, about 5e-16 in float64.
        role: "query" or "key", required with use_xpos, ignored without.
        length: tokens in the whole context, int or (batch,) integer tensor, for schemes that depend on it; None means the trained
            window, and a position beyond it is then a ValueError.

        TypeError for positions that are not integers or a missing role.
        """
        if not dtype.is_floating_point:
            raise TypeError(f"dtype must be floating point, got {dtype}")
        if isinstance(positions, Tensor):
            arguments.integers("positions", positions)
            known = None
        else:
            n = arguments.length("positions", positions)
            known = (0, n - 1) if n and not tracing() else None
            positions = sequence(n, device=self.inv_freq.device)
        length = arguments.context_length(length, None, 0)
        arguments.check_rows_of_length(length, positions)
        return self._tables.at(positions, dtype, role=self._check_role(role), length=length, known=known)

    @overload
    def rotate(self, q: Tensor, k: Tensor, **options: Unpack[Options]) -> tuple[Tensor, Tensor]: ...
    @overload
    def rotate(self, q: Tensor, k: None = None, **options: Unpack[Options]) -> Tensor: ...

    def rotate(  # pyright: ignore[reportInconsistentOverload]
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
        axis = check_tensor(q, seq_dim, "q")
        if k is not None:
            check_pair(q, k, axis, check_tensor(k, seq_dim, "k"))
        keys = q if k is None else k
        for x, name in ((q, "q"), (keys, "k")):
            if x.shape[-1] < self.dim:
                raise ValueError(
                    f"rotary dim {self.dim} exceeds head_dim {x.shape[-1]} of {name} with shape {tuple(x.shape)}"
                )
        where, known = arguments.positions(keys, axis, q.shape[axis], offset, positions, cu_seqlens)
        length = arguments.context_length(length, keys, axis)
        dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
        how: How = {"seq_dim": axis, "interleaved": self.interleaved, "conjugate": False}
        if k is None:
            table = self._tables.at(where, dtype, role=self._check_role(role), length=length, known=known, held=q.dtype)
            return rotate((q,), (table,), in_place=inplace, **how)[0]
        if role is not None:
            raise TypeError("role says what one tensor alone is; with q and k both given it is known")
        q_table = k_table = self._tables.at(where, dtype, length=length, known=known, held=q.dtype)
        if self.use_xpos:
            k_table = self._tables.at(where, dtype, role="key", length=length, known=known, held=q.dtype)
        check_rows(q_table, q, "q")
        q_table = last_rows(q_table, q.shape[axis], keys.shape[axis])
        q, k = rotate((q, k), (q_table, k_table), in_place=inplace, **how)
        return q, k

    def _check_role(self, role: Role | None) -> Role:
        if role is None and self.use_xpos:
            raise TypeError("xPos scales queries and keys differently; pass role='query' or role='key'")
        return cast(Role, arguments.one_of("role", role or "query", ("query", "key")))

    def extra_repr(self) -> str:
        said = [f"{self.dim}"] if self.base is not None else [f"{self.dim}, inv_freq=given"]
        defaults: dict[str, Any] = {
            "use_xpos": False,
            "scale_base": 512,
            "interpolation_factor": 1.0,
            "base": 10000,
            "base_rescale_factor": 1.0,
        }
        defaults |= {"scaling": (), "interleaved": False, "angles": "exact"}
        for name, default in defaults.items():
            value = getattr(self, name)
            if value != default and value is not None:
                said.append(f"{name}={value!r}")
        if self.attention_factor != 1.0:
            said.append(f"attention_factor={self.attention_factor:.6g}")
        return ", ".join(said)
