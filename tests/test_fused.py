"""rotary.fused as users call it: gradients of every kind, what is refused, the operators. Kernels are judged in _fused/test_contract.py."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from rotary import RotaryEmbedding, apply_rotary_qk, fused, use_backend

NORM_ROTATE = torch.ops.rotary.norm_rotate.default


def inputs(dtype: torch.dtype = torch.float64, grad: bool = True, seq: int = 3) -> tuple[Tensor, ...]:
    """q, k, q_weight, k_weight."""
    draw = torch.Generator().manual_seed(0)
    shapes = (1, 2, seq, 10), (1, 1, seq, 10), (10,), (10,)
    q, k, w, u = (torch.randn(s, generator=draw, dtype=torch.float64).to(dtype).requires_grad_(grad) for s in shapes)
    return q, k, w, u


def tables(seq: int = 3, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return RotaryEmbedding(8).cos_sin(torch.arange(5, 5 + seq), dtype)


def by_torch(
    x: Tensor,
    weight: Tensor | None,
    cos: Tensor,
    sin: Tensor,
    eps: float,
    offset: float,
    after: bool,
    interleaved: bool,
) -> Tensor:
    """torch's own norm, and apply_rotary."""

    def norm(x: Tensor) -> Tensor:
        return torch.nn.functional.rms_norm(x, x.shape[-1:], None if weight is None else weight + offset, eps)

    def turn(x: Tensor) -> Tensor:
        return apply_rotary_qk(x, x, cos, sin, interleaved=interleaved)[0]

    return norm(turn(x)) if after else turn(norm(x))


FORMS = tuple(itertools.product((False, True), (0.0, 1.0), (False, True)))


@pytest.mark.parametrize(("after", "offset", "interleaved"), FORMS)
def test_values_and_gradients_are_those_of_torchs_norm(after: bool, offset: float, interleaved: bool):
    q, k, w, u = inputs(seq=7)
    cos, sin = tables(7)
    how: dict[str, Any] = {"weight_offset": offset, "after": after, "interleaved": interleaved}
    result = fused.norm_rotate(q, k, cos, sin, q_weight=w, k_weight=u, eps=1e-5, **how)
    expected = tuple(by_torch(x, y, cos, sin, 1e-5, offset, after, interleaved) for x, y in ((q, w), (k, u)))
    up = tuple(torch.randn_like(y) for y in expected)
    for a, b in zip(result, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)
    for a, b in zip(
        torch.autograd.grad(result, (q, k, w, u), up), torch.autograd.grad(expected, (q, k, w, u), up), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("after", "offset", "interleaved"), FORMS[::3])
def test_gradients_of_every_kind(after: bool, offset: float, interleaved: bool):
    cos, sin = tables()

    def call(q: Tensor, k: Tensor, w: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        how: dict[str, Any] = {"weight_offset": offset, "after": after, "interleaved": interleaved}
        return fused.norm_rotate(q, k, cos, sin, q_weight=w, k_weight=u, eps=1e-5, **how)

    given = inputs(seq=2)
    cos, sin = tables(2)
    assert gradcheck(call, given, check_forward_ad=True, check_batched_grad=True, fast_mode=True)
    assert gradgradcheck(call, given, check_batched_grad=True, fast_mode=True)
    assert gradcheck(call, given)


def test_tables_that_require_a_gradient_receive_it():
    q, k, w, u = inputs(grad=False, seq=2)
    given = [t.requires_grad_() for t in tables(2)]
    for after in (False, True):
        assert gradcheck(
            lambda c, s, after=after: fused.norm_rotate(q, k, c, s, q_weight=w, k_weight=u, eps=1e-5, after=after),
            given,
        )


def test_the_backward_pass_keeps_the_arguments_alone():
    q, k, w, u = inputs(torch.bfloat16)
    cos, sin = tables(dtype=torch.float32)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        y, _ = fused.norm_rotate(q, k, cos, sin, q_weight=w, k_weight=u, eps=1e-5)
    own = {t.data_ptr() for t in (q, k, w, u, cos, sin)}
    assert {t.data_ptr() for t in kept} == own
    torch.autograd.grad(y.sum(), (q, w))  # the other output's gradient is absent
    y, z = fused.norm_rotate(q.detach(), k, cos, sin, q_weight=w.detach(), k_weight=None, eps=1e-5)
    assert not y.requires_grad and z.requires_grad


def test_functorch_and_compiled_programs():
    q, k, w, u = inputs(torch.float32, grad=False)
    cos, sin = tables(dtype=torch.float32)

    def call(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return fused.norm_rotate(q, k, cos, sin, q_weight=w, k_weight=u, eps=1e-5)

    expected = call(q, k)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")(q, k)
    exported = torch.export.export(_Module(call), (q, k)).module()(q, k)
    for result in (compiled, exported, torch.func.vmap(call)(q, k)):
        assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))
    gradient = torch.func.grad(lambda q: call(q, k)[0].pow(3).sum())(q)
    leaf = q.clone().requires_grad_()
    call(leaf, k)[0].pow(3).sum().backward()
    torch.testing.assert_close(gradient, leaf.grad)
    by_operator = q.clone().requires_grad_()
    torch.compile(call, fullgraph=True, backend="aot_eager")(by_operator, k)[0].pow(3).sum().backward()
    assert torch.equal(by_operator.grad, leaf.grad)


class _Module(torch.nn.Module):
    def __init__(self, call: Callable[..., Any]) -> None:
        super().__init__()
        self.call = call

    def forward(self, q: Tensor, k: Tensor) -> Any:
        return self.call(q, k)


@pytest.mark.parametrize("grad", [False, True])
def test_opcheck(grad: bool):
    q, k, w, u = inputs(torch.float32, grad)
    flat = [*tables(dtype=torch.float32)] * 2
    how = (1e-5, 0.0, False, False, 2, False)
    torch.library.opcheck(NORM_ROTATE, ([q, k], [w, None], flat, *how))
    if grad:
        return
    torch.library.opcheck(torch.ops.rotary.norm_rotate_.default, ([q.clone(), k.clone()], [w, u], flat, *how))
    up = [torch.randn_like(q), torch.randn_like(k)]
    torch.library.opcheck(
        torch.ops.rotary.norm_rotate_backward.default, (up, [q, k], [w, u], flat, [True, False], *how)
    )
    caches = [torch.zeros(1, 8, 1, 10), torch.zeros(1, 8, 1, 10)]
    arguments = (
        [q, k],
        [torch.empty_like(q), torch.empty_like(k)],
        [w, u],
        flat,
        k.clone(),
        *caches,
        torch.arange(3)[None],
    )
    torch.library.opcheck(torch.ops.rotary.rotate_and_store.default, (*arguments, *how))


def test_jagged_tensors_and_tables_of_keys():
    q = torch.nested.nested_tensor([torch.randn(n, 2, 10) for n in (3, 5)], layout=torch.jagged)
    cos, sin = tables(5, torch.float32)
    how: dict[str, Any] = {"q_weight": None, "k_weight": None, "eps": 1e-5}
    y, _ = fused.norm_rotate(q, q, cos, sin, seq_dim=1, **how)
    for one, of in zip(y.unbind(), q.unbind(), strict=True):
        n = of.shape[0]
        assert torch.equal(one, fused.norm_rotate(of, of, cos[:n], sin[:n], seq_dim=0, **how)[0])
    x = torch.randn(1, 2, 5, 10)
    y, z = fused.norm_rotate(x, x, cos, sin, key_cos=sin, key_sin=cos, **how)
    assert torch.equal(z, fused.norm_rotate(x, x, sin, cos, **how)[1]) and not torch.equal(y, z)


def test_in_place():
    q, k, w, u = inputs(torch.float32, grad=False)
    cos, sin = tables(dtype=torch.float32)
    how: dict[str, Any] = {"q_weight": w, "k_weight": u, "eps": 1e-5}
    expected, version = fused.norm_rotate(q, k, cos, sin, **how), q._version
    y, z = fused.norm_rotate(q, k, cos, sin, inplace=True, **how)
    assert y is q and z is k and q._version > version
    assert torch.equal(q, expected[0]) and torch.equal(k, expected[1])
    before = k.clone()
    with pytest.raises(RuntimeError, match="gradient is wanted"):
        fused.norm_rotate(q, k, cos, sin, inplace=True, **{**how, "k_weight": u.clone().requires_grad_()})
    with pytest.raises(RuntimeError, match="share memory"):
        fused.norm_rotate(k, k, cos, sin, inplace=True, **how)
    assert torch.equal(k, before)


def test_an_eps_inside_the_root_and_every_channel_in_the_mean():
    """By hand: (3, 4) has a mean square of 12.5, and a channel that is not rotated counts."""
    x = torch.tensor([[3.0, 4.0, 12.0]])
    cos, sin = torch.ones(1, 1), torch.zeros(1, 1)
    y, _ = fused.norm_rotate(x, x, cos, sin, q_weight=None, k_weight=None, eps=1.0)
    torch.testing.assert_close(y, x / (169 / 3 + 1) ** 0.5)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"q_weight": torch.ones(20)}, ValueError, "before the reshape"),
        ({"k_weight": torch.ones(2, 10)}, ValueError, "one weight of shape"),
        ({"k_weight": torch.ones(5)}, ValueError, "one weight of shape"),
        ({"q_weight": torch.ones(10).double()}, TypeError, "q_weight is torch.float64"),
        ({"q_weight": torch.ones(10, device="meta")}, ValueError, "on meta"),
        ({"q_weight": [1.0] * 10}, TypeError, "must be a tensor"),
        ({"eps": 0.0}, ValueError, "eps"),
        ({"eps": -1e-5}, ValueError, "eps"),
        ({"eps": float("nan")}, ValueError, "eps"),
        ({"eps": 1e-60}, ValueError, "is 0 in float32"),
        ({"eps": "1e-6"}, TypeError, "eps"),
        ({"weight_offset": float("inf")}, ValueError, "weight_offset"),
        ({"weight_offset": 1.0, "rounding": "model"}, ValueError, "weight_offset"),
        ({"weight_offset": 1.0, "q_weight": None, "k_weight": None}, ValueError, "without weights"),
        ({"rounding": "twice"}, ValueError, "rounding"),
        ({"after": 1}, TypeError, "after"),
        ({"cos": torch.ones(4, 4)}, ValueError, "shape"),
        ({"k": torch.ones(1, 1, 3, 10).half()}, TypeError, "k is torch.float16"),
    ],
)
def test_bad_norms(changes: dict[str, Any], error: type[Exception], words: str):
    q, k, w, u = inputs(torch.float32, grad=False)
    cos, sin = tables(dtype=torch.float32)
    given = {"q": q, "k": k, "cos": cos, "sin": sin, "q_weight": w, "k_weight": u, "eps": 1e-5, **changes}
    before = q.clone()
    with pytest.raises(error, match=words):
        fused.norm_rotate(**given, inplace=True)
    assert torch.equal(q, before)


def store_arguments() -> dict[str, Any]:
    q, k, *_ = inputs(torch.float32, grad=False)
    cos, sin = tables(dtype=torch.float32)
    caches = torch.zeros(2, 1, 8, 1, 10)
    return {
        "k": k, "v": torch.randn_like(k), "cos": cos, "sin": sin, "cache_k": caches[0], "cache_v": caches[1],
        "slots": torch.tensor([[4, -1, 0]]), "q": q,
    }  # fmt: skip


def test_stores_are_rotations_by_slot():
    given = store_arguments()
    q, k = fused.rotate_and_store(**given)
    expected = apply_rotary_qk(given["q"], given["k"], given["cos"], given["sin"])
    assert torch.equal(q, expected[0]) and torch.equal(k, expected[1])
    assert torch.equal(given["cache_k"][0, [4, 0], 0], k[0, 0, [0, 2]])
    assert torch.equal(given["cache_v"][0, [4, 0], 0], given["v"][0, 0, [0, 2]])
    assert int((given["cache_k"] != 0).any(-1).sum()) == 2
    again = {**store_arguments(), "q": None, "slots": torch.tensor([4, -1, 0])}
    none, k = fused.norm_rotate_and_store(**again, k_weight=None, eps=1e-5)
    assert none is None and torch.equal(again["cache_k"][0, 0], k[0, :, 2])
    y, z = fused.norm_rotate_and_store(**given, k_weight=None, eps=1e-5, inplace=True)
    assert y is given["q"] and z is given["k"] and torch.equal(z, k)
    compiled = store_arguments()
    call = torch.compile(lambda given: fused.rotate_and_store(**given), fullgraph=True, backend="aot_eager")
    result, first = call(compiled), {**store_arguments(), "v": compiled["v"]}
    assert torch.equal(result[0], fused.rotate_and_store(**first)[0])
    assert torch.equal(compiled["cache_k"], first["cache_k"]) and torch.equal(compiled["cache_v"], first["cache_v"])


def changed(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda given: {**given, **changes}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (changed(slots=torch.tensor([[0, 1, 8]])), ValueError, "got 8"),
        (changed(slots=torch.tensor([[0, 1, -2]])), ValueError, "got -2"),
        (changed(slots=torch.tensor([[3, 3, -1]])), ValueError, "slot 3 is given twice"),
        (changed(slots=torch.tensor([[0.0, 1, 2]])), TypeError, "integer"),
        (changed(slots=[0, 1, 2]), TypeError, "tensor of integers"),
        (changed(slots=torch.tensor([0, 1])), ValueError, r"\(1, 3\) or \(3,\)"),
        (changed(cache_k=torch.zeros(1, 8, 1, 10).half()), TypeError, "cache_k is torch.float16"),
        (changed(cache_v=torch.zeros(1, 8, 1, 9)), ValueError, "cache_v must have shape"),
        (changed(cache_k=torch.zeros(1, 1, 8, 10)), ValueError, r"cache_k.transpose\(1, 2\)"),
        (changed(cache_v=torch.zeros(1, 9, 1, 10)), ValueError, "same pages"),
        (changed(cache_k=None), TypeError, "cache_k must be a tensor"),
        (changed(cache_k=torch.zeros(1, 1, 1, 10).expand(1, 8, 1, 10)), RuntimeError, "overlaps itself"),
        (changed(cache_k=torch.zeros(1, 8, 1, 10, requires_grad=True)), RuntimeError, "requires a gradient"),
        (lambda given: {**given, "cache_v": given["cache_k"]}, RuntimeError, "share memory"),
        (lambda given: {**given, "v": given["cache_v"][:, :3].transpose(1, 2)}, RuntimeError, "share memory"),
        (lambda given: {**given, "v": given["k"]}, RuntimeError, "v shares memory"),
        (changed(v=torch.zeros(1, 1, 2, 10)), ValueError, "differ in more than head_dim"),
        (changed(v=torch.zeros(1, 1, 3, 10, requires_grad=True)), RuntimeError, "no_grad"),
        (changed(q=None, k=torch.zeros(3, 10), seq_dim=0), ValueError, "cannot be stored"),
    ],
)
def test_bad_stores(change: Callable[[dict[str, Any]], dict[str, Any]], error: type[Exception], words: str):
    given = change(store_arguments())
    before = {name: t.clone() for name, t in given.items() if isinstance(t, Tensor)}
    with pytest.raises(error, match=words):
        fused.rotate_and_store(**given, inplace=True)
    assert all(torch.equal(given[name], t) for name, t in before.items())
    with pytest.raises(error, match=words):
        fused.norm_rotate_and_store(**given, k_weight=None, eps=1e-5, inplace=True)


def test_the_sequence_is_the_second_dimension_from_the_end_of_three_as_well():
    """(heads, seq, head_dim): of a sequence that were counted from the front, no default would serve both ranks."""
    x, v, slots = torch.randn(2, 5, 10), torch.randn(2, 5, 10), torch.arange(5)
    cos, sin = tables(5, torch.float32)
    expected = apply_rotary_qk(x, x, cos, sin)[0]
    _, k = fused.rotate_and_store(x, v, cos, sin, *torch.zeros(2, 1, 8, 2, 10), slots)
    assert torch.equal(k, expected)
    w = torch.randn(10)
    norm: dict[str, Any] = {"q_weight": w, "k_weight": w, "eps": 1e-5}
    expected = fused.norm_rotate(x[None], x[None], cos, sin, **norm)[0][0]
    assert torch.equal(fused.norm_rotate(x, x, cos, sin, **norm)[0], expected)
    cache_k, cache_v = torch.zeros(2, 1, 8, 2, 10)
    q, k = fused.norm_rotate_and_store(x, v, cos, sin, cache_k, cache_v, slots, q=x, **norm)
    assert torch.equal(q, expected) and torch.equal(k, expected)
    assert torch.equal(cache_k[0, :5], k.transpose(0, 1)) and torch.equal(cache_v[0, :5], v.transpose(0, 1))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("way", ["eager", "compiled"])
def test_stores_take_every_argument(way: str, norm: bool):
    """Tables of their own for keys, adjacent pairs, the sequence first, weights: as the functions that do not store."""
    q, k, v = torch.randn(6, 4, 10), torch.randn(6, 2, 10), torch.randn(6, 2, 10)
    (cos, sin), (key_cos, key_sin) = tables(6, torch.float32), (t.flip(0) for t in tables(6, torch.float32))
    how: dict[str, Any] = {"key_cos": key_cos, "key_sin": key_sin, "seq_dim": 0, "interleaved": True}
    store, rotate = fused.rotate_and_store, apply_rotary_qk
    if norm:
        store, rotate = fused.norm_rotate_and_store, fused.norm_rotate
        how |= {
            "q_weight": torch.randn(10),
            "k_weight": torch.randn(10),
            "eps": 0.1,
            "rounding": "model",
            "after": True,
        }
    expected = rotate(q, k, cos, sin, **how)
    if way == "compiled":
        store = torch.compile(store, fullgraph=True, backend="aot_eager")
    caches, slots = torch.zeros(2, 1, 8, 2, 10), torch.tensor([5, 0, -1, 3, 2, 7])
    result = store(k, v, cos, sin, *caches, slots, q=q, inplace=True, **how)
    assert result[0] is q and result[1] is k and all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))
    kept = slots >= 0
    for cache, x in zip(caches, (k, v), strict=True):
        assert torch.equal(cache[0, slots[kept]], x[kept]) and not cache[0, [1, 4, 6]].any()


def test_many_slots_are_checked_too():
    k, cache = torch.randn(100, 1, 4), torch.zeros(2, 1, 200, 1, 4)
    cos, sin = torch.ones(100, 2), torch.zeros(100, 2)
    slots = torch.arange(100)
    fused.rotate_and_store(k, k, cos, sin, *cache, slots, seq_dim=0)
    assert torch.equal(cache[0, 0, :100], k)
    slots[7] = 31
    with pytest.raises(ValueError, match="slot 31 is given twice"):
        fused.rotate_and_store(k, k, cos, sin, *cache, slots, seq_dim=0)
    slots[7:60] = -1
    fused.rotate_and_store(k, k, cos, sin, *cache, slots, seq_dim=0)
    with pytest.raises(TypeError, match="q_weight without q"):
        fused.norm_rotate_and_store(
            k, k, cos, sin, *cache, slots, seq_dim=0, k_weight=None, q_weight=torch.ones(4), eps=1e-5
        )
    with pytest.raises(RuntimeError, match=r"torch\.func"):
        torch.func.vmap(lambda k: fused.rotate_and_store(k, k, cos, sin, *cache, slots, seq_dim=0))(k[None])


def test_a_chosen_backend_computes_the_backward_pass_too():
    q, k, w, u = inputs(torch.float32)
    cos, sin = tables(dtype=torch.float32)
    result = []
    for name in ("eager", "native"):
        try:
            with use_backend(name):
                y, _ = fused.norm_rotate(q, k, cos, sin, q_weight=w, k_weight=u, eps=1e-5)
        except RuntimeError as error:
            pytest.skip(str(error))
        result.append(torch.autograd.grad(y.pow(2).sum(), (q, w)))
    assert all(torch.equal(a, b) for a, b in zip(*result, strict=True))


@pytest.mark.parametrize("function", [fused.rotate_and_store, fused.norm_rotate_and_store])
def test_without_a_q_the_errors_are_about_k(function: Any):
    v, cache = torch.zeros(1, 2, 5, 8), torch.zeros(1, 8, 2, 8)
    how = {"k_weight": None, "eps": 1e-6} if function is fused.norm_rotate_and_store else {}
    for k in (None, v.int(), v[..., :6], torch.zeros(5)):
        with pytest.raises((TypeError, ValueError), match=r"\bk\b"):
            function(k, v, *RotaryEmbedding(8).cos_sin(5), cache, cache.clone(), torch.arange(5), **how)
