"""The rotation of distributed tensors (DTensor): each process rotates its local tensor by the kernel, without communication.

A rotation is local to rows and heads, and linear. So q and k keep their placements (Shard along batch, heads or sequence, Replicate,
Partial sums and averages), each process uses the rows of the tables that belong to its part, and outputs have the placements of inputs:

    rotate()         tables of the whole: plain ones, the same in every process, or DTensors, replicated or cut as x is
    rotate_parts()   tables of the rows that this process holds, as RotaryEmbedding makes them

Placements that would require sending q or k are a ValueError in every process, before anything is written. A gradient may have other
placements than x: it is rotated under its own, and tables alone are redistributed.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _checks, _torch
from .._subclasses.dtensor import distributed, dtensor_class, local_part, wrapped
from .._subclasses.parts import Part, as_dtensor, dims_of, part_for, redistributed, replicated
from .._subclasses.placed import Placed, rotatable, same_mesh
from .._types import CosSin, Tensors
from . import autograd, overlap
from .autograd import How


def rotate(xs: Tensors, tables: tuple[CosSin, ...], how: How, *, in_place: bool, names: tuple[str, ...]) -> Tensors:
    """xs, DTensors on one mesh, rotated by tables of the whole. The caller has checked shapes and dtypes.

    ValueError or TypeError for placements and meshes that would require sending q, k or a table.
    """
    placements = check(xs, names)
    seq_dim = how["seq_dim"]
    if (
        len(xs) == 2
        and xs[0].shape[seq_dim] != xs[1].shape[seq_dim]
        and any(place.cut_at(seq_dim) for place in placements)
    ):
        raise ValueError(
            f"q with shape {tuple(xs[0].shape)} and k {tuple(xs[1].shape)} differ along dimension {seq_dim}, along which one is cut: "
            f"processes hold different rows of q and k; redistribute both to heads, batch or Replicate(), or rotate each by itself"
        )
    if torch.is_grad_enabled() and any(t.requires_grad for table in tables for t in table):
        return _by_formula(xs, tables, how, in_place=in_place)
    if _torch.forward_mode() or _torch.transforming():
        return _by_formula(xs, tables, how, in_place=in_place)
    parts = [part_for(tables[0], placements[0], seq_dim, names[0])]
    if len(xs) == 2:
        alike = tables[1] is tables[0] and placements[1] == placements[0]
        parts.append(parts[0] if alike else part_for(tables[1], placements[1], seq_dim, names[1]))
    return rotate_parts(xs, tuple(parts), how, in_place=in_place, names=names)


def by_tables(
    xs: Tensors, tables: tuple[CosSin, ...], seq_dim: int, interleaved: bool, conjugate: bool, inplace: bool
) -> Tensors:
    """apply_rotary and apply_rotary_qk for DTensors, checked as those of the whole; in a compiled program by way of the operator."""
    if _torch.tracing():
        return autograd.by_operator(xs, tables, seq_dim, interleaved, conjugate, inplace)
    how: How = {"seq_dim": seq_dim, "interleaved": interleaved, "conjugate": conjugate}
    return rotate(xs, tables, how, in_place=inplace, names=_checks.names_of(xs))


def check(xs: Sequence[Any], names: Sequence[str]) -> list[Placed]:
    """The placements of xs. TypeError if one is no DTensor; ValueError for several meshes, and placements that no process
    can rotate alone."""
    for x, name in zip(xs, names, strict=False):
        if not distributed(x):
            raise TypeError(
                f"{name} is a plain tensor {_checks.describe(x)} and the other is distributed: give both as DTensors, or both "
                f"local parts, by .to_local(), with positions"
            )
    for x, name in zip(xs[1:], names[1:], strict=False):
        same_mesh(name, x, names[0], xs[0].device_mesh)
    if not torch.compiler.is_compiling():  # no compiler traces a registration
        register()
    return [rotatable(name, x) for x, name in zip(xs, names, strict=False)]


def rotate_parts(xs: Tensors, parts: tuple[Part, ...], how: How, *, in_place: bool, names: tuple[str, ...]) -> Tensors:
    """xs rotated by tables of the rows that this process holds of each."""
    needs_grad = torch.is_grad_enabled() and any(x.requires_grad for x in xs)
    if in_place:
        _check_in_place(xs, names)
        if needs_grad and _torch.tracing():
            for x, y in zip(xs, rotate_parts(xs, parts, how, in_place=False, names=names), strict=True):
                x.copy_(y)
            return xs
        if needs_grad:
            return tuple(
                [_RotatePartInPlace.apply(x, *part.table, part, how) for x, part in zip(xs, parts, strict=True)]
            )
        _rotate_local(xs, parts, how, in_place=True)
        for x in xs:
            if not (x.is_inference() or _torch.tracing()):
                torch.autograd.graph.increment_version(x)  # of the DTensor: the kernel counted for its local part
        return xs
    if needs_grad:
        flat = [t for part in parts for t in part.table]
        return tuple(_RotateParts.apply(parts, how, len(xs), *xs, *flat))
    return _rotate_local(xs, parts, how, in_place=False)


def _rotate_local(xs: Any, parts: tuple[Part, ...], how: How, *, in_place: bool) -> Tensors:
    """The local tensors rotated by one launch, wrapped with the placements of xs."""
    local = tuple([local_part(x) for x in xs])
    if xs[0].device_mesh.get_coordinate() is None:  # this process is outside the mesh: its local tensor is empty
        return xs if in_place else tuple([wrapped(x.clone(), like) for x, like in zip(local, xs, strict=True)])
    for x, t, part in zip(xs, local, parts, strict=True):
        _check_local(x, t, part, how["seq_dim"])
    tables = tuple([part.table for part in parts])  # q's and k's are one object where they are alike
    with torch.no_grad():
        if _torch.tracing():  # a compiled program keeps the kernel, as it does for the operator of plain tensors
            ys = autograd.by_operator(local, tables, **how, in_place=in_place)
        else:
            ys = autograd.rotate(local, tables, in_place=in_place, **how)
    return xs if in_place else tuple([wrapped(y, x) for x, y in zip(xs, ys, strict=True)])


def _check_local(x: Any, local: Tensor, part: Part, seq_dim: int) -> None:
    """ValueError if the table has other rows than the local tensor: the kernel would read past the end of the table."""
    shape = part.table[0].shape
    if shape[-2] != local.shape[seq_dim] or (len(shape) == 3 and shape[0] not in (1, local.shape[0])):
        raise ValueError(
            f"x with shape {tuple(x.shape)} and placements {x.placements} holds {tuple(local.shape)} in this process, which is not what "
            f"torch.chunk would give it ({shape[-2]} rows): make it by distribute_tensor, or redistribute it"
        )


def _check_in_place(xs: Sequence[Any], names: tuple[str, ...]) -> None:
    """The checks of overlap.check: of autograd on the DTensors, of memory on their local tensors."""
    if _torch.tracing():
        return
    for x, name in zip(xs, names, strict=False):
        overlap.check_autograd(x, name)
    with torch.no_grad():
        overlap.check(tuple([local_part(x) for x in xs]), names[: len(xs)])


def _by_formula(xs: Tensors, tables: tuple[CosSin, ...], how: How, *, in_place: bool) -> Tensors:
    """By torch's own rules for DTensors: for functorch, and for tables that require a gradient, which is summed over processes."""
    spread_tables = tuple([(as_dtensor(cos, x), as_dtensor(sin, x)) for x, (cos, sin) in zip(xs, tables, strict=True)])
    if in_place:
        autograd.over_by_formula(xs, spread_tables, how)
        return xs
    return autograd.by_formula(xs, spread_tables, how)


def distribute_like(t: Any, *values: Any) -> tuple[Any, ...]:
    """Plain tensors among the values as replicated DTensors on the mesh of t, for torch's own operations; numbers as they are."""
    check((t,), ("t",))
    return tuple([as_dtensor(v, t) if isinstance(v, Tensor) else v for v in values])


# --- gradients ---------------------------------------------------------------------------------------------------------------


def _gradients(grads: dict[int, Any], parts: Sequence[Part], how: How) -> dict[int, Tensor]:
    """Gradients rotated back, each under its own placements."""
    if not grads:
        return {}
    seq_dim, mesh = how["seq_dim"], parts[0].placed.mesh
    incoming = {i: autograd.readable(g) if distributed(g) else replicated(g, mesh) for i, g in grads.items()}
    back: How = {**how, "conjugate": not how["conjugate"]}
    parts_of_grads: list[Part] = []
    for i, g in incoming.items():
        name = "the gradient"
        same_mesh(name, g, "x", mesh)
        wanted = rotatable(name, g).for_value(parts[i].shape, dims_of(parts[i].shape, seq_dim), seq_dim)
        parts_of_grads.append(parts[i] if wanted.cuts == parts[i].placed.cuts else redistributed(parts[i], wanted))
    ys = rotate_parts(
        tuple(incoming.values()),
        tuple(parts_of_grads),
        back,
        in_place=False,
        names=("the gradient",) * len(parts_of_grads),
    )
    return dict(zip(incoming, ys, strict=True))


class _RotateParts(torch.autograd.Function):
    """One or two DTensors, one launch, fresh outputs. Saves this process's rows of cos and sin alone."""

    @staticmethod
    def forward(ctx: Any, parts: tuple[Part, ...], how: How, count: int, *tensors: Tensor) -> Tensors:
        xs = tensors[:count]
        outs = _rotate_local(xs, parts, how, in_place=False)
        ctx.save_for_backward(*tensors[count:])
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(out for x, out in zip(xs, outs, strict=True) if not x.requires_grad))
        ctx.places, ctx.how, ctx.count = [(part.shape, part.placed) for part in parts], how, count
        return outs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        saved = autograd.pairs(ctx.saved_tensors)
        parts = [Part(table, *place) for table, place in zip(saved, ctx.places, strict=True)]
        wanted = {i: g for i, g in enumerate(grads) if g is not None and ctx.needs_input_grad[3 + i]}
        rotated = _gradients(wanted, parts, ctx.how)
        return None, None, None, *(rotated.get(i) for i in range(ctx.count)), *(None,) * (2 * ctx.count)


class _RotatePartInPlace(torch.autograd.Function):
    """One DTensor, in place: a node each, as for plain tensors."""

    @staticmethod
    def forward(ctx: Any, x: Any, cos: Tensor, sin: Tensor, part: Part, how: How) -> Any:
        _rotate_local((x,), (part,), how, in_place=True)
        ctx.mark_dirty(x)
        ctx.save_for_backward(cos, sin)
        ctx.place, ctx.how = (part.shape, part.placed), how
        return x

    @staticmethod
    def backward(ctx: Any, grad: Any) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (table,) = autograd.pairs(ctx.saved_tensors)
        return _gradients({0: grad}, [Part(table, *ctx.place)], ctx.how)[0], None, None, None, None


# --- the operators ------------------------------------------------------------------------------------------------------------


@functools.cache
def register() -> None:
    """Register the rule of torch.ops.rotary.rotate and rotate_ for DTensors. Called by name in inference mode, they reach DTensor's
    dispatcher before the implementations of _operators/rotation.py."""
    kind = dtensor_class()
    library = torch.library.Library("rotary", "FRAGMENT")
    for name in ("rotary::rotate", "rotary::rotate_"):
        torch.library.register_torch_dispatch(name, kind, _rule, lib=library)
    _kept.append(library)


_kept: list[Any] = []  # keep a reference: deleting a Library unregisters its rules


def _rule(cls: Any, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
    del cls, types
    return by_operator(function, *args, **(kwargs or {}))


def by_operator(
    function: Any, xs: Sequence[Tensor], tables: Sequence[Tensor], seq_dim: int, interleaved: bool, conjugate: bool
) -> Any:
    """torch.ops.rotary.rotate, or rotate_, for DTensors. The caller has checked the arguments."""
    how: How = {"seq_dim": seq_dim, "interleaved": interleaved, "conjugate": conjugate}
    in_place = function is torch.ops.rotary.rotate_.default
    ys = rotate(
        tuple(xs),
        autograd.pairs(tables),
        how,
        in_place=in_place,
        names=_checks.names_of(xs),
    )
    return None if in_place else list(ys)
