"""Whole calls in C against the same calls step by step in Python: equal in every bit and property, or declined and the other way's."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from rotary import RotaryEmbedding, _torch, apply_rotary, apply_rotary_qk, use_backend
from rotary._native import functions, library
from rotary._rotation import call, overlap
from support.step_by_step import about, counted, outcome, step_by_step

pytestmark = pytest.mark.skipif(call.unavailable() is not None, reason=str(call.unavailable()))
CALLS = int(os.environ.get("ROTARY_FUZZ", "600"))
ROPE = RotaryEmbedding(16)
COS, SIN = ROPE.cos_sin(5)
X = torch.randn(2, 3, 5, 16, generator=torch.Generator().manual_seed(1))
HALF = (torch.bfloat16, torch.float16)


def both_ways(run: Callable[[], Any]) -> tuple[tuple[Any, ...], tuple[Any, ...], list[str]]:
    """The outcome of a call as users make it, its outcome step by step, and the functions that served the first."""
    with counted() as served:
        whole = outcome(run)
    with step_by_step():
        return whole, outcome(run), served


# --- ordinary calls -------------------------------------------------------------------------------------------------------------

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "dense": lambda x: x,
    "heads after tokens": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "a slice of wider heads": lambda x: torch.cat((x, x), -1)[..., :16],
    "every other token": lambda x: x.repeat_interleave(2, dim=2)[:, :, ::2],
    "batch last but one": lambda x: x.permute(1, 2, 0, 3).contiguous().permute(2, 0, 1, 3),
    "expanded heads": lambda x: x[:, :1].expand(-1, 3, -1, -1),
    "one row for all": lambda x: x[:1, :1, :1].expand(2, 3, 5, 16),
    "a part of a buffer": lambda x: torch.cat((x.reshape(-1), x.reshape(-1)))[7 : 7 + x.numel()].view(x.shape),
    "no tokens": lambda x: x[:, :, :0],
    "no batch": lambda x: x[:0],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALF])
def test_outputs_are_those_of_empty_like_in_every_respect(layout: str, dtype: torch.dtype):
    q, k = LAYOUTS[layout](X.to(dtype)), LAYOUTS[layout](X.to(dtype) + 1)
    cos, sin = ROPE.cos_sin(q.shape[2], torch.float64 if dtype == torch.float64 else torch.float32)
    for interleaved, conjugate in ((False, False), (True, True)):
        whole, steps, served = both_ways(
            lambda: apply_rotary_qk(q, k, cos, sin, interleaved=interleaved, conjugate=conjugate)
        )
        assert whole == steps and served == ["rotate"]
    assert [about(y)[1:8] for y in apply_rotary_qk(q, k, cos, sin)] == [about(torch.empty_like(x))[1:8] for x in (q, k)]
    written, expected = q.clone(), apply_rotary(q, cos, sin)
    with counted() as served:
        assert apply_rotary(written, cos, sin, inplace=True) is written and torch.equal(written, expected)
    assert served == ["rotate"]


SHAPES: dict[str, Callable[[], Any]] = {
    "q and k of one token": lambda: apply_rotary_qk(X[:, :, 4:], X[:, :1, 4:], COS[4:], SIN[4:]),
    "k longer than q": lambda: apply_rotary_qk(X[:, :, 3:], X, COS, SIN),
    "tables of its own for k": lambda: apply_rotary_qk(X, X, COS, SIN, key_cos=2 * COS, key_sin=SIN / 2),
    "k longer, tables of its own": lambda: apply_rotary_qk(X[:, :, 3:], X, COS, SIN, key_cos=2 * COS, key_sin=SIN),
    "sequence first": lambda: apply_rotary(X.permute(2, 0, 1, 3), COS, SIN, seq_dim=0),
    "sequence at 1": lambda: apply_rotary(X.transpose(1, 2), COS, SIN, seq_dim=1),
    "two dimensions": lambda: apply_rotary(X[0, 0], COS, SIN),
    "six dimensions": lambda: apply_rotary(X[None, None], COS, SIN),
    "wider heads": lambda: apply_rotary(torch.cat((X, X), -1), COS, SIN),
    "a row for each of the batch": lambda: apply_rotary(X, torch.stack((COS, SIN)), torch.stack((SIN, COS))),
    "a batch of one": lambda: apply_rotary(X, COS[None], SIN[None]),
    "tables of a larger one": lambda: apply_rotary(X[:, :, :2], torch.cat((COS, COS), -1)[1:3, :8], SIN[3:]),
    "gradients not recorded": lambda: torch.no_grad()(apply_rotary)(X.clone().requires_grad_(), COS, SIN),
    "inference": lambda: torch.inference_mode()(apply_rotary)(X, COS, SIN),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16)(apply_rotary)(X, COS, SIN),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_ordinary_calls_of_every_shape_go_whole(shape: str):
    whole, steps, served = both_ways(SHAPES[shape])
    assert whole == steps and served == ["rotate"]


# --- what is not ordinary goes the other way ---------------------------------------------------------------------------------------


class Subclass(torch.Tensor):
    pass


class Counting(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Seeing(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def under(context: Callable[[], Any]) -> Callable[[Tensor], Any]:
    def run(x: Tensor) -> Any:
        with context():
            return apply_rotary(x, COS, SIN)

    return run


def _dual(x: Tensor) -> tuple[Tensor, Tensor]:
    with forward_ad.dual_level():
        return tuple(forward_ad.unpack_dual(apply_rotary(forward_ad.make_dual(x, 2 * x), COS, SIN)))


def _graph_of_table(x: Tensor) -> Tensor:
    cos = COS.clone().requires_grad_()
    apply_rotary(x, cos, SIN).sum().backward()
    return cos.grad


def _graph(x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    (apply_rotary(2 * leaf, COS, SIN) ** 2).sum().backward()
    return leaf.grad


def _batched_gradients(x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    directions = torch.stack((x, 2 * x))
    return torch.autograd.grad(apply_rotary(leaf, COS, SIN), leaf, directions, is_grads_batched=True)[0]


def _functional(x: Tensor) -> Tensor:
    wrapped = torch._to_functional_tensor(x)
    torch._enable_functionalization(reapply_views=False)
    try:
        return torch._from_functional_tensor(apply_rotary(wrapped, COS, SIN))
    finally:
        torch._disable_functionalization()


NOT_ORDINARY: dict[str, Callable[[Tensor], Any]] = {
    "a graph": _graph,
    "a graph of a table": _graph_of_table,
    "a graph in place": lambda x: apply_rotary(x.clone().requires_grad_() * 1, COS, SIN, inplace=True),
    "batched gradients": _batched_gradients,
    "forward mode": _dual,
    "vmap": lambda x: torch.vmap(lambda x: apply_rotary(x, COS, SIN))(x),
    "vmap of tables": lambda x: torch.vmap(lambda c: apply_rotary(x, c, SIN))(torch.stack((COS, SIN))),
    "jvp": lambda x: torch.func.jvp(lambda x: apply_rotary(x, COS, SIN), (x,), (x,)),
    "functional gradient": lambda x: torch.func.grad(lambda x: (apply_rotary(x, COS, SIN) ** 3).sum())(x),
    "functionalization": lambda x: torch.func.functionalize(lambda x: apply_rotary(x, COS, SIN))(x),
    "a functional tensor": _functional,
    "negative bit": lambda x: apply_rotary(torch._neg_view(x), COS, SIN),
    "negative bit of a table": lambda x: apply_rotary(x, COS, torch._neg_view(SIN)),
    "imaginary part of a conjugate": lambda x: apply_rotary(torch.complex(x, x).conj().imag, COS, SIN),
    "subclass": lambda x: apply_rotary(x.as_subclass(Subclass), COS, SIN).as_subclass(Tensor),
    "subclass of a table": lambda x: apply_rotary(x, COS.as_subclass(Subclass), SIN).as_subclass(Tensor),
    "parameter": lambda x: torch.no_grad()(apply_rotary)(torch.nn.Parameter(x), COS, SIN),
    "meta": lambda x: torch.empty_like(
        apply_rotary(x.to("meta"), COS.to("meta"), SIN.to("meta")), device="cpu"
    ).zero_(),
    "zeros without memory": lambda x: apply_rotary(torch._efficientzerotensor(x.shape), COS, SIN),
    "dispatch mode": under(Counting),
    "function mode": under(Seeing),
    "default device": under(lambda: torch.device("cpu")),
    "a chosen backend": under(lambda: use_backend("native")),
    "the formula chosen": under(lambda: use_backend("eager")),
    "jit trace": lambda x: torch.jit.trace(lambda x: apply_rotary(x, COS, SIN), x, check_trace=False)(2 * x),
    "make_fx": lambda x: make_fx(lambda x: apply_rotary(x, COS, SIN))(x)(2 * x),
    "half tables": lambda x: apply_rotary(x, COS.bfloat16(), SIN.bfloat16()),
    "float64 with float32 tables": lambda x: apply_rotary(x.double(), COS, SIN),
    "channels apart": lambda x: apply_rotary(x.repeat_interleave(2, -1)[..., ::2], COS, SIN),
    "columns apart": lambda x: apply_rotary(x, COS.repeat_interleave(2, -1)[..., ::2], SIN),
    "seventeen dimensions": lambda x: apply_rotary(x[0, 0][(None,) * 15], COS, SIN),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", NOT_ORDINARY)
def test_F58_what_is_not_ordinary_is_declined_and_its_graph_stays_whole(kind: str):
    run = NOT_ORDINARY[kind]
    with counted() as served:
        whole = outcome(lambda: run(X.clone()))
    with step_by_step():
        assert whole == outcome(lambda: run(X.clone()))
    assert served == [] and whole[0] not in ("RuntimeError", "TypeError", "ValueError")


@pytest.mark.parametrize("other", [False, True, None, 0, ..., "key"], ids=str)
def test_what_is_no_tensor_is_declined_and_then_refused(other: Any):
    """In the place of keys above all: C tells one tensor from two by the number of arguments."""
    calls: list[Callable[[], Any]] = [
        lambda: apply_rotary_qk(X, other, COS, SIN),
        lambda: apply_rotary_qk(other, X, COS, SIN),
        lambda: apply_rotary(X, other, SIN),
        lambda: apply_rotary(other, COS, SIN),
    ]
    if other is not None:
        calls += [
            lambda: apply_rotary_qk(X, X, COS, SIN, key_cos=other, key_sin=SIN),
            lambda: ROPE.rotate(X, other),
        ]
    for run in calls:
        with counted() as served, pytest.raises(TypeError, match="must be (a )?tensor"):
            run()
        assert served == []


@pytest.mark.parametrize("flag", ["interleaved", "conjugate", "inplace"])
def test_a_flag_that_is_neither_true_nor_false_is_declined_and_then_refused(flag: str):
    with counted() as served, pytest.raises(TypeError, match=f"{flag} must be True or False, got int 1"):
        apply_rotary(X.clone(), COS, SIN, **{flag: 1})
    assert served == []


def test_fake_tensors_are_declined():
    with FakeTensorMode() as mode, counted() as served:
        y = apply_rotary(mode.from_tensor(X), mode.from_tensor(COS), mode.from_tensor(SIN))
    assert (y.shape, y.stride(), served) == (X.shape, X.stride(), [])
    fake = FakeTensorMode().from_tensor(X)
    with counted() as served, contextlib.suppress(Exception):  # outside of its mode, beside tensors that are real
        apply_rotary(fake, COS, SIN)
    assert served == []


@pytest.mark.parametrize("dynamic", [False, True])
def test_the_compiler_never_sees_the_function(dynamic: bool):
    def rotated(x: Tensor) -> tuple[Tensor, ...]:
        return apply_rotary(x, COS, SIN), *ROPE.rotate(x, x, offset=2), *ROPE.cos_sin(x.shape[2])

    with counted() as served:
        compiled = torch.compile(rotated, fullgraph=True, dynamic=dynamic, backend="eager")(X)
    assert served == []
    assert all(torch.equal(a, b) for a, b in zip(compiled, rotated(X), strict=True))


def test_every_mistake_has_the_error_that_it_has_step_by_step():
    """Arguments that fit together with one or two of them changed."""
    draw = random.Random(int(os.environ.get("ROTARY_FUZZ_SEED", "0")))
    whole_calls = raised = 0
    for number in range(CALLS):
        seed = draw.random()
        results = []
        for _ in range(2):  # the same tensors anew, since one of the two may write over them
            arguments, options = drawn(random.Random(seed))
            run = apply_rotary_qk if len(arguments) == 4 else apply_rotary
            with counted() as served, step_by_step() if results else contextlib.nullcontext():
                answer = outcome(lambda: run(*arguments, **options))
            xs = [x for x in arguments if isinstance(x, Tensor)]
            results.append(
                (answer, [about(x) if x.layout is torch.strided else 0 for x in xs], [x._version for x in xs])
            )
            whole_calls += len(served)
        assert results[0] == results[1], f"call {number} of seed {seed}: {results[0][0][:2]} and {results[1][0][:2]}"
        raised += isinstance(results[0][0][0], str)
    assert whole_calls > CALLS // 4 and raised > CALLS // 8


def drawn(draw: random.Random) -> tuple[list[Any], dict[str, Any]]:
    generator = torch.Generator().manual_seed(draw.randrange(1 << 30))

    def made(shape: list[int], dtype: torch.dtype) -> Tensor:
        kind = draw.choice(("dense", "dense", "dense", "slice", "permuted", "apart", "expanded", "graph"))
        wide = [n + 2 for n in shape] if kind == "slice" else shape
        x = torch.randn(wide, generator=generator).to(dtype)
        if kind == "slice":
            x = x[tuple(slice(1, n + 1) for n in shape)]
        if kind == "permuted" and len(shape) > 2:
            x = x.transpose(0, -2).contiguous().transpose(0, -2)
        if kind == "apart":
            x = torch.cat((x, x), -1).unflatten(-1, (2, -1)).transpose(-1, -2)[..., 0] if shape[-1] else x
        if kind == "expanded" and shape[0] > 1:
            x = x[:1].expand(shape)
        return x.requires_grad_() * 1 if kind == "graph" and draw.random() < 0.3 and x.is_floating_point() else x

    pair, dtype = draw.random() < 0.6, draw.choice((torch.float32, torch.float64, *HALF))
    ndim = draw.choice((2, 3, 4, 4, 5))
    shape = [draw.choice((0, 1, 2, 3)) for _ in range(ndim - 1)] + [draw.choice((2, 8, 10))]
    axis = draw.randrange(ndim - 1)
    shape[axis] = draw.choice((1, 2, 5))
    work = torch.float64 if dtype == torch.float64 else torch.float32
    table = [*draw.choice(([], [], [1], [shape[0]])), shape[axis], draw.randrange(1, shape[-1] // 2 + 1)]
    shorter = list(shape)
    shorter[axis] = draw.randrange(shape[axis] + 1) if draw.random() < 0.3 else shape[axis]
    arguments: list[Any] = [made(shorter, dtype), made(shape, dtype)] if pair else [made(shape, dtype)]
    arguments += [made(table, work), made(table, work)]
    options: dict[str, Any] = {name: draw.random() < 0.4 for name in ("interleaved", "conjugate", "inplace")}
    options["seq_dim"] = draw.choice((axis, axis - ndim))
    if pair and draw.random() < 0.2:
        options |= {"key_cos": made(table, work), "key_sin": made(table, work)}
    for _ in range(draw.choice((0, 0, 1, 2))):
        place, change = draw.randrange(len(arguments)), draw.randrange(6)
        one = arguments[place]
        if change == 0:
            options["seq_dim"] = draw.choice((-9, -1, 0, 1, 9, None, True, 1.0))
        elif change == 1 and isinstance(one, Tensor):
            arguments[place] = made([max(n + draw.choice((-1, 0, 0, 1)), 0) for n in one.shape], one.dtype)
        elif change == 2 and isinstance(one, Tensor):
            arguments[place] = one.detach().to(draw.choice((torch.int64, torch.bool, torch.float64, *HALF)))
        elif change == 3:
            arguments[place] = draw.choice((None, 1.0, one[None] if isinstance(one, Tensor) else one))
        elif change == 4 and len(arguments) == 4:
            arguments[1] = arguments[0]  # in place they share memory
        elif change == 5 and len(arguments) == 4:
            options["key_cos"] = draw.choice((None, arguments[-1]))
    return arguments, options


# --- in place ----------------------------------------------------------------------------------------------------------------------


def test_in_place_counts_its_writes_as_torch_does():
    q, k = X.clone(), X.clone()
    before = q._version, k._version
    with counted() as served:
        assert all(a is b for a, b in zip(apply_rotary_qk(q, k, COS, SIN, inplace=True), (q, k), strict=True))
        with torch.inference_mode():
            apply_rotary_qk(q, torch.randn(2, 3, 5, 16), COS, SIN, inplace=True)  # k has no counter
    assert (q._version, k._version) == (before[0] + 2, before[1] + 1) and served == ["rotate"] * 2
    weight = torch.randn(16, requires_grad=True)
    y = (weight * k).sum()
    apply_rotary(k, COS, SIN, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_queries_and_keys_of_one_projection_go_whole_in_place():
    for batch, tokens in ((1, 1), (3, 1), (2, 7)):
        qkv = torch.randn(batch, tokens, 4, 16)
        q, k = qkv[:, :, :2].transpose(1, 2), qkv[:, :, 2:3].transpose(1, 2)
        cos, sin = ROPE.cos_sin(tokens)
        with use_backend("eager"):
            expected = apply_rotary_qk(q, k, cos, sin)
        with counted() as served:
            result = apply_rotary_qk(q, k, cos, sin, inplace=True)
        assert served == ["rotate"] and all(map(torch.equal, result, expected))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 9)), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 9)), min_size=1, max_size=3),
    st.integers(0, 12),
)
def test_memory_is_shared_where_the_search_in_python_says_so(
    first: list[tuple[int, int]], second: list[tuple[int, int]], start: int
):
    """In place is served exactly where no element is written twice."""
    memory = torch.randn(200)
    ndim = max(len(first), len(second))

    def view(dims: list[tuple[int, int]], start: int) -> Tensor:
        """(size, stride) of each dimension but the channels, filled up in front with dimensions of size 1."""
        filled = [(1, 1)] * (ndim - len(dims)) + dims
        return memory.as_strided([*(size for size, _ in filled), 2], [*(stride for _, stride in filled), 1], start)

    x, y = view(first, 0), view(second, start)
    y = y[..., : x.shape[-2], :] if y.shape[-2] > x.shape[-2] else y
    x = x[..., : y.shape[-2], :]
    cos, sin = torch.ones(x.shape[-2], 1), torch.zeros(x.shape[-2], 1)
    alone = overlap.overlaps_itself(x)
    together = alone or overlap.overlaps_itself(y) or overlap.overlap(x, y)
    assert (call.rotate(x, cos, sin, -2, False, False, True) is None) == alone
    if x.ndim <= 3 or x.shape[0] == y.shape[0]:
        assert (call.rotate(x, y, cos, sin, None, None, -2, False, False, True) is None) == together


# --- the functions themselves --------------------------------------------------------------------------------------------------------


def test_no_number_of_arguments_is_an_error():
    call.load()
    for function in (call.rotate, call.rotate_at, call.tables_at):
        for count in range(14):
            assert function(*[None] * count) is None
    assert call.plan(b"") is None and call.plan(bytes(8 * 11)) is None
    with pytest.raises(TypeError):
        call.plan(None)  # pyright: ignore[reportArgumentType]


def test_the_error_of_the_thread_pool_is_raised():
    loaded = library.load()
    assert not isinstance(loaded, str)
    failing = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_int64] * 3, *[ctypes.c_void_p] * 2)(lambda *_: 1)
    x, rope = torch.randn(1, 4, 2000, 128), RotaryEmbedding(128)
    cos, sin = rope.cos_sin(2000)
    loaded.rotary_threads(ctypes.cast(failing, ctypes.c_void_p))
    try:
        for run in (lambda: apply_rotary(x, cos, sin), lambda: rope.rotate(x), lambda: rope.cos_sin(2000)):
            with pytest.raises(RuntimeError, match="torch's thread pool reported an error"):
                run()
    finally:
        loaded.rotary_threads(_torch.parallel_for())
    assert torch.equal(apply_rotary(x, cos, sin), rope.rotate(x))


@pytest.mark.parametrize(
    ("name", "answer", "words"),
    [("exchange_api", None, "has no C exchange table"), ("questions", None, "does not tell which modes")],
)
def test_a_torch_that_cannot_be_read_takes_the_other_way_and_says_why(
    name: str, answer: None, words: str, monkeypatch: pytest.MonkeyPatch
):
    expected = apply_rotary(X, COS, SIN)
    functions.load.cache_clear()
    monkeypatch.setattr(functions._torch, name, lambda: answer)
    for own in ("rotate", "plan", "rotate_at", "tables_at"):
        monkeypatch.setattr(call, own, getattr(call, own))
    call.load()
    assert words in str(call.unavailable())
    assert call.rotate is call.declined and torch.equal(apply_rotary(X, COS, SIN), expected)
    functions.load.cache_clear()
