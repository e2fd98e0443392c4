"""Rotation by tables with a column per channel: values, gradients, layouts, and what is left to others. In software, or on a device."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from rotary import use_backend
from rotary._rotation import triton, wide

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SERVED = triton.unavailable() is None
needs_triton = pytest.mark.skipif(not SERVED, reason=f"needs the Triton kernel: {triton.unavailable()}")
LAYOUTS = {  # shape of x in memory, the permutation to x, seq_dim
    "transposed": ((2, 5, 3, 16), (0, 2, 1, 3), 2),
    "heads last": ((2, 5, 3, 16), (0, 1, 2, 3), 1),
    "contiguous": ((2, 3, 5, 16), (0, 1, 2, 3), 2),
    "one token": ((2, 3, 1, 16), (0, 1, 2, 3), 2),
    "tokens first": ((5, 3, 16), (0, 1, 2), 0),
}


def by_formula(x: Tensor, cos: Tensor, sin: Tensor, seq_dim: int, how: dict[str, bool]) -> Tensor:
    """Channel by channel, in the arithmetic that is promised, otherwise than the kernel does it."""
    work = torch.float64 if x.dtype == torch.float64 else torch.float32
    cos, sin = (t[0] if t.ndim == 3 and seq_dim == 0 else t for t in (cos.to(work), sin.to(work)))
    dim, ys = cos.shape[-1], list(x.to(work).unbind(-1))

    def column(table: Tensor, channel: int) -> Tensor:
        values = table[..., channel]
        after = x.ndim - 2 - seq_dim
        batched = values.ndim == 2
        return values.reshape(
            *values.shape[:1] * batched, *(1,) * (seq_dim - 1 if batched else 0), values.shape[-1], *(1,) * after
        )

    for plane in range(dim // 2):
        i = (2 * plane, 2 * plane + 1) if how["interleaved"] else (plane, plane + dim // 2)
        c = (2 * plane, 2 * plane + 1) if how["adjacent"] else (plane, plane + dim // 2)
        sign = -1.0 if how["conjugate"] else 1.0
        a, b = x[..., i[0]].to(work), x[..., i[1]].to(work)
        ys[i[0]] = a * column(cos, c[0]) - b * (sign * column(sin, c[0]))
        ys[i[1]] = b * column(cos, c[1]) + a * (sign * column(sin, c[1]))
    return torch.stack(ys, -1).to(x.dtype)


def options() -> list[dict[str, bool]]:
    names = ("interleaved", "conjugate", "adjacent")
    return [dict(zip(names, bits, strict=True)) for bits in itertools.product((False, True), repeat=3)]


def made(layout: str, dtype: torch.dtype, table_dtype: torch.dtype, dim: int, batched: bool) -> tuple[Any, ...]:
    shape, order, seq_dim = LAYOUTS[layout]
    torch.manual_seed(len(layout) + dim)
    q, k = (torch.randn(shape, dtype=torch.float64).to(dtype).permute(order) for _ in range(2))
    rows = q.shape[seq_dim]
    sizes = (2, rows, dim) if batched and seq_dim else (rows, dim)
    cos, sin = torch.randn(2, *sizes, dtype=torch.float64).to(table_dtype)
    return q.to(DEVICE), k.to(DEVICE), cos.to(DEVICE), sin.to(DEVICE), seq_dim


def rotated(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, seq_dim: int, how: dict[str, bool]) -> Any:
    return wide.rotate((q, k), ((cos, sin), (cos, sin)), seq_dim=seq_dim, **how)


def same(y: Tensor, wanted: Tensor) -> None:
    if DEVICE == "cpu":
        assert torch.equal(y, wanted)
    else:  # an assembler may contract a * b + c
        torch.testing.assert_close(y.cpu(), wanted.cpu(), rtol=2e-7 if y.dtype == torch.float32 else 1e-2, atol=1e-6)


@needs_triton
@pytest.mark.parametrize("layout", LAYOUTS)
def test_triton_reads_both_columns_of_a_plane_in_every_layout(layout: str):
    for how, dim, batched in itertools.product(options(), (16, 6), (False, True)):
        q, k, cos, sin, seq_dim = made(layout, torch.float32, torch.float32, dim, batched)
        for x, y in zip((q, k), rotated(q, k, cos, sin, seq_dim, how), strict=True):
            same(y, by_formula(x, cos, sin, seq_dim, how))
            assert y.stride() == torch.empty_like(x).stride()


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("table_dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_triton_takes_tables_of_every_dtype(dtype: torch.dtype, table_dtype: torch.dtype):
    how = {"interleaved": False, "conjugate": False, "adjacent": False}
    q, k, cos, sin, seq_dim = made("transposed", dtype, table_dtype, 12, True)
    for x, y in zip((q, k), rotated(q, k, cos, sin, seq_dim, how), strict=True):
        assert y.dtype == dtype
        same(y, by_formula(x, cos, sin, seq_dim, how))


@needs_triton
def test_triton_gradients_are_those_of_the_formula_and_have_gradients():
    for how in options():
        q, k, cos, sin, seq_dim = made("transposed", torch.float64, torch.float64, 12, True)
        q, k, weight = q.requires_grad_(), k.requires_grad_(), torch.randn_like(q).requires_grad_()
        ours = rotated(q, k, cos, sin, seq_dim, how)
        theirs = tuple(by_formula(x, cos, sin, seq_dim, how) for x in (q, k))
        first = [
            torch.autograd.grad((y[0] * weight).sum() + y[1].square().sum(), (q, k), create_graph=True)
            for y in (ours, theirs)
        ]
        for a, b in zip(*first, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-14)
        second = [torch.autograd.grad(g[0].square().sum(), weight)[0] for g in first]
        torch.testing.assert_close(*second, rtol=0, atol=1e-13)


@needs_triton
def test_triton_gradient_that_arrives_expanded_or_with_more_dimensions_than_the_kernel_has():
    how = {"interleaved": False, "conjugate": False, "adjacent": False}
    q, k, cos, sin, seq_dim = made("contiguous", torch.float32, torch.float32, 16, True)
    q, k = q.requires_grad_(), k.requires_grad_()
    y, _ = rotated(q, k, cos, sin, seq_dim, how)
    (result,) = torch.autograd.grad(y.sum(), q)
    (expected,) = torch.autograd.grad(by_formula(q, cos, sin, seq_dim, how).sum(), q)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)
    x = torch.randn(2, 3, 4, 5, 16, device=DEVICE, requires_grad=True)
    (y,) = wide.rotate((x,), ((cos[0], sin[0]),), seq_dim=3, **how)
    weight = torch.randn(3, 4, 2, 5, 16, device=DEVICE).permute(2, 0, 1, 3, 4)[:, :, torch.tensor([3, 0, 1, 2])]
    (result,) = torch.autograd.grad(y, x, weight.transpose(1, 2).contiguous().transpose(1, 2))
    (expected,) = torch.autograd.grad(by_formula(x, cos[0], sin[0], 3, how), x, weight)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)


@needs_triton
def test_triton_reads_tables_again_at_every_call():
    how = {"interleaved": False, "conjugate": False, "adjacent": False}
    q, k, cos, sin, seq_dim = made("transposed", torch.float32, torch.float32, 16, False)
    for step in range(2):
        cos.data.fill_(float(step))
        same(rotated(q, k, cos, sin, seq_dim, how)[0], by_formula(q, cos, sin, seq_dim, how))


def test_what_the_triton_kernel_does_not_serve_is_left_to_others():
    how = {"interleaved": False, "conjugate": False, "adjacent": False}
    q, k, cos, sin, seq_dim = made("transposed", torch.float32, torch.float32, 16, True)
    assert rotated(q, k.double(), cos, sin, seq_dim, how) is None
    assert rotated(q, k, cos, sin.double(), seq_dim, how) is None
    assert rotated(q, k, cos.clone().requires_grad_(), sin, seq_dim, how) is None
    assert rotated(q, k, cos.to("meta"), sin.to("meta"), seq_dim, how) is None
    assert rotated(q[..., ::2], k[..., ::2], cos[..., :8], sin[..., :8], seq_dim, how) is None
    grad = q[..., ::2].detach().requires_grad_()
    assert rotated(grad, k[..., ::2], cos[..., :8], sin[..., :8], seq_dim, how) is None
    with use_backend("eager"):
        assert rotated(q, k, cos, sin, seq_dim, how) is None
    if not SERVED:
        assert rotated(q, k, cos, sin, seq_dim, how) is None
