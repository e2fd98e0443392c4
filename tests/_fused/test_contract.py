"""One battery over every kernel of rotary.fused. The eager one is judged by numpy, operation by operation, every other one by the eager
one: equal bits on the CPU. Memory layouts and tables are drawn as in tests/_rotation/test_contract.py."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from _rotation import test_contract as rotation
from rotary._fused import eager, sums
from rotary._fused.backends import kernel as find_kernel
from rotary._fused.work import Norm, Store, by_token

KERNELS = ("eager", *(f"native {name}" for name in rotation.SETS))
NORMS = {
    "once": Norm(1e-5, 0.0, False, False),
    "model": Norm(1e-6, 0.0, True, False),
    "offset": Norm(1e-6, 1.0, False, False),
    "after": Norm(1e-5, 0.0, False, True),
    "after, model": Norm(1e-5, 0.0, True, True),
}


@pytest.fixture(params=KERNELS, ids=lambda kernel: kernel.replace(" ", "-"))
def kernel(request: pytest.FixtureRequest) -> Iterator[str]:
    with rotation.chosen(request.param) as name:
        yield name


def weight_of(x: Tensor, seed: int = 0) -> Tensor:
    """Every second number of its memory."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2 * x.shape[-1], generator=generator, dtype=torch.float64).to(x.dtype)[::2]


def memory(t: Tensor) -> Tensor:
    return torch.empty(0, dtype=t.dtype).set_(t.untyped_storage())


def alike(a: Tensor, b: Tensor) -> bool:
    return bool(((a == b) & (a.signbit() == b.signbit()) | (a.isnan() & b.isnan())).all())


def run(name: str, work: rotation.Work, norm: Norm, weighted: bool) -> None:
    """Forward and backward of one kernel on copies of the memory of this work, in place where the work is."""
    xs = tuple(rotation._moved(x, "cpu") for x in work.xs)
    in_place = work.outs[0] is work.xs[0]
    outs = xs if in_place else tuple(rotation._moved(out, "cpu") for out in work.outs)
    weights = tuple(weight_of(x, i) if weighted else None for i, x in enumerate(xs))
    how = {"seq_dim": work.how["seq_dim"], "interleaved": work.how["interleaved"]}
    result = find_kernel(name)
    before = [memory(out).clone() for out in outs]
    assert result.norm_rotate(xs, outs, weights, work.tables, norm, **how) is None, work.description()
    for x, out, old, weight, table in zip(work.xs, outs, before, weights, work.tables, strict=True):
        judge = formula if name == "eager" else eager.formula
        expected = judge(x, weight, *table, norm, **how)
        assert alike(out, expected), f"{name} {norm}, weight {weighted}: {work.description()}"
        kept = torch.ones(old.numel(), dtype=torch.bool)
        kept.as_strided(out.shape, out.stride(), out.storage_offset()).fill_(False)
        assert not ((rotation._bits(memory(out)) != rotation._bits(old)) & kept).any(), work.description()
    if in_place:
        return
    grads = tuple(torch.randn(x.shape, generator=rotation.DRAW).to(x.dtype) for x in xs)
    sums_of = [
        [torch.full(x.shape[-1:], math.nan, dtype=t[0].dtype) for x, t in zip(xs, work.tables, strict=True)]
        for _ in "ab"
    ]
    of_xs = [[torch.full_like(x, math.nan) for x in xs] for _ in "ab"]
    for which, of_x, of_weight in ((name, of_xs[0], sums_of[0]), ("eager", of_xs[1], sums_of[1])):
        given_weights = tuple(of_weight) if weighted else (None,) * len(xs)
        done = find_kernel(which).norm_rotate_backward(
            grads, work.xs, tuple(of_x), given_weights, weights, work.tables, norm, **how
        )
        assert done is None
    for a, b in zip(
        (*of_xs[0], *(sums_of[0] if weighted else ())), (*of_xs[1], *(sums_of[1] if weighted else ())), strict=True
    ):
        assert alike(a, b), f"{name} backward {norm}, weight {weighted}: {work.description()}"


def formula(
    x: Tensor, weight: Tensor | None, cos: Tensor, sin: Tensor, norm: Norm, *, seq_dim: int, interleaved: bool
) -> Tensor:
    """The contract in numpy, row by row and without torch's operations."""
    work = np.float64 if x.dtype == torch.float64 else np.float32
    how: rotation.How = {"seq_dim": seq_dim, "interleaved": interleaved, "conjugate": False}

    def numbers(t: Tensor) -> np.ndarray:
        return (t.float() if t.dtype in (torch.bfloat16, torch.float16) else t).numpy().astype(work)

    def rounded(v: np.ndarray) -> np.ndarray:
        return numbers(rotation._rounded(v, x.dtype))

    def turned(v: np.ndarray) -> np.ndarray:
        whole = torch.from_numpy(v.copy())
        a, b, c, s = (t.numpy() for t in rotation._planes(whole, (cos, sin), how))
        y_a, y_b = a * c - b * s, b * c + a * s
        into = rotation._planes(whole, (cos, sin), how)
        into[0].copy_(torch.from_numpy(y_a)), into[1].copy_(torch.from_numpy(y_b))
        return whole.numpy()

    with np.errstate(all="ignore"):
        v = numbers(x)
        if norm.after:
            v = turned(v)
            v = rounded(v) if norm.model else v
        t = v * v
        size = max(16, 1 << (t.shape[-1] - 1).bit_length())
        t = np.concatenate((t, np.zeros((*t.shape[:-1], size - t.shape[-1]), work)), -1)
        while t.shape[-1] > 1:
            t = t[..., : t.shape[-1] // 2] + t[..., t.shape[-1] // 2 :]
        r = work(1) / np.sqrt(t * work(1 / x.shape[-1]) + work(norm.eps))
        n = v * r
        n = rounded(n) if norm.model else n
        if weight is not None:
            w = numbers(weight)
            n = n * (w + work(norm.weight_offset) if norm.weight_offset else w)
            n = rounded(n) if norm.model else n
        return rotation._rounded(n if norm.after else turned(n), x.dtype)


HEADS = (
    (128, 128),
    (128, 64),
    (96, 96),
    (80, 32),
    (64, 64),
    (16, 2),
    (6, 6),
    (1, 0),
    (7, 4),
    (5, 0),
    (256, 256),
    (24, 14),
    (448, 96),
)


@pytest.mark.parametrize("make", [rotation.numbers, rotation.special])
@pytest.mark.parametrize("dtype", rotation.DTYPES, ids=str)
@pytest.mark.parametrize("interleaved", [False, True], ids=["half", "interleaved"])
def test_numbers(kernel: str, dtype: torch.dtype, interleaved: bool, make: rotation.Maker):
    rotation.DRAW.manual_seed(0)
    how: rotation.How = {"seq_dim": 2, "interleaved": interleaved, "conjugate": False}
    for number, ((channels, dim), norm, weighted) in enumerate(itertools.product(HEADS, NORMS.values(), (True, False))):
        if (number + interleaved) % 6:
            continue
        for work in rotation.works(
            ((2, 3, 5, channels), (2, 1, 5, channels)), dim, dtype, how, layout="shifted", make=make
        ):
            run(kernel, work, norm, weighted or bool(norm.weight_offset))


@pytest.mark.parametrize("shape", [name for name in rotation.SHAPES if name != "no channels"])
def test_loops(kernel: str, shape: str):
    rotation.DRAW.manual_seed(1)
    shapes, seq_dim = rotation.SHAPES[shape]
    layouts = (*rotation.LAYOUTS, *rotation.INPUTS_ONLY)
    for number, (layout, tables) in enumerate(itertools.product(layouts, rotation.TABLES)):
        if (seq_dim == 0 and tables in ("per row", "expanded")) or (number + len(shape)) % 4:
            continue
        interleaved, _ = rotation.DIRECTIONS[number % 4]
        how: rotation.How = {"seq_dim": seq_dim, "interleaved": interleaved, "conjugate": False}
        norm = tuple(NORMS.values())[number % len(NORMS)]
        for work in itertools.islice(
            rotation.works(shapes, 4, rotation.DTYPES[number % 4], how, layout=layout, tables=tables), number % 4 + 1
        ):
            run(kernel, work, norm, True)


@pytest.mark.parametrize("seq_dim", [0, 2])
def test_sizes_that_take_threads_and_chunks(kernel: str, seq_dim: int):
    rotation.DRAW.manual_seed(2)
    sizes, how = [2, 5], rotation.How(seq_dim=seq_dim, interleaved=False, conjugate=False)
    sizes.insert(seq_dim, 71)
    for dtype in (torch.float32, torch.bfloat16):
        for work in itertools.islice(
            rotation.works(((*sizes, 128), (*sizes, 128)), 96, dtype, how, layout="swapped"), 2
        ):
            run(kernel, work, NORMS["once"], True)


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(work=rotation.any_work(), norm=st.sampled_from(list(NORMS.values())), weighted=st.booleans())
def test_any_layout(kernel: str, work: rotation.Work, norm: Norm, weighted: bool):
    run(kernel, work, norm, weighted or bool(norm.weight_offset))


def test_bits_of_the_weights_gradient_know_no_threads_and_no_layout():
    x, grad = torch.randn(2, 300, 5, 128), torch.randn(2, 300, 5, 128)
    cos = sin = torch.randn(300, 64)
    weight, result = torch.randn(128), []

    def total(x: Tensor, grad: Tensor, seq_dim: int) -> Tensor:
        into = torch.empty(128)
        native = find_kernel("native")
        if native.unavailable() is not None:
            pytest.skip("no native library")
        native.norm_rotate_backward(
            (grad,),
            (x,),
            (torch.empty_like(x),),
            (into,),
            (weight,),
            ((cos, sin),),
            NORMS["once"],
            seq_dim=seq_dim,
            interleaved=False,
        )
        return into

    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        result += [total(x, grad, 1), total(x.transpose(1, 2), grad.transpose(1, 2), 2)]
    torch.set_num_threads(before)
    assert all(torch.equal(result[0], other) for other in result)
    exact = (
        eager.gradients(grad, x, weight, cos, sin, NORMS["once"], seq_dim=1, interleaved=False)[1]
        .double()
        .sum((0, 1, 2))
    )
    # Of single sums some cancel; of all of them together the error is a few roundings of float32.
    assert float((result[0].double() - exact).norm() / exact.norm()) <= 1e-6


def test_rsqrt_of_torch_rounds_root_and_quotient_correctly():
    """The definition of the norm: numpy's root and quotient are those of the processor."""
    for dtype in (torch.float32, torch.float64):
        x = torch.rand(200_003, dtype=dtype) * torch.exp(8 * torch.randn(200_003, dtype=dtype))
        assert np.array_equal(torch.rsqrt(x).numpy(), 1 / np.sqrt(x.numpy()))
        assert np.array_equal(torch.rsqrt(x[1:6]).numpy(), 1 / np.sqrt(x[1:6].numpy()))


def test_sums_by_halves_are_sums():
    t = torch.randn(3, 80, dtype=torch.float64)
    torch.testing.assert_close(sums.by_halves(t)[:, 0], t.sum(-1))
    torch.testing.assert_close(sums.over_rows(t.view(3, 1, 80), 1), t.sum(0))
    order = torch.tensor([2.0**53, 1.0, 1.0] + [0.0] * 13, dtype=torch.float64)  # (s0 + s2) + s1 and not s0 + (s1 + s2)
    assert float(sums.by_halves(order)) == 2.0**53


LAYOUTS_OF_CACHES = {
    "pages": lambda pages, page, heads, d, dtype: torch.zeros(pages, page, heads, d, dtype=dtype),
    "heads first": lambda pages, page, heads, d, dtype: torch.zeros(pages, heads, page, d, dtype=dtype).transpose(1, 2),
    "part of a buffer": lambda pages, page, heads, d, dtype: torch.zeros(pages, page, heads, 3 * d, dtype=dtype)[
        ..., d : 2 * d
    ],
    "channels with steps": lambda pages, page, heads, d, dtype: torch.zeros(pages, page, heads, 2 * d, dtype=dtype)[
        ..., ::2
    ],
}


@pytest.mark.parametrize("cache", LAYOUTS_OF_CACHES)
@pytest.mark.parametrize("dtype", rotation.DTYPES, ids=str)
def test_stores(kernel: str, cache: str, dtype: torch.dtype):
    work = torch.float64 if dtype == torch.float64 else torch.float32
    for (shape, seq_dim), slot_dtype, norm in itertools.product(
        (((2, 3, 5, 16), 2), ((2, 5, 3, 16), 1), ((10, 3, 16), 0), ((3, 10, 16), 1)),
        (torch.int64, torch.int32),
        (None, NORMS["once"]),
    ):
        k, q = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
        v = (
            torch.randn(*shape[:-1], 2 * 6).to(dtype)[..., ::2]
            if cache == "heads first"
            else torch.randn(*shape[:-1], 6).to(dtype)
        )
        batch, seq = by_token(k, seq_dim).shape[:2]
        slots = torch.randperm(7 * 4)[: batch * seq].to(slot_dtype).view(batch, seq)
        slots[0, 1] = -1
        table = torch.randn(shape[seq_dim], 8, dtype=work), torch.randn(shape[seq_dim], 8, dtype=work)
        cache_k, cache_v = (LAYOUTS_OF_CACHES[cache](7, 4, 3, d, dtype) for d in (16, 6))
        versions = cache_k._version, cache_v._version
        weights = (None, None) if norm is None else (weight_of(q), weight_of(k))
        outs = torch.empty_like(q), torch.empty_like(k)
        how = {"seq_dim": seq_dim, "interleaved": False}
        done = find_kernel(kernel).rotate_and_store(
            (q, k), outs, weights, (table, table), norm, Store(by_token(v, seq_dim), cache_k, cache_v, slots), **how
        )
        assert done is None and cache_k._version > versions[0] and cache_v._version > versions[1]
        for x, weight, y in zip((q, k), weights, outs, strict=True):
            expected = torch.empty_like(x)
            if norm is None:
                rotation.eager.rotate((x,), (expected,), (table,), **how, conjugate=False)
            else:
                eager.norm_rotate((x,), (expected,), (weight,), (table,), norm, **how)
            assert torch.equal(y, expected)
        expected_k, expected_v = torch.zeros(7, 4, 3, 16, dtype=dtype), torch.zeros(7, 4, 3, 6, dtype=dtype)
        keys, values = by_token(outs[1], seq_dim), by_token(v, seq_dim)
        for b, s in itertools.product(range(batch), range(seq)):
            slot = int(slots[b, s])
            if slot >= 0:
                expected_k[slot // 4, slot % 4], expected_v[slot // 4, slot % 4] = keys[b, s], values[b, s]
        assert torch.equal(cache_k, expected_k) and torch.equal(cache_v, expected_v)


def test_a_head_too_wide_for_the_loops_is_served_by_the_formula():
    from rotary import fused, use_backend

    q = torch.randn(1, 2, 3, 1040)
    cos = sin = torch.ones(3, 4)
    native = find_kernel("native")
    if native.unavailable() is not None:
        pytest.skip("no native library")
    expected = eager.formula(q, None, cos, sin, NORMS["once"], seq_dim=2, interleaved=False)
    assert torch.equal(fused.norm_rotate(q, q, cos, sin, q_weight=None, k_weight=None, eps=1e-5)[0], expected)
    with use_backend("native"), pytest.raises(RuntimeError, match="1024 channels"):
        fused.norm_rotate(q, q, cos, sin, q_weight=None, k_weight=None, eps=1e-5)
