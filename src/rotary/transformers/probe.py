"""What does a function do to queries and keys? Probed on unit vectors with tables of distinct numbers, and read off exactly.

A rotation is linear in what it rotates: y[d] = sum over e of M[d, e] x[e], where each row of M holds one entry of the one table (the
straight part, by cos) and one of the other (the cross part, by sin). Rotating unit vectors shows M, entry by entry, and each entry
shows which number of which table it is, with its sign. Names and text of the function play no part.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Widths = Literal["cat", "repeat", "first", "half"]
"""Where plane j of P finds its numbers. In tables of width 2P: cat at j for its first channel and at j + P for its second, repeat at
2j and 2j + 1, first at j for both. In tables of width P: half, at j."""

_BATCH, _HEADS, _SEQ, _DIM = 2, 3, 5, 8
_LAYOUTS = {  # of x, and of tables that go with it
    (_BATCH, _HEADS, _SEQ): ((_BATCH, _SEQ), (_SEQ,), (_BATCH, 1, _SEQ), (1, 1, _SEQ)),
    (_BATCH, _SEQ, _HEADS): ((_BATCH, _SEQ), (_SEQ,), (_BATCH, _SEQ, 1), (1, _SEQ, 1)),
    (_SEQ, _HEADS): ((_SEQ,), (_SEQ, 1)),
    (_HEADS, _SEQ): ((_SEQ,), (1, _SEQ)),
    (_BATCH, _SEQ): ((_BATCH, _SEQ), (_SEQ,)),
}


@dataclass(frozen=True)
class Body:
    """What a function that rotates does.

    interleaved: planes are channels (2j, 2j + 1) of its input; otherwise (j, j + P).
    to_half: its output has the planes in half order whatever its input has.
    widths: of its tables, see Widths.
    conjugate: it turns the other way.
    sin_first: the first table is sin.
    pair: it takes q and k, and gives both; otherwise one tensor.
    partial: channels past the width of the tables pass through.
    promotes: a half-precision input with float32 tables comes out in float32.
    unsqueeze: where it puts an axis into tables, None where it takes them as they are; "argument" where its caller says so.
    """

    interleaved: bool
    to_half: bool
    widths: Widths
    conjugate: bool
    sin_first: bool
    pair: bool
    partial: bool
    promotes: bool
    unsqueeze: int | Literal["argument"] | None


def probe(function: Callable[..., Any]) -> Body | str:
    """The body of a function, or in words why it is no rotation that we know."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return "its arguments cannot be read"
    for pair, widths in itertools.product((True, False), (_DIM, _DIM // 2)):
        found = _matrix(function, pair, widths, "unsqueeze_dim" in parameters)
        if found is None:
            continue
        matrix, first, second, layout, tables = found
        read = _read(matrix, first, second)
        if isinstance(read, str):
            return read
        interleaved, to_half, kind, conjugate, sin_first, turned = read
        body = Body(interleaved, to_half, kind, conjugate, sin_first, pair, turned < _DIM, False, None)
        where = "argument" if "unsqueeze_dim" in parameters else _axis(function, body, layout, tables)
        if isinstance(where, str) and where != "argument":
            return where
        partial = turned < _DIM or (kind != "half" and _takes_narrow_tables(function, body, layout, tables))
        promotes = _promotes(function, body, layout, tables)
        return Body(interleaved, to_half, kind, conjugate, sin_first, pair, partial, promotes, where)
    return "it takes no queries, keys and two tables"


Found = tuple[Tensor, Tensor, Tensor, tuple[int, ...], tuple[int, ...]]


def _matrix(function: Callable[..., Any], pair: bool, width: int, has_axis: bool) -> Found | None:
    """M of the first layout of arguments that it takes, the rows of its two tables, and that layout."""
    generator = torch.Generator().manual_seed(7)
    first, second = torch.rand(2, width, generator=generator).add_(1.0).unbind()
    for shape, tables in _LAYOUTS.items():
        for table in tables[:1] if has_axis else tables:
            columns: list[Tensor] = []
            for channel in range(_DIM):
                x = torch.zeros(*shape, _DIM)
                x[..., channel] = 1.0
                given = [t.expand(*table, width).clone() for t in (first, second)]
                y = call(function, (x, x.clone()) if pair else (x,), given)
                if y is None or (y[0] - y[0].reshape(-1, _DIM)[0]).abs().max() > 0 or not torch.equal(y[0], y[-1]):
                    break
                columns.append(y[0].reshape(-1, _DIM)[0])
            else:
                return torch.stack(columns, -1), first, second, shape, table
    return None


def call(function: Callable[..., Any], xs: tuple[Tensor, ...], tables: list[Tensor]) -> tuple[Tensor, ...] | None:
    """What it gives for these, as a tuple of as many tensors of the same shapes, or None."""
    try:
        with torch.no_grad():
            y = function(*(x.clone() for x in xs), *tables)
    except Exception:  # whatever a stranger's function raises: it does not take these arguments
        return None
    ys = (y,) if isinstance(y, Tensor) else tuple(y) if isinstance(y, (tuple, list)) else ()
    if len(ys) != len(xs) or any(getattr(y, "shape", None) != x.shape for x, y in zip(xs, ys, strict=True)):
        return None
    return ys


def _read(matrix: Tensor, first: Tensor, second: Tensor) -> tuple[bool, bool, Widths, bool, bool, int] | str:
    """(interleaved, to_half, widths, conjugate, sin_first, channels that turn) of a matrix, or why it is no rotation."""
    entries: list[dict[int, tuple[int, int, int]]] = []  # per output channel: input channel -> (table, index, sign)
    passing: list[int] = []
    for d, row in enumerate(matrix.tolist()):
        found: dict[int, tuple[int, int, int]] = {}
        for e, value in enumerate(row):
            if value == 1.0 and not any(row[:e] + row[e + 1 :]):
                passing.append(d)
            elif value:
                for table, index in itertools.product((0, 1), range(len(first))):
                    if abs(value) == float((first, second)[table][index]):
                        found[e] = (table, index, 1 if value > 0 else -1)
        entries.append(found)
    turned = _DIM - len(passing)
    if turned < 2 or turned % 2 or passing != list(range(turned, _DIM)) or any(len(f) != 2 for f in entries[:turned]):
        return "it does not turn pairs of channels by two tables"
    planes = turned // 2
    half = [(j, j + planes) for j in range(planes)]
    neighbours = [(2 * j, 2 * j + 1) for j in range(planes)]
    kinds: dict[Widths, list[tuple[int, int]]] = {
        "cat": half,
        "repeat": neighbours,
        "half" if len(first) == planes else "first": [(j, j) for j in range(planes)],
    }
    for inputs, outputs, (name, indices), sin_first, sign in itertools.product(
        (half, neighbours), (half, neighbours), kinds.items(), (False, True), (1, -1)
    ):
        cos, sin = (1, 0) if sin_first else (0, 1)
        expected: list[dict[int, tuple[int, int, int]]] = [{} for _ in range(turned)]
        for (a, b), (ya, yb), (i, j) in zip(inputs, outputs, indices, strict=True):
            expected[ya] = {a: (cos, i, 1), b: (sin, i, -sign)}
            expected[yb] = {b: (cos, j, 1), a: (sin, j, sign)}
        if expected == entries[:turned]:
            interleaved = inputs is neighbours
            if outputs is neighbours and not interleaved:
                return "it takes half pairs and gives neighbours"
            return interleaved, outputs is not inputs, name, sign < 0, sin_first, turned
    return "it turns channels in an order of its own"


def formula(body: Body, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """What the body does, in the dtype of x and its tables, which broadcast against it: the full-width path, and the judge of probes."""
    width = 2 * cos.shape[-1] if body.widths == "half" else cos.shape[-1]
    a, b = split(x[..., :width], body.interleaved)
    (cos_a, cos_b), (sin_a, sin_b) = (channels(t, body.widths) for t in (cos, sin))
    if body.conjugate:
        sin_a, sin_b = -sin_a, -sin_b
    first, second = a * cos_a - b * sin_a, b * cos_b + a * sin_b
    if body.interleaved and not body.to_half:
        y = torch.stack((first, second), -1).flatten(-2)
    else:
        y = torch.cat((first, second), -1)
    return torch.cat((y, x[..., width:]), -1) if width < x.shape[-1] else y


def channels(table: Tensor, widths: Widths) -> tuple[Tensor, Tensor]:
    """What of a table goes to the first and what to the second channel of each plane."""
    if widths == "half":
        return table, table
    a, b = split(table, widths == "repeat")
    return (a, a) if widths == "first" else (a, b)


def split(t: Tensor, neighbours: bool) -> tuple[Tensor, Tensor]:
    """The first and the second channel of each plane."""
    if neighbours:
        return t[..., ::2], t[..., 1::2]
    planes = t.shape[-1] // 2
    return t[..., :planes], t[..., planes:]


def _numbers(body: Body, layout: tuple[int, ...], tables: tuple[int, ...], width: int) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(8)
    given = torch.rand(2, *tables, width, generator=generator) + 1.0
    return torch.randn(*layout, _DIM, generator=generator), list(given.unbind())


def _width(body: Body) -> int:
    return _DIM // 2 if body.widths == "half" or body.partial else _DIM


def _axis(
    function: Callable[..., Any], body: Body, layout: tuple[int, ...], tables: tuple[int, ...]
) -> int | str | None:
    """Where it puts an axis into its tables, found with rows that differ."""
    x, given = _numbers(body, layout, tables, _width(body))
    y = call(function, (x, x) if body.pair else (x,), given)
    cos, sin = reversed(given) if body.sin_first else given
    for axis in (None, 1, 0, 2, -2, -3):
        try:
            expected = formula(body, x, *(t if axis is None else t.unsqueeze(axis) for t in (cos, sin)))
        except (RuntimeError, IndexError):
            continue
        if y is not None and y[0].shape == expected.shape and torch.allclose(y[0], expected, rtol=0, atol=1e-5):
            return axis
    return "its tables go with its input in a way of their own"


def _takes_narrow_tables(
    function: Callable[..., Any], body: Body, layout: tuple[int, ...], tables: tuple[int, ...]
) -> bool:
    x, given = _numbers(body, layout, tables, _DIM // 2)
    y = call(function, (x, x) if body.pair else (x,), given)
    return y is not None and torch.equal(y[0][..., _DIM // 2 :], x[..., _DIM // 2 :])


def _promotes(function: Callable[..., Any], body: Body, layout: tuple[int, ...], tables: tuple[int, ...]) -> bool:
    x, given = _numbers(body, layout, tables, _width(body))
    x = x.to(torch.bfloat16)
    y = call(function, (x, x) if body.pair else (x,), given)
    return y is not None and y[0].dtype == torch.float32
