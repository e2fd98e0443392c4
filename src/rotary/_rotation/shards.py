"""Rotating distributed tensors (DTensor): each process turns what it holds, by the kernel, and nothing is sent.

A rotation is local to rows and heads, and linear. So q and k keep their placements (batch, heads, sequence, Replicate, sums and
averages), each process takes the rows of the tables that go with its part, and the outputs lie as the inputs do:

    rotate()         by tables of the whole: plain ones, alike in every process, or DTensors, whole or cut as x is
    rotate_parts()   by tables of what this process holds, as RotaryEmbedding makes them

Placements that would have to move q or k are a ValueError, alike in every process, before anything is written. A gradient may lie
otherwise than x did: it is rotated where it lies, and tables alone are gathered for it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor

from .. import _checks, _torch
from .._placed import Placed, part_of, rotatable, same_mesh
from .._torch import distributed, local_part, wrapped
from .._types import CosSin, Sizes, Tensors
from . import autograd, overlap


class How(TypedDict):
    seq_dim: int
    interleaved: bool
    conjugate: bool


class Part(NamedTuple):
    """cos and sin of the rows that a process holds, the shape of the whole table, and where its parts lie."""

    table: CosSin
    shape: Sizes
    where: Placed


def rotate(xs: Tensors, tables: tuple[CosSin, ...], how: How, *, in_place: bool, names: tuple[str, ...]) -> Tensors:
    """xs, DTensors of one mesh, rotated by tables of the whole; shapes and dtypes are checked by the caller.

    ValueError or TypeError for placements, meshes and mixtures that would have to send q, k or a table.
    """
    where = check(xs, names)
    seq_dim = how["seq_dim"]
    if len(xs) == 2 and xs[0].shape[seq_dim] != xs[1].shape[seq_dim] and any(at.cut_at(seq_dim) for at in where):
        raise ValueError(
            f"q with shape {tuple(xs[0].shape)} and k {tuple(xs[1].shape)} differ along dimension {seq_dim}, along which one is cut: "
            f"processes hold other rows of q than of k; redistribute both to heads, batch or Replicate(), or rotate each by itself"
        )
    if torch.is_grad_enabled() and any(t.requires_grad for table in tables for t in table):
        return _by_formula(xs, tables, how, in_place=in_place)
    if _torch.forward_mode() or _torch.transforming():
        return _by_formula(xs, tables, how, in_place=in_place)
    parts = [part_beside(tables[0], where[0], seq_dim, names[0])]
    if len(xs) == 2:
        alike = tables[1] is tables[0] and where[1] == where[0]
        parts.append(parts[0] if alike else part_beside(tables[1], where[1], seq_dim, names[1]))
    return rotate_parts(xs, tuple(parts), how, in_place=in_place, names=names)


def check(xs: Sequence[Any], names: Sequence[str]) -> list[Placed]:
    """Where xs lie. TypeError where one is no DTensor; ValueError for placements that no process can rotate alone, or several meshes."""
    for x, name in zip(xs, names, strict=False):
        if not distributed(x):
            raise TypeError(
                f"{name} is a plain tensor {_checks.describe(x)} beside a distributed one: give both as DTensors, or all local parts by "
                f".to_local(), with positions"
            )
    for x, name in zip(xs[1:], names[1:], strict=False):
        same_mesh(name, x, names[0], xs[0].device_mesh)
    if not torch.compiler.is_compiling():  # no compiler traces a registration
        register()
    return [rotatable(name, x) for x, name in zip(xs, names, strict=False)]


def part_beside(table: CosSin, x: Placed, seq_dim: int, name: str) -> Part:
    """The part of a table that goes with this process's part of x."""
    shape = tuple(table[0].shape)
    where = x.beside(shape, dims_of(shape, seq_dim), seq_dim)
    cos, sin = (part_of(what, t, where, name) for what, t in zip(("cos", "sin"), table, strict=True))
    return Part((cos, sin), shape, where)


def dims_of(shape: Sizes, seq_dim: int) -> dict[int, int]:
    """The dimensions of a table (seq, P) or (batch, seq, P), and those of x that they go with."""
    return {0: seq_dim} if len(shape) == 2 else {0: 0, 1: seq_dim}


def rotate_parts(xs: Tensors, parts: tuple[Part, ...], how: How, *, in_place: bool, names: tuple[str, ...]) -> Tensors:
    """xs rotated by tables of what this process holds of each."""
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
        _turned(xs, parts, how, in_place=True)
        for x in xs:
            if not (x.is_inference() or _torch.tracing()):
                torch.autograd.graph.increment_version(x)  # of the DTensor: the kernel counted for its local part
        return xs
    if needs_grad:
        flat = [t for part in parts for t in part.table]
        return tuple(_RotateParts.apply(parts, how, len(xs), *xs, *flat))
    return _turned(xs, parts, how, in_place=False)


def _turned(xs: Any, parts: tuple[Part, ...], how: How, *, in_place: bool) -> Tensors:
    """The local parts turned by one launch, each wrapped as its x is."""
    local = tuple([local_part(x) for x in xs])
    if (
        xs[0].device_mesh.get_coordinate() is None
    ):  # this process has no part in the mesh: an empty tensor stands for its part
        return xs if in_place else tuple([wrapped(x.clone(), like) for x, like in zip(local, xs, strict=True)])
    for x, t, part in zip(xs, local, parts, strict=True):
        _check_held(x, t, part, how["seq_dim"])
    tables = tuple([part.table for part in parts])  # q's and k's are one object where they are alike
    with torch.no_grad():
        if _torch.tracing():  # a compiled program keeps the kernel, as it does for the operator of plain tensors
            ys = autograd.by_operator(local, tables, **how, in_place=in_place)
        else:
            ys = autograd.rotate(local, tables, in_place=in_place, **how)
    return xs if in_place else tuple([wrapped(y, x) for x, y in zip(xs, ys, strict=True)])


def _check_held(x: Any, local: Tensor, part: Part, seq_dim: int) -> None:
    """The kernel reads the rows that x has: tables of others would be read beyond their end."""
    shape = part.table[0].shape
    if shape[-2] != local.shape[seq_dim] or (len(shape) == 3 and shape[0] not in (1, local.shape[0])):
        raise ValueError(
            f"x with shape {tuple(x.shape)} and placements {x.placements} holds {tuple(local.shape)} in this process, which is not what "
            f"torch.chunk would give it ({shape[-2]} rows): make it by distribute_tensor, or redistribute it"
        )


def _check_in_place(xs: Sequence[Any], names: tuple[str, ...]) -> None:
    """What overlap.check asks: autograd's questions of the DTensors, those of memory of their local parts."""
    if _torch.tracing():
        return
    for x, name in zip(xs, names, strict=False):
        overlap.check_autograd(x, name)
    with torch.no_grad():
        overlap.check(tuple([local_part(x) for x in xs]), names[: len(xs)])


def _by_formula(xs: Tensors, tables: tuple[CosSin, ...], how: How, *, in_place: bool) -> Tensors:
    """For tables that want a gradient, which is summed over processes, and for transforms: torch's own rules for distributed tensors."""
    spread_tables = tuple([(whole(cos, x), whole(sin, x)) for x, (cos, sin) in zip(xs, tables, strict=True)])
    if in_place:
        autograd.over_by_formula(xs, spread_tables, how)
        return xs
    return autograd.by_formula(xs, spread_tables, how)


def whole(t: Tensor, like: Any) -> Any:
    """A plain tensor, alike in every process, as a DTensor beside `like`."""
    return t if distributed(t) else _like_mesh(t, like.device_mesh)


def whole_of(part: Part) -> tuple[Any, Any]:
    """The DTensors cos and sin of which this process holds that part."""
    placements = _placements(part.where)
    cos, sin = (_from_part(t, part.shape, part.where.mesh, placements) for t in part.table)
    return cos, sin


def spread(t: Tensor, shape: Sizes, like: Any) -> Any:
    """A DTensor of that shape, placed as `like` is, of which this process holds t."""
    return _from_part(t, shape, like.device_mesh, like.placements)


def _from_part(t: Tensor, shape: Sizes, mesh: Any, placements: Any) -> Any:
    from torch.distributed.tensor import DTensor

    strides = [1]
    for n in reversed(shape[1:]):
        strides.insert(0, strides[0] * max(n, 1))
    return DTensor.from_local(
        t.contiguous(), mesh, placements, run_check=False, shape=torch.Size(shape), stride=tuple(strides)
    )


def _like_mesh(t: Tensor, mesh: Any) -> Any:
    from torch.distributed.tensor import DTensor, Replicate

    return DTensor.from_local(t, mesh, [Replicate()] * mesh.ndim, run_check=False)


# --- gradients ---------------------------------------------------------------------------------------------------------------


def _gradients(grads: dict[int, Any], parts: Sequence[Part], how: How) -> dict[int, Tensor]:
    """Gradients rotated back, each where it lies."""
    if not grads:
        return {}
    seq_dim, mesh = how["seq_dim"], parts[0].where.mesh
    incoming = {i: autograd.readable(g) if distributed(g) else _like_mesh(g, mesh) for i, g in grads.items()}
    back: How = {**how, "conjugate": not how["conjugate"]}
    mine: list[Part] = []
    for i, g in incoming.items():
        name = "the gradient"
        same_mesh(name, g, "x", mesh)
        wanted = rotatable(name, g).beside(parts[i].shape, dims_of(parts[i].shape, seq_dim), seq_dim)
        mine.append(parts[i] if wanted.cuts == parts[i].where.cuts else _sent(parts[i], wanted))
    ys = rotate_parts(tuple(incoming.values()), tuple(mine), back, in_place=False, names=("the gradient",) * len(mine))
    return dict(zip(incoming, ys, strict=True))


def _sent(part: Part, wanted: Placed) -> Part:
    """The same table, placed as a gradient needs it: gathered where it was cut otherwise."""
    with torch.no_grad():
        moved = [local_part(t.redistribute(placements=_placements(wanted))) for t in whole_of(part)]
    return Part((moved[0], moved[1]), part.shape, wanted)


def _placements(where: Placed) -> list[Any]:
    from torch.distributed.tensor import Replicate, Shard

    return [
        Replicate() if c is None else Shard(c.dim) if c.factor == 1 else _torch.strided_shard(c.dim, c.factor)
        for c in where.cuts
    ]


class _RotateParts(torch.autograd.Function):
    """One or two DTensors, one launch, fresh outputs. Saves this process's rows of cos and sin alone."""

    @staticmethod
    def forward(ctx: Any, parts: tuple[Part, ...], how: How, count: int, *tensors: Tensor) -> Tensors:
        xs = tensors[:count]
        outs = _turned(xs, parts, how, in_place=False)
        ctx.save_for_backward(*tensors[count:])
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(out for x, out in zip(xs, outs, strict=True) if not x.requires_grad))
        ctx.places, ctx.how, ctx.count = [(part.shape, part.where) for part in parts], how, count
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
        _turned((x,), (part,), how, in_place=True)
        ctx.mark_dirty(x)
        ctx.save_for_backward(cos, sin)
        ctx.place, ctx.how = (part.shape, part.where), how
        return x

    @staticmethod
    def backward(ctx: Any, grad: Any) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (table,) = autograd.pairs(ctx.saved_tensors)
        return _gradients({0: grad}, [Part(table, *ctx.place)], ctx.how)[0], None, None, None, None


# --- the operators ------------------------------------------------------------------------------------------------------------


@functools.cache
def register() -> None:
    """Give torch.ops.rotary.rotate and rotate_ their rule for DTensors, once there are any: called by name in inference mode,
    they reach DTensor's dispatcher before they reach operators.py."""
    kind = _torch.dtensor_class()
    library = torch.library.Library("rotary", "FRAGMENT")
    for name in ("rotary::rotate", "rotary::rotate_"):
        torch.library.register_torch_dispatch(name, kind, _rule, lib=library)
    _kept.append(library)


_kept: list[Any] = []  # deleting a Library takes back what it registered


def _rule(cls: Any, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
    del cls, types
    return by_operator(function, *args, **(kwargs or {}))


def by_operator(
    function: Any, xs: Sequence[Tensor], tables: Sequence[Tensor], seq_dim: int, interleaved: bool, conjugate: bool
) -> Any:
    """What torch.ops.rotary.rotate (or rotate_) does with DTensors; the arguments are checked by its caller."""
    how: How = {"seq_dim": seq_dim, "interleaved": interleaved, "conjugate": conjugate}
    in_place = function is torch.ops.rotary.rotate_.default
    ys = rotate(
        tuple(xs),
        autograd.pairs(tables),
        how,
        in_place=in_place,
        names=("q", "k") if len(xs) == 2 else ("x",),
    )
    return None if in_place else list(ys)
