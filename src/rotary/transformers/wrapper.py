"""Replacement: a model's rotation function, computed by this library's kernels in float32 and rounded once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .._torch import tracing
from .._types import CosSin
from .deferred import Deferred, norm_and_rotate
from .halves import compared_for_free, cos_sin, equal_halves
from .probe import HEADS, agrees
from .rotations import by_formula, by_kernel, by_wide_tables, join, rows_of_all, split
from .spec import RotationSpec


class Replacement:
    """Wrapper around a model's rotation function with the same signature; it calls the original when the handle is inactive.

    The function was recognised at one size of its arguments. At the first call with another size it is called with random numbers, to
    see whether it is the same rotation there (fits). While a program is traced (torch.compile, fake tensors, vmap, ...) it cannot be
    called: there a size that was not tried before is left to the function.

    function: the model's own. spec: what it does. active: whether the handle of the patch is active.
    heads: numbers of heads to try it with, since a bound method may accept only its own.
    calls: how many calls the kernels computed, fused of them together with the norms before. fallbacks: how many the formula or the
    original function computed.
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
        try:
            known = self._sizes.get((dim, columns))
        except TypeError:  # a SymInt of make_fx has no hash
            return False
        if known is None:
            if tracing():
                return False
            known = self._sizes[dim, columns] = agrees(self.function, self.spec, dim, columns, self.heads)
        return known

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

    def _rotate(self, xs: list[Any], tables: list[Any], axis: Any) -> list[Tensor] | None:
        """The rotated xs, or None if the original function has to compute them. axis: where the heads go in the tables, or None."""
        if any(type(x) is Deferred for x in xs):
            ys = self._with_norms(xs, tables, axis) if all(type(x) is Deferred for x in xs) else None
            if ys is not None:
                return ys
            xs = [x.result() if type(x) is Deferred else x for x in xs]
        spec = self.spec
        if not all(isinstance(x, Tensor) and x.is_floating_point() for x in xs):
            return None
        if not all(isinstance(table, Tensor) for table in tables):
            return None
        traced = tracing()
        compared = not traced and compared_for_free(tables, spec)
        halves = equal_halves(tables, spec) if compared else None
        cos = (cos_sin(tables, spec) if halves is None else halves)[0]
        if not cos.is_floating_point():
            return None
        width = 2 * cos.shape[-1] if halves is not None or spec.widths == "half" else cos.shape[-1]
        if spec.form.folded:
            xs = [x.unflatten(-1, (-1, width)) for x in xs]
        if not self._takes(xs, width):
            return None
        parts = [split(spec, x, width, cos.shape[-2] if spec.prefix else None) for x in xs]
        ys = self._rotated([part.rotated for part in parts], tables, halves, axis, on_device=not (compared or traced))
        return None if ys is None else [join(spec, y, part) for y, part in zip(ys, parts, strict=True)]

    def _takes(self, xs: Sequence[Tensor], width: int) -> bool:
        """Whether the function is the rotation of its spec for these xs and tables that rotate so many channels."""
        if width % 2:
            return False
        columns = width // 2 if self.spec.widths == "half" else width
        for x in xs:
            dim = x.shape[-1]
            if width > dim or (width < dim and not self.spec.partial) or not self.fits(dim, columns):
                return False
        return True

    def _rotated(
        self, xs: list[Tensor], tables: list[Tensor], halves: CosSin | None, axis: Any, *, on_device: bool
    ) -> list[Tensor] | None:
        """The rotation by the first function of rotations.py that serves these tables, and the count of it.

        on_device: the two columns of a pair were not compared, since that would wait for the device. In a program that is traced they are
        not compared either, and the formula serves.
        """
        ys: list[Tensor] | None = None
        if halves is not None:
            ys = by_kernel(self.spec, xs, halves, axis)
        elif on_device:
            ys = by_wide_tables(self.spec, xs, tables, axis)
        if ys is not None:
            self.calls += 1
            return ys
        ys = by_formula(self.spec, xs, cos_sin(tables, self.spec), axis)
        if ys is not None:
            self.fallbacks += 1
        return ys

    def _with_norms(self, xs: list[Deferred], tables: list[Any], axis: Any) -> list[Tensor] | None:
        """Deferred norms and the rotation in one pass; None where the norms have to be computed first."""
        spec, norm = self.spec, xs[0].origin.spec
        alike = all(x.origin.spec.computes_as(norm) and x.dtype == xs[0].dtype and x.device == xs[0].device for x in xs)
        if not alike or not self.takes_norms() or not all(isinstance(t, Tensor) for t in tables):
            return None
        halves = equal_halves(tables, spec) if compared_for_free(tables, spec) else None
        if halves is None or not halves[0].is_floating_point():
            return None
        if spec.promotes and torch.promote_types(xs[0].dtype, halves[0].dtype) != xs[0].dtype:
            return None  # the function would return another dtype
        inputs = [x.raw for x in xs]
        aligned = rows_of_all(inputs, halves, axis)
        if aligned is None or not self._takes(inputs, 2 * halves[0].shape[-1]):
            return None
        seq_dim, rows = aligned
        for x in xs:
            x.origin.check_unwritten()
        weights = tuple(x.origin.weight for x in xs)
        ys = norm_and_rotate(tuple(inputs), weights, tuple(rows), norm, seq_dim, spec.interleaved)
        if ys is not None:
            self.calls += 1
            self.fused += 1
        return ys
