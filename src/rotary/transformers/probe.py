"""What does a function do to queries and keys? Probed on unit vectors with tables of distinct numbers, and read off exactly.

A rotation is linear in what it rotates: y[d] = sum over e of M[d, e] x[e], where each row of M holds one entry of the one table (the
straight part, by cos) and one of the other (the cross part, by sin). Rotating unit vectors shows M, entry by entry, and each entry
shows which number of which table it is, with its sign. Names and text of the function play no part.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .body import FORMS, JOINED, STACKED, TWO, Body, Form, Widths, formula

_BATCH, _SEQ = 2, 5
HEADS, DIM = 3, 8


@dataclass(frozen=True)
class _Call:
    """One way to call a function, and to look at what it gives."""

    function: Callable[..., Any]
    form: Form
    tensors: int
    layout: tuple[int, ...]  # of x, without its channels
    rows: tuple[int, ...]  # of tables, without theirs
    dim: int

    def __call__(self, x: Tensor, first: Tensor, second: Tensor) -> Tensor | None:
        """What it makes of x (*layout, dim), or None where it does not take it so, or not all tensors alike."""
        given = x.flatten(-2) if self.form.folded else x
        xs = [given.clone() for _ in range(self.tensors)]
        tables = self.form.arguments(first.clone(), second.clone())
        try:
            with torch.no_grad():
                y = self.function(*(tables + xs if self.form.leads else xs + tables))
        except Exception:  # whatever a stranger's function raises: it does not take these arguments
            return None
        ys: tuple[Any, ...] = (y,) if isinstance(y, Tensor) else tuple(y) if isinstance(y, (tuple, list)) else ()  # type: ignore[arg-type]
        if len(ys) != len(xs) or any(getattr(y, "shape", None) != given.shape for y in ys):
            return None
        return ys[0].view(x.shape) if all(torch.equal(ys[0], y) for y in ys[1:]) else None

    def numbers(self, width: int, less: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Random x and tables of that width, whose rows are fewer by `less`."""
        generator = torch.Generator().manual_seed(8)
        rows = tuple(n - less if n == _SEQ else n for n in self.rows)
        first, second = (torch.rand(2, *rows, width, generator=generator) + 1.0).unbind()
        return torch.randn(*self.layout, self.dim, generator=generator), first, second


def probe(function: Callable[..., Any], sizes: Iterable[tuple[int, int]] = ((HEADS, DIM),)) -> Body | str:
    """The body of a function, or in words why it is no rotation that we know.

    sizes: (heads, head_dim) to try; a bound method may know its own.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return "its arguments cannot be read"
    has_axis = "unsqueeze_dim" in parameters
    for form, (heads, dim) in itertools.product(FORMS, sizes):
        for tensors, width in itertools.product((2, 1, 3), (dim, dim // 2)):
            for layout, rows in _layouts(heads, form, has_axis):
                call = _Call(function, form, tensors, layout, rows, dim)
                found = _matrix(call, width)
                if found is not None:
                    return _body(call, *found, has_axis)
    return "it takes no queries, keys and two tables"


def _layouts(heads: int, form: Form, has_axis: bool) -> Iterable[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Shapes of x, and of the rows of tables that go with it."""
    batch, seq = _BATCH, _SEQ
    known: dict[tuple[int, ...], tuple[tuple[int, ...], ...]] = {
        (batch, heads, seq): ((batch, seq), (seq,), (batch, 1, seq), (1, 1, seq)),
        (batch, seq, heads): ((batch, seq), (seq,), (batch, seq, 1), (1, seq, 1)),
        (seq, heads): ((seq,), (seq, 1)),
        (heads, seq): ((seq,), (1, seq)),
        (batch, seq): ((batch, seq), (seq,)),
    }
    if form is STACKED:
        known = {(batch, seq, heads): ((seq, 1, 1),)}
    for layout, rows in known.items():
        for row in rows[:1] if has_axis else rows:
            yield layout, row


def _matrix(call: _Call, width: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """M, and the two rows that its tables had everywhere; None where it is not called so."""
    generator = torch.Generator().manual_seed(7)
    first, second = torch.rand(2, width, generator=generator).add_(1.0).unbind()
    tables = [t.expand(*call.rows, width) for t in (first, second)]
    columns: list[Tensor] = []
    for channel in range(call.dim):
        x = torch.zeros(*call.layout, call.dim)
        x[..., channel] = 1.0
        y = call(x, *tables)
        if y is None or (y - y.reshape(-1, call.dim)[0]).abs().max() > 0:
            return None
        columns.append(y.reshape(-1, call.dim)[0])
    return torch.stack(columns, -1), first, second


def _body(call: _Call, matrix: Tensor, first: Tensor, second: Tensor, has_axis: bool) -> Body | str:
    body = _read(matrix, first, second)
    if isinstance(body, str):
        return body
    body = replace(body, form=call.form, tensors=call.tensors)
    if not body.partial:
        body = replace(body, partial=_takes_narrow_tables(call, body))
    where = _axis([call] if has_axis else _ranks(call), body)
    if isinstance(where, str):
        return where
    body = replace(body, unsqueeze="argument" if has_axis else where)
    return replace(body, prefix=not has_axis and _passes_first_tokens(call, body), promotes=_promotes(call, body))


def _read(matrix: Tensor, first: Tensor, second: Tensor) -> Body | str:
    """Pairing, direction, widths and channels that turn, of a matrix; or why it is no rotation."""
    dim, width = matrix.shape[0], len(first)
    entries: list[dict[int, tuple[int, int, int]]] = []  # per output channel: input channel -> (table, index, sign)
    passing: list[int] = []
    for d, row in enumerate(matrix.tolist()):
        found: dict[int, tuple[int, int, int]] = {}
        for e, value in enumerate(row):
            if value == 1.0 and not any(row[:e] + row[e + 1 :]):
                passing.append(d)
            elif value:
                for table, index in itertools.product((0, 1), range(width)):
                    if abs(value) == float((first, second)[table][index]):
                        found[e] = (table, index, 1 if value > 0 else -1)
        entries.append(found)
    turned = dim - len(passing)
    start = 0 if passing == list(range(turned, dim)) else len(passing) if passing == list(range(len(passing))) else -1
    turning = entries[start : start + turned]
    if turned < 2 or turned % 2 or start < 0 or any(len(f) != 2 for f in turning):
        return "it does not turn pairs of channels by two tables"
    planes = turned // 2
    half = [(j, j + planes) for j in range(planes)]
    neighbours = [(2 * j, 2 * j + 1) for j in range(planes)]
    kinds: dict[Widths, list[tuple[int, int]]] = {
        "cat": half,
        "repeat": neighbours,
        "half" if width == planes else "first": [(j, j) for j in range(planes)],
    }
    for inputs, outputs, (name, indices), sin_first, sign in itertools.product(
        (half, neighbours), (half, neighbours), kinds.items(), (False, True), (1, -1)
    ):
        cos, sin = (1, 0) if sin_first else (0, 1)
        expected: list[dict[int, tuple[int, int, int]]] = [{} for _ in range(turned)]
        for (a, b), (ya, yb), (i, j) in zip(inputs, outputs, indices, strict=True):
            expected[ya] = {start + a: (cos, i, 1), start + b: (sin, i, -sign)}
            expected[yb] = {start + b: (cos, j, 1), start + a: (sin, j, sign)}
        if expected == turning:
            if outputs is neighbours and inputs is half:
                return "it takes half pairs and gives neighbours"
            return Body(
                interleaved=inputs is neighbours,
                to_half=outputs is not inputs,
                widths=name,
                conjugate=sign < 0,
                sin_first=sin_first,
                partial=("trailing" if start else "leading") if passing else False,
            )
    return "it turns channels in an order of its own"


def _width(call: _Call, body: Body) -> int:
    return call.dim // (1 + (body.widths == "half")) // (1 + bool(body.partial))


def _expected(call: _Call, body: Body, axis: int | None, x: Tensor, first: Tensor, second: Tensor) -> Tensor | None:
    """By the formula, tables with a new axis there; None where the shapes do not go together."""
    given = call.form.tables(call.form.arguments(first, second))
    cos, sin = reversed(given) if body.sin_first else given
    try:
        y = formula(body, x, *(t if axis is None else t.unsqueeze(axis) for t in (cos, sin)))
    except (RuntimeError, IndexError):
        return None
    return y if y.shape == x.shape else None


def _alike(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and torch.allclose(a, b, rtol=0, atol=1e-5)


def _ranks(call: _Call) -> list[_Call]:
    """The call, and others of its kind with one row of tables per token, of which a model may make any."""
    heads = next((n for n in call.layout if n not in (_BATCH, _SEQ)), HEADS)
    layouts = [
        (layout, rows) for layout, rows in _layouts(heads, call.form, False) if rows in ((_SEQ,), (_BATCH, _SEQ))
    ]
    return [call, *(replace(call, layout=layout, rows=rows) for layout, rows in layouts)]


def _axis(calls: list[_Call], body: Body) -> int | str | None:
    """Where it puts an axis into its tables, found with rows that differ, at every rank that it takes."""
    seen = [(call, given, call(*given)) for call in calls for given in [call.numbers(_width(call, body))]]
    for axis in (None, 1, 0, 2, -2, -3):
        if all(_alike(y, _expected(call, body, axis, *given)) for call, given, y in seen if y is not None):
            return axis
    call, given, y = seen[0]
    for axis in (None, 1, 0, 2, -2, -3):
        if _alike(y, _expected(call, body, axis, *given)):
            return axis
    return "its tables go with its input in a way of their own"


def _takes_narrow_tables(call: _Call, body: Body) -> Any:
    x, *given = call.numbers(_width(call, body) // 2)
    y, half = call(x, *given), call.dim // 2
    if y is None or call.form is JOINED:
        return False
    kept = {"leading": slice(half, None), "trailing": slice(half)}
    return next((name for name, part in kept.items() if torch.equal(y[..., part], x[..., part])), False)


def _passes_first_tokens(call: _Call, body: Body) -> bool:
    """Whether tables of two rows less leave the first two tokens as they are, and turn the others; tokens next to channels."""
    if call.form is not TWO or body.unsqueeze is not None or call.layout[-1:] != (_SEQ,):
        return False
    x, *given = call.numbers(_width(call, body), less=2)
    y = call(x, *given)
    if y is None or not torch.equal(y[..., :2, :], x[..., :2, :]):
        return False
    return _alike(y[..., 2:, :], _expected(call, body, None, x[..., 2:, :], *given))


def _promotes(call: _Call, body: Body) -> bool:
    x, *given = call.numbers(_width(call, body))
    y = call(x.to(torch.bfloat16), *given)
    return y is not None and y.dtype == torch.float32
