"""The rotation as operators registered with torch: one node that a compiler leaves whole, with the kernel of the device inside.

    torch.ops.rotary.rotate     fresh outputs, q and k in one launch
    torch.ops.rotary.rotate_    the same, written over q and k

Under torch.compile everything else in rotary is the plain formula, which fuses with what stands around it; docs/design/0009 says when
which is faster. Who wants the operator takes apply_rotary and apply_rotary_qk from here: arguments, checks and bits are those of
rotary's own. `import rotary` registers the operators, so that a saved program finds them.

The backward pass is the same operator, the other way, and saves tables alone. Forward mode, functorch's transforms, batched gradients
and tables that require a gradient take the formula instead, which can do all that. use_backend is heard where the operator runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import choice, functional, inplace
from .constants import tracing, transforming
from .dispatch import How, Table, Tensors, by_formula, needs_formula, over_by_formula, pairs, readable

# Lists, since queries and keys go in one launch whether there are keys or not. `tables` holds cos, sin for each of xs.
_SCHEMAS = (
    "rotate(Tensor[] xs, Tensor[] tables, int seq_dim, bool interleaved, bool conjugate) -> Tensor[]",
    "rotate_(Tensor(a!)[] xs, Tensor[] tables, int seq_dim, bool interleaved, bool conjugate) -> ()",
)
# Else the compiler lays x out as it likes, and with x the output, whose strides are those of empty_like(x). Before torch 2.8 it does so
# whatever is said, for tensors in lists: other strides, the same values.
_STRIDES = getattr(torch.Tag, "needs_exact_strides", torch.Tag.needs_fixed_stride_order)


def apply_rotary(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    seq_dim: int = -2,
    interleaved: bool = False,
    conjugate: bool = False,
    inplace: bool = False,
) -> Tensor:
    """rotary.apply_rotary by way of the operator: the same arguments, errors and bits, and one node in a compiled graph.

    >>> x, (cos, sin) = torch.randn(2, 4, 9, 64), torch.randn(2, 9, 32)
    >>> torch.equal(apply_rotary(x, cos, sin), functional.apply_rotary(x, cos, sin))
    True
    """
    axis, table = functional.settled(x, cos, sin, seq_dim)
    return _call((x,), (table,), axis, interleaved, conjugate, inplace)[0]


def apply_rotary_qk(
    q: Tensor,
    k: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    key_cos: Tensor | None = None,
    key_sin: Tensor | None = None,
    seq_dim: int = -2,
    interleaved: bool = False,
    conjugate: bool = False,
    inplace: bool = False,
) -> tuple[Tensor, Tensor]:
    """rotary.apply_rotary_qk by way of the operator: the same arguments, errors and bits, and one node in a compiled graph."""
    axis, tables = functional.settled_pair(q, k, cos, sin, key_cos, key_sin, seq_dim)
    q, k = _call((q, k), tables, axis, interleaved, conjugate, inplace)
    return q, k


def _call(
    xs: Tensors, tables: tuple[Table, ...], seq_dim: int, interleaved: bool, conjugate: bool, in_place: bool
) -> Tensors:
    flat = [t for table in tables for t in table]
    if not in_place:
        return tuple(_rotate(list(xs), flat, seq_dim, interleaved, conjugate))
    _rotate_in_place(list(xs), flat, seq_dim, interleaved, conjugate)
    return xs


def _how(seq_dim: int, interleaved: bool, conjugate: bool) -> How:
    return {"seq_dim": seq_dim, "interleaved": interleaved, "conjugate": conjugate}


def _names(xs: Sequence[Tensor]) -> tuple[str, ...]:
    return ("q", "k") if len(xs) == 2 else ("x",)


def _run(xs: Sequence[Tensor], tables: Sequence[Tensor], *how: Any) -> list[Tensor]:
    outs = [torch.empty_like(x) for x in xs]
    choice.run(choice.chosen(), tuple(xs), tuple(outs), pairs(tables), **_how(*how))
    return outs


def _run_in_place(xs: Sequence[Tensor], tables: Sequence[Tensor], *how: Any) -> None:
    given = tuple(xs)
    inplace.check(given, _names(given))  # at run time: what overlaps is not known while a compiler traces
    choice.run(choice.chosen(), given, given, pairs(tables), **_how(*how))


def _differentiable(xs: Sequence[Tensor], tables: Sequence[Tensor], *how: Any) -> list[Tensor]:
    """What runs where autograd looks, eagerly and while a compiler traces the backward pass."""
    grad = torch.is_grad_enabled()
    if grad and any(x.requires_grad for x in xs) and not _wants_formula(tables):
        return list(_Rotation.apply(how, len(xs), *xs, *tables))
    if not needs_formula(tuple(xs), pairs(tables), grad):
        return _run(xs, tables, *how)  # plain tensors: a second way through torch's dispatcher is spared
    if _wants_formula(tables):
        return _formula(xs, tables, *how)
    with torch._C._AutoDispatchBelowAutograd():
        return _rotate(xs, tables, *how)


def _differentiable_in_place(xs: Sequence[Tensor], tables: Sequence[Tensor], *how: Any) -> None:
    grad = torch.is_grad_enabled()
    wanted = grad and any(x.requires_grad for x in xs)
    if not (wanted or needs_formula(tuple(xs), pairs(tables), grad)):
        _run_in_place(xs, tables, *how)
        return
    formula = _wants_formula(tables)
    if (formula or wanted) and not tracing():
        inplace.check(tuple(xs), _names(xs))
    if formula:
        _formula_in_place(xs, tables, *how)
    elif wanted:  # a graph needs outputs of its own, which are copied over xs
        for x, y in zip(xs, _Rotation.apply(how, len(xs), *xs, *tables), strict=True):
            x.copy_(y)
    else:
        with torch._C._AutoDispatchBelowAutograd():
            _rotate_in_place(xs, tables, *how)


def _wants_formula(tables: Sequence[Tensor]) -> bool:
    """Whether what is asked is more than the operator's own backward pass can do."""
    forward_mode = forward_ad._current_level >= 0  # pyright: ignore[reportPrivateUsage]
    return transforming() or forward_mode or (torch.is_grad_enabled() and any(t.requires_grad for t in tables))


def _formula(xs: Sequence[Tensor], tables: Sequence[Tensor], *how: Any) -> list[Tensor]:
    return list(by_formula(tuple(xs), pairs(tables), _how(*how)))


def _formula_in_place(xs: Sequence[Tensor], tables: Sequence[Tensor], *how: Any) -> None:
    over_by_formula(tuple(xs), pairs(tables), _how(*how))


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, how: tuple[int, bool, bool], count: int, *tensors: Tensor) -> Tensors:
        xs, tables = tensors[:count], tensors[count:]
        outs = _rotate(list(xs), list(tables), *how)
        ctx.save_for_backward(*tables)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(out for x, out in zip(xs, outs, strict=True) if not x.requires_grad))
        ctx.how, ctx.count = how, count
        return tuple(outs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        tables, (seq_dim, interleaved, conjugate) = ctx.saved_tensors, ctx.how
        given = {i: readable(g) for i, g in enumerate(grads) if g is not None}
        rotated: list[Tensor | None] = [None] * ctx.count
        if given:
            flat = [t for i in given for t in tables[2 * i : 2 * i + 2]]
            ys = _rotate(list(given.values()), flat, seq_dim, interleaved, not conjugate)
            for i, y in zip(given, ys, strict=True):
                rotated[i] = y
        return None, None, *rotated, *(None,) * len(tables)


def _fake(xs: Sequence[Tensor], *_: Any) -> list[Tensor]:
    return [torch.empty_like(x) for x in xs]


def _fake_in_place(*_: Any) -> None:
    pass


def _register() -> torch.library.Library:
    library = torch.library.Library("rotary", "DEF")
    for schema in _SCHEMAS:
        library.define(schema, tags=(torch.Tag.pt2_compliant_tag, _STRIDES))
    torch.library.register_fake("rotary::rotate", _fake, lib=library)
    torch.library.register_fake("rotary::rotate_", _fake_in_place, lib=library)
    for key, fresh, over in (
        ("CompositeExplicitAutograd", _run, _run_in_place),
        ("Autograd", _differentiable, _differentiable_in_place),
        ("FuncTorchBatched", _formula, _formula_in_place),
        ("Batched", _formula, _formula_in_place),  # is_grads_batched=True: vmap of an older kind
    ):
        library.impl("rotate", fresh, key)
        library.impl("rotate_", over, key)
    return library


# Torch allows one definition for the life of a process: a module that is imported again (autoreload, an emptied sys.modules) finds it.
if not hasattr(torch.ops.rotary, "rotate"):
    _library = _register()  # its end would be theirs
_rotate = torch.ops.rotary.rotate.default
_rotate_in_place = torch.ops.rotary.rotate_.default
