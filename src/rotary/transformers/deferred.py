"""Deferred: the result of a norm that is not computed yet, a tensor that the patched rotation normalises and rotates in one pass.

    q_norm(x)                       Deferred, with x and the norm
    .transpose(1, 2), .view(...)    Deferred: the same views of x, while the last dimension stays as it is
    the patched rotation            takes x and the norm, and does both in one pass
    any other operation             the norm is computed by the model's own module, once, and the operation gets its result

torch calls __torch_function__ for every function of its own that gets a Deferred, so that any use of it gives the model's numbers. Code
that torch does not route there (a custom autograd function, a C++ extension) would see x instead: norms whose result may reach such code
are not deferred (flow.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _inputs
from .._fused import autograd
from .._fused.work import Norm
from .._torch import version
from .._types import CosSin, Tensors
from .norms import NormSpec
from .views import VIEWS, View

_SHARED_ATTRIBUTES = frozenset({"shape", "dtype", "device", "ndim", "layout", "is_cuda", "is_cpu", "requires_grad"})
"""Attributes that x and its norm have alike, so that reading one computes nothing."""


class Origin:
    """One deferred call of a norm. x: its input. spec: the norm. weight: as it was at the call. compute: the module's own forward."""

    def __init__(self, x: Tensor, spec: NormSpec, weight: Tensor | None, compute: Callable[[Tensor], Tensor]) -> None:
        self.x: Tensor = x
        self.spec: NormSpec = spec
        self.weight: Tensor | None = weight
        self._version = version(x)
        self._compute, self._grad = compute, torch.is_grad_enabled()
        self._result: Tensor | None = None

    def result(self) -> Tensor:
        """The norm by the module itself, computed once, in the grad mode of its call."""
        if self._result is None:
            self.check_unwritten()
            with torch.set_grad_enabled(self._grad):
                self._result = self._compute(self.x)
        return self._result

    def check_unwritten(self) -> None:
        """RuntimeError if x was written since the call, as far as torch counts: not in inference mode, and not by numpy."""
        if version(self.x) != self._version:
            raise RuntimeError(
                "the input of a norm was written in place before the rotation that computes the norm: patch this model without "
                "fuse='norms'"
            )


class Deferred(Tensor):
    """A norm's result that is not computed yet, seen through views."""

    origin: Origin
    views: tuple[View, ...]
    raw: Tensor
    """The input of the norm under the same views."""

    @staticmethod
    def of(origin: Origin) -> Deferred:
        """The deferred result of a call of a norm."""
        return _deferred(origin.x, origin, ())

    def result(self) -> Tensor:
        """The norm under these views."""
        y = self.origin.result()
        for view in self.views:
            y = view.of(y)
        return y

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "__get__" and getattr(getattr(func, "__self__", None), "__name__", "") in _SHARED_ATTRIBUTES:
            return func(*(arg.raw if type(arg) is Deferred else arg for arg in args), **kwargs)
        if name in VIEWS and func is getattr(Tensor, name) and type(args[0]) is Deferred:
            view = View(name, args[1:], kwargs)
            viewed = _viewed(args[0], view)
            if viewed is not None:
                return viewed
        return func(*_computed(args), **_computed(kwargs))


def _viewed(deferred: Deferred, view: View) -> Deferred | None:
    """The deferred tensor under a view; None where x has no such view, or where it would cut or join rows of the norm."""
    try:
        y = view.of(deferred.raw)
    except RuntimeError:
        return None
    if not view.keeps_rows(deferred.raw, y):
        return None
    return _deferred(y, deferred.origin, (*deferred.views, view))


def _deferred(x: Tensor, origin: Origin, views: tuple[View, ...]) -> Deferred:
    y = x.as_subclass(Deferred)
    y.origin, y.views, y.raw = origin, views, x
    return y


def _computed(value: Any) -> Any:
    """The value with every Deferred in it replaced by its result."""
    if type(value) is Deferred:
        return value.result()
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
    """New tensors, xs normalised and rotated; None for shapes and dtypes that rotary.fused does not take.

    weights: (head_dim,) or None, for each of xs. rows: (cos, sin) of half width for each. seq_dim: the dimension of the sequence.
    """
    try:
        tables = tuple(_inputs.for_table(x, *table, seq_dim)[1] for x, table in zip(xs, rows, strict=True))
    except (TypeError, ValueError):
        return None
    norm = Norm(spec.eps, spec.weight_offset, spec.rounding == "model", False)
    return list(autograd.norm_rotate(xs, weights, tables, norm, seq_dim=seq_dim, interleaved=interleaved))
