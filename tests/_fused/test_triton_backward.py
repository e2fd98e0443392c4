"""The GPU kernels of the gradient: in software the bits of the plain formula, the weights' sums too; autograd and a compiler take them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from _fused.test_triton import DEVICE, Drawn, empty, pytestmark, same, work_of
from rotary import fused, use_backend
from rotary._fused import eager, sums, triton, triton_backward
from rotary._fused.work import Norm

__all__ = ["pytestmark"]
FORMS = (  # dtype, head_dim, channels that turn, interleaved, after, model, which has a weight, which weight requires a gradient, offset
    (torch.float32, 16, 16, False, False, False, 3, 3, 0.0),
    (torch.bfloat16, 16, 16, True, False, True, 3, 3, 0.0),
    (torch.bfloat16, 12, 8, False, True, True, 3, 2, 0.0),
    (torch.float32, 12, 4, True, True, False, 1, 1, 0.0),
    (torch.float16, 24, 24, False, False, False, 2, 2, 0.0),
    (torch.float64, 12, 8, False, False, False, 3, 1, 1.0),
    (torch.float32, 4, 0, False, False, False, 0, 0, 0.0),
)


def gradients(kernel: Any, grads: Any, drawn: Drawn, wanted: int, norm: Norm, **how: Any) -> tuple[Any, ...]:
    of_xs = empty(drawn.xs)
    of_weights = tuple(
        torch.empty(w.shape, dtype=t[0].dtype, device=DEVICE) if w is not None and wanted >> i & 1 else None
        for i, (w, t) in enumerate(zip(drawn.weights, drawn.tables, strict=True))
    )
    reason = kernel.norm_rotate_backward(grads, drawn.xs, of_xs, of_weights, drawn.weights, drawn.tables, norm, **how)
    assert reason is None
    return (*of_xs, *of_weights)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: " ".join(map(str, form)))
def test_triton_gradients_of_every_form(form: Any):
    dtype, dim, turned, interleaved, after, model, weights, expected, offset = form
    drawn, norm = Drawn(dtype, dim, turned, weights), Norm(1e-5, offset, model, after)
    grads = tuple(Drawn.tensor(dtype, x.shape[1], dim) for x in drawn.xs)
    how: dict[str, Any] = {"seq_dim": 2, "interleaved": interleaved}
    same(*(gradients(kernel, grads, drawn, expected, norm, **how) for kernel in (triton, eager)))


def test_triton_gradients_of_many_chunks_in_every_layout():
    """Heads of two widths take two launches; 135 and 45 rows are three chunks of 64 and one, none of the last full."""
    torch.manual_seed(0)
    drawn, norm = Drawn(torch.float32, 16, 16, 3), Norm(1e-6, 0.0, False, False)
    cos, sin = torch.randn(2, 45, 8).to(DEVICE)
    for seq_dim, dims in ((0, (16, 16)), (1, (16, 8))):
        drawn.xs = tuple(torch.randn(45, n, d).to(DEVICE) for n, d in zip((3, 1), dims, strict=True))
        if seq_dim == 1:
            drawn.xs = tuple(x.transpose(0, 1) for x in drawn.xs)
        drawn.weights = tuple(torch.rand(d).to(DEVICE) for d in dims)
        drawn.tables = tuple((cos[:, : d // 2], sin[:, : d // 2]) for d in dims)
        grads = tuple(torch.randn_like(x) for x in drawn.xs)
        how: dict[str, Any] = {"seq_dim": seq_dim, "interleaved": False}
        same(*(gradients(kernel, grads, drawn, 3, norm, **how) for kernel in (triton, eager)))


def test_triton_adds_chunks_by_halves():
    torch.manual_seed(1)
    for q, k in ((256, 257), (1500, 1)):
        partial = torch.randn(q + k, 6).to(DEVICE)
        result = tuple(torch.empty(6, device=DEVICE) for _ in "qk")
        triton_backward._add(partial, result, [q, k])
        for part, one in zip(partial.cpu().split((q, k)), result, strict=True):
            assert torch.equal(one.cpu(), sums.over_chunks(part))


def truth(x: Tensor, w: Tensor, cos: Tensor, sin: Tensor, eps: float) -> Tensor:
    """The definition, half pairing, in float64: what autograd then differentiates."""
    n = x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * w
    a, b = n.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def test_triton_gradients_by_autograd_and_the_definition():
    torch.manual_seed(2)
    drawn = Drawn(torch.float32, 16, 16, 3, batched=False)
    cos, sin = drawn.tables[0]
    leaves = [t.detach().clone().requires_grad_() for t in (*drawn.xs, *drawn.weights) if t is not None]
    up = [torch.randn_like(x) for x in drawn.xs]

    def call(q: Tensor, k: Tensor, w: Tensor, u: Tensor) -> Any:
        return fused.norm_rotate(q, k, cos, sin, q_weight=w, k_weight=u, eps=1e-5)

    result = {}
    for name in ("triton", "eager"):
        with use_backend(name):
            result[name] = torch.autograd.grad(call(*leaves), leaves, up)
    with use_backend("triton"):
        compiled = torch.compile(call, fullgraph=True, backend="aot_eager")(*leaves)
        same(torch.autograd.grad(compiled, leaves, up), result["triton"])
        y, _ = call(*leaves)
        (of_sum,) = torch.autograd.grad(y.sum(), leaves[0])  # arrives expanded, with stride 0
        (first,) = torch.autograd.grad(call(*leaves)[0], leaves[0], torch.ones_like(y), create_graph=True)
        torch.testing.assert_close(of_sum, first.detach())
        assert torch.autograd.grad(first.square().sum(), leaves[0])[0].isfinite().all()  # by the formula
    same(result["triton"], result["eager"])
    exact = [t.detach().double().requires_grad_() for t in leaves]
    outs = [truth(x, w, cos.double(), sin.double(), 1e-5) for x, w in zip(exact[:2], exact[2:], strict=True)]
    expected = torch.autograd.grad(outs, exact, [g.double() for g in up])
    for a, b in zip(result["triton"], expected, strict=True):
        assert float((a.double() - b).norm() / b.norm()) < 1e-6


def test_triton_gradients_not_served_are_named_and_nothing_is_written():
    norm = Norm(1e-6, 0.0, False, False)
    x = torch.randn(3, 130).to(DEVICE)
    out, weight = torch.full_like(x, 7.0), torch.full((130,), 7.0, device=DEVICE)
    table = (torch.randn(3, 65).to(DEVICE),) * 2
    reason = triton.norm_rotate_backward(
        (x,), (x,), (out,), (weight,), (x[0],), (table,), norm, seq_dim=0, interleaved=False
    )
    assert "130 channels that turn cut a row into 130 blocks" in (reason or "")
    assert triton.norm_rotate((x,), (out,), (x[0],), (table,), norm, seq_dim=0, interleaved=False) == reason
    assert bool((out == 7.0).all() and (weight == 7.0).all())


def test_triton_no_rows_give_zeros():
    x, w = torch.empty(0, 2, 16, device=DEVICE), torch.rand(16).to(DEVICE)
    out, total = torch.empty_like(x), torch.empty(16, dtype=work_of(x.dtype), device=DEVICE)
    table = (torch.empty(0, 8, device=DEVICE),) * 2
    norm = Norm(1e-6, 0.0, False, False)
    how: dict[str, Any] = {"seq_dim": 0, "interleaved": False}
    assert triton.norm_rotate_backward((x,), (x,), (out,), (total,), (w,), (table,), norm, **how) is None
    assert bool((total == 0).all())
