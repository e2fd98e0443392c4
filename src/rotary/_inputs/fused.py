"""The arguments of rotary.fused: of the norm, and of the cache that is written."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _checks
from .._fused.work import Norm, Store, by_token
from .._subclasses.dtensor import distributed
from .._torch import tracing

_SMALLEST = 2.0**-149
_STRIDED = torch.strided


def for_norm(
    q: Tensor | None,
    k: Tensor,
    q_weight: Any,
    k_weight: Any,
    eps: Any,
    weight_offset: Any,
    rounding: Any,
    after: Any,
) -> Norm:
    """The checked Norm. q and k have passed the checks of the rotation."""
    if q is not None:
        check_weight("q_weight", q_weight, "q", q)
    check_weight("k_weight", k_weight, "k", k)
    if type(eps) is not float or not 0.0 < eps < math.inf:  # saves 1.1 of the 35 us of a call on one token
        eps = _checks.number("eps", eps)
    if eps < _SMALLEST and k.dtype != torch.float64:
        raise ValueError(f"eps {eps} is 0 in float32, in which {k.dtype} is normalised: use {_SMALLEST:.1e} or more")
    if type(weight_offset) is not float or not math.isfinite(weight_offset):
        weight_offset = _checks.number_of_any_sign("weight_offset", weight_offset)
        if not math.isfinite(weight_offset):
            raise ValueError(
                f"weight_offset must be a finite number, 1.0 for Gemma's (1 + weight), got {weight_offset}"
            )
    _checks.one_of("rounding", rounding, ("once", "model"))
    if weight_offset:
        if rounding == "model":
            raise ValueError(
                f"rounding='model' rounds before the weight, and models with a weight_offset ({weight_offset}, Gemma's 1 + weight) round "
                f"after it: use rounding='once'"
            )
        if q_weight is None and k_weight is None:
            raise ValueError(
                f"weight_offset {weight_offset} without weights: give q_weight and k_weight, or leave it 0"
            )
    return Norm(eps, weight_offset, rounding == "model", _checks.flag("after", after))


def for_norm_operator(
    xs: Sequence[Tensor], weights: Sequence[Tensor | None], eps: float, weight_offset: float, model: bool, after: bool
) -> Norm:
    """The checked Norm of torch.ops.rotary.norm_rotate. The arguments of the rotation are checked elsewhere."""
    if len(weights) != len(xs):
        raise ValueError(f"rotary.norm_rotate takes a weight or None for each tensor, got {len(weights)} for {len(xs)}")
    q, q_weight = (xs[0], weights[0]) if len(xs) == 2 else (None, None)
    return for_norm(q, xs[-1], q_weight, weights[-1], eps, weight_offset, "model" if model else "once", after)


def check_weight(name: str, weight: Any, x_name: str, x: Tensor) -> None:
    """Raise unless weight is None, or a tensor (head_dim,) of the dtype and on the device of x."""
    if weight is None:
        return
    if not isinstance(weight, Tensor):
        raise TypeError(f"{name} must be a tensor (head_dim,) or None, got {_checks.describe(weight)}")
    channels = x.shape[-1]
    if weight.ndim != 1 or weight.shape[0] != channels:
        shape = tuple(weight.shape)
        shapes = f"{name} has shape {shape}, {x_name} {tuple(x.shape)} has head_dim {channels}"
        if weight.ndim == 1 and weight.shape[0] > channels and weight.shape[0] % channels == 0:
            raise ValueError(
                f"{shapes}: this norm runs over the whole projection, heads x head_dim = {shape[0]} channels: apply it before the reshape "
                f"into heads, then rotate by apply_rotary_qk"
            )
        raise ValueError(f"{shapes}: one weight of shape (head_dim,) serves all heads")
    if weight.dtype != x.dtype:
        raise TypeError(f"{name} is {weight.dtype}, {x_name} is {x.dtype}: cast one")
    if weight.device != x.device:
        raise ValueError(f"{name} on {weight.device}, {x_name} on {x.device}")
    if weight.layout is not _STRIDED or weight.is_nested:
        _checks.dense(name, weight)


def check_no_mix(**tensors: Any) -> None:
    """Raise where some of the tensors are DTensors and others are plain: torch's operations do not take both."""
    spread = {name: distributed(t) for name, t in tensors.items() if isinstance(t, Tensor)}
    if any(spread.values()) and not all(spread.values()):
        name = next(name for name in spread if spread[name])
        plain = next(name for name in spread if not spread[name])
        raise TypeError(
            f"{name} is a DTensor and {plain} a plain tensor: give local parts of all of them, by .to_local(), with tables of their rows, "
            f"or DTensors alone"
        )


def for_store(k: Tensor, v: Any, cache_k: Any, cache_v: Any, slots: Any, axis: int) -> Store:
    """The checked Store. k has passed the checks of the rotation; axis: its sequence, from the front. Slots are read on the CPU only."""
    _checks.local("k", k)
    if k.ndim not in (3, 4) or (k.ndim == 4 and axis == 0):
        raise ValueError(
            f"k with shape {tuple(k.shape)} and seq_dim {axis} cannot be stored: needed is (batch, heads, seq, head_dim), "
            f"(batch, seq, heads, head_dim), (tokens, heads, head_dim) or (heads, tokens, head_dim)"
        )
    for name, tensor in (("v", v), ("cache_k", cache_k), ("cache_v", cache_v)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor, got {_checks.describe(tensor)}")
        if tensor.layout is not _STRIDED or tensor.is_nested:
            _checks.dense(name, tensor)
        _checks.local(name, tensor)
        if tensor.dtype != k.dtype:
            raise TypeError(f"{name} is {tensor.dtype}, k is {k.dtype}: nothing is converted on the way into a cache")
        if tensor.device != k.device:
            raise ValueError(f"{name} on {tensor.device}, k on {k.device}")
    if v.shape[:-1] != k.shape[:-1]:
        raise ValueError(
            f"v with shape {tuple(v.shape)} and k with shape {tuple(k.shape)} differ in more than head_dim"
        )
    keys, values = by_token(k, axis), by_token(v, axis)
    for name, cache, tokens in (("cache_k", cache_k, keys), ("cache_v", cache_v, values)):
        _check_cache(name, cache, tokens)
    if cache_k.shape[:2] != cache_v.shape[:2]:
        raise ValueError(
            f"cache_k {tuple(cache_k.shape)} and cache_v {tuple(cache_v.shape)} must have the same pages of the same length"
        )
    return Store(values, cache_k, cache_v, _slots(slots, keys, cache_k))


def _check_cache(name: str, cache: Tensor, tokens: Tensor) -> None:
    heads, channels = tokens.shape[2:]
    if cache.ndim != 4 or tuple(cache.shape[2:]) != (heads, channels):
        remedy = ""
        if cache.ndim == 4 and tuple(cache.shape[1::2]) == (heads, channels):
            remedy = f"; a cache with heads before the rows of a page is passed as {name}.transpose(1, 2)"
        raise ValueError(
            f"{name} must have shape (pages, page, {heads}, {channels}), got {tuple(cache.shape)}; a static cache has a page for each "
            f"batch entry{remedy}"
        )


def _slots(slots: Any, keys: Tensor, cache: Tensor) -> Tensor:
    """Checked slots as (batch, seq)."""
    if not isinstance(slots, Tensor):
        raise TypeError(f"slots must be a tensor of integers, got {_checks.describe(slots)}")
    _checks.integers("slots", slots)
    _checks.local("slots", slots)
    if slots.device != cache.device:
        raise ValueError(f"slots on {slots.device}, the cache on {cache.device}")
    batch, seq = keys.shape[:2]
    shape = slots.shape
    if shape != (batch, seq) and shape != (batch * seq,):
        raise ValueError(
            f"slots must have shape ({batch}, {seq}) or ({batch * seq},), one for each token, got {tuple(shape)}"
        )
    if slots.dtype != torch.int64 and slots.dtype != torch.int32:
        slots = slots.to(torch.int64)
    if cache.device.type == "cpu" and not tracing():
        check_values(slots, cache.shape[0] * cache.shape[1])
    return slots if len(shape) == 2 else slots.reshape(batch, seq)


def check_values(slots: Tensor, capacity: int) -> None:
    """ValueError for a slot outside of the cache, or given twice. -1 stores nothing."""
    numbers = slots.flatten()
    if numbers.numel() <= 64:  # few slots, as in decoding: 1 to 9 us, where the five tensor operations take 37
        ordered = sorted(numbers.tolist())
        low, high = (ordered[0], ordered[-1]) if ordered else (0, -1)
        twice = next((a for a, b in itertools.pairwise(ordered) if a == b and a != -1), None)
    else:
        ordered = numbers.sort().values
        low, high = int(ordered[0]), int(ordered[-1])
        same = (ordered[1:] == ordered[:-1]) & (ordered[1:] != -1)
        twice = int(ordered[1:][same][0]) if bool(same.any()) else None
    if low < -1 or high >= capacity:
        raise ValueError(
            f"slots must lie in 0 .. {capacity - 1}, the rows of all pages, or be -1, which stores nothing; got {low if low < -1 else high}"
        )
    if twice is not None:
        raise ValueError(f"slot {twice} is given twice: one token would overwrite the other")
