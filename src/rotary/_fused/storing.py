"""One rotation and the write of its keys and values into a cache, from checked tensors.

No gradient flows through a cache, so a call whose tensors require one is refused.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._rotation import overlap
from .._torch import forward_mode, tracing
from .._types import CosSin, Tensors
from . import backends
from .autograd import NAMES, wants_gradient
from .eager import Weights
from .work import Norm, Store


def store(
    xs: Tensors,
    weights: Weights,
    tables: tuple[CosSin, ...],
    norm: Norm | None,
    stored: Store,
    *,
    seq_dim: int,
    interleaved: bool,
    in_place: bool,
) -> Tensors:
    """Rotated xs. The last of them is the keys, which are written to the cache together with the values."""
    if tracing() or forward_mode():
        raise RuntimeError(
            "a cache is not written under torch.func transforms, forward-mode differentiation or fake tensors: call it outside of them"
        )
    check_no_graph(xs, weights, tables, stored.values)
    check_store(xs, stored, in_place)
    outs = xs if in_place else tuple(torch.empty_like(x) for x in xs)
    run(xs, outs, weights, tables, norm, stored, seq_dim, interleaved)
    return outs


def run(
    xs: Tensors,
    outs: Tensors,
    weights: Weights,
    tables: tuple[CosSin, ...],
    norm: Norm | None,
    stored: Store,
    seq_dim: int,
    interleaved: bool,
) -> None:
    backends.run(
        backends.chosen(),
        xs[0].device.type,
        lambda kernel: kernel.rotate_and_store(
            xs, outs, weights, tables, norm, stored, seq_dim=seq_dim, interleaved=interleaved
        ),
    )


def check_no_graph(xs: Tensors, weights: Weights, tables: tuple[CosSin, ...], values: Tensor) -> None:
    """RuntimeError where a gradient is required."""
    if torch.is_grad_enabled() and (wants_gradient(xs, weights, tables) or values.requires_grad):
        raise RuntimeError(
            "a gradient is wanted, and what a cache holds carries none: call this under torch.no_grad(), or rotate by norm_rotate or "
            "apply_rotary_qk and keep keys and values in tensors of the graph"
        )


def check_store(xs: Tensors, stored: Store, in_place: bool) -> None:
    """RuntimeError where memory that is written is also read, or written twice."""
    addressed = not xs[-1].is_meta  # the tensors are on one device, and on meta all have the address 0
    if in_place and addressed:
        overlap.check(xs, NAMES[-len(xs) :])
    written = (("cache_k", stored.cache_k), ("cache_v", stored.cache_v))
    for name, cache in written:
        if cache.requires_grad:
            raise RuntimeError(f"{name} requires a gradient, and a cache has none: pass {name}.detach()")
        if overlap.overlaps_itself(cache):
            raise RuntimeError(
                f"{name} with shape {tuple(cache.shape)} and strides {cache.stride()} overlaps itself (an expanded tensor?): clone it"
            )
    if not addressed:
        return
    others = [*zip(NAMES[-len(xs) :], xs, strict=True), ("v", stored.values)]
    for name, other in (("cache_k", stored.cache_k), *others):
        if overlap.overlap(stored.cache_v, other):
            raise RuntimeError(f"cache_v and {name} share memory: clone one of them")
    for name, other in others:
        if overlap.overlap(stored.cache_k, other):
            raise RuntimeError(f"cache_k and {name} share memory: clone one of them")
    if in_place and any(overlap.overlap(x, stored.values) for x in xs):
        raise RuntimeError("v shares memory with what is rotated in place: clone it, or leave inplace=False")
