"""Which tensors and tables go together: one check per question, each raising an error that names the shapes."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from .. import _checks
from .._types import CosSin

_STRIDED = torch.strided
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_flags(**flags: Any) -> None:
    """TypeError for an argument that is not True or False. The C functions decline such a call, so that it comes here."""
    for name, value in flags.items():
        if value is not True and value is not False:
            _checks.flag(name, value)


def sequence_axis(x: Any, seq_dim: Any, name: str) -> int:
    """seq_dim counted from the front, after x has been checked."""
    if not isinstance(x, Tensor):
        remedy = (
            "; torch.fx cannot trace a rotation: use torch.export" if type(x).__module__.startswith("torch.fx") else ""
        )
        raise TypeError(f"{name} must be a tensor (..., seq, head_dim), got {_checks.describe(x)}{remedy}")
    if x.dtype not in _DTYPES:
        raise TypeError(f"{name} must be floating point (float64, float32, float16 or bfloat16), got {x.dtype}")
    if x.layout is not _STRIDED or x.is_nested:
        _checks.dense(name, x)
    if type(seq_dim) is not int:
        seq_dim = _checks.index("seq_dim", seq_dim)
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
    # With three dimensions the first may be heads as well as batch: only tables with a row per batch entry decide, in
    # check_batch_of_tables.
    if axis != k_axis or ndim != len(k_shape) or (axis != 0 and ndim > 3 and q_shape[0] != k_shape[0]):
        raise ValueError(
            f"q with shape {tuple(q_shape)} and k with shape {tuple(k_shape)} differ in more than heads and length"
        )
    if q_shape[axis] > k_shape[axis]:
        raise ValueError(
            f"q is longer than k: {q_shape[axis]} and {k_shape[axis]} along dimension {axis} of shapes {tuple(q_shape)} and "
            f"{tuple(k_shape)}; is seq_dim right?"
        )


def check_width(dim: int, x: Tensor, name: str) -> None:
    if x.shape[-1] < dim:
        raise ValueError(f"rotary dim {dim} exceeds head_dim {x.shape[-1]} of {name} with shape {tuple(x.shape)}")


def check_batch_of_tables(rows: int, x: Tensor, name: str) -> None:
    """Raise where tables with a row per batch entry do not have one for each batch entry of x."""
    if rows not in (1, x.shape[0]):
        raise ValueError(f"tables have batch {rows}, {name} with shape {tuple(x.shape)} has {x.shape[0]}")


def table_of(x: Tensor, cos: Tensor, sin: Tensor, axis: int, length: int, name: str) -> CosSin:
    """(cos, sin) in the dtype of the arithmetic; an error where they do not fit x."""
    if not isinstance(cos, Tensor) or not isinstance(sin, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"cos and sin must be tensors, got {_checks.describe(cos)} and {_checks.describe(sin)}")
    if cos.layout is not _STRIDED or sin.layout is not _STRIDED:
        _checks.dense("cos", cos)
        _checks.dense("sin", sin)
    shape = cos.shape
    if shape != sin.shape or len(shape) not in (2, 3):
        raise ValueError(
            f"cos and sin must both have shape (seq, dim/2) or (batch, seq, dim/2), got {tuple(shape)} and {tuple(sin.shape)}"
        )
    work = torch.float64 if x.dtype == torch.float64 else torch.float32
    ready = cos.dtype == work and sin.dtype == work
    if not ready and not (cos.is_floating_point() and sin.is_floating_point()):
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
    if len(shape) == 3:
        if shape[0] != 1 and axis == 0:
            raise ValueError(
                f"tables with a batch of {shape[0]} need seq_dim other than 0: dimension 0 of {name} {tuple(x.shape)} is the batch"
            )
        check_batch_of_tables(shape[0], x, name)
    device = x.device
    if cos.device != device or sin.device != device:
        raise ValueError(f"cos on {cos.device}, sin on {sin.device}, {name} on {x.device}")
    if ready:
        return cos, sin
    _warn_of_half(cos, sin)
    return cos.to(work), sin.to(work)


_warned = False


def _warn_of_half(cos: Tensor, sin: Tensor) -> None:
    """Warn, once in a process, of tables in half precision: FSDP2 casts the floating inputs of a layer without a message.

    Not under a compiler, which records no warning.
    """
    global _warned
    if _warned or torch.compiler.is_compiling() or not {cos.dtype, sin.dtype} & {torch.bfloat16, torch.float16}:
        return
    _warned = True
    warnings.warn(
        f"cos and sin are {cos.dtype} and {sin.dtype}: each is off by up to {2.0**-9 if cos.dtype == torch.bfloat16 else 2.0**-12:.1g} of "
        f"its size, at every position. Make them by cos_sin(positions), float32, where they are used, or hand layers positions in their "
        f"place. FSDP2 casts a layer's floating inputs: fully_shard(..., mp_policy=MixedPrecisionPolicy(..., cast_forward_inputs=False))",
        stacklevel=5,
    )
