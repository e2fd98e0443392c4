"""Converters of cos and sin from the layouts of other libraries to ours: one column per plane, (seq, dim/2) or (batch, seq, dim/2).

    from_full_width   a column per channel          transformers, GPT-NeoX (halves doubled); GPT-J, diffusers (neighbours doubled)
    from_radians      angles                        Megatron-LM (seq, 1, 1, dim), Transformer Engine, rotary-embedding-torch
    from_complex      cos + i sin                   Meta's freqs_cis
    from_joined       cos and sin side by side      vLLM's cos_sin_cache (rows, dim), rows by position ids

Tables of this library come from RotaryEmbedding.cos_sin; they are made in _angles/cos_sin.py.

The results are views of the arguments, or computed from them by operations that have gradients. How a table is doubled is an argument,
checked against its values on the CPU; on another device, and under tracing, values are not read.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from . import _checks
from ._torch import has_float64, tracing
from ._types import CosSin

Doubled = Literal["halves", "neighbours", "no"]
"""How a row lists its planes a, b, c: a b c a b c, a a b b c c, or a b c."""


def from_full_width(cos: Tensor, sin: Tensor, *, doubled: Doubled = "halves", seq_dim: int = -2) -> CosSin:
    """(cos, sin) with one column per plane, from tables with one per channel.

    cos, sin: (seq, dim), (batch, seq, dim), or with further dimensions of size 1, as those that broadcast over heads; floating, of one
        shape.
    doubled: "halves": the two halves of a row are equal (rotate_half); rotate with interleaved=False. "neighbours": columns 2j and 2j + 1
        are equal; rotate with interleaved=True. "no": a column per plane already.
    seq_dim: the dimension of the tokens; of the others only the first may be larger than 1, as the batch.

    Returns views (cos, sin), (seq, dim/2) or (batch, seq, dim/2).

    TypeError for what is no floating tensor; ValueError for shapes that do not fit, and where columns that belong to one plane differ.

    >>> cos = torch.tensor([[1.0, 0.5, 1.0, 0.5]])
    >>> from_full_width(cos, cos)[0]
    tensor([[1.0000, 0.5000]])
    """
    _check_pair(cos, sin)
    return _undoubled("cos", _rows("cos", cos, seq_dim), doubled), _undoubled(
        "sin", _rows("sin", sin, seq_dim), doubled
    )


def from_radians(
    angles: Tensor, *, doubled: Doubled = "halves", seq_dim: int = -2, dtype: torch.dtype = torch.float32
) -> CosSin:
    """(cos, sin) of angles [rad], (seq, dim/2) or (batch, seq, dim/2), of that dtype.

    angles: float32 or float64, (seq, dim), (batch, seq, dim), (seq, 1, 1, dim) with seq_dim=0, ...; taken as they are: the rounding of a
        float32 angle stays. Their cosines are computed in float64 where the device has it.
    doubled, seq_dim: as in from_full_width; "no" for a column per plane.

    TypeError for half precision, in which an angle of 300 is off by up to 1, and for another dtype; ValueError as from_full_width.

    >>> cos, sin = from_radians(torch.zeros(5, 1, 1, 8), seq_dim=0)
    >>> cos.shape
    torch.Size([5, 4])
    """
    dtype = _checks.floating_dtype("dtype", dtype)
    if not isinstance(angles, Tensor) or angles.dtype not in (torch.float32, torch.float64):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"angles must be a float32 or float64 tensor, got {_checks.describe(angles)}: make them in float32 at least"
        )
    rows = _undoubled("angles", _rows("angles", angles, seq_dim), doubled)
    rows = rows.to(torch.float64) if has_float64(rows.device) else rows
    return rows.cos().to(dtype), rows.sin().to(dtype)


def from_complex(freqs_cis: Tensor, *, seq_dim: int = -2) -> CosSin:
    """(cos, sin) from cos + i sin, one complex number per plane, as Meta's freqs_cis: views, (seq, dim/2) or (batch, seq, dim/2).

    freqs_cis: complex64 or complex128, of which the tables are float32 or float64, or complex32, of which they are float16; (seq, dim/2) or
        (batch, seq, dim/2), or with further dimensions of size 1. The code that makes them pairs neighbours: rotate with interleaved=True.

    TypeError for a real tensor, which .to(dtype) of a module makes of a complex one without a warning; ValueError for shapes that do not
    fit.

    >>> from_complex(torch.tensor([[1j]]))
    (tensor([[0.]]), tensor([[1.]]))
    """
    if not isinstance(freqs_cis, Tensor) or not freqs_cis.is_complex():  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"freqs_cis must be complex, got {_checks.describe(freqs_cis)}; pairs of real numbers (..., 2) become complex by "
            f"torch.view_as_complex, and what .to(dtype) made real has lost its sines"
        )
    rows = _rows("freqs_cis", freqs_cis, seq_dim)
    return rows.real, rows.imag


def from_joined(cache: Tensor, ids: Tensor | None = None) -> CosSin:
    """(cos, sin) from one cache whose rows are cos, then sin: (seq, dim/2) or (batch, seq, dim/2).

    cache: (rows, dim), floating: the first dim/2 columns cos, the others sin, one column per plane.
    ids: (seq,) or (batch, seq) integers, the row of each token; None takes the rows in their order.

    TypeError for dtypes that do not fit; ValueError for shapes, and, on the CPU, for ids outside the rows: torch would read a negative
    id from the end.

    >>> from_joined(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([1, 1]))
    (tensor([[0.],
            [0.]]), tensor([[1.],
            [1.]]))
    """
    _check_floating("cache", cache)
    if cache.ndim != 2 or not cache.shape[-1] or cache.shape[-1] % 2:
        raise ValueError(f"cache must have shape (rows, dim), dim even, got {tuple(cache.shape)}")
    rows = cache
    if ids is not None:
        _checks.integers("ids", _checks.tensor("ids", ids, "an integer tensor"))
        if ids.ndim not in (1, 2):
            raise ValueError(f"ids must have shape (seq,) or (batch, seq), got {tuple(ids.shape)}")
        if ids.device != cache.device:
            raise ValueError(f"ids on {ids.device}, cache on {cache.device}: move one")
        if _readable(ids) and ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= cache.shape[0]):
            raise ValueError(
                f"ids must be within 0 .. {cache.shape[0] - 1}, the rows of the cache, got {int(ids.min())} to {int(ids.max())}"
            )
        rows = cache[ids.to(torch.int64)]
    cos, sin = rows.chunk(2, -1)
    return cos, sin


def _rows(name: str, table: Tensor, seq_dim: int) -> Tensor:
    """table (..., columns) as (seq, columns) or (batch, seq, columns), without the dimensions of size 1 that other code broadcasts."""
    _checks.dense(name, table)
    shape, ndim = tuple(table.shape), table.ndim
    seq_dim = _checks.index("seq_dim", seq_dim)
    axis = seq_dim + ndim if seq_dim < 0 else seq_dim
    if ndim < 2 or not 0 <= axis < ndim - 1:
        raise ValueError(
            f"seq_dim {_checks.describe(seq_dim)} is no dimension of tokens of {name} with shape {shape}: (..., seq, columns) is needed"
        )
    varying = [d for d in range(ndim - 1) if d != axis and shape[d] != 1]
    if varying not in ([], [0]):
        raise ValueError(
            f"{name} with shape {shape} varies along dimension {varying[-1]} as well as along the tokens, dimension {axis}: only the "
            f"batch, dimension 0, may; is seq_dim right?"
        )
    kept = (*varying, axis, ndim - 1)
    return table.permute(*kept, *(d for d in range(ndim) if d not in kept)).reshape([shape[d] for d in kept])


def _undoubled(name: str, rows: Tensor, doubled: Doubled) -> Tensor:
    """One column per plane of rows (..., columns); ValueError where the columns that `doubled` says are equal differ."""
    _checks.one_of("doubled", doubled, ("halves", "neighbours", "no"))
    if doubled == "no":
        return rows
    columns = rows.shape[-1]
    if not columns or columns % 2:
        raise ValueError(f"{name} has {columns} columns, an odd number or none: a column per plane is doubled='no'")
    by_halves, by_neighbours = (rows[..., : columns // 2], rows[..., columns // 2 :]), (rows[..., ::2], rows[..., 1::2])
    first, second = by_halves if doubled == "halves" else by_neighbours
    if _readable(rows) and not _equal(first, second):
        layout, pair = ("neighbours", by_neighbours) if doubled == "halves" else ("halves", by_halves)
        if _equal(*pair):
            remedy = f"its {layout} are: pass doubled={layout!r}"
        else:
            remedy = "no columns of it are doubled: a column per plane is doubled='no'"
        raise ValueError(f"the {doubled} of {name} with shape {tuple(rows.shape)} are not equal; {remedy}")
    return first


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether the numbers are equal, NaN beside NaN too: what is wrong with a table is then no question of its layout."""
    return torch.equal(a, b) or bool(((a == b) | (a.isnan() & b.isnan())).all())


def _check_pair(cos: Tensor, sin: Tensor) -> None:
    _check_floating("cos", cos)
    _check_floating("sin", sin)
    if cos.shape != sin.shape:
        raise ValueError(f"cos and sin must have one shape, got {tuple(cos.shape)} and {tuple(sin.shape)}")


def _check_floating(name: str, value: Tensor) -> None:
    if not isinstance(value, Tensor) or not value.is_floating_point():  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"{name} must be a floating tensor, got {_checks.describe(value)}")
    _checks.dense(name, value)


def _readable(value: Tensor) -> bool:
    """Whether values may be read: on another device that would wait for it, and a trace would record the answer."""
    return value.device.type == "cpu" and not tracing()
