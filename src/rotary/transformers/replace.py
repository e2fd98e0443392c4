"""A body on our kernels: the same function of the model's own cos and sin, computed in float32 and rounded once."""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..functional import apply_rotary, apply_rotary_qk
from .body import Body, beside, channels, formula, split, turning

Tables = tuple[Tensor, Tensor]


class Halves(threading.local):
    """A model's tables as cos and sin of half width, where their halves agree: looked at once per forward, since all layers share them."""

    def __init__(self) -> None:
        self._of: tuple[Any, ...] = ()
        self._halves: Tables | None = None

    def __call__(self, given: Sequence[Tensor], body: Body) -> Tables | None:
        """Half-width rows, or None where the two channels of a plane turn by different numbers."""
        grad = torch.is_grad_enabled()  # cut without it, halves would lose the gradient of tables that have one
        if len(self._of) == len(given) and all(
            known() is t and state == (_version(t), grad) for (known, state), t in zip(self._of, given, strict=True)
        ):
            return self._halves
        cut: list[Tensor] = []
        for table in tables(given, body):
            a, b = channels(table, body.widths)
            if a is not b and not torch.equal(a, b):
                break
            cut.append(a.contiguous())
        self._halves = (cut[0], cut[1]) if len(cut) == 2 else None
        self._of = tuple((weakref.ref(t), (_version(t), grad)) for t in given)
        return self._halves


def tables(given: Sequence[Tensor], body: Body) -> Tables:
    """(cos, sin), as wide as they come."""
    first, second = body.form.tables(given)
    return (second, first) if body.sin_first else (first, second)


def _version(t: Tensor) -> int:
    return -1 if t.is_inference() else t._version


class Replacement:
    """What stands for a model's function: called as it is called, active or not as its handle says.

    calls: how many times the kernels rotated. others: how many times something else had to.
    """

    def __init__(self, function: Callable[..., Any], body: Body, active: Callable[[], bool]) -> None:
        self.function, self.body, self.active = function, body, active
        self.halves = Halves()
        self.calls = self.others = 0
        self._signature = inspect.signature(function)
        self._names = list(self._signature.parameters)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        y = self.rotated(args, kwargs)
        return self.function(*args, **kwargs) if y is None else y

    def __deepcopy__(self, memo: Any) -> Replacement:
        return self

    def rotated(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the function would give, or None where it had better run itself."""
        if not self.active():
            return None
        body, form = self.body, self.body.form
        if kwargs or len(args) < body.tensors + form.count:
            bound = self._signature.bind(*args, **kwargs)
            bound.apply_defaults()
            values = list(bound.arguments.values())
        else:
            values = list(args)
        at = form.count if form.leads else 0
        xs, after = values[at : at + body.tensors], at + body.tensors
        given = values[:at] if form.leads else values[after : after + form.count]
        ys = self._all(xs, given, self._where(values))
        if ys is None:
            self.others += 1
            return None
        return tuple(ys) if body.tensors > 1 else ys[0]

    def _where(self, values: list[Any]) -> Any:
        if self.body.unsqueeze != "argument":
            return self.body.unsqueeze
        at = self._names.index("unsqueeze_dim")
        return values[at] if len(values) > at else self._signature.parameters["unsqueeze_dim"].default

    def _all(self, xs: list[Any], given: list[Any], where: Any) -> list[Tensor] | None:
        if not all(isinstance(x, Tensor) and x.is_floating_point() for x in xs) or not all(
            isinstance(t, Tensor) for t in given
        ):
            return None
        body = self.body
        halves = None if torch.compiler.is_compiling() else self.halves(given, body)
        cos, sin = tables(given, body) if halves is None else halves
        if not cos.is_floating_point():
            return None
        width = 2 * cos.shape[-1] if halves is not None or body.widths == "half" else cos.shape[-1]
        if body.form.folded:
            xs = [x.unflatten(-1, (-1, width)) for x in xs]
        if any(width > x.shape[-1] or (width < x.shape[-1] and not body.partial) for x in xs) or width % 2:
            return None
        tokens = cos.shape[-2] if body.prefix else None
        passing = [x[..., : x.shape[-2] - tokens, :] if tokens is not None else None for x in xs]
        turns = [xs[i] if p is None or not p.shape[-2] else xs[i][..., -tokens:, :] for i, p in enumerate(passing)]  # type: ignore[operator]
        still = None
        if body.partial == "trailing":
            turns, still = (list(parts) for parts in zip(*(turning(body, x, width) for x in turns), strict=True))
        ys = None if halves is None else self._kernel(turns, cos, sin, where)
        if ys is None:
            wide = tables(given, body)
            try:
                ys = [self._formula(x, *wide, where) for x in turns]
            except RuntimeError:  # shapes that go together in the model's own function alone
                return None
            self.others += 1
        if still is not None:
            ys = [beside(body, y, s.to(y.dtype)) for y, s in zip(ys, still, strict=True)]
        ys = [
            y if p is None or not p.shape[-2] else torch.cat((p.to(y.dtype), y), -2)
            for y, p in zip(ys, passing, strict=True)
        ]
        return [y.flatten(-2) for y in ys] if body.form.folded else ys

    def _kernel(self, xs: list[Tensor], cos: Tensor, sin: Tensor, where: Any) -> list[Tensor] | None:
        """The kernels' answer, or None where these tables or shapes are not theirs. cos, sin: of half width."""
        body = self.body
        aligned = [_rows(t, x, where) for x in xs for t in (cos, sin)]
        if any(a is None for a in aligned):
            return None
        seq_dim, rows = aligned[0]  # type: ignore[misc]
        if any(a[0] != seq_dim for a in aligned if a is not None):
            return None
        sins: Tensor = aligned[1][1]  # type: ignore[index]
        xs = [self._input(x, cos) for x in xs]
        how: dict[str, Any] = {"seq_dim": seq_dim, "interleaved": body.interleaved, "conjugate": body.conjugate}
        try:
            if len(xs) == 2 and xs[0].dtype == xs[1].dtype and xs[0].shape[seq_dim] == xs[1].shape[seq_dim]:
                ys = list(apply_rotary_qk(xs[0], xs[1], rows, sins, **how))
            else:
                ys = [
                    apply_rotary(x, r, s, **how)
                    for x, (_, r), (_, s) in zip(xs, aligned[::2], aligned[1::2], strict=True)  # type: ignore[misc]
                ]
        except (TypeError, ValueError):  # shapes that broadcast in the model's own function alone
            return None
        self.calls += 1
        if body.to_half:
            width = 2 * rows.shape[-1]
            ys = [torch.cat((*split(y[..., :width], True), y[..., width:]), -1) for y in ys]
        return ys

    def _formula(self, x: Tensor, cos: Tensor, sin: Tensor, where: Any) -> Tensor:
        """Full width, for tables whose halves differ, and for the compiler, which may not look at values."""
        work = torch.float64 if x.dtype == torch.float64 else torch.float32
        cos, sin = (t if where is None else t.unsqueeze(where) for t in (cos, sin))
        y = formula(self.body, x.to(work), cos.to(work), sin.to(work)).to(self._input(x[:0], cos).dtype)
        if y.shape != x.shape:
            raise RuntimeError("the tables broadcast x")
        return y

    def _input(self, x: Tensor, cos: Tensor) -> Tensor:
        return x.to(torch.promote_types(x.dtype, cos.dtype)) if self.body.promotes else x


def _rows(table: Tensor, x: Tensor, where: Any) -> tuple[int, Tensor] | None:
    """(seq_dim, rows (seq, P) or (batch, seq, P)) of tables that broadcast against x, or None where they go another way."""
    aligned = table if where is None else table.unsqueeze(where)
    if aligned.ndim > x.ndim:
        return None
    sizes = [1] * (x.ndim - aligned.ndim) + list(aligned.shape[:-1])
    aligned = aligned.reshape(*sizes, aligned.shape[-1])
    free = [d for d in range(1, x.ndim - 1) if sizes[d] != 1]
    if len(free) > 1:
        return None
    if free:
        axis = free[0]
    elif sizes[0] != 1 and (x.ndim == 2 or 1 not in x.shape[1:-1]):
        axis = 0  # (tokens, heads, channels)
    else:
        ones = [d for d in range(1, x.ndim - 1) if x.shape[d] == 1]
        if not ones:
            return None
        axis = ones[-1]
    if sizes[axis] != x.shape[axis]:
        return None
    if axis == 0 or sizes[0] == 1:
        return axis, aligned.reshape(sizes[axis], -1)
    return (axis, aligned.reshape(sizes[0], sizes[axis], -1)) if sizes[0] == x.shape[0] else None
