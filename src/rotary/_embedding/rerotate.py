"""RotaryEmbedding.rerotate, which moves rotated keys to other positions, and rerotation, its tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import _checks
from .._angles.cos_sin import Tables
from .._buffers import MirrorModule
from .._inputs import check_flags
from .._rotation.autograd import How, rotate
from .._types import CosSin, Length, Role
from ..axes import Axes

if TYPE_CHECKING:
    from .._inputs import moved


class Rerotatable(MirrorModule):
    """RotaryEmbedding's methods for keys that are rotated already. They have no state of their own."""

    dim: int
    interleaved: bool
    axes: Axes | None
    _tables: Tables

    def rerotate(
        self,
        k: Tensor,
        old_positions: int | Tensor,
        new_positions: int | Tensor,
        *,
        new: Rerotatable | None = None,
        old_length: Length = None,
        new_length: Length = None,
        role: Role = "key",
        seq_dim: int = -2,
        inplace: bool = False,
    ) -> Tensor:
        """Keys that this module rotated for old positions, rotated once more to the new ones: cached keys, moved.

        k: rotated keys, (batch, heads, seq, head_dim) or another layout, as in rotate.
        old_positions, new_positions: an int, the position of the first row, from which the others count on, or integers (seq,) or
            (1 or batch, seq); with axes (..., coordinates). Of either sign; angles are subtracted as integers, exactly, however far.
        new: the module whose rotation the keys have afterwards, of the same dim and pairing, by default this one: other
            frequencies, attention factor or xPos.
        old_length, new_length: tokens in the whole context before and after, int or (batch,), required by a module whose scheme
            depends on it (DynamicNTK, LongRoPE), ignored by others.
        role: what k is, for xPos.
        seq_dim, inplace: as in rotate.

        Returns k's dtype and shape. A key that was rounded to its dtype and is rounded once more here is, in half precisions, within
        two roundings of the unrotated key rotated afresh; in float32 within 5 units of 2^-24 of its plane's norm. Rows that do not
        move keep their values, bit for bit but for the sign of a zero. Each move adds its rounding: move rarely and far, or from the
        keys as they were first rotated. A module with angles="float32" undoes the float32 angles that its arithmetic made.

        TypeError for keys in a quantised dtype, positions that are not integers, `new` that is no RotaryEmbedding; ValueError for
        shapes, widths, pairings or lengths that do not fit, and for a ratio of scales that k's dtype cannot hold; RuntimeError where
        writing in place would be wrong. All before anything is written.

        >>> from rotary import RotaryEmbedding
        >>> rope = RotaryEmbedding(64)
        >>> k = torch.randn(1, 8, 100, 64)
        >>> moved = rope.rerotate(rope.rotate(k), 0, 5000)  # keys 0 .. 99 are now at 5000 .. 5099
        >>> torch.allclose(moved, rope.rotate(k, offset=5000), atol=1e-5)
        True
        """
        from .._inputs import moved  # few programs move keys: 4 ms of `import rotary`

        other = self if new is None else new
        _check_module(other)
        check_flags(inplace=inplace)
        move = moved.for_rerotate(
            k, (old_positions, new_positions), (old_length, new_length), (self._side(), other._side()), role, seq_dim
        )
        table = self._moved(move, other, torch.float64 if k.dtype == torch.float64 else torch.float32, k.dtype)
        how: How = {"seq_dim": move.seq_dim, "interleaved": self.interleaved, "conjugate": False}
        return rotate((k,), (table,), in_place=inplace, names=("k",), **how)[0]

    def rerotation(
        self,
        old_positions: int | Tensor,
        new_positions: int | Tensor,
        dtype: torch.dtype = torch.float32,
        *,
        rows: int | None = None,
        new: Rerotatable | None = None,
        old_length: Length = None,
        new_length: Length = None,
        role: Role = "key",
    ) -> CosSin:
        """The tables (cos, sin) of rerotate, made once for the keys of all layers: apply_rotary(k, *rope.rerotation(old, new)).

        old_positions, new_positions, new, old_length, new_length, role: as in rerotate. rows: how many keys, required where both
        positions are ints. dtype: of the tables, float32 or, for float64 keys, float64.

        Returns (seq, dim/2) or (batch, seq, dim/2) each. Where all keys of a sequence move by one shift under one schedule, as is known
        of ints and of CPU tensors, their rows are one row of memory, expanded.

        >>> from rotary import RotaryEmbedding
        >>> rope = RotaryEmbedding(64)
        >>> cos, sin = rope.rerotation(100, 20, rows=32)  # keys 100 .. 131 go to 20 .. 51
        >>> cos.shape, cos.stride()
        (torch.Size([32, 32]), (0, 1))
        """
        from .._inputs import moved

        other = self if new is None else new
        _check_module(other)
        dtype = _checks.floating_dtype("dtype", dtype)
        move = moved.for_rerotation(
            (old_positions, new_positions),
            (old_length, new_length),
            (self._side(), other._side()),
            role,
            rows,
            self.inv_freq.device,
        )
        return self._moved(move, other, dtype, dtype)

    def _moved(self, move: moved.Move, other: Rerotatable, dtype: torch.dtype, input_dtype: torch.dtype) -> CosSin:
        from .._angles.rerotation import Place, rerotation

        (old, new), (old_length, new_length) = move.positions, move.lengths
        return rerotation(
            Place(self._tables, old, old_length),
            Place(other._tables, new, new_length),
            move.rows,
            dtype,
            device=move.device,
            role=move.role,
            input_dtype=input_dtype,
            traced=move.traced,
        )

    def _side(self) -> moved.Side:
        from .._inputs import moved

        spectrum = self._tables.spectrum
        schemes = [
            scheme for part in (spectrum, *spectrum.parts) for scheme in part.schemes if scheme.window is not None
        ]
        names = " and ".join(dict.fromkeys(type(scheme).__name__ for scheme in schemes))
        return moved.Side(self.dim, self.interleaved, 0 if self.axes is None else max(self.axes) + 1, names)


def _check_module(new: object) -> None:
    if not isinstance(new, Rerotatable):
        raise TypeError(
            f"new must be a RotaryEmbedding, whose rotation the keys have afterwards, got {_checks.describe(new)}"
        )
