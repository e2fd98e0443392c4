"""Replacement: a model's rotation function, computed by this library's kernels in float32 and rounded once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._rotation.wide import rotate as rotate_wide
from .._types import CosSin
from ..functional import apply_rotary, apply_rotary_qk
from .deferred import Deferred, norm_and_rotate
from .halves import compared_for_free, cos_sin, equal_halves
from .probe import HEADS, agrees
from .rows import rows_of
from .spec import RotationSpec, formula, join_partial, split_pairs, split_partial


class _Split(NamedTuple):
    """An input, split into what rotates and what passes through: the first tokens, and channels before those that rotate."""

    rotated: Tensor
    tokens: Tensor | None
    channels: Tensor | None


class Replacement:
    """Wrapper around a model's rotation function with the same signature; it calls the original when the handle is inactive.

    The function was recognised at one size. Whether it is that rotation at another too is found out when that size is first met, or by
    fits() before; under torch.compile, where it cannot be called to see, an unknown size is left to the function.

    calls: how many calls the kernels served. fused: how many of them with the norms before. fallbacks: how many the formula at full
    width or the original function served.
    heads: numbers of heads that the function takes, where it does not take any.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        spec: RotationSpec,
        active: Callable[[], bool],
        heads: Sequence[int] = (HEADS,),
    ) -> None:
        self.function: Callable[..., Any] = function
        self.spec: RotationSpec = spec
        self.active: Callable[[], bool] = active
        self.calls: int = 0
        self.fallbacks: int = 0
        self.fused: int = 0
        self.heads: Sequence[int] = heads
        self._sizes: dict[tuple[int, int], bool] = {}
        self._signature = inspect.signature(function)
        self._names = list(self._signature.parameters)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        y = self.try_rotate(args, kwargs)
        return self.function(*args, **kwargs) if y is None else y

    def __deepcopy__(self, memo: Any) -> Replacement:
        return self

    def try_rotate(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The function's result, or None if the original function has to compute it."""
        if not self.active():
            return None
        spec, form = self.spec, self.spec.form
        values = list(args)
        if kwargs or len(args) != spec.tensors + form.count:
            bound = self._signature.bind(*args, **kwargs)
            bound.apply_defaults()
            if not self._only_defaults(bound.arguments):
                self.fallbacks += 1
                return None
            values = list(bound.arguments.values())
        start = form.count if form.tables_first else 0
        end = start + spec.tensors
        tables = values[:start] if form.tables_first else values[end : end + form.count]
        ys = self._rotate(values[start:end], tables, self._unsqueeze(values))
        if ys is None:
            self.fallbacks += 1
            return None
        return tuple(ys) if spec.tensors > 1 else ys[0]

    def takes_norms(self) -> bool:
        """Whether the norms before this rotation can be computed with it."""
        spec = self.spec
        return not (spec.form.folded or spec.prefix or spec.to_half or spec.conjugate or spec.partial == "trailing")

    def fits(self, dim: int, columns: int) -> bool:
        """Whether the function is the rotation of its spec for heads of dim channels and tables of so many columns."""
        if torch.compiler.is_compiling():
            return self._sizes.get((dim, columns), False)
        if (dim, columns) not in self._sizes:
            self._sizes[dim, columns] = agrees(self.function, self.spec, dim, columns, self.heads)
        return self._sizes[dim, columns]

    def _only_defaults(self, arguments: Mapping[str, Any]) -> bool:
        """True if all arguments but tensors, tables and unsqueeze_dim have their default values, with which the function was probed."""
        for name in self._names[self.spec.tensors + self.spec.form.count :]:
            value, default = arguments[name], self._signature.parameters[name].default
            if name == "unsqueeze_dim" or value is default:
                continue
            if isinstance(value, Tensor) or type(value) is not type(default) or value != default:
                return False
        return True

    def _unsqueeze(self, values: list[Any]) -> Any:
        """The axis that this call inserts into its tables, or None."""
        if self.spec.unsqueeze != "argument":
            return self.spec.unsqueeze
        i = self._names.index("unsqueeze_dim")
        return values[i] if len(values) > i else self._signature.parameters["unsqueeze_dim"].default

    def _rotate(self, xs: list[Any], tables: list[Any], unsqueeze: Any) -> list[Tensor] | None:
        if any(type(x) is Deferred for x in xs):
            ys = self._with_norms(xs, tables, unsqueeze) if all(type(x) is Deferred for x in xs) else None
            if ys is not None:
                return ys
            xs = [x.made() if type(x) is Deferred else x for x in xs]
        spec = self.spec
        if not all(isinstance(x, Tensor) and x.is_floating_point() for x in xs):
            return None
        if not all(isinstance(table, Tensor) for table in tables):
            return None
        reads = not torch.compiler.is_compiling() and compared_for_free(tables, spec)
        halves = equal_halves(tables, spec) if reads else None
        cos = (cos_sin(tables, spec) if halves is None else halves)[0]
        if not cos.is_floating_point():
            return None
        width = 2 * cos.shape[-1] if halves is not None or spec.widths == "half" else cos.shape[-1]
        if spec.form.folded:
            xs = [x.unflatten(-1, (-1, width)) for x in xs]
        if any(width > x.shape[-1] or (width < x.shape[-1] and not spec.partial) for x in xs) or width % 2:
            return None
        columns = width // 2 if spec.widths == "half" else width
        if not all(self.fits(x.shape[-1], columns) for x in xs):
            return None
        splits = [self._split(x, width, cos.shape[-2] if spec.prefix else None) for x in xs]
        inputs = [split.rotated for split in splits]
        if halves is not None:
            ys = self._by_kernel(inputs, halves, unsqueeze)
        else:
            ys = None if reads or torch.compiler.is_compiling() else self._by_wide_tables(inputs, tables, unsqueeze)
        if ys is None:
            ys = self._by_formula(inputs, cos_sin(tables, spec), unsqueeze)
        return None if ys is None else [self._join(y, split) for y, split in zip(ys, splits, strict=True)]

    def _with_norms(self, xs: list[Deferred], tables: list[Any], unsqueeze: Any) -> list[Tensor] | None:
        """The norms that wait and the rotation in one pass; None where the norms have to be computed first."""
        spec, norm = self.spec, xs[0].origin.spec
        alike = all(x.origin.spec.computes_as(norm) and x.dtype == xs[0].dtype and x.device == xs[0].device for x in xs)
        if not alike or not self.takes_norms() or not all(isinstance(t, Tensor) for t in tables):
            return None
        halves = equal_halves(tables, spec) if compared_for_free(tables, spec) else None
        if halves is None or not halves[0].is_floating_point():
            return None
        if spec.promotes and torch.promote_types(xs[0].dtype, halves[0].dtype) != xs[0].dtype:
            return None  # the function would return another dtype
        width = 2 * halves[0].shape[-1]
        columns = width // 2 if spec.widths == "half" else width
        if any(width > x.shape[-1] or (width < x.shape[-1] and not spec.partial) for x in xs):
            return None
        raws = [x.raw for x in xs]
        found = self._rows(raws, halves, unsqueeze)
        if found is None or not all(self.fits(x.shape[-1], columns) for x in raws):
            return None
        weights = tuple(x.origin.weight for x in xs)
        ys = norm_and_rotate(tuple(raws), weights, tuple(found[1]), norm, found[0], spec.interleaved)
        if ys is not None:
            self.calls += 1
            self.fused += 1
        return ys

    def _split(self, x: Tensor, width: int, tokens: int | None) -> _Split:
        """tokens: how many rows the tables have, if spec.prefix."""
        first = channels = None
        if tokens is not None and x[..., : x.shape[-2] - tokens, :].shape[-2]:
            first, x = x[..., : x.shape[-2] - tokens, :], x[..., -tokens:, :]
        if self.spec.partial == "trailing":
            x, channels = split_partial(self.spec, x, width)
        return _Split(x, first, channels)

    def _join(self, y: Tensor, split: _Split) -> Tensor:
        if split.channels is not None:
            y = join_partial(self.spec, y, split.channels.to(y.dtype))
        if split.tokens is not None:
            y = torch.cat((split.tokens.to(y.dtype), y), -2)
        return y.flatten(-2) if self.spec.form.folded else y

    def _by_kernel(self, xs: list[Tensor], halves: CosSin, unsqueeze: Any) -> list[Tensor] | None:
        """The rotation by apply_rotary, or None if it does not take these shapes. halves: cos and sin of half width."""
        found = self._rows(xs, halves, unsqueeze)
        if found is None:
            return None
        seq_dim, rows = found
        how: dict[str, Any] = {
            "seq_dim": seq_dim,
            "interleaved": self.spec.interleaved,
            "conjugate": self.spec.conjugate,
        }
        xs = [self._promoted(x, halves[0]) for x in xs]
        try:
            if len(xs) == 2 and xs[0].dtype == xs[1].dtype and xs[0].shape[seq_dim] == xs[1].shape[seq_dim]:
                ys = list(apply_rotary_qk(xs[0], xs[1], *rows[0], **how))
            else:
                ys = [apply_rotary(x, cos, sin, **how) for x, (cos, sin) in zip(xs, rows, strict=True)]
        except (TypeError, ValueError):  # dtypes or shapes that only the model's own function broadcasts
            return None
        self.calls += 1
        return [self._half_paired(y, 2 * rows[0][0].shape[-1]) for y in ys] if self.spec.to_half else ys

    def _by_wide_tables(self, xs: list[Tensor], tables: list[Tensor], unsqueeze: Any) -> list[Tensor] | None:
        """The same on a device, where the two columns of a pair are not compared and the kernel reads both; None where it cannot."""
        wide = cos_sin(tables, self.spec)
        found = self._rows(xs, wide, unsqueeze)
        if found is None:
            return None
        seq_dim, rows = found
        xs = [self._promoted(x, wide[0]) for x in xs]
        together = len(xs) == 2 and xs[0].dtype == xs[1].dtype
        ys: list[Tensor] = []
        for group in [slice(0, 2)] if together else [slice(i, i + 1) for i in range(len(xs))]:
            rotated = rotate_wide(
                tuple(xs[group]),
                tuple(rows[group]),
                seq_dim=seq_dim,
                interleaved=self.spec.interleaved,
                conjugate=self.spec.conjugate,
                adjacent=self.spec.widths == "repeat",
            )
            if rotated is None:
                return None
            ys += rotated
        self.calls += 1
        return [self._half_paired(y, wide[0].shape[-1]) for y in ys] if self.spec.to_half else ys

    @staticmethod
    def _rows(xs: list[Tensor], tables: CosSin, unsqueeze: Any) -> tuple[int, list[CosSin]] | None:
        """The dimension of the sequence, and (cos, sin) by rows for each of xs; None for tables that are no rows of it."""
        rows: list[CosSin] = []
        axes: set[int] = set()
        for x in xs:
            cos, sin = (rows_of(table, x, unsqueeze) for table in tables)
            if cos is None or sin is None:
                return None
            axes |= {cos[0], sin[0]}
            rows.append((cos[1], sin[1]))
        return (axes.pop(), rows) if len(axes) == 1 else None

    @staticmethod
    def _half_paired(y: Tensor, width: int) -> Tensor:
        return torch.cat((*split_pairs(y[..., :width], True), y[..., width:]), -1)

    def _by_formula(self, xs: list[Tensor], tables: CosSin, unsqueeze: Any) -> list[Tensor] | None:
        """At full width: for tables whose halves differ, and under torch.compile, where values cannot be compared. None if the
        formula does not take these shapes."""
        cos, sin = tables if unsqueeze is None else (tables[0].unsqueeze(unsqueeze), tables[1].unsqueeze(unsqueeze))
        ys: list[Tensor] = []
        try:
            for x in xs:
                work = torch.float64 if x.dtype == torch.float64 else torch.float32
                y = formula(self.spec, x.to(work), cos.to(work), sin.to(work))
                ys.append(y.to(self._promoted(x[:0], cos).dtype))
        except RuntimeError:  # shapes that only the model's own function broadcasts
            return None
        if any(y.shape != x.shape for x, y in zip(xs, ys, strict=True)):
            return None
        self.fallbacks += 1
        return ys

    def _promoted(self, x: Tensor, cos: Tensor) -> Tensor:
        return x.to(torch.promote_types(x.dtype, cos.dtype)) if self.spec.promotes else x
