"""The GPU kernels of norm, rotation and write against the plain formula: in software bit for bit, on a device within a few roundings."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from rotary._fused import eager, triton
from rotary._fused.work import Norm, Store, by_token
from rotary._rotation import triton as rotation

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.skipif(
    rotation.unavailable() is not None, reason=f"needs the Triton kernel: {rotation.unavailable()}"
)
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
SIZES = (
    (16, 16),
    (12, 8),
    (10, 10),
    (4, 0),
)  # head_dim, channels that turn: the sum fills up, and some channels do not turn


def work_of(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


class Drawn:
    """q and k of 3 and 1 heads in the memory of a projection, tables, weights."""

    def __init__(self, dtype: torch.dtype, dim: int, turned: int, weights: int, batched: bool = True) -> None:
        torch.manual_seed(dim + turned)
        self.xs = tuple(self.tensor(dtype, heads, dim) for heads in (3, 1))
        shape = (2, 5, turned // 2) if batched else (5, turned // 2)
        cos, sin = (torch.randn(shape, dtype=work_of(dtype)).to(DEVICE) for _ in range(2))
        self.tables = ((cos, sin), (0.5 * cos, 2.0 * sin))
        self.weights = tuple(
            (torch.rand(dim) + 0.5).to(dtype).to(DEVICE) if weights >> i & 1 else None for i in range(2)
        )

    @staticmethod
    def tensor(dtype: torch.dtype, heads: int, dim: int) -> Tensor:
        return torch.randn(2, 5, heads, dim).to(dtype).to(DEVICE).transpose(1, 2)


def same(found: Any, wanted: Any) -> None:
    for a, b in zip(found, wanted, strict=True):
        if a is None or b is None:
            assert a is b
        elif DEVICE == "cpu":
            assert torch.equal(a, b)
        else:  # an assembler may contract a * b + c
            torch.testing.assert_close(a, b, rtol=2e-5 if a.dtype == torch.float32 else 2e-2, atol=1e-5)


def empty(xs: Any) -> tuple[Any, ...]:
    return tuple(None if x is None else torch.empty_like(x) for x in xs)


EVERY_FORM = [
    (*how, weights, offset)
    for *how, weights, offset in itertools.product(*((False, True),) * 3, (0, 1, 2, 3), (0.0, 1.0))
    if not offset or (not how[2] and weights == 3)
]
FORMS = (  # interleaved, after, model, which of q and k has a weight, offset
    *(
        (False, False, False, 3, 0.0),
        (True, False, True, 3, 0.0),
        (False, False, False, 3, 1.0),
        (True, True, False, 1, 0.0),
    ),
    *((False, True, True, 2, 0.0), (True, False, False, 0, 0.0)),
)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("dim", "turned"), SIZES)
def test_triton_every_form(dtype: torch.dtype, dim: int, turned: int):
    forms = FORMS if DEVICE == "cpu" else EVERY_FORM
    first, step = (
        (0, 1) if DEVICE != "cpu" or dim == 16 else (dim // 2 % 2, 2)
    )  # compiling takes a third of a second each
    step *= 1 if dtype in (torch.float32, torch.bfloat16) else 2
    for interleaved, after, model, weights, offset in forms[first::step]:
        drawn, norm = Drawn(dtype, dim, turned, weights), Norm(1e-5, offset, model, after)
        how: dict[str, Any] = {"seq_dim": 2, "interleaved": interleaved}
        outs, expected = empty(drawn.xs), empty(drawn.xs)
        eager.norm_rotate(drawn.xs, expected, drawn.weights, drawn.tables, norm, **how)
        assert triton.norm_rotate(drawn.xs, outs, drawn.weights, drawn.tables, norm, **how) is None
        same(outs, expected)


@pytest.mark.parametrize("seq_dim", [0, 1, 2])
def test_triton_in_place_and_in_every_layout(seq_dim: int):
    norm = Norm(1e-6, 0.0, False, False)
    shape = {0: (5, 3, 16), 1: (2, 5, 3, 16), 2: (2, 3, 5, 16)}[seq_dim]
    x, weight = torch.randn(shape).to(DEVICE), torch.rand(16).to(DEVICE)
    cos, sin = torch.randn(2, 5, 8).to(DEVICE)
    how: dict[str, Any] = {"seq_dim": seq_dim, "interleaved": True}
    expected = torch.empty_like(x)
    eager.norm_rotate((x,), (expected,), (weight,), ((cos, sin),), norm, **how)
    version = x._version
    assert triton.norm_rotate((x,), (x,), (weight,), ((cos, sin),), norm, **how) is None
    same((x,), (expected,))
    assert x._version > version


@pytest.mark.parametrize("norm", [None, Norm(1e-6, 1.0, False, False), Norm(1e-6, 0.0, True, True)])
@pytest.mark.parametrize("queries", [False, True])
@pytest.mark.parametrize("heads_first", [False, True])
def test_triton_writes_keys_and_values_by_slot(norm: Norm | None, queries: bool, heads_first: bool):
    drawn = Drawn(torch.bfloat16, 12, 8, 3)
    part = slice(0, 2) if queries else slice(1, 2)
    values = torch.randn(2, 5, 1, 20).bfloat16().to(DEVICE)
    shape = (4, 1, 3) if heads_first else (4, 3, 1)
    slots = torch.tensor([[3, -1, 0, 11, 7], [2, 1, -1, 5, 10]], dtype=torch.int32, device=DEVICE)
    how: dict[str, Any] = {"seq_dim": 2, "interleaved": False}
    results = []
    for kernel in (eager, triton):
        caches = [torch.zeros(*shape, n, dtype=torch.bfloat16, device=DEVICE) for n in (12, 20)]
        seen = [c.transpose(1, 2) for c in caches] if heads_first else caches
        outs = empty(drawn.xs[part])
        weights = drawn.weights[part] if norm else (None,) * len(outs)
        reason = kernel.rotate_and_store(
            drawn.xs[part], outs, weights, drawn.tables[part], norm, Store(values, *seen, slots), **how
        )
        assert reason is None
        results.append((*outs, *caches))
    same(results[1], results[0])


@pytest.mark.parametrize("layout", ["tokens first", "heads first"])
@pytest.mark.parametrize("queries", [False, True])
def test_triton_writes_tokens_of_no_batch_with_all_their_heads(layout: str, queries: bool):
    """More heads than one: each of them reads the slot of its token, and no slot is read past the last."""
    shape, seq_dim = ((5, 3, 16), 0) if layout == "tokens first" else ((3, 5, 16), 1)
    part = slice(0, 2) if queries else slice(1, 2)
    torch.manual_seed(0)
    xs = tuple(torch.randn(shape).to(DEVICE) for _ in range(2))[part]
    cos, sin = torch.randn(2, 5, 8).to(DEVICE)
    memory = torch.tensor([3, -1, 0, 11, 7, *range(12, 24)], device=DEVICE)  # five slots, and what lies behind them
    store = Store(
        by_token(torch.randn(shape).to(DEVICE), seq_dim), *torch.zeros(2, 8, 3, 3, 16).to(DEVICE), memory[None, :5]
    )
    norm = Norm(1e-6, 0.0, False, False) if queries else None
    results = []
    for kernel in (eager, triton):
        outs, caches = empty(xs), [torch.zeros_like(store.cache_k), torch.zeros_like(store.cache_v)]
        filled = Store(store.values, *caches, store.slots)
        how: dict[str, Any] = {"seq_dim": seq_dim, "interleaved": False}
        tables = ((cos, sin),) * len(xs)
        assert kernel.rotate_and_store(xs, outs, (None,) * len(xs), tables, norm, filled, **how) is None
        results.append((*outs, *caches))
    same(results[1], results[0])


@pytest.mark.parametrize("weights", [0, 1, 2, 3])
@pytest.mark.parametrize("empty_one", [0, 1])
def test_triton_a_tensor_of_no_tokens_lends_no_address(empty_one: int, weights: int):
    """Beside it the other is normalised, whichever of them has a weight."""
    drawn, norm = Drawn(torch.float32, 16, 16, weights, batched=False), Norm(1e-6, 0.0, False, False)
    xs, tables = list(drawn.xs), list(drawn.tables)
    xs[empty_one] = torch.empty(2, 3, 0, 16, device=DEVICE)
    assert xs[empty_one].data_ptr() == 0
    cos, sin = tables[empty_one]
    tables[empty_one] = (cos[:0], sin[:0])
    outs, expected = empty(xs), empty(xs)
    how: dict[str, Any] = {"seq_dim": 2, "interleaved": False}
    eager.norm_rotate(tuple(xs), expected, drawn.weights, tuple(tables), norm, **how)
    assert triton.norm_rotate(tuple(xs), outs, drawn.weights, tuple(tables), norm, **how) is None
    same(outs, expected)


def test_triton_what_is_not_served_is_named_and_nothing_is_written():
    norm = Norm(1e-6, 0.0, False, False)
    x, out = torch.randn(2, 2, 2, 2, 8).to(DEVICE), torch.full((2, 2, 2, 2, 8), 7.0).to(DEVICE)
    table = (torch.randn(2, 4).to(DEVICE),) * 2
    assert "two dimensions" in (
        triton.norm_rotate((x,), (out,), (None,), (table,), norm, seq_dim=3, interleaved=False) or ""
    )
    x, out = x[0, 0, :, :, ::2], out[0, 0, :, :, ::2]
    table = (table[0][:, :2], table[1][:, :2])
    assert "adjacent" in (triton.norm_rotate((x,), (out,), (None,), (table,), norm, seq_dim=1, interleaved=False) or "")
    assert bool((out == 7.0).all())
    k, out = torch.randn(3, 2, 8).to(DEVICE), torch.full((3, 2, 8), 7.0).to(DEVICE)  # (heads, tokens, head_dim)
    table = (torch.randn(3, 2, 4).to(DEVICE),) * 2
    caches = torch.full((2, 1, 4, 3, 8), 7.0).to(DEVICE)
    store = Store(by_token(k, 1), *caches, torch.tensor([[0, 1]]).to(DEVICE))
    reason = triton.rotate_and_store((k,), (out,), (None,), (table,), None, store, seq_dim=1, interleaved=False)
    assert "rows for each head" in (reason or "")
    assert bool((out == 7.0).all() and (caches == 7.0).all())
