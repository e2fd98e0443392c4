"""The registered operators: torch's own opcheck, the same bits by every way, gradients of every kind, one node in a program."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch._inductor.utils import run_and_get_code
from torch.autograd import gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

import rotary
from rotary import RotaryEmbedding, operators, use_backend
from rotary._rotation import backends
from support import warm

ROTATE, ROTATE_ = torch.ops.rotary.rotate.default, torch.ops.rotary.rotate_.default


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Case(NamedTuple):
    """What is rotated, as the operators take it. `layout`: heads in memory before the sequence, after it, or inside a fused qkv."""

    shapes: tuple[tuple[int, ...], ...] = ((2, 4, 5, 8), (2, 2, 5, 8))
    planes: int = 4
    rows: int | None = None
    dtype: torch.dtype = torch.float32
    layout: str = "dense"
    seq_dim: int = 2
    interleaved: bool = False
    conjugate: bool = False

    def arguments(self, grad: bool = False) -> tuple[Any, ...]:
        draw = torch.Generator().manual_seed(0)
        xs, tables = [], []
        for shape in self.shapes:
            x = torch.randn(shape, generator=draw).to(self.dtype)
            if self.layout == "transposed":
                x = x.transpose(1, 2).contiguous().transpose(1, 2)
            elif self.layout == "fused":  # strides with gaps
                x = torch.cat((x, x, x), -1)[..., shape[-1] : 2 * shape[-1]]
            elif self.layout == "strided":  # no kernel reads it
                x = x.transpose(-1, -2).contiguous().transpose(-1, -2)
            xs.append(x.detach().requires_grad_(grad))
            work = torch.float64 if self.dtype == torch.float64 else torch.float32
            size = (*(() if self.rows is None else (self.rows,)), shape[self.seq_dim], self.planes)
            angles = torch.randn(size, generator=draw, dtype=work)
            tables += [angles.cos(), angles.sin()]
        return xs, tables, self.seq_dim, self.interleaved, self.conjugate

    def wanted(self) -> list[Tensor]:
        """By rotary.apply_rotary."""
        xs, tables, *_ = self.arguments()
        how = {"seq_dim": self.seq_dim, "interleaved": self.interleaved, "conjugate": self.conjugate}
        return [rotary.apply_rotary(x, *tables[2 * i : 2 * i + 2], **how) for i, x in enumerate(xs)]


CASES = {
    "plain": Case(),
    "interleaved": Case(interleaved=True),
    "conjugate": Case(conjugate=True),
    "q alone": Case(shapes=((2, 4, 5, 8),), interleaved=True, conjugate=True),
    "partial": Case(planes=3),
    "partial, interleaved": Case(planes=1, interleaved=True, dtype=torch.bfloat16),
    "one key head": Case(shapes=((1, 6, 5, 8), (1, 1, 5, 8))),
    "shorter q": Case(shapes=((2, 4, 2, 8), (2, 4, 5, 8))),
    "one token": Case(shapes=((3, 4, 1, 8), (3, 2, 1, 8)), rows=3),
    "bfloat16": Case(dtype=torch.bfloat16),
    "float16": Case(dtype=torch.float16, conjugate=True),
    "float64": Case(dtype=torch.float64),
    "transposed": Case(layout="transposed"),
    "sequence second": Case(shapes=((2, 5, 4, 8), (2, 5, 2, 8)), seq_dim=1, interleaved=True),
    "sequence first": Case(shapes=((5, 2, 4, 8), (5, 2, 1, 8)), seq_dim=0, rows=1),
    "a row each": Case(rows=2, layout="transposed"),
    "a row for all": Case(rows=1),
    "fused": Case(layout="fused", planes=3),
    "strided": Case(layout="strided"),
    "two dimensions": Case(shapes=((5, 8),), seq_dim=0),
    "empty": Case(shapes=((2, 4, 0, 8), (2, 2, 0, 8))),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@every_case
@pytest.mark.parametrize("grad", [False, True], ids=["", "gradients"])
@pytest.mark.parametrize("op", [ROTATE, ROTATE_], ids=["rotate", "rotate_"])
def test_opcheck(op: Any, grad: bool, case: Case):
    xs, *rest = case.arguments(grad)
    if op is ROTATE_ and grad:  # a leaf that requires a gradient cannot be written over; another tensor can
        checks = ("test_schema", "test_autograd_registration", "test_faketensor")
        torch.library.opcheck(op, ([x * 1 for x in xs], *rest), test_utils=checks)
    else:
        torch.library.opcheck(op, (xs, *rest))


@every_case
@pytest.mark.parametrize("backend", [None, "eager"])
def test_the_operators_have_the_bits_and_strides_of_the_functions(case: Case, backend: str | None):
    expected = case.wanted()
    xs, *rest = case.arguments()
    before = [x.clone() for x in xs]

    def rotate() -> list[Tensor]:
        ys = ROTATE(xs, *rest)
        assert all(torch.equal(x, b) for x, b in zip(xs, before, strict=True))
        assert ROTATE_(xs, *rest) is None
        return ys

    if backend is None:
        ys = rotate()
    else:
        with use_backend(backend):
            ys = rotate()
    for x, y, w in zip(xs, ys, expected, strict=True):
        assert torch.equal(y, w) and y.dtype == w.dtype and y.stride() == w.stride()
        assert torch.equal(x, w)


@every_case
def test_compiled_operators_have_the_same_bits(case: Case):
    xs, *rest = case.arguments()
    held = [x.clone(memory_format=torch.preserve_format) for x in xs]

    def both(xs: list[Tensor], held: list[Tensor], tables: list[Tensor]) -> list[Tensor]:
        ROTATE_(held, tables, *rest[1:])
        return ROTATE(xs, tables, *rest[1:])

    ys = torch.compile(both, fullgraph=True)(xs, held, rest[0])
    for h, y, w in zip(held, ys, case.wanted(), strict=True):
        assert torch.equal(y, w) and torch.equal(h, w) and y.stride() == w.stride()


def inputs(dtype: torch.dtype = torch.float64, grad: bool = True, seq: int = 4) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    q = torch.randn(2, 3, seq, 10, generator=draw).to(dtype).requires_grad_(grad)
    k = torch.randn(2, 1, seq, 10, generator=draw).to(dtype).requires_grad_(grad)
    return q, k


def tables(seq: int = 4, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return RotaryEmbedding(8).cos_sin(seq, dtype)


def equal(found: Any, wanted: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("name", ["apply_rotary", "apply_rotary_qk"])
def test_the_front_door_is_that_of_rotary(name: str):
    ours, theirs = getattr(operators, name), getattr(rotary, name)
    assert inspect.signature(ours) == inspect.signature(theirs)
    q, k = inputs(torch.float32, grad=False)
    given = (q,) if name == "apply_rotary" else (q, k)
    cos, sin = tables(dtype=torch.float32)
    wrong: list[tuple[Any, ...]] = [
        (*given, cos[:3], sin[:3]),
        (*given, cos, sin[:, :2]),
        (*given, cos.int(), sin.int()),
        (*given, torch.ones(4, 6), torch.ones(4, 6)),
        (*given, torch.ones(3, 4, 4), torch.ones(3, 4, 4)),
        (*(x.int() for x in given), cos, sin),
        (*given, cos.to("meta"), sin.to("meta")),
        *([(k, q[:, :, :3], cos, sin), (q, k.half(), cos, sin)] if len(given) == 2 else []),
    ]
    for arguments in wrong:
        with pytest.raises((TypeError, ValueError)) as refusal:
            theirs(*arguments)
        with pytest.raises(refusal.type) as result:
            ours(*arguments)
        assert str(result.value) == str(refusal.value)


def test_the_front_door_settles_arguments():
    q, k = inputs(torch.bfloat16, grad=False, seq=6)
    cos, sin = tables(6)
    key = RotaryEmbedding(8, base=100).cos_sin(6)
    cases: list[tuple[tuple[Tensor, ...], dict[str, Any]]] = [
        ((q, k, cos, sin), {"interleaved": True}),
        ((q[:, :, 3:], k, cos, sin), {"conjugate": True}),
        ((q, k, cos, sin), {"key_cos": key[0], "key_sin": key[1]}),
        ((q.transpose(1, 2), k.transpose(1, 2), cos, sin), {"seq_dim": -3}),
    ]
    for given, options in cases:
        expected = rotary.apply_rotary_qk(*given, **options)
        assert equal(operators.apply_rotary_qk(*given, **options), expected)
        compiled = torch.compile(operators.apply_rotary_qk, fullgraph=True, backend="aot_eager")
        assert equal(compiled(*given, **options), expected)
        x, y = given[0].clone(), given[1].clone()
        written = operators.apply_rotary_qk(x, y, *given[2:], inplace=True, **options)
        assert written[0] is x and written[1] is y and equal(written, expected)
    assert equal([operators.apply_rotary(q, cos, sin)], [rotary.apply_rotary(q, cos, sin)])
    x = q.clone()
    assert operators.apply_rotary(x, cos, sin, inplace=True) is x
    assert torch.equal(x, rotary.apply_rotary(q, cos, sin))


def nodes(call: Callable[..., Any], *arguments: Any) -> tuple[list[Any], int]:
    """Operators of rotary that the compiler finds in a call, and how many graphs it makes."""
    result: list[Any] = []
    count = 0

    def look(graph: torch.fx.GraphModule, _: Any) -> Any:
        nonlocal count
        count += 1
        result.extend(n.target for n in graph.graph.nodes if n.op == "call_function" and "rotary" in str(n.target))
        return graph

    torch.compile(call, fullgraph=True, backend=look)(*arguments)
    return result, count


def test_one_node_in_one_graph_for_who_chooses_it_and_none_by_default():
    q, k = inputs(grad=False)
    assert nodes(operators.apply_rotary_qk, q, k, *tables()) == ([ROTATE], 1)
    assert nodes(lambda *given: operators.apply_rotary_qk(*given, inplace=True), q, k, *tables()) == ([ROTATE_], 1)
    assert nodes(operators.apply_rotary, q, *tables()) == ([ROTATE], 1)
    assert nodes(rotary.apply_rotary_qk, q, k, *tables()) == ([], 1)
    assert nodes(RotaryEmbedding(8).rotate, q, k) == ([], 1)


@pytest.mark.parametrize("backend", ["inductor", None])
def test_lengths_that_change_compile_twice_at_most(backend: str | None):
    counter = CompileCounter()
    compiled = torch.compile(operators.apply_rotary_qk, fullgraph=True, backend=backend or counter)
    for seq in (7, 1, 9, 2, 3, 11) if backend is None else (7, 9, 3):
        q, k = inputs(torch.float32, grad=False, seq=seq)
        cos, sin = tables(seq)
        assert equal(compiled(q, k, cos, sin), rotary.apply_rotary_qk(q, k, cos, sin))
    assert counter.frame_count <= 3  # one of them for a length of 1, which torch always compiles by itself


def noted(monkeypatch: pytest.MonkeyPatch, note: Callable[[Tensor, Tensor], Any]) -> list[list[Any]]:
    """The results of `note` for every (x, out) that a kernel runs on from now on, a list per run."""
    run, seen = backends.run, []

    def noting(name: str | None, xs: Any, outs: Any, *rest: Any, **how: Any) -> None:
        seen.append([note(x, out) for x, out in zip(xs, outs, strict=True)])
        run(name, xs, outs, *rest, **how)

    monkeypatch.setattr(backends, "run", noting)
    return seen


def test_the_compiler_hands_over_the_layout_of_eager_mode(monkeypatch: pytest.MonkeyPatch):
    """Inductor chooses the strides of its results, for these two sums others than eager mode, unless an operator forbids it."""
    seen = noted(monkeypatch, lambda x, _: x.stride())
    transposed, contiguous = torch.randn(2, 4, 3, 10).transpose(1, 2), torch.randn(2, 3, 4, 10)
    cos, sin = tables(dtype=torch.float32)

    def step(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return operators.apply_rotary_qk(a + b, a.contiguous() + 1, cos, sin)

    expected = step(transposed, contiguous)
    with torch._inductor.config.patch(force_disable_caches=True):  # cached code does not know of tags
        result = torch.compile(step, fullgraph=True)(transposed, contiguous)
    assert equal(result, expected) and len(seen) == 2
    if hasattr(torch.Tag, "needs_exact_strides"):
        assert seen[0] == seen[1] and [y.stride() for y in result] == [y.stride() for y in expected]


def test_a_compiled_call_in_place_writes_where_its_tensors_lie(monkeypatch: pytest.MonkeyPatch):
    q, k = inputs(torch.float32, grad=False)
    expected = rotary.apply_rotary_qk(q, k, *tables())
    seen = noted(monkeypatch, lambda x, out: (x.data_ptr(), out.data_ptr()))
    torch.compile(lambda *given: operators.apply_rotary_qk(*given, inplace=True), fullgraph=True)(q, k, *tables())
    assert seen == [[(q.data_ptr(), q.data_ptr()), (k.data_ptr(), k.data_ptr())]]
    assert equal((q, k), expected)


def test_no_copy_is_made_around_a_call_in_place():
    """In what Inductor writes: memory for the two products and the two sums, and no more."""
    q, k = inputs(torch.float32, grad=False)
    cos, sin = tables(dtype=torch.float32)

    def step(q: Tensor, k: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        q, k = operators.apply_rotary_qk(q * weight, k * weight, cos, sin, inplace=True)
        return q + 1, k + 1

    weight = torch.randn(10)
    result, (code,) = run_and_get_code(torch.compile(step, fullgraph=True), q, k, weight)
    body = code[code.index("def call(") :].partition("\ndef ")[0]
    assert body.count("rotary.rotate_.default(") == 1
    assert body.count("= empty_strided") == 4
    assert "clone" not in body and "copy_" not in body
    for a, b in zip(result, step(q, k, weight), strict=True):
        torch.testing.assert_close(a, b)


def rotated(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, **how: bool) -> tuple[Tensor, Tensor]:
    return operators.apply_rotary_qk(q, k, cos, sin, **how)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("inplace", [False, True])
def test_gradients_of_every_kind(interleaved: bool, inplace: bool):
    cos, sin = (t.clone() for t in tables(seq=2))  # every number is moved by itself

    def call(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        if inplace:
            q, k = q * 1, k * 1
        return rotated(q, k, cos, sin, interleaved=interleaved, inplace=inplace)

    options = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": not inplace}
    assert gradcheck(call, inputs(seq=2), **options)
    assert gradgradcheck(call, inputs(seq=2), check_batched_grad=True)
    leaves = [*inputs(seq=2), cos.requires_grad_(), sin.requires_grad_()]

    def whole(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        if inplace:
            q, k = q * 1, k * 1
        return rotated(q, k, cos, sin, interleaved=interleaved, inplace=inplace)

    assert gradcheck(whole, leaves, check_forward_ad=True)
    assert gradgradcheck(whole, leaves)


@pytest.mark.parametrize("compiler", [None, "aot_eager", "inductor"])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("of", ["q", "k", "both", "tables", "all"])
def test_gradients_have_the_bits_of_the_functions(compiler: str | None, inplace: bool, of: str):
    def gradients(apply: Callable[..., Any], compiler: str | None) -> list[Tensor | None]:
        q, k = inputs(torch.float32, grad=False)
        cos, sin = (t.clone() for t in tables(dtype=torch.float32))
        q.requires_grad_(of in ("q", "both", "all"))
        k.requires_grad_(of in ("k", "both", "all"))
        cos.requires_grad_(of in ("tables", "all"))

        def step(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:
            return apply(q * 1, k * 1, cos, sin, inplace=inplace)

        call = step if compiler is None else torch.compile(step, fullgraph=True, backend=compiler)
        y, z = call(q, k, cos, sin)
        assert y.requires_grad == (of != "k") and z.requires_grad == (of != "q")
        sum(t.pow(2).sum() for t in (y, z)).backward()
        return [t.grad for t in (q, k, cos)]

    result, expected = gradients(operators.apply_rotary_qk, compiler), gradients(rotary.apply_rotary_qk, None)
    for a, b in zip(result, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None and (compiler != "inductor" or of not in ("tables", "all")):
            assert torch.equal(a, b)
        elif a is not None:  # the formula's sums over heads are the compiler's own
            torch.testing.assert_close(a, b)


def test_backward_is_the_conjugate_operator_and_keeps_tables_alone(monkeypatch: pytest.MonkeyPatch):
    q, k = inputs(torch.float32)
    cos, sin = tables(dtype=torch.float32)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y, z = rotated(q, k, cos, sin)
    assert {t.data_ptr() for t in saved} == {cos.data_ptr(), sin.data_ptr()}
    up = torch.randn_like(y), torch.randn_like(z)
    assert equal(torch.autograd.grad((y, z), (q, k), up), rotated(*up, cos, sin, conjugate=True))
    expected = operators.apply_rotary(up[0], cos, sin, conjugate=True)
    seen = noted(monkeypatch, lambda x, _: x.shape)
    (only,) = torch.autograd.grad(rotated(q, k, cos, sin)[0], q, up[0])
    assert torch.equal(only, expected) and seen == [[q.shape, k.shape], [q.shape]]  # no zeros are made for z
    seen = noted(monkeypatch, lambda x, _: x.stride(-1))
    expanded = torch.autograd.grad(sum(t.sum() for t in rotated(q, k, cos, sin)), (q, k))
    assert seen == [[1, 1], [1, 1]]  # what a sum hands back has no memory behind its channels, which no kernel reads
    assert equal(expanded, rotated(torch.ones_like(q), torch.ones_like(k), cos, sin, conjugate=True))


def test_a_compiled_backward_is_the_conjugate_operator_and_keeps_tables_alone():
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    graphs: dict[str, torch.fx.Graph] = {}

    def keep(name: str) -> Callable[..., Any]:
        return lambda graph, _: graphs.update({name: graph.graph}) or make_boxed_func(graph)

    backend = aot_autograd(fw_compiler=keep("forward"), bw_compiler=keep("backward"))
    q, k = inputs(torch.float32)
    cos, sin = tables(dtype=torch.float32)
    y, z = torch.compile(rotated, fullgraph=True, backend=backend)(q, k, cos, sin)
    (y * y.detach() + z.sum()).sum().backward()
    for name, turned in (("forward", False), ("backward", True)):
        (node,) = (n for n in graphs[name].nodes if n.target is ROTATE)
        assert node.args[-1] is turned
    *_, last = graphs["forward"].nodes
    assert sorted(tuple(n.meta["val"].shape) for n in last.args[0]) == sorted(
        (tuple(y.shape), tuple(z.shape), tuple(cos.shape), tuple(sin.shape))
    )


def test_activation_checkpointing():
    q, k = inputs()
    plain = torch.autograd.grad(sum(t.pow(2).sum() for t in rotated(q, k, *tables())), (q, k))
    again = checkpoint(rotated, q, k, *tables(), use_reentrant=False)
    assert equal(torch.autograd.grad(sum(t.pow(2).sum() for t in again), (q, k)), plain)


def test_functorch_takes_the_formula():
    q, k = inputs(grad=False)
    cos, sin = tables()
    expected = rotary.apply_rotary_qk(q, k, cos, sin)
    vmap, grad, jvp = torch.func.vmap, torch.func.grad, torch.func.jvp
    assert equal(vmap(lambda q, k: rotated(q, k, cos, sin))(q, k), expected)
    assert torch.equal(vmap(lambda q: rotated(q, k[0], cos, sin)[0])(q), expected[0])
    rows = torch.stack((cos, sin)), torch.stack((sin, cos))
    by_row = vmap(lambda q, cos, sin: operators.apply_rotary(q, cos, sin))(q, *rows)
    assert torch.equal(by_row, rotary.apply_rotary(q, *rows))
    x = q.clone()
    vmap(lambda x: operators.apply_rotary(x, cos, sin, inplace=True))(x)
    assert torch.equal(x, expected[0])
    leaf = q.clone().requires_grad_()
    rotary.apply_rotary(leaf, cos, sin).pow(3).sum().backward()
    result = grad(lambda q: operators.apply_rotary(q, cos, sin).pow(3).sum())(q)
    torch.testing.assert_close(result, leaf.grad, rtol=1e-13, atol=1e-13)
    primal, tangent = jvp(lambda q: operators.apply_rotary(q, cos, sin), (q,), (torch.ones_like(q),))
    assert torch.equal(primal, expected[0])
    assert torch.equal(tangent, rotary.apply_rotary(torch.ones_like(q), cos, sin))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("made_inside", [False, True])
def test_without_gradients(mode: Any, made_inside: bool):
    compiled = torch.compile(rotated, fullgraph=True, backend="aot_eager")
    cos, sin = tables(dtype=torch.float32)
    q, k = inputs(torch.float32)
    expected = rotary.apply_rotary_qk(q.detach(), k.detach(), cos, sin)
    with mode():
        if made_inside:
            q, k = q + 0, k + 0
        for call in (rotated, compiled):
            ys = call(q, k, cos, sin)
            assert equal(ys, expected) and not any(y.requires_grad for y in ys)
            x, y = q.clone(), k.clone()
            call(x, y, cos, sin, inplace=True)
            assert equal((x, y), expected)
        if mode is torch.inference_mode:
            assert all(y.is_inference() for y in ys)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_write_in_place_is_seen_by_autograd(compiled: bool):
    call = torch.compile(rotated, backend="aot_eager") if compiled else rotated
    q, k = inputs(torch.float32, grad=False)
    weight = torch.ones_like(q, requires_grad=True)
    product = (weight * q).sum()  # keeps q
    version = q._version
    call(q, k, *tables(dtype=torch.float32), inplace=True)
    assert q._version > version
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


@pytest.mark.parametrize("compiled", [False, True])
def test_what_cannot_be_written_over_is_refused(compiled: bool):
    def call(*given: Tensor, **how: bool) -> Any:
        apply = operators.apply_rotary if len(given) == 3 else operators.apply_rotary_qk
        return (torch.compile(apply, backend="aot_eager") if compiled else apply)(*given, inplace=True, **how)

    cos, sin = tables(dtype=torch.float32)
    both = torch.randn(2, 4, 4, 10)
    before = both.clone()
    with pytest.raises(RuntimeError, match="share memory"):
        call(both[:, :3], both[:, 2:], cos, sin)
    row = torch.randn(1, 1, 4, 10)
    with pytest.raises(RuntimeError, match="overlaps itself|single memory location"):
        call(row.expand(2, 3, 4, 10), cos, sin)
    q, k = inputs(torch.float32)
    start = q.detach().clone()
    with pytest.raises(RuntimeError, match="leaf"):
        call(q, k, cos, sin)
    with pytest.raises(RuntimeError, match="leaf" if compiled else "k is a leaf"):
        call(q.detach(), k, cos, sin)
    assert torch.equal(both, before) and torch.equal(q, start)


def test_use_backend_is_heard_where_the_operator_runs(monkeypatch: pytest.MonkeyPatch):
    q, k = inputs(torch.float32)
    cos, sin = tables(dtype=torch.float32)
    compiled = torch.compile(rotated, fullgraph=True, backend="aot_eager")
    used: list[str | None] = []
    run = backends.run
    monkeypatch.setattr(backends, "run", lambda name, *given, **how: used.append(name) or run(name, *given, **how))
    for call in (rotated, compiled):
        used.clear()
        ys = call(q, k, cos, sin)
        with use_backend("eager"):
            call(q, k, cos, sin)
            torch.autograd.grad(ys, (q, k), [torch.ones_like(y) for y in ys])
            call(q.detach().clone(), k.detach().clone(), cos, sin, inplace=True)
        assert used == [None, "eager", "eager", "eager"]


class Tagged(Tensor):
    pass


def test_unusual_tensors():
    x, (cos, sin) = inputs(torch.float32, grad=False)[0], tables(dtype=torch.float32)
    expected = rotary.apply_rotary(x, cos, sin)
    apply = operators.apply_rotary
    negative = torch.imag(torch.complex(x, -x).conj())
    assert negative.is_neg() and torch.equal(apply(negative, cos, sin), expected)
    assert torch.equal(apply(x.as_subclass(Tagged), cos, sin), expected)
    assert apply(x.to("meta"), cos.to("meta"), sin.to("meta")).shape == x.shape
    assert torch.equal(apply(nn.Parameter(x), cos, sin).detach(), expected)
    assert torch.equal(apply(x, cos.expand(2, 4, 4), sin.expand(2, 4, 4)), expected)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(10, 10)

    def forward(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        return operators.apply_rotary_qk(self.project(q), k, cos, sin)


LOAD = """
import sys, torch, rotary
program, given, wanted = torch.export.load(sys.argv[1]), *torch.load(sys.argv[2])
assert all(torch.equal(a, b) for a, b in zip(program.module()(*given), wanted, strict=True))
print("loaded")
"""


@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_program_keeps_the_operator_and_another_process_runs_it(strict: bool, tmp_path: Path):
    def given(length: int) -> tuple[Tensor, ...]:
        return *inputs(torch.float32, grad=False, seq=length), *tables(length, torch.float32)

    model, seq = Attention(), torch.export.Dim("seq", min=2, max=1 << 20)
    shapes = {"q": {2: seq}, "k": {2: seq}, "cos": {0: seq}, "sin": {0: seq}}
    program = torch.export.export(model, given(4), dynamic_shapes=shapes, strict=strict)
    for kept in (program, program.run_decompositions()):
        assert [n.target for n in kept.graph.nodes if "rotary" in str(n.target)] == [ROTATE]
        for length in (2, 9):
            assert equal(kept.module()(*given(length)), model(*given(length)))
    x = given(7)
    torch.export.save(program, tmp_path / "program.pt2")
    torch.save((x, [t.detach() for t in model(*x)]), tmp_path / "tensors.pt")
    done = warm.run("-c", LOAD, tmp_path / "program.pt2", tmp_path / "tensors.pt")
    assert done.stdout == "loaded\n", done.stderr


@pytest.mark.parametrize(
    "again",
    [
        "importlib.reload(rotary.operators)",
        "[sys.modules.pop(n) for n in [*sys.modules] if n.split('.')[0] == 'rotary']; import rotary",
    ],
    ids=["reloaded", "forgotten"],
)
def test_a_module_imported_again_finds_its_operators(again: str):
    script = f"""
import gc, importlib, sys, torch, rotary
{again}
gc.collect()
x, cos, sin = torch.randn(2, 5, 8), torch.randn(5, 4), torch.randn(5, 4)
assert torch.equal(rotary.operators.apply_rotary(x, cos, sin), rotary.apply_rotary(x, cos, sin))
"""
    done = warm.run("-c", script)
    assert done.returncode == 0, done.stderr
