"""Rotation with ready tables: apply_rotary, apply_rotary_qk, and apply_rotary_pos_emb, the companion of RotaryEmbedding.forward.

    (y_a, y_b) = (x_a cos - x_b sin,  x_b cos + x_a sin)        (a, b) the two channels of a plane, see rotary.pairing

Tables are half width, one column per plane. They are computed once per forward pass (RotaryEmbedding.cos_sin) and handed to every
layer. Arguments are checked in _inputs, before anything is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from . import _checks, _inputs
from ._angles.exact import cos_sin_of_directions
from ._angles.integers import as_int64, range_of
from ._angles.turns import turns_per_token
from ._inputs.words import of_one_tensor
from ._rotation import call
from ._rotation.autograd import rotate
from ._subclasses import nested
from ._subclasses.dtensor import distributed
from ._torch import has_float64, tracing


def apply_rotary(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    seq_dim: int = -2,
    interleaved: bool = False,
    conjugate: bool = False,
    inplace: bool = False,
) -> Tensor:
    """Rotate x by the angles whose cosines and sines are given.

    x: (..., seq, head_dim) or any layout with the sequence at seq_dim and channels last; float64, float32, float16 or bfloat16.
        The batch is dimension 0. dim <= head_dim: channels past dim pass through bit for bit. Or nested (jagged), with tables that
        are jagged with the same documents, or dense, whose first rows then serve each document. Or a DTensor, with tables of the whole:
        plain and the same in every process, or DTensors, replicated or cut as x is; the result has the placements of x.
    cos, sin: (seq, dim/2) or (1 or batch, seq, dim/2), any floating dtype (half precisions warn once), on x's device; converted to
        float64 for a float64 x and to float32 otherwise. Rows of their own per batch need a seq_dim other than 0. Where
        they require a gradient they get it.
    interleaved: planes are channels (2j, 2j + 1); otherwise (j, j + dim/2).
    conjugate: turn by minus the angle: the adjoint, and where cos^2 + sin^2 = 1 the inverse.
    inplace: write over x and return the same object.

    Returns a tensor with x's dtype and the strides of empty_like(x): computed in the dtype of the tables, rounded once.

    TypeError for a dtype that cannot be rotated; ValueError for shapes or devices that do not belong together, and for placements that
    would have to send x or a table; RuntimeError where writing in place would be wrong (leaves that require a gradient, split outputs,
    expanded tensors), before anything is written.

    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    >>> apply_rotary(x, torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [1.0]]))
    tensor([[1., 0.],
            [0., 1.]])
    """
    if not is_compiling():
        rotated = call.rotate(x, cos, sin, seq_dim, interleaved, conjugate, inplace)
        if rotated is not None:
            return rotated
    _inputs.check_flags(interleaved=interleaved, conjugate=conjugate, inplace=inplace)
    if type(x) is not Tensor and nested.is_jagged(x):
        how = {"interleaved": interleaved, "conjugate": conjugate, "inplace": inplace}
        return nested.apply(lambda xs, t, **how: apply_rotary(*xs, *t, **how), (x,), (cos, sin), seq_dim=seq_dim, **how)
    axis, table = _inputs.for_table(x, cos, sin, seq_dim)
    if type(x) is not Tensor and distributed(x):
        from ._rotation import shards  # few processes have DTensors

        return shards.by_tables((x,), (table,), axis, interleaved, conjugate, inplace)[0]
    return rotate(
        (x,),
        (table,),
        seq_dim=axis,
        interleaved=interleaved,
        conjugate=conjugate,
        in_place=inplace,
        names=("x",),
    )[0]


def apply_rotary_qk(
    q: Tensor,
    k: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    key_cos: Tensor | None = None,
    key_sin: Tensor | None = None,
    seq_dim: int = -2,
    interleaved: bool = False,
    conjugate: bool = False,
    inplace: bool = False,
) -> tuple[Tensor, Tensor]:
    """Rotate queries and keys in one call; as apply_rotary, and:

    q, k: one dtype and device, one batch size; the numbers of heads may differ. Where k is longer, as when decoding with cached keys,
        q takes the last rows of the tables; a longer q is a ValueError.
    cos, sin: of k's length. key_cos, key_sin: tables of their own for k, both or neither (xPos).

    Returns (q, k).
    """
    if not is_compiling():
        rotated = call.rotate(q, k, cos, sin, key_cos, key_sin, seq_dim, interleaved, conjugate, inplace)
        if rotated is not None:
            return rotated
    _inputs.check_flags(interleaved=interleaved, conjugate=conjugate, inplace=inplace)
    if type(q) is not Tensor and nested.is_jagged(q):
        how = {"interleaved": interleaved, "conjugate": conjugate, "inplace": inplace}
        return nested.apply(
            lambda xs, t, **how: apply_rotary_qk(*xs, *t[:2], key_cos=t[2], key_sin=t[3], **how),
            (q, k),
            (cos, sin, key_cos, key_sin),
            seq_dim=seq_dim,
            **how,
        )
    axis, tables = _inputs.for_pair(q, k, cos, sin, key_cos, key_sin, seq_dim)
    if type(q) is not Tensor and distributed(q):
        from ._rotation import shards  # few processes have DTensors

        q, k = shards.by_tables((q, k), tables, axis, interleaved, conjugate, inplace)
        return q, k
    q, k = rotate(
        (q, k),
        tables,
        seq_dim=axis,
        interleaved=interleaved,
        conjugate=conjugate,
        in_place=inplace,
    )
    return q, k


def cos_sin_of(
    positions: Tensor, directions: Tensor | Sequence[Any], dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Tables for learned or dense directions: plane p turns by the sum over coordinates of positions[..., c] x directions[.., p, c].

    positions: (seq, coordinates), or (batch, seq, coordinates) where directions are not per head; integers, float32 or float64.
    directions: (planes, coordinates), or (heads, planes, coordinates) for directions per head, [rad per position]. A tensor or Parameter
        is multiplied in float64 and gets gradients (RoPE-Mixed, arXiv:2403.13298; Mochi; LightGlue). Nested sequences of numbers are
        float32 values, and with integer positions their angles are exact at every position.

    Returns (cos, sin), (..., seq, planes), or (heads, seq, planes): heads are then the batch of a transposed view,
    apply_rotary(x.transpose(0, 1), cos, sin).transpose(0, 1) for x (batch, heads, seq, head_dim).

    TypeError for half precision or what is no number, and for sequences of tensors that require a gradient; ValueError for shapes and
    devices that do not fit, for numbers that are not finite in float32, and for positions on the CPU that are not finite or beyond int64.

    >>> cos, sin = cos_sin_of(torch.tensor([[0, 1], [2, 3]]), [[1.0, 0.0], [0.5, 0.5]])
    >>> cos.shape
    torch.Size([2, 2])
    """
    dtype = _checks.floating_dtype("dtype", dtype)
    _checks.tensor("positions", positions)
    if isinstance(directions, Tensor):
        _inputs.for_directions(positions, directions)
        if distributed(positions) != distributed(directions):
            _checks.local("positions", positions)
            _checks.local("directions", directions)
        if positions.is_floating_point():
            range_of(positions, tracing())  # refuses what is not finite
        work = torch.float64 if has_float64(positions.device) else torch.float32
        angles = positions.to(work) @ directions.to(work).transpose(-1, -2)
        return angles.cos().to(dtype), angles.sin().to(dtype)
    exact = _in_float32(directions).to(positions.device)
    _inputs.for_directions(positions, exact)
    if positions.is_floating_point():
        return cos_sin_of(positions, exact, dtype)
    high, low = turns_per_token(exact)
    rows = as_int64(positions, tracing())
    return cos_sin_of_directions(rows if exact.ndim == 2 else rows[None], high, low, dtype)


def _in_float32(directions: Sequence[Any]) -> Tensor:
    """Nested sequences of numbers as a tensor on the CPU."""
    if _require_gradients(directions):
        raise TypeError(
            "directions are sequences of tensors that require a gradient, which a copy loses: give torch.stack() of them"
        )
    try:
        values = torch.tensor(directions, dtype=torch.float32, device="cpu")
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(f"directions must be a tensor or nested sequences of numbers: {error}") from None
    if not tracing() and not bool(values.isfinite().all()):
        raise ValueError(f"directions with shape {tuple(values.shape)} must be finite in float32")
    return values


def _require_gradients(directions: Any) -> bool:
    """Whether one of the tensors in nested sequences does."""
    if isinstance(directions, Tensor):
        return directions.requires_grad
    return isinstance(directions, (list, tuple)) and any(map(_require_gradients, directions))


@of_one_tensor
def apply_rotary_pos_emb(t: Tensor, freqs: Tensor, scale: Tensor | float = 1.0) -> Tensor:
    """t * cos(freqs) * scale + rotate_half(t) * sin(freqs) * scale: what goes with the pair that RotaryEmbedding.forward returns.

    t: (..., seq, head_dim), floating. freqs: (rows, dim) [rad], float32 or float64, the halves concatenated, dim <= head_dim: later
        channels pass through. scale: a real number, a 0-d tensor or (rows, dim); keys under xPos take 1 / scale. With more rows than t
        is long, the last are used, as when decoding.

    Returns t's shape and dtype; cos and sin are taken in float64, the arithmetic is float32 (float64 for a float64 t).
    Differentiable in each argument. Radians in float32 are only as good as float32 is at that size:
    RotaryEmbedding.rotate is exact at every position.

    Functions of this name elsewhere take (q, k, cos, sin): that is apply_rotary_qk here, with tables of half width (rotary.tables).

    TypeError for a t that is not floating, for freqs in half precision and for a scale that is not real; ValueError for shapes that do
    not fit, and, on the CPU, for cos and sin in the place of freqs and scale.
    """
    if type(t) is not Tensor and distributed(t):
        from ._rotation import shards  # few processes have DTensors

        freqs, scale = shards.distribute_like(t, freqs, scale)
    _inputs.for_freqs(t, freqs, scale)
    seq, dim = t.shape[-2], freqs.shape[-1]
    work = torch.float64 if t.dtype == torch.float64 else torch.float32
    first = freqs.shape[0] - seq
    if isinstance(scale, Tensor):
        scale = (scale[first:] if scale.ndim else scale).to(work)
    else:
        scale = scale * 1.0  # torch multiplies by no int beyond int64
    angles = freqs[first:].to(torch.float64) if t.device.type != "mps" else freqs[first:]
    cos, sin = angles.cos().to(work) * scale, angles.sin().to(work) * scale
    x = (t if dim == t.shape[-1] else t[..., :dim]).to(work)
    a, b = x.chunk(2, -1)
    y = (x * cos + torch.cat((-b, a), -1) * sin).to(t.dtype)
    return torch.cat((y, t[..., dim:]), -1) if dim < t.shape[-1] else y
