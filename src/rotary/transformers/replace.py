"""A body on our kernels: the same function of the model's own cos and sin, computed in float32 and rounded once."""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..functional import apply_rotary, apply_rotary_qk
from .probe import Body, Widths, channels, formula, split

Tables = tuple[Tensor, Tensor]


class Halves(threading.local):
    """Full-width tables cut to half width, where their halves agree: looked at once per forward, since all layers share them."""

    def __init__(self) -> None:
        self._of: tuple[Any, ...] = ()
        self._halves: Tables | None = None

    def __call__(self, cos: Tensor, sin: Tensor, widths: Widths) -> Tables | None:
        """Half-width views, or None where the two channels of a plane turn by different numbers."""
        known = self._of
        if (
            len(known) == 5
            and known[0]() is cos
            and known[1]() is sin
            and known[2:] == (_version(cos), _version(sin), widths)
        ):
            return self._halves
        cut: list[Tensor] = []
        for table in (cos, sin):
            a, b = channels(table, widths)
            if a is not b and not torch.equal(a, b):
                break
            cut.append(a.contiguous())
        self._halves = (cut[0], cut[1]) if len(cut) == 2 else None
        self._of = (weakref.ref(cos), weakref.ref(sin), _version(cos), _version(sin), widths)
        return self._halves


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
        if not self.active():
            return self.function(*args, **kwargs)
        body = self.body
        if kwargs or len(args) < (4 if body.pair else 3):
            bound = self._signature.bind(*args, **kwargs)
            bound.apply_defaults()
            values = list(bound.arguments.values())
        else:
            values = list(args)
        count = 2 if body.pair else 1
        xs, given = values[:count], values[count : count + 2]
        if not all(isinstance(t, Tensor) and t.is_floating_point() for t in (*xs, *given)):
            self.others += 1
            return self.function(*args, **kwargs)
        where = body.unsqueeze
        if where == "argument":
            at = self._names.index("unsqueeze_dim")
            where = values[at] if len(values) > at else self._signature.parameters["unsqueeze_dim"].default
        cos, sin = reversed(given) if body.sin_first else given
        width = 2 * cos.shape[-1] if body.widths == "half" else cos.shape[-1]
        if any(width > x.shape[-1] or (width < x.shape[-1] and not body.partial) for x in xs) or width % 2:
            self.others += 1
            return self.function(*args, **kwargs)
        ys = None
        if not torch.compiler.is_compiling():
            ys = self._kernel(xs, cos, sin, where)
        if ys is None:
            ys = [self._formula(x, cos, sin, where) for x in xs]
            self.others += 1
        return tuple(ys) if body.pair else ys[0]

    def _kernel(self, xs: list[Tensor], cos: Tensor, sin: Tensor, where: Any) -> list[Tensor] | None:
        """The kernels' answer, or None where these tables or shapes are not theirs."""
        body = self.body
        halves = self.halves(cos, sin, body.widths)
        if halves is None:
            return None
        aligned = [_rows(t, x, where) for x in xs for t in halves]
        if any(a is None for a in aligned):
            return None
        seq_dim, rows = aligned[0]  # type: ignore[misc]
        if any(a[0] != seq_dim for a in aligned if a is not None):
            return None
        sins: Tensor = aligned[1][1]  # type: ignore[index]
        xs = [self._input(x, cos) for x in xs]
        try:
            if len(xs) == 2 and xs[0].dtype == xs[1].dtype and xs[0].shape[seq_dim] == xs[1].shape[seq_dim]:
                ys = list(
                    apply_rotary_qk(
                        xs[0],
                        xs[1],
                        rows,
                        sins,
                        seq_dim=seq_dim,
                        interleaved=body.interleaved,
                        conjugate=body.conjugate,
                    )
                )
            else:
                ys = [
                    apply_rotary(x, r, s, seq_dim=seq_dim, interleaved=body.interleaved, conjugate=body.conjugate)
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
        return formula(self.body, x.to(work), cos.to(work), sin.to(work)).to(self._input(x[:0], cos).dtype)

    def _input(self, x: Tensor, cos: Tensor) -> Tensor:
        return x.to(torch.promote_types(x.dtype, cos.dtype)) if self.body.promotes else x

    def __deepcopy__(self, memo: Any) -> Replacement:
        return self


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
