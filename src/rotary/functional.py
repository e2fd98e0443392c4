"""Rotation with ready tables: apply_rotary, apply_rotary_qk, and apply_rotary_pos_emb, the companion of RotaryEmbedding.forward.

    (y_a, y_b) = (x_a cos - x_b sin,  x_b cos + x_a sin)        (a, b) the two channels of a plane, see rotary.pairing

Tables are half width, one column per plane. They are computed once per forward pass (RotaryEmbedding.cos_sin) and handed to every
layer. Everything wrong with the arguments is said here, before anything is computed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .dispatch import Table, rotate

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


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
        The batch is dimension 0. dim <= head_dim: channels past dim pass through bit for bit.
    cos, sin: (seq, dim/2) or (1 or batch, seq, dim/2), any floating dtype, on x's device; used as they are given, in
        float64 for a float64 x and in float32 otherwise. Rows of their own per batch need a seq_dim other than 0. Where
        they require a gradient they get it.
    interleaved: planes are channels (2j, 2j + 1); otherwise (j, j + dim/2).
    conjugate: turn by minus the angle: the adjoint, and where cos^2 + sin^2 = 1 the inverse.
    inplace: write over x and return the same object.

    Returns a tensor with x's dtype and the strides of empty_like(x): computed in the dtype of the tables, rounded once.

    TypeError for a dtype that cannot be rotated; ValueError for shapes or devices that do not belong together; RuntimeError where
    writing in place would be wrong (leaves that require a gradient, split outputs, expanded tensors), before anything is written.

    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    >>> apply_rotary(x, torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [1.0]]))
    tensor([[1., 0.],
            [0., 1.]])
    """
    axis, table = settled(x, cos, sin, seq_dim)
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
    axis, tables = settled_pair(q, k, cos, sin, key_cos, key_sin, seq_dim)
    q, k = rotate(
        (q, k),
        tables,
        seq_dim=axis,
        interleaved=interleaved,
        conjugate=conjugate,
        in_place=inplace,
    )
    return q, k


def apply_rotary_pos_emb(t: Tensor, freqs: Tensor, scale: Tensor | float = 1.0) -> Tensor:
    """t * cos(freqs) * scale + rotate_half(t) * sin(freqs) * scale: what goes with the pair that RotaryEmbedding.forward returns.

    t: (..., seq, head_dim), floating. freqs: (rows, dim) [rad], the halves concatenated, dim <= head_dim: later channels pass
        through. scale: a number, a 0-d tensor or (rows, dim); keys under xPos take 1 / scale. With more rows than t is long, the
        last are used, as when decoding.

    Returns t's shape and dtype; cos and sin are taken in float64, the arithmetic is float32 (float64 for a float64 t).
    Differentiable in each argument. Radians in float32 are only as good as float32 is at that size:
    RotaryEmbedding.rotate is exact at every position.

    TypeError for a t that is not floating; ValueError for shapes that do not fit.
    """
    check_tensor(t, -2, "t")
    if freqs.ndim != 2 or freqs.shape[-1] % 2 or not freqs.is_floating_point():
        raise ValueError(
            f"freqs must be floating with shape (rows, dim), dim even, got {freqs.dtype} {tuple(freqs.shape)}"
        )
    seq, dim = t.shape[-2], freqs.shape[-1]
    if dim > t.shape[-1]:
        raise ValueError(f"rotary dim {dim} exceeds head_dim {t.shape[-1]} of t with shape {tuple(t.shape)}")
    if freqs.shape[0] < seq:
        raise ValueError(f"freqs has {freqs.shape[0]} rows, t with shape {tuple(t.shape)} needs {seq}")
    if freqs.device != t.device:
        raise ValueError(f"freqs on {freqs.device}, t on {t.device}")
    if isinstance(scale, Tensor) and scale.ndim and scale.shape != freqs.shape:
        raise ValueError(
            f"scale must be a number or have the shape of freqs {tuple(freqs.shape)}, got {tuple(scale.shape)}"
        )
    work = torch.float64 if t.dtype == torch.float64 else torch.float32
    first = freqs.shape[0] - seq
    if isinstance(scale, Tensor):
        scale = (scale[first:] if scale.ndim else scale).to(work)
    angles = freqs[first:].to(torch.float64) if t.device.type != "mps" else freqs[first:]
    cos, sin = angles.cos().to(work) * scale, angles.sin().to(work) * scale
    x = t[..., :dim].to(work)
    a, b = x.chunk(2, -1)
    y = (x * cos + torch.cat((-b, a), -1) * sin).to(t.dtype)
    return torch.cat((y, t[..., dim:]), -1) if dim < t.shape[-1] else y


def settled(x: Tensor, cos: Tensor, sin: Tensor, seq_dim: int) -> tuple[int, Table]:
    """seq_dim from the front and the tables as a kernel takes them, or the error: what apply_rotary asks of its arguments."""
    axis = check_tensor(x, seq_dim, "x")
    return axis, _check_table(x, cos, sin, axis, x.shape[axis], "x")


def settled_pair(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, key_cos: Tensor | None, key_sin: Tensor | None, seq_dim: int
) -> tuple[int, tuple[Table, Table]]:
    """As settled, for apply_rotary_qk: a table each, that of q cut to its length."""
    axis = check_tensor(q, seq_dim, "q")
    check_pair(q, k, axis, check_tensor(k, seq_dim, "k"))
    if (key_cos is None) != (key_sin is None):
        raise TypeError("key_cos and key_sin belong together: give both or neither")
    length = k.shape[axis]
    q_table = k_table = _check_table(k, cos, sin, axis, length, "k")
    if key_cos is not None and key_sin is not None:
        k_table = _check_table(k, key_cos, key_sin, axis, length, "k")
    check_rows(q_table, q, "q")
    if q_table[0].shape[-1] * 2 > q.shape[-1]:
        _check_table(q, cos, sin, axis, length, "q")
    return axis, (last_rows(q_table, q.shape[axis], length), k_table)


def last_rows(table: Table, rows: int, length: int) -> Table:
    """The last rows of tables of that length: queries that follow cached keys."""
    if rows == length:
        return table
    cos, sin = table
    return cos[..., length - rows :, :], sin[..., length - rows :, :]


def check_tensor(x: Tensor, seq_dim: int, name: str) -> int:
    """seq_dim counted from the front, or the error that tells what is wrong with x or with it."""
    if x.dtype not in _DTYPES:
        raise TypeError(f"{name} must be floating point (float64, float32, float16 or bfloat16), got {x.dtype}")
    ndim = x.ndim
    axis = seq_dim + ndim if seq_dim < 0 else seq_dim
    if ndim < 2 or not 0 <= axis < ndim - 1:
        raise ValueError(
            f"seq_dim {seq_dim} does not name a sequence dimension of {name} with shape {tuple(x.shape)}: "
            f"needed is (..., seq, head_dim) or another layout with channels last"
        )
    return axis


def check_pair(q: Tensor, k: Tensor, axis: int, k_axis: int) -> None:
    """Raise where q and k cannot belong to one attention."""
    if q.dtype != k.dtype:
        raise TypeError(f"q is {q.dtype}, k is {k.dtype}: rotate them one by one, or cast one")
    if q.device != k.device:
        raise ValueError(f"q on {q.device}, k on {k.device}")
    q_shape, k_shape = q.shape, k.shape
    ndim = len(q_shape)
    # Of three dimensions the first may be heads as well as batch, so that only rows of their own can tell: check_rows.
    if axis != k_axis or ndim != len(k_shape) or (axis != 0 and ndim > 3 and q_shape[0] != k_shape[0]):
        raise ValueError(
            f"q with shape {tuple(q_shape)} and k with shape {tuple(k_shape)} differ in more than heads and length"
        )
    if q_shape[axis] > k_shape[axis]:
        raise ValueError(
            f"q is longer than k: {q_shape[axis]} and {k_shape[axis]} along dimension {axis} of shapes {tuple(q_shape)} and "
            f"{tuple(k_shape)}; is seq_dim right?"
        )


def check_rows(table: Table, x: Tensor, name: str) -> None:
    """Raise where tables with rows of their own do not have one for each row of x."""
    if table[0].ndim == 3 and table[0].shape[0] not in (1, x.shape[0]):
        raise ValueError(f"tables have batch {table[0].shape[0]}, {name} with shape {tuple(x.shape)} has {x.shape[0]}")


def _check_table(x: Tensor, cos: Tensor, sin: Tensor, axis: int, length: int, name: str) -> Table:
    """The tables in the dtype of the arithmetic, or the error that tells why they do not fit x."""
    shape = cos.shape
    if shape != sin.shape or len(shape) not in (2, 3):
        raise ValueError(
            f"cos and sin must both have shape (seq, dim/2) or (batch, seq, dim/2), got {tuple(shape)} and {tuple(sin.shape)}"
        )
    if not cos.is_floating_point() or not sin.is_floating_point():
        raise TypeError(f"cos and sin must be floating point, got {cos.dtype} and {sin.dtype}")
    planes = shape[-1]
    if planes * 2 > x.shape[-1]:
        raise ValueError(
            f"rotary dim {planes * 2} exceeds head_dim {x.shape[-1]} of {name} with shape {tuple(x.shape)}; "
            f"tables are half width, one column per plane"
        )
    if shape[-2] != length:
        raise ValueError(
            f"cos and sin have {shape[-2]} rows, {name} with shape {tuple(x.shape)} has {length} along dimension {axis}"
        )
    if len(shape) == 3 and shape[0] != 1 and axis == 0:
        raise ValueError(
            f"tables with a batch of {shape[0]} need seq_dim other than 0: dimension 0 of {name} {tuple(x.shape)} is the batch"
        )
    check_rows((cos, sin), x, name)
    device = x.device
    if cos.device != device or sin.device != device:
        raise ValueError(f"cos on {cos.device}, sin on {sin.device}, {name} on {x.device}")
    work = torch.float64 if x.dtype == torch.float64 else torch.float32
    return (cos if cos.dtype == work else cos.to(work)), (sin if sin.dtype == work else sin.to(work))
