"""A Replacement computes what the function does that it replaces: values, dtypes, gradients, tables whose halves differ.

Tests of `route` run twice: as on a CPU, where halves are compared, and as on a device, where the GPU kernel reads full-width tables
without comparing. The second needs the kernel, in software (TRITON_INTERPRET=1, ROTARY_CHIP=90) or on a device.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from rotary._rotation import triton
from rotary.transformers import RotationSpec, probe, wrapper
from rotary.transformers.halves import equal_halves
from rotary.transformers.wrapper import Replacement
from zoo.functions import Conformer, complex_table, gathered_tables, joined_table, prefix, rotate_half, trailing


def usual(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> Any:
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return rotate_half(q, cos, sin), rotate_half(k, cos, sin)


def tables(*shape: int, equal_halves: bool = True) -> tuple[Tensor, Tensor]:
    cos, sin = torch.randn(2, *shape)
    if equal_halves:
        cos, sin = (torch.cat((t[..., : shape[-1] // 2],) * 2, -1) for t in (cos, sin))
    return cos, sin


def wrapped(function: Any, *sizes: tuple[int, int], active: bool = True) -> Replacement:
    spec = probe(function, sizes or [(3, 8)])
    assert isinstance(spec, RotationSpec)
    return Replacement(function, spec, lambda: active, [heads for heads, _ in sizes] or (3,))


@pytest.fixture
def ours() -> Replacement:
    return wrapped(usual)


@pytest.fixture(params=["compared", "triton"])
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "triton":
        if triton.unavailable() is not None or torch.cuda.is_available():
            pytest.skip("needs the GPU kernel in software")
        monkeypatch.setattr(wrapper, "compared_for_free", lambda _, spec: spec.widths in ("first", "half"))

        def never(arguments: Any, spec: RotationSpec) -> Any:
            return equal_halves(arguments, spec) if spec.widths in ("first", "half") else pytest.fail("compared")

        monkeypatch.setattr(wrapper, "equal_halves", never)
    return request.param


@pytest.mark.parametrize(("layout", "axis"), [((2, 4, 6, 16), 1), ((2, 6, 4, 16), 2)])
@pytest.mark.parametrize("rows", [1, 2])
def test_both_layouts_with_rows_shared_or_per_batch(
    ours: Replacement, route: str, layout: tuple[int, ...], axis: int, rows: int
):
    q, k = torch.randn(2, *layout)
    cos, sin = tables(rows, 6, 16)
    for arguments in ((q, k, cos, sin, axis), (q, k, cos, sin)):
        if len(arguments) == 4 and axis != 1:
            continue
        for x, y in zip(ours(*arguments), usual(*arguments), strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=1e-6)
    for x, y in zip(ours(q=q, k=k, cos=cos, sin=sin, unsqueeze_dim=axis), usual(q, k, cos, sin, axis), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-6)
    assert ours.calls and not ours.fallbacks


def test_gradients_are_those_of_the_function(ours: Replacement, route: str):
    q, k = (torch.randn(2, n, 6, 16, requires_grad=True) for n in (4, 2))
    cos, sin = tables(2, 6, 16)
    weights = torch.randn(2, 4, 6, 16), torch.randn(2, 2, 6, 16)
    actual, expected = (
        torch.autograd.grad(sum((y * w).sum() for y, w in zip(f(q, k, cos, sin), weights, strict=True)), (q, k))
        for f in (ours, usual)
    )
    for x, y in zip(actual, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-6)


def test_halves_that_differ_take_the_full_width(ours: Replacement, route: str):
    q, k = torch.randn(2, 2, 4, 6, 16)
    cos, sin = tables(2, 6, 16, equal_halves=False)
    for x, y in zip(ours(q, k, cos, sin), usual(q, k, cos, sin), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-6)
    assert (ours.calls, ours.fallbacks) == ((1, 0) if route == "triton" else (0, 1))


@pytest.mark.parametrize("write", ["in place", "data", "numpy", "inference"])
def test_F51_halves_follow_every_write_to_a_table(write: str):
    """A cache by identity and version missed writes that no version counts: static buffers of CUDA graphs, .data, numpy."""
    spec, (cos, sin) = RotationSpec(), tables(2, 6, 16)
    if write == "inference":
        with torch.inference_mode():
            cos, sin = cos.clone(), sin.clone()
    for step in range(3):
        new = torch.cat((torch.full((2, 6, 8), float(step)),) * 2, -1)
        if write == "in place":
            cos.copy_(new)
        elif write == "data":
            cos.data.copy_(new)
        elif write == "numpy":
            cos.numpy()[:] = new.numpy()
        else:
            with torch.inference_mode():
                cos.copy_(new)
        assert torch.equal(equal_halves((cos, sin), spec)[0], new[..., :8])
    uneven = cos.clone()
    uneven[..., 0] += 1.0
    assert equal_halves((uneven, sin), spec) is None


def test_F51_a_write_through_data_reaches_the_next_call(ours: Replacement, route: str):
    """On a device halves were kept by identity and version of the tables, which .data does not count."""
    q, k = torch.randn(2, 2, 4, 6, 16)
    cos, sin = tables(1, 6, 16)
    for step in (1.0, 2.0):
        cos.data.fill_(step)
        for x, y in zip(ours(q, k, cos, sin), usual(q, k, cos, sin), strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=1e-6)
    assert (ours.calls, ours.fallbacks) == (2, 0)


def forms() -> dict[str, tuple[Any, list[Tensor], list[Tensor], int]]:
    """name -> (function, the tensors it rotates, the arguments with its tables, heads to probe with)."""
    cos, sin = torch.randn(2, 7, 8)
    wide = [torch.cat((t, t), -1) for t in (cos, sin)]
    ids = torch.randint(0, 7, (2, 7))
    stacked = torch.randn(2, 7, 1, 1, 6).repeat(1, 1, 1, 1, 2)
    complex_rows = torch.complex(cos, sin).expand(2, 7, 8)
    return {
        "complex": (complex_table, [torch.randn(2, 7, n, 16) for n in (4, 2)], [complex_rows], 3),
        "joined": (
            joined_table,
            [torch.randn(2, n, 7, 16) for n in (4, 2)],
            [torch.cat((sin, cos), -1)[None, None]],
            3,
        ),
        "gathered": (gathered_tables, [torch.randn(2, 4, 7, 16) for _ in range(3)], [*wide, ids], 3),
        "stacked": (Conformer().rotate, [torch.randn(2, 7, 72)], [stacked], 6),
        "trailing": (trailing, [torch.randn(2, 4, 7, 20)], [t[None] for t in wide], 3),
        "prefix": (prefix, [torch.randn(2, 4, 9, 16) for _ in range(2)], wide, 3),
    }


@pytest.mark.parametrize("name", ["complex", "joined", "gathered", "stacked", "trailing", "prefix"])
def test_every_form_with_its_gradient(name: str, route: str):
    function, xs, arguments, heads = forms()[name]
    ours = wrapped(function, (3, 8), (heads, 12))
    weights = [torch.randn_like(x) for x in xs]
    results: list[list[Tensor]] = []
    for f in (ours, function):
        leaves = [x.clone().requires_grad_() for x in xs]
        y = f(*(arguments + leaves if ours.spec.form.tables_first else leaves + arguments))
        ys = [y] if isinstance(y, Tensor) else list(y)
        total = sum((y * w).sum() for y, w in zip(ys, weights, strict=False))
        results.append([*ys, *(g for g in torch.autograd.grad(total, leaves))])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    assert (ours.calls, ours.fallbacks) == (1, 0)


def test_bfloat16_is_rounded_once_and_keeps_the_dtype_of_the_function(ours: Replacement):
    """The function rounds each product; the error against float64 must not be larger than its error."""
    q, k = torch.randn(2, 2, 4, 64, 16).bfloat16()
    angles = torch.rand(1, 64, 8) * 6.28
    cos, sin = (torch.cat((t, t), -1).bfloat16() for t in (angles.cos(), angles.sin()))
    exact = usual(q.double(), k.double(), cos.double(), sin.double())
    for x, y, truth in zip(ours(q, k, cos, sin), usual(q, k, cos, sin), exact, strict=True):
        assert x.dtype == y.dtype == torch.bfloat16
        assert (x.double() - truth).pow(2).mean() <= (y.double() - truth).pow(2).mean()
    assert (
        ours(q, k, cos.float(), sin.float())[0].dtype == usual(q, k, cos.float(), sin.float())[0].dtype == torch.float32
    )


def test_inactive_is_the_original():
    off, (q, k), (cos, sin) = wrapped(usual, active=False), torch.randn(2, 2, 4, 6, 16), tables(2, 6, 16)
    assert torch.equal(off(q, k, cos, sin)[0], usual(q, k, cos, sin)[0])
    assert (off.calls, off.fallbacks) == (0, 0)


def test_tables_with_a_gradient_receive_it(ours: Replacement):
    q, k = torch.randn(2, 2, 4, 6, 16)
    half = torch.randn(1, 6, 8, requires_grad=True)
    grads = []
    for f in (ours, usual):
        wide = torch.cat((half, half), -1)
        grads.append(torch.autograd.grad(f(q, k, wide.cos(), wide.sin())[0].sum(), half)[0])
    torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=1e-5)


WIDE = 16


def otherwise_when_wide(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:
    """Turns the other way where heads are wide: found out when that size is met, since probing sees heads of 8 channels alone."""
    if q.shape[-1] >= WIDE:
        sin = -sin
    return rotate_half(q, cos, sin), rotate_half(k, cos, sin)


def test_F47_a_size_that_was_not_probed_is_tried_when_it_is_met():
    ours = wrapped(otherwise_when_wide)
    for dim, served in ((8, True), (12, True), (16, False), (32, False), (8, True)):
        q, k = torch.randn(2, 2, 4, 6, dim)
        cos, sin = tables(6, dim)
        before = ours.calls
        for x, y in zip(ours(q, k, cos, sin), otherwise_when_wide(q, k, cos, sin), strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=1e-6)
        assert ours.calls == before + served and ours.fits(dim, dim) == served


def test_under_torch_compile_a_size_that_is_unknown_is_left_to_the_function():
    ours, counts = wrapped(otherwise_when_wide), torch.compile(lambda *x: ours(*x), backend="eager", fullgraph=True)
    for dim in (8, 16):
        q, k = torch.randn(2, 2, 4, 6, dim)
        arguments = (q, k, *tables(6, dim))
        for x, y in zip(counts(*arguments), otherwise_when_wide(*arguments), strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=1e-6)


Arguments = tuple[Tensor, Tensor, Tensor, Tensor]


def random_arguments(*, equal_halves: bool = True) -> Arguments:
    q, k = torch.randn(2, 2, 4, 6, 8)
    return (q, k, *tables(2, 6, 8, equal_halves=equal_halves))


def assert_same(ours: Any, function: Any, arguments: Arguments):
    for x, y in zip(ours(*arguments), function(*arguments), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic", "jit"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_recorded_program_serves_tables_whose_halves_differ(ours: Replacement, mode: str):
    """It was recorded with equal halves: their comparison may not become part of it."""
    arguments = random_arguments()
    if mode == "jit":
        program = torch.jit.trace(lambda *x: ours(*x), arguments, check_trace=False)
    else:
        program = make_fx(lambda *x: ours(*x), tracing_mode=mode)(*arguments)
    assert_same(program, usual, random_arguments(equal_halves=False))
    assert_same(program, usual, random_arguments())


@pytest.mark.parametrize("size", [8, 12])
def test_fake_tensors_have_the_shapes_of_the_function(ours: Replacement, size: int):
    q, k = torch.randn(2, 2, 4, 6, size)
    with FakeTensorMode() as mode:
        arguments = [mode.from_tensor(x) for x in (q, k, *tables(2, 6, size))]
        assert [y.shape for y in ours(*arguments)] == [y.shape for y in usual(*arguments)]


def test_vmap_over_queries_and_over_tables(ours: Replacement):
    q, k, cos, sin = (torch.stack((x, x + 1.0)) for x in random_arguments())
    for in_dims, arguments in (((0, 0, None, None), (q, k, cos[0], sin[0])), (0, (q, k, cos, sin))):
        assert_same(*(torch.func.vmap(f, in_dims=in_dims) for f in (ours, usual)), arguments)
