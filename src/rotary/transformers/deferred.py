"""Deferred: what a norm answers with that waits for the rotation behind it, a tensor that is not normalised yet.

    q_norm(x)                       Deferred, with x and the norm
    .transpose(1, 2), .view(...)    Deferred: the same views of x, while the last dimension stays as it is
    the patched rotation            takes x and the norm, and does both in one pass
    any other operation             the norm is computed by the model's own module, once, and the operation sees its result

Every function of torch that is given one passes by __torch_function__, so that whatever a model does with it is right. What does not
pass there (a custom autograd function, an extension in C++ that takes the tensor itself) would see x: flow.py keeps norms whose result
may reach such code from waiting at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _inputs
from .._fused import autograd
from .._fused.work import Norm
from .._types import CosSin, Tensors
from .flow import VIEWS
from .norms import NormSpec

_FACTS = frozenset({"shape", "dtype", "device", "ndim", "layout", "is_cuda", "is_cpu", "requires_grad"})
"""Attributes that x and its norm have alike."""


class View(NamedTuple):
    """A method of a tensor and its arguments."""

    name: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]

    def of(self, x: Tensor) -> Tensor:
        return getattr(x, self.name)(*self.args, **self.kwargs)


class Origin:
    """One call of a norm that has not been computed: its input, its weight as it was then, and how the module computes it."""

    def __init__(self, x: Tensor, spec: NormSpec, weight: Tensor | None, compute: Callable[[Tensor], Tensor]) -> None:
        self.x: Tensor = x
        self.spec: NormSpec = spec
        self.weight: Tensor | None = weight
        self._compute, self._grad = compute, torch.is_grad_enabled()
        self._made: Tensor | None = None

    def made(self) -> Tensor:
        """The norm by the module itself, computed once, in the grad mode of its call."""
        if self._made is None:
            with torch.set_grad_enabled(self._grad):
                self._made = self._compute(self.x)
        return self._made


class Deferred(Tensor):
    """A norm's result that is not computed yet, seen through views."""

    origin: Origin
    views: tuple[View, ...]
    raw: Tensor
    """The input of the norm under the same views."""

    @staticmethod
    def of(origin: Origin) -> Deferred:
        """The result of a call of a norm, which waits."""
        return _deferred(origin.x, origin, ())

    def made(self) -> Tensor:
        """The norm under these views."""
        y = self.origin.made()
        for view in self.views:
            y = view.of(y)
        return y

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "__get__" and getattr(getattr(func, "__self__", None), "__name__", "") in _FACTS:
            return func(*(arg.raw if type(arg) is Deferred else arg for arg in args), **kwargs)
        if name in VIEWS and func is getattr(Tensor, name) and type(args[0]) is Deferred:
            view = View(name, args[1:], kwargs)
            seen = _seen(args[0], view)
            if seen is not None:
                return seen
        return func(*_computed(args), **_computed(kwargs))


def _seen(deferred: Deferred, view: View) -> Deferred | None:
    """The view, still deferred; None where x has no such view, or where the last dimension would not be the norm's any more."""
    try:
        y = view.of(deferred.raw)
    except RuntimeError:
        return None
    if not _keeps_rows(deferred.raw, y, view):
        return None
    return _deferred(y, deferred.origin, (*deferred.views, view))


def _keeps_rows(x: Tensor, y: Tensor, view: View) -> bool:
    """Whether the rows of the last dimension are whole in y."""
    if y.shape[-1:] != x.shape[-1:]:
        return False
    if view.name == "transpose":
        axes = (*view.args, *view.kwargs.values())
        return not {axis % x.ndim for axis in axes} & {x.ndim - 1}
    if view.name == "permute":
        axes = view.args if view.args and isinstance(view.args[0], int) else (*view.args, *view.kwargs.values())[0]
        return axes[-1] % x.ndim == x.ndim - 1
    return True


def _deferred(x: Tensor, origin: Origin, views: tuple[View, ...]) -> Deferred:
    y = x.as_subclass(Deferred)
    y.origin, y.views, y.raw = origin, views, x
    return y


def _computed(value: Any) -> Any:
    """The value with every deferred norm in it computed."""
    if type(value) is Deferred:
        return value.made()
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_computed, value))
    if isinstance(value, list | tuple):
        return type(value)(map(_computed, value))
    if isinstance(value, dict):
        return {key: _computed(part) for key, part in value.items()}
    return value


def norm_and_rotate(
    xs: Tensors,
    weights: tuple[Tensor | None, ...],
    rows: tuple[CosSin, ...],
    spec: NormSpec,
    seq_dim: int,
    interleaved: bool,
) -> list[Tensor] | None:
    """xs normalised and rotated, fresh; None for tensors that the functions of rotary do not take."""
    try:
        tables = tuple(_inputs.for_table(x, *table, seq_dim)[1] for x, table in zip(xs, rows, strict=True))
    except (TypeError, ValueError):
        return None
    norm = Norm(spec.eps, spec.weight_offset, spec.rounding == "model", False)
    return list(autograd.norm_rotate(xs, weights, tables, norm, seq_dim=seq_dim, interleaved=interleaved))
