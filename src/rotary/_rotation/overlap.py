"""Preconditions of writing in place: autograd allows it, and no two elements share memory. Checked before anything is written.

Sharing is decided exactly. Two elements are the same if their addresses are equal, and the address of an element is a sum of index x
stride. So the question is a bounded subset sum: is there a pair of indices with equal addresses? Queries and keys as slices of one
projection, for 2 tokens of 3 + 1 heads of 4 channels:

    token 0    q q q q q q q q q q q q k k k k
    token 1    q q q q q q q q q q q q k k k k        q: offset 0, strides (16, 4, 1);  k: offset 12, strides (16, 4, 1)

Their address ranges overlap, but they share no element: differences of their indices are |a| <= 1, 0 <= b <= 2, |c| <= 3, and no such
16 a + 4 b + c is 12. The nearest are 8 + 3 = 11 and 16 - 3 = 13.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from .._torch import base_of, view_origin
from .._types import Sizes, Tensors

_STEPS = 10_000  # of the search, far more than any real layout takes; beyond it the answer is "they share"


def check(xs: Tensors, names: tuple[str, ...]) -> None:
    """Raise RuntimeError, naming the tensor and the remedy, where rotating xs in place would be wrong or is refused by autograd."""
    for x, name in zip(xs, names, strict=True):
        check_autograd(x, name)
        if overlaps_itself(x):
            raise RuntimeError(
                f"{name} with shape {tuple(x.shape)} and strides {x.stride()} overlaps itself (an expanded tensor?), so it cannot be "
                f"rotated in place; call {name}.clone() first, or leave inplace=False"
            )
    if len(xs) == 2 and overlap(*xs):
        raise RuntimeError(
            f"{names[0]} and {names[1]} share memory, so one cannot be rotated in place without changing the other; "
            f"clone one of them, or leave inplace=False"
        )


def check_autograd(x: Tensor, name: str) -> None:
    """Raise where autograd does not allow x to be changed in place."""
    if not (torch.is_grad_enabled() and x.requires_grad):
        return
    if x.is_leaf:
        raise RuntimeError(
            f"{name} is a leaf tensor that requires a gradient; autograd does not allow it to be rotated in place: leave inplace=False"
        )
    base = base_of(x)
    if base is None:
        return
    if base.is_leaf and base.requires_grad:
        raise RuntimeError(
            f"{name} is a view of a leaf tensor that requires a gradient; autograd does not allow it to be rotated in place: "
            f"leave inplace=False"
        )
    origin = view_origin(x)
    if origin == "MULTI_OUTPUT_NODE":
        raise RuntimeError(
            f"{name} is an output of split, chunk or unbind, which autograd does not allow to be changed in place; "
            f"take it by slicing ({name} = qkv[..., :n]), or leave inplace=False"
        )
    if origin is not None:
        raise RuntimeError(
            f"{name} is a view made under {origin} that now takes part in autograd, which refuses to change it in place; "
            f"make the view where gradients are on, or leave inplace=False"
        )


def overlaps_itself(x: Tensor) -> bool:
    """Whether two indices of x name the same element, as in an expanded tensor."""
    return not x.is_contiguous() and _overlaps_itself(x.shape, x.stride())


@functools.lru_cache(maxsize=1024)  # a search of 15 us for the transposed queries of a decoding step
def _overlaps_itself(shape: Sizes, strides: Sizes) -> bool:
    axes = [(stride, 1 - size, size - 1) for size, stride in zip(shape, strides, strict=True) if size > 1]
    return 0 not in shape and _reaches(axes, 0, trivial=False)


def overlap(x: Tensor, y: Tensor) -> bool:
    """Whether some element of x is also one of y. Both have elements of one size; slices of one buffer may interleave freely."""
    if x.numel() == 0 or y.numel() == 0:
        return False
    size = x.element_size()
    x_start, y_start = x.data_ptr(), y.data_ptr()
    if (
        x_start + _extent(x.shape, x.stride()) * size <= y_start
        or y_start + _extent(y.shape, y.stride()) * size <= x_start
    ):
        return False
    distance, odd = divmod(y_start - x_start, size)
    return odd != 0 or _share(x.shape, x.stride(), y.shape, y.stride(), distance)


@functools.lru_cache(maxsize=1024)  # q and k of one projection are at the same distance in every layer
def _share(x_shape: Sizes, x_strides: Sizes, y_shape: Sizes, y_strides: Sizes, distance: int) -> bool:
    """Whether x_index . x_strides - y_index . y_strides = distance for indices within both shapes."""
    span: dict[int, tuple[int, int]] = {}
    for shape, strides, sign in ((x_shape, x_strides, 1), (y_shape, y_strides, -1)):
        for length, stride in zip(shape, strides, strict=True):
            low, high = span.get(stride, (0, 0))
            span[stride] = (low, high + length - 1) if sign > 0 else (low - length + 1, high)
    axes = [(stride, low, high) for stride, (low, high) in span.items() if low != high]
    return _reaches(axes, distance, trivial=True)


@functools.lru_cache(maxsize=1024)
def _extent(shape: Sizes, strides: Sizes) -> int:
    """Elements from the first to just past the last."""
    return 1 + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))


def _reaches(axes: list[tuple[int, int, int]], target: int, *, trivial: bool) -> bool:
    """Whether sum(stride * n) = target for integers low <= n <= high, one per axis (stride, low, high); not all 0 unless trivial.

    Depth first from the longest stride down. In real layouts each stride exceeds the reach of all shorter ones, so that one or two
    values of n are left to try at each axis.
    """
    axes = sorted(axes, reverse=True)
    below = [0] * (len(axes) + 1)
    above = [0] * (len(axes) + 1)
    for i in range(len(axes) - 1, -1, -1):
        stride, low, high = axes[i]
        below[i], above[i] = below[i + 1] + stride * low, above[i + 1] + stride * high
    steps = 0
    stack = [(0, target, trivial)]
    while stack:
        i, rest, moved = stack.pop()
        steps += 1
        if steps > _STEPS:
            return True
        if i == len(axes):
            if rest == 0 and moved:
                return True
            continue
        stride, low, high = axes[i]
        if stride:  # below[i+1] <= rest - stride n <= above[i+1]
            low = max(low, -((above[i + 1] - rest) // stride))
            high = min(high, (rest - below[i + 1]) // stride)
        elif rest:
            continue  # only axes of stride 0 are left: nothing moves any more
        elif moved or low != high:
            return True
        stack.extend((i + 1, rest - stride * n, moved or n != 0) for n in range(low, high + 1))
    return False
