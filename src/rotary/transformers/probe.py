"""probe(function): the spec of a rotation function, found by calling it.

A rotation is linear in what it rotates, y = M x. Rotating unit vectors with tables of distinct random numbers gives the matrix M, whose
entries identify pairing, direction and table layout (matrix.py). Calls with other tables then show the rest: whether they may be
narrower or shorter than the input, how they broadcast against it, and the dtype of the result. The function's name and source
are not used.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .._checks import WIDEST, count, describe, list_of
from .matrix import interpret
from .spec import FORMS, JOINED, STACKED, TWO, Form, Partial, RotationSpec, formula
from .surroundings import restored

_BATCH, _SEQ = 2, 5
HEADS, DIM = 3, 8


WRITES = "it writes into its arguments, which its callers may use instead of what it returns"


class WritesArgumentsError(Exception):
    """The function wrote into its arguments: its callers may use these instead of what it returns."""


@dataclass(frozen=True)
class Trial:
    """One way to call a function.

    form: how it takes its tables. tensors: how many it takes to rotate. layout: the shape of these without channels. rows: the shape of its
    tables without columns. dim: channels.
    """

    function: Callable[..., Any]
    form: Form
    tensors: int
    layout: tuple[int, ...]
    rows: tuple[int, ...]
    dim: int

    def __call__(self, x: Tensor, first: Tensor, second: Tensor) -> Tensor | None:
        """The function's result for x (*layout, dim) as each of its tensors; None if it does not accept these arguments, or
        returns anything but equal tensors of x's shape. WritesArgumentsError if it changed an argument."""
        argument = x.flatten(-2) if self.form.folded else x
        xs = [argument.clone() for _ in range(self.tensors)]
        tables = self.form.pack(first.clone(), second.clone())
        before = [t.clone() for t in tables]
        try:
            result = self.function(*(tables + xs if self.form.tables_first else xs + tables))
        except Exception:  # the model's code may raise anything if these are not its arguments
            return None
        if not all(torch.equal(x, argument) for x in xs) or not all(map(torch.equal, tables, before)):
            raise WritesArgumentsError
        ys = [result] if isinstance(result, Tensor) else list(result) if isinstance(result, (tuple, list)) else []
        if len(ys) != len(xs) or any(getattr(y, "shape", None) != argument.shape for y in ys):
            return None
        return ys[0].view(x.shape) if all(torch.equal(ys[0], y) for y in ys[1:]) else None

    def random_inputs(self, width: int, missing_rows: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Random x and tables of that width, whose rows are fewer than the tokens by missing_rows."""
        generator = torch.Generator().manual_seed(8)
        rows = tuple(n - missing_rows if n == _SEQ else n for n in self.rows)
        first, second = (torch.rand(2, *rows, width, generator=generator) + 1.0).unbind()
        return torch.randn(*self.layout, self.dim, generator=generator), first, second


def probe(function: Callable[..., Any], sizes: Sequence[tuple[int, int]] = ((HEADS, DIM),)) -> RotationSpec | str:
    """The spec of a rotation function, or the reason why it is not recognised as one.

    function: called many times with small random float32 CPU tensors. One that writes into them, or changes the random states or
        defaults of the process, is not recognised, and what it changed is restored.
    sizes: (heads, head_dim) to try; a bound method may accept only its own.

    TypeError for what cannot be called, TypeError or ValueError for sizes that are no pairs of numbers >= 1.

    >>> def rotate(x, cos, sin):
    ...     a, b = x.chunk(2, -1)
    ...     return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
    >>> print(probe(rotate))
    half, tables half, promotes
    """
    if not callable(function):
        raise TypeError(f"function must be callable, got {describe(function)}")
    sizes = [_size(i, size) for i, size in enumerate(list_of("sizes", sizes, "pairs (heads, head_dim)"))]
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return "its signature cannot be read"
    has_axis = "unsqueeze_dim" in parameters
    changed: list[str] = []
    try:
        with torch.no_grad(), restored(function) as changed:
            result = _probe(function, sizes, has_axis)
    except WritesArgumentsError:
        return WRITES
    except (
        Exception
    ):  # after the function changed the default device or dtype, the calls that follow may raise anything
        if not changed:
            raise
        result = ""
    return f"it changes {' and '.join(changed)}" if changed else result


def _size(i: int, size: Any) -> tuple[int, int]:
    """(heads, head_dim) as integers; TypeError or ValueError for what is no such pair."""
    pair = list_of(f"sizes[{i}]", size, "two integers, (heads, head_dim)")
    if len(pair) != 2:
        raise ValueError(f"sizes[{i}] must be (heads, head_dim), got {describe(size)}")
    return count(f"sizes[{i}][0]", pair[0], most=WIDEST), count(f"sizes[{i}][1]", pair[1], most=WIDEST)


def _probe(function: Callable[..., Any], sizes: Iterable[tuple[int, int]], has_axis: bool) -> RotationSpec | str:
    for form, (heads, dim) in itertools.product(FORMS, sizes):
        for tensors, width in itertools.product((2, 1, 3), (dim, dim // 2)):
            for layout, rows in shapes(heads, form, has_axis):
                trial = Trial(function, form, tensors, layout, rows, dim)
                measured = _matrix(trial, width)
                if measured is not None:
                    return _spec(trial, *measured, has_axis)
    return "it takes no queries, keys and two tables"


def agrees(
    function: Callable[..., Any], spec: RotationSpec, dim: int, columns: int, heads: Iterable[int] = (HEADS,)
) -> bool:
    """Whether the function is the rotation of the spec for heads of dim channels and tables of so many columns too, on random numbers.

    False for a function that does not accept them. heads: numbers of heads to try, since a bound method may accept only its own.
    """
    named = spec.unsqueeze == "argument"
    axis: Any = inspect.signature(function).parameters["unsqueeze_dim"].default if named else spec.unsqueeze
    try:
        with torch.no_grad(), restored(function):
            for count in heads:
                for layout, rows in shapes(count, spec.form, named):
                    trial = Trial(function, spec.form, spec.tensors, layout, rows, dim)
                    inputs = trial.random_inputs(columns)
                    rotated = expected(trial, spec, axis, *inputs)
                    if rotated is not None and _close(trial(*inputs), rotated):
                        return True
    except WritesArgumentsError:
        return False
    return False


def shapes(heads: int, form: Form, has_axis: bool) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(shape of x without channels, shape of tables without columns): the combinations that functions in the field take."""
    batch, seq = _BATCH, _SEQ
    candidates: dict[tuple[int, ...], tuple[tuple[int, ...], ...]] = {
        (batch, heads, seq): ((batch, seq), (seq,), (batch, 1, seq), (1, 1, seq)),
        (batch, seq, heads): ((batch, seq), (seq,), (batch, seq, 1), (1, seq, 1)),
        (seq, heads): ((seq,), (seq, 1)),
        (heads, seq): ((seq,), (1, seq)),
        (batch, seq): ((batch, seq), (seq,)),
    }
    if form is STACKED:
        candidates = {(batch, seq, heads): ((seq, 1, 1),)}
    for layout, rows in candidates.items():
        for row in rows[:1] if has_axis else rows:
            yield layout, row


def _matrix(trial: Trial, width: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """M (dim, dim), and the row (width,) of which each of the two tables consisted; None if the function does not accept this trial.

    Column c of M is the result for the unit vector of channel c. It has to be the same at every token, since all rows of a table are equal.
    """
    generator = torch.Generator().manual_seed(7)
    first, second = torch.rand(2, width, generator=generator).add_(1.0).unbind()
    tables = [row.expand(*trial.rows, width) for row in (first, second)]
    columns: list[Tensor] = []
    for channel in range(trial.dim):
        x = torch.zeros(*trial.layout, trial.dim)
        x[..., channel] = 1.0
        y = trial(x, *tables)
        if y is None or (y - y.reshape(-1, trial.dim)[0]).abs().max() > 0:
            return None
        columns.append(y.reshape(-1, trial.dim)[0])
    return torch.stack(columns, -1), first, second


def _spec(trial: Trial, matrix: Tensor, first: Tensor, second: Tensor, has_axis: bool) -> RotationSpec | str:
    """The spec that M shows, completed by calls with other arguments: narrower tables, rows that differ, fewer rows, a bfloat16 input."""
    spec = interpret(matrix, first, second)
    if isinstance(spec, str):
        return spec
    spec = replace(spec, form=trial.form, tensors=trial.tensors)
    if not spec.partial:
        spec = replace(spec, partial=_partial_with_narrow_tables(trial, spec))
    axis = _unsqueeze([trial] if has_axis else _same_rank(trial), spec)
    if isinstance(axis, str):
        return axis
    spec = replace(spec, unsqueeze="argument" if has_axis else axis)
    return replace(spec, prefix=not has_axis and _has_prefix(trial, spec), promotes=_promotes(trial, spec))


def _width(trial: Trial, spec: RotationSpec) -> int:
    """The width of tables for this trial: dim, halved for tables of half width, and halved for a partial rotation."""
    return trial.dim // (1 + (spec.widths == "half")) // (1 + bool(spec.partial))


def expected(
    trial: Trial, spec: RotationSpec, axis: int | None, x: Tensor, first: Tensor, second: Tensor
) -> Tensor | None:
    """The result of the formula for tables with an axis inserted at that place; None if the shapes do not broadcast."""
    tables = trial.form.unpack(trial.form.pack(first, second))
    cos, sin = reversed(tables) if spec.sin_first else tables
    try:
        y = formula(spec, x, *(table if axis is None else table.unsqueeze(axis) for table in (cos, sin)))
    except (RuntimeError, IndexError):
        return None
    return y if y.shape == x.shape else None


def _close(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and torch.allclose(a, b, rtol=0, atol=1e-5)


def _same_rank(trial: Trial) -> list[Trial]:
    """The trial, and trials of other shapes with one table row per token, which the same function may accept."""
    heads = next((n for n in trial.layout if n not in (_BATCH, _SEQ)), HEADS)
    by_token = [
        (layout, rows) for layout, rows in shapes(heads, trial.form, False) if rows in ((_SEQ,), (_BATCH, _SEQ))
    ]
    return [trial, *(replace(trial, layout=layout, rows=rows) for layout, rows in by_token)]


def _unsqueeze(trials: list[Trial], spec: RotationSpec) -> int | str | None:
    """The axis that the function inserts into its tables: one that explains every trial that it accepts, or else the first trial.

    Rows of the tables differ here, so that a wrong axis gives wrong numbers.
    """
    inputs = [trial.random_inputs(_width(trial, spec)) for trial in trials]
    results = [trial(*arguments) for trial, arguments in zip(trials, inputs, strict=True)]
    accepted = [case for case in zip(trials, inputs, results, strict=True) if case[2] is not None]
    for cases in (accepted, [(trials[0], inputs[0], results[0])]):
        for axis in (None, 1, 0, 2, -2, -3):
            if all(_close(y, expected(trial, spec, axis, *arguments)) for trial, arguments, y in cases):
                return axis
    return "its tables broadcast against the input in an unsupported way"


def _partial_with_narrow_tables(trial: Trial, spec: RotationSpec) -> Partial:
    """Which half of the channels rotates with tables of half the width: "leading", "trailing", or False if it does not accept them."""
    x, *tables = trial.random_inputs(_width(trial, spec) // 2)
    y, half = trial(x, *tables), trial.dim // 2
    if y is None or trial.form is JOINED:
        return False
    if torch.equal(y[..., half:], x[..., half:]):
        return "leading"
    return "trailing" if torch.equal(y[..., :half], x[..., :half]) else False


def _has_prefix(trial: Trial, spec: RotationSpec) -> bool:
    """Whether tables with two rows fewer leave the first two tokens unchanged and rotate the others."""
    if trial.form is not TWO or spec.unsqueeze is not None or trial.layout[-1:] != (_SEQ,):
        return False
    x, *tables = trial.random_inputs(_width(trial, spec), missing_rows=2)
    y = trial(x, *tables)
    if y is None or not torch.equal(y[..., :2, :], x[..., :2, :]):
        return False
    return _close(y[..., 2:, :], expected(trial, spec, None, x[..., 2:, :], *tables))


def _promotes(trial: Trial, spec: RotationSpec) -> bool:
    """Whether a bfloat16 input with float32 tables gives a float32 result."""
    x, *tables = trial.random_inputs(_width(trial, spec))
    y = trial(x.to(torch.bfloat16), *tables)
    return y is not None and y.dtype == torch.float32
