"""torch.ops.rotary.norm_rotate and its kin, called by name as exported programs do: the bits, gradients and errors of rotary.fused."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from rotary import RotaryEmbedding, fused, use_backend

OPS = torch.ops.rotary
NORM_ROTATE, IN_PLACE, BACKWARD = (
    OPS.norm_rotate.default,
    OPS.norm_rotate_.default,
    OPS.norm_rotate_backward.default,
)
HOW = (1e-5, 0.0, False, False, 2, False)


def inputs(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """q, k, q_weight, k_weight."""
    draw = torch.Generator().manual_seed(0)
    shapes = (2, 3, 4, 10), (2, 1, 4, 10), (10,), (10,)
    return [torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype) for shape in shapes]


def flat(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """cos and sin of q, cos and sin of k, which differ."""
    rope = RotaryEmbedding(8)
    return [t for start in (5, 9) for t in rope.cos_sin(torch.arange(start, start + 4), dtype)]


def by_function(q: Tensor, k: Tensor, w: Tensor | None, u: Tensor | None, tables: Sequence[Tensor], **how: Any) -> Any:
    names = ("cos", "sin", "key_cos", "key_sin")
    return fused.norm_rotate(
        q, k, **dict(zip(names, tables, strict=True)), q_weight=w, k_weight=u, **{"eps": 1e-5, **how}
    )


def test_bits_and_strides_of_the_functions():
    for dtype, weighted in itertools.product((torch.float32, torch.bfloat16), (True, False)):
        q, k, w, u = inputs(dtype)
        q = q.transpose(1, 2).contiguous().transpose(1, 2)
        tables, weights = flat(torch.float32), [w, u] if weighted else [None, None]
        for after, model, interleaved in itertools.product((False, True), repeat=3):
            wanted = by_function(
                q, k, *weights, tables, after=after, rounding="model" if model else "once", interleaved=interleaved
            )
            how = (1e-5, 0.0, model, after, 2, interleaved)
            found = NORM_ROTATE([q, k], weights, tables, *how)
            over = [q.clone(), k.clone()]
            assert IN_PLACE(over, weights, tables, *how) is None
            for a, b, c in zip(found, over, wanted, strict=True):
                assert torch.equal(a, c) and torch.equal(b, c) and a.stride() == c.stride()
            (alone,) = NORM_ROTATE([k], weights[1:], tables[2:], *how)
            assert torch.equal(alone, wanted[1])


@pytest.mark.parametrize("needed", ["q k w u", "q", "k", "w", "u", "q u", "k w"])
@pytest.mark.parametrize("outputs", ["y z", "y", "z"])
def test_gradients_of_what_needs_one(needed: str, outputs: str):
    tables, found = flat(), []
    ups = dict(zip("yz", (torch.randn(2, n, 4, 10, dtype=torch.float64) for n in (3, 1)), strict=True))
    for operator in (False, True):
        given = dict(zip("qkwu", inputs(), strict=True))
        for name in needed.split():
            given[name].requires_grad_()
        q, k, w, u = given.values()
        ys = NORM_ROTATE([q, k], [w, u], tables, *HOW) if operator else by_function(q, k, w, u, tables)
        assert [y.requires_grad for y in ys] == [any(n in needed for n in names) for names in ("qw", "ku")]
        ys = dict(zip("yz", ys, strict=True))
        used = [name for name in outputs.split() if ys[name].requires_grad]
        if not used:
            return
        leaves = [given[name] for name in needed.split()]
        grads = torch.autograd.grad([ys[n] for n in used], leaves, [ups[n] for n in used], allow_unused=True)
        found.append(grads)
    for a, b in zip(*found, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)
    assert any(grad is not None for grad in found[0])


def test_gradients_of_every_kind():
    tables = flat()
    q, k, w, u = (t.requires_grad_() for t in inputs())
    fast: dict[str, Any] = {"fast_mode": True, "check_batched_grad": True}

    def call(q: Tensor, k: Tensor, w: Tensor, u: Tensor) -> Any:
        return tuple(NORM_ROTATE([q, k], [w, u], tables, *HOW))

    assert gradcheck(call, (q, k, w, u), check_forward_ad=True, **fast)
    assert gradgradcheck(call, (q, k, w, u), **fast)
    of_tables = [t.clone().requires_grad_() for t in tables]
    assert gradcheck(lambda *t: tuple(NORM_ROTATE([q, k], [w, u], t, *HOW)), of_tables, **fast)
    ups = [torch.randn_like(t).requires_grad_() for t in (q, k)]
    assert gradcheck(
        lambda *t: tuple(BACKWARD(t[:2], t[2:4], t[4:], tables, [True, False], *HOW)), (*ups, q, k, w, u), **fast
    )


def test_functorch():
    q, k, w, u = inputs(torch.float32)
    tables = flat(torch.float32)
    wanted = by_function(q, k, w, u, tables)
    found = torch.func.vmap(lambda q, k: tuple(NORM_ROTATE([q, k], [w, u], tables, *HOW[:4], 1, False)))(q, k)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    over = q.clone(), k.clone()

    def write(q: Tensor, k: Tensor) -> Tensor:
        IN_PLACE([q, k], [w, u], tables, *HOW[:4], 1, False)
        return q

    torch.func.vmap(write)(*over)
    assert all(torch.equal(a, b) for a, b in zip(over, wanted, strict=True))
    of_q = torch.func.grad(lambda q: NORM_ROTATE([q, k], [w, u], tables, *HOW)[0].pow(3).sum())(q)
    leaf = q.clone().requires_grad_()
    by_function(leaf, k, w, u, tables)[0].pow(3).sum().backward()
    torch.testing.assert_close(of_q, leaf.grad)


def test_the_backward_operator_returns_what_is_wanted():
    q, k, w, u = inputs(torch.float32)
    tables, ups = flat(torch.float32), [torch.randn_like(q), torch.randn_like(k)]
    leaves = [t.clone().requires_grad_() for t in (q, k, w, u)]
    wanted = torch.autograd.grad(by_function(*leaves, tables), leaves, ups)
    for want in itertools.product((True, False), repeat=2):
        found = BACKWARD(ups, [q, k], [w, u], tables, list(want), *HOW)
        kept = [wanted[0], wanted[1], *itertools.compress(wanted[2:], want)]
        assert len(found) == len(kept) and all(torch.equal(a, b) for a, b in zip(found, kept, strict=True))
    assert len(BACKWARD(ups, [q, k], [None, None], tables, [False, False], *HOW)) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"grads": 1}, "do not have the shapes, dtypes and devices"),
        ({"grads": "dtype"}, "do not have the shapes, dtypes and devices"),
        ({"wanted": [True]}, "gradients are wanted of"),
        ({"wanted": [True, True, False]}, "gradients are wanted of"),
        ({"weights": [None, True], "wanted": [True, False]}, "gradients are wanted of"),
        ({"weights": [True]}, "takes a weight or None for each tensor"),
        ({"how": (0.0, *HOW[1:])}, "eps"),
        ({"how": (*HOW[:4], 1, False)}, "rows|shape"),
    ],
)
@pytest.mark.parametrize("fake", [False, True])
def test_what_the_backward_operator_refuses(changes: dict[str, Any], words: str, fake: bool):
    """With real tensors, and with those of a compiler: past the checks a kernel would write beyond a tensor."""
    q, k, w, u = inputs(torch.float32)
    grads = {1: [q], "dtype": [q.double(), k.double()]}.get(changes.get("grads"), [q, k])
    chosen = changes.get("weights", [True, True])
    weights = [t if one else None for t, one in zip((w, u), chosen, strict=False)]
    if fake:
        q, k = q.to("meta"), k.to("meta")
        grads, weights = [g.to("meta") for g in grads], [t if t is None else t.to("meta") for t in weights]
    tables = [t.to(q.device) for t in flat(torch.float32)]
    with pytest.raises(ValueError, match=words):
        BACKWARD(grads, [q, k], weights, tables, changes.get("wanted", [True, True]), *changes.get("how", HOW))


def test_what_cannot_be_written_over_is_refused():
    q, k, w, u = inputs(torch.float32)
    tables = flat(torch.float32)
    before = q.clone()
    over = torch.compile(
        lambda q, w: by_function(q, k, w, u, tables, inplace=True), backend="aot_eager", fullgraph=True
    )
    for leaf in (q.clone().requires_grad_(), w.clone().requires_grad_()):
        xs, weights = ([leaf, k], [w, u]) if leaf.ndim == 4 else ([q, k], [leaf, u])
        with pytest.raises(RuntimeError, match="gradient is wanted"):
            IN_PLACE(xs, weights, tables, *HOW)
        with pytest.raises(RuntimeError, match="gradient is wanted"):
            over(xs[0], weights[0])
        with torch.no_grad():
            wanted = by_function(before, k, w, u, tables)[0]
            x = xs[0].detach().clone()
            IN_PLACE([x, k.clone()], weights, tables, *HOW)
        assert torch.equal(x, wanted)
    with pytest.raises(RuntimeError, match="share memory"):
        IN_PLACE([q, q], [w, u], tables, *HOW)
    assert torch.equal(q, before)


def test_a_compiled_call_writes_over_its_tensors_and_returns_them():
    q, k, w, u = inputs(torch.float32)
    tables = flat(torch.float32)
    wanted = by_function(q, k, w, u, tables)
    over = torch.compile(
        lambda q, k: by_function(q, k, w, u, tables, inplace=True), backend="aot_eager", fullgraph=True
    )
    y, z = over(q, k)
    assert y is q and z is k and torch.equal(q, wanted[0]) and torch.equal(k, wanted[1])


def test_use_backend_holds_for_operators():
    q = torch.randn(1, 1, 4, 1040)
    tables = flat(torch.float32)
    calls = (
        lambda: NORM_ROTATE([q], [None], tables[:2], *HOW),
        lambda: IN_PLACE([q], [None], tables[:2], *HOW),
        lambda: BACKWARD([q.clone()], [q], [None], tables[:2], [False], *HOW),
    )
    for call in calls:
        try:
            with use_backend("native"), pytest.raises(RuntimeError, match="'native' does not serve .* 1024 channels"):
                call()
        except RuntimeError as error:
            pytest.skip(str(error))
        call()
