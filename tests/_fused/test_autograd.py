"""The norm and rotation with autograd around it: which way is taken, what is kept, and tensors that no kernel can read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rotary._fused import autograd, backends, eager
from rotary._fused.work import Norm

NORM = Norm(1e-5, 0.0, False, False)
TABLE = torch.randn(4, 4), torch.randn(4, 4)
OTHER = torch.randn(4, 4), torch.randn(4, 4)
WHERE: autograd.Where = {"seq_dim": 2, "interleaved": False}


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k, q_weight, k_weight."""
    draw = torch.Generator().manual_seed(0)
    return tuple(torch.randn(s, generator=draw) for s in ((2, 3, 4, 10), (2, 1, 4, 10), (10,), (10,)))  # pyright: ignore[reportReturnType]


def call(q: Tensor, k: Tensor, w: Tensor | None, u: Tensor | None, **how: Any) -> tuple[Tensor, ...]:
    return autograd.norm_rotate((q, k), (w, u), (TABLE, OTHER), NORM, **WHERE, **how)


def judged(q: Tensor, k: Tensor, w: Tensor | None, u: Tensor | None) -> tuple[Tensor, Tensor]:
    """The formula, differentiated by torch."""
    return eager.formula(q, w, *TABLE, NORM, **WHERE), eager.formula(k, u, *OTHER, NORM, **WHERE)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The backend that each call of a kernel names."""
    ran: list[str | None] = []
    run = backends.run

    def counted(name: str | None, *rest: Any) -> None:
        ran.append(name)
        run(name, *rest)

    monkeypatch.setattr(backends, "run", counted)
    return ran


@pytest.mark.parametrize("needed", ["q", "k", "w", "u", "qk", "wu", "qu", "qkwu", ""])
def test_gradients_of_what_needs_one(needed: str, kernels: list[str | None]):
    given = dict(zip("qkwu", inputs(), strict=True))
    for name in needed:
        given[name].requires_grad_()
    ys, expected = call(*given.values()), judged(*given.values())
    assert len(kernels) == 1, "one launch for both"
    for y, z in zip(ys, expected, strict=True):
        assert torch.equal(y, z) and y.requires_grad == z.requires_grad
    if not needed:
        return
    ups = [torch.randn_like(y) for y in ys]
    leaves = [given[name] for name in needed]

    def gradients(outs: Any, indices: list[int]) -> Any:
        some, some_ups = [outs[i] for i in indices], [ups[i] for i in indices]
        return torch.autograd.grad(some, leaves, some_ups, retain_graph=True, allow_unused=True)

    for used in ([0, 1], [0], [1]):
        indices = [i for i in used if ys[i].requires_grad]
        if not indices:
            continue
        for a, b in zip(gradients(ys, indices), gradients(expected, indices), strict=True):
            assert (a is None) == (b is None)
            if a is not None and b is not None:
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert len(kernels) > 1, "the backward pass is a kernel's too"


@pytest.mark.parametrize("in_place", [False, True])
def test_one_tensor_alone(in_place: bool, kernels: list[str | None]):
    _, k, _, u = inputs()
    expected = judged(k, k, None, u)[1]
    (y,) = autograd.norm_rotate((k,), (u,), (OTHER,), NORM, **WHERE, in_place=in_place)
    assert torch.equal(y, expected) and (y is k) == in_place and len(kernels) == 1
    if not in_place:
        given = k.requires_grad_(), u.requires_grad_()
        (y,) = autograd.norm_rotate((k,), (u,), (OTHER,), NORM, **WHERE)
        up = torch.randn_like(y)
        result, expected = (torch.autograd.grad(z, given, up) for z in (y, judged(k, k, None, u)[1]))
        for a, b in zip(result, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        assert len(kernels) == 3


def test_strides_are_those_of_empty_like():
    """With and without a gradient, by a kernel and by the formula."""
    q, k, w, u = inputs()
    q = q.transpose(1, 2).contiguous().transpose(1, 2)
    for one in (q, q.clone().requires_grad_()):
        for weight in (w, torch._neg_view(-w)):
            assert call(one, k, weight, u)[0].stride() == torch.empty_like(q).stride() == q.stride()


@pytest.mark.parametrize("kind", ["parameter", "negative view", "meta", "subclass", "sparse"])
def test_weights_that_no_kernel_can_read_take_the_formula(kind: str, kernels: list[str | None]):
    class Subclass(Tensor): ...

    q, k, w, u = inputs()
    weight = {
        "parameter": lambda: nn.Parameter(w),
        "negative view": lambda: torch._neg_view(-w),
        "meta": lambda: w.to("meta"),
        "subclass": lambda: w.as_subclass(Subclass),
        "sparse": lambda: w.to_sparse(),
    }[kind]()
    assert autograd.plain((None, weight)) == autograd.plain((weight, w)) == (kind == "parameter")
    if kind in ("meta", "sparse"):
        return
    expected = judged(q, k, w, u)
    for y, z in zip(call(q, k, weight, u), expected, strict=True):
        assert torch.equal(y, z)
    assert len(kernels) == (kind == "parameter")
    with torch.no_grad():
        assert call(q, k, weight, u, in_place=True)[0] is q
    assert torch.equal(q, expected[0]) and torch.equal(k, expected[1])


def test_a_backend_that_is_named_computes_forward_and_backward(kernels: list[str | None]):
    q, k, w, u = inputs()
    y, _ = call(q.requires_grad_(), k, w, u, backend="eager")
    y.sum().backward()
    assert kernels == ["eager", "eager"]
    assert call(q, k, w, u)[0].requires_grad and kernels[2:] == [None]


def test_what_may_not_be_written_over(kernels: list[str | None]):
    q, k, w, u = inputs()
    before = q.clone()
    for given in ((q.clone().requires_grad_(), k, w, u), (q, k, w, u.clone().requires_grad_())):
        with pytest.raises(RuntimeError, match="a gradient is wanted"):
            call(*given, in_place=True)
    needs = tuple(t.clone().requires_grad_() for t in TABLE)
    with pytest.raises(RuntimeError, match="a gradient is wanted"):
        autograd.norm_rotate((q, k), (w, u), (TABLE, needs), NORM, **WHERE, in_place=True)
    with pytest.raises(RuntimeError, match="q and k share memory"):
        call(q, q[:, :1], w, u, in_place=True)
    with pytest.raises(RuntimeError, match="k with shape .* overlaps itself"):
        autograd.norm_rotate((k[:1].expand(2, 1, 4, 10),), (u,), (TABLE,), NORM, **WHERE, in_place=True)
    assert torch.equal(q, before) and not kernels
    with torch.no_grad():
        assert call(q, k, w, u.clone().requires_grad_(), in_place=True)[0] is q


def test_second_gradients_and_batched_ones_take_the_formula(kernels: list[str | None]):
    given = [t.requires_grad_() for t in inputs()]
    ys, expected = call(*given), judged(*given)
    ups = [torch.randn_like(y, requires_grad=True) for y in ys]
    kernels.clear()
    firsts = [torch.autograd.grad(outs, given, ups, create_graph=True) for outs in (ys, expected)]
    seconds = [torch.autograd.grad(sum(g.square().sum() for g in first), (*given, *ups)) for first in firsts]
    for a, b in zip(*firsts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    for a, b in zip(*seconds, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    many = [torch.randn(3, *y.shape) for y in ys]
    result = torch.autograd.grad(call(*given), given, many, is_grads_batched=True)
    for i in range(3):
        one = torch.autograd.grad(judged(*given), given, [m[i] for m in many])
        for a, b in zip(result, one, strict=True):
            torch.testing.assert_close(a[i], b, rtol=1e-5, atol=1e-5)


def test_gradients_that_arrive_expanded_are_read():
    """That of a sum has stride 0 in every dimension."""
    given = [t.requires_grad_() for t in inputs()]
    grads = [torch.autograd.grad(outs[0].sum() + outs[1].sum(), given) for outs in (call(*given), judged(*given))]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
