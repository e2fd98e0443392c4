"""The replacement is the function it stands for: values, dtypes, gradients, tables whose halves differ."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from model_bodies import Conformer, by_complex, by_joined, by_rows, prefix, trailing
from rotary.transformers import Body, probe
from rotary.transformers.replace import Halves, Replacement


def usual(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> Any:
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)

    def turn(x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat((-b, a), -1) * sin

    return turn(q), turn(k)


def tables(*shape: int, alike: bool = True) -> tuple[Tensor, Tensor]:
    cos, sin = torch.randn(2, *shape)
    if alike:
        cos, sin = (torch.cat((t[..., : shape[-1] // 2],) * 2, -1) for t in (cos, sin))
    return cos, sin


@pytest.fixture
def ours() -> Replacement:
    body = probe(usual)
    assert isinstance(body, Body)
    return Replacement(usual, body, lambda: True)


@pytest.mark.parametrize(("layout", "where"), [((2, 4, 6, 16), 1), ((2, 6, 4, 16), 2)])
@pytest.mark.parametrize("rows", [1, 2])
def test_both_layouts_with_rows_shared_or_their_own(ours: Replacement, layout: tuple[int, ...], where: int, rows: int):
    q, k = torch.randn(2, *layout)
    cos, sin = tables(rows, 6, 16)
    for given in ((q, k, cos, sin, where), (q, k, cos, sin)):
        if len(given) == 4 and where != 1:
            continue
        for x, y in zip(ours(*given), usual(*given), strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=1e-6)
    for x, y in zip(ours(q=q, k=k, cos=cos, sin=sin, unsqueeze_dim=where), usual(q, k, cos, sin, where), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-6)
    assert ours.calls and not ours.others


def test_gradients_are_those_of_the_function(ours: Replacement):
    q, k = (torch.randn(2, n, 6, 16, requires_grad=True) for n in (4, 2))
    cos, sin = tables(2, 6, 16)
    weights = torch.randn(2, 4, 6, 16), torch.randn(2, 2, 6, 16)
    found, wanted = (
        torch.autograd.grad(sum((y * w).sum() for y, w in zip(f(q, k, cos, sin), weights, strict=True)), (q, k))
        for f in (ours, usual)
    )
    for x, y in zip(found, wanted, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-6)


def test_halves_that_differ_take_the_full_width(ours: Replacement):
    q, k = torch.randn(2, 2, 4, 6, 16)
    cos, sin = tables(2, 6, 16, alike=False)
    for x, y in zip(ours(q, k, cos, sin), usual(q, k, cos, sin), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-6)
    assert (ours.calls, ours.others) == (0, 1)


def test_halves_are_looked_at_once_per_forward(monkeypatch: pytest.MonkeyPatch):
    looked: list[int] = []
    equal = torch.equal
    monkeypatch.setattr(torch, "equal", lambda a, b: looked.append(1) or equal(a, b))
    halves, (cos, sin) = Halves(), tables(2, 6, 16)
    first = halves((cos, sin), Body())
    assert halves((cos, sin), Body()) is first and len(looked) == 2
    cos.mul_(2.0)
    assert torch.equal(halves((cos, sin), Body())[0], cos[..., :8])
    assert halves(tables(2, 6, 16), Body()) is not first


def test_halves_cut_without_a_graph_are_cut_anew_with_one():
    halves, half = Halves(), torch.randn(6, 8, requires_grad=True)
    wide = torch.cat((half, half), -1)
    with torch.no_grad():
        assert not halves((wide, wide), Body())[0].requires_grad
    assert halves((wide, wide), Body())[0].requires_grad


def forms() -> dict[str, tuple[Any, list[Tensor], list[Tensor], int]]:
    """name -> (function, what it rotates, its tables, heads to probe with)."""
    cos, sin = torch.randn(2, 7, 8)
    wide = [torch.cat((t, t), -1) for t in (cos, sin)]
    ids = torch.randint(0, 7, (2, 7))
    return {
        "complex": (
            by_complex,
            [torch.randn(2, 7, n, 16) for n in (4, 2)],
            [torch.complex(cos, sin).expand(2, 7, 8)],
            3,
        ),
        "joined": (by_joined, [torch.randn(2, n, 7, 16) for n in (4, 2)], [torch.cat((sin, cos), -1)[None, None]], 3),
        "rows": (by_rows, [torch.randn(2, 4, 7, 16) for _ in range(3)], [*wide, ids], 3),
        "stacked": (Conformer().rotate, [torch.randn(2, 7, 72)], [torch.randn(2, 7, 1, 1, 6).repeat(1, 1, 1, 1, 2)], 6),
        "trailing": (trailing, [torch.randn(2, 4, 7, 20)], [t[None] for t in wide], 3),
        "prefix": (prefix, [torch.randn(2, 4, 9, 16) for _ in range(2)], wide, 3),
    }


@pytest.mark.parametrize("name", ["complex", "joined", "rows", "stacked", "trailing", "prefix"])
def test_every_form_with_its_gradient(name: str):
    function, xs, given, heads = forms()[name]
    body = probe(function, [(3, 8), (heads, 12)])
    assert isinstance(body, Body)
    ours = Replacement(function, body, lambda: True)
    weights = [torch.randn_like(x) for x in xs]
    found: list[list[Tensor]] = []
    for f in (ours, function):
        leaves = [x.clone().requires_grad_() for x in xs]
        y = f(*(given + leaves if body.form.leads else leaves + given))
        ys = [y] if isinstance(y, Tensor) else list(y)
        total = sum((y * w).sum() for y, w in zip(ys, weights, strict=False))
        found.append([*ys, *(g for g in torch.autograd.grad(total, leaves))])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
    assert (ours.calls, ours.others) == (1, 0)


def test_bfloat16_is_rounded_once_and_keeps_the_dtype_of_the_function(ours: Replacement):
    """Its own arithmetic rounds each product; the error against float64 must not be larger."""
    q, k = torch.randn(2, 2, 4, 64, 16).bfloat16()
    angles = torch.rand(1, 64, 8) * 6.28
    cos, sin = (torch.cat((t, t), -1).bfloat16() for t in (angles.cos(), angles.sin()))
    exact = usual(q.double(), k.double(), cos.double(), sin.double())
    found, theirs = ours(q, k, cos, sin), usual(q, k, cos, sin)
    for x, y, truth in zip(found, theirs, exact, strict=True):
        assert x.dtype == y.dtype == torch.bfloat16
        assert (x.double() - truth).pow(2).mean() <= (y.double() - truth).pow(2).mean()
    assert (
        ours(q, k, cos.float(), sin.float())[0].dtype == usual(q, k, cos.float(), sin.float())[0].dtype == torch.float32
    )


def test_inactive_is_the_original():
    body = probe(usual)
    assert isinstance(body, Body)
    off = Replacement(usual, body, lambda: False)
    q, k = torch.randn(2, 2, 4, 6, 16)
    assert torch.equal(off(q, k, *tables(2, 6, 16))[0], off(q, k, *tables(2, 6, 16))[0]) is False
    assert (off.calls, off.others) == (0, 0)


def test_tables_with_a_gradient_receive_it(ours: Replacement):
    q, k = torch.randn(2, 2, 4, 6, 16)
    half = torch.randn(1, 6, 8, requires_grad=True)
    grads = []
    for f in (ours, usual):
        wide = torch.cat((half, half), -1)
        grads.append(torch.autograd.grad(f(q, k, wide.cos(), wide.sin())[0].sum(), half)[0])
    torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=1e-5)
