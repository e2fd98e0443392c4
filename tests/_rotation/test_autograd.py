"""Autograd, functorch and in-place writing around the rotation. The rotation itself is judged in test_embedding.py and kernels/."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from rotary import RotaryEmbedding, apply_rotary, apply_rotary_qk, use_backend


def inputs(
    dtype: torch.dtype = torch.float64, grad: bool = True, heads: int = 3, seq: int = 4
) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    q = torch.randn(2, heads, seq, 10, generator=draw, dtype=dtype, requires_grad=grad)
    k = torch.randn(2, 1, seq, 10, generator=draw, dtype=dtype, requires_grad=grad)
    return q, k


ROPES = {
    "half": RotaryEmbedding(8),
    "interleaved": RotaryEmbedding(10, interleaved=True),
    "xpos": RotaryEmbedding(6, use_xpos=True),
    "loud": RotaryEmbedding.from_inv_freq([1.0, 0.1], attention_factor=1.7),
}


@pytest.mark.parametrize("rope", ROPES.values(), ids=ROPES.keys())
def test_gradients_of_every_kind(rope: RotaryEmbedding):
    def rotated(q: Tensor, k: Tensor):
        return rope.rotate(q, k, offset=torch.tensor([3, -70]))

    options = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}
    few = inputs(heads=2, seq=2)  # every number is moved by itself
    assert gradcheck(rotated, few, **options)
    assert gradgradcheck(rotated, few, check_batched_grad=True, check_fwd_over_rev=True)


@pytest.mark.parametrize("rope", ROPES.values(), ids=ROPES.keys())
def test_functorch(rope: RotaryEmbedding):
    q, k = inputs(grad=False)

    def loss(q: Tensor) -> Tensor:
        return (rope.rotate(q, k)[0] ** 3).sum()

    expected = q.clone().requires_grad_()
    loss(expected).backward()
    torch.testing.assert_close(torch.func.grad(loss)(q), expected.grad, rtol=1e-13, atol=1e-13)
    per_row = torch.func.vmap(lambda q, k: rope.rotate(q, k)[0])(q, k)
    assert torch.equal(per_row, rope.rotate(q, k)[0])
    positions = torch.tensor([[0, 1, 2, 3], [7, 8, 9, 10]])
    shifted = torch.func.vmap(lambda q, p: rope.rotate(q, positions=p, role="query"))(q, positions)
    assert torch.equal(shifted, rope.rotate(q, positions=positions, role="query"))
    primal, tangent = torch.func.jvp(lambda q: rope.rotate(q, role="query"), (q,), (torch.ones_like(q),))
    assert torch.equal(primal, rope.rotate(q, role="query")) and torch.equal(
        tangent, rope.rotate(torch.ones_like(q), role="query")
    )


def test_backward_is_the_conjugate_rotation_and_keeps_no_copy_of_q_or_k():
    rope = RotaryEmbedding(64)
    q = torch.randn(2, 8, 32, 64, requires_grad=True)
    k = torch.randn(2, 2, 32, 64, requires_grad=True)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        y, z = rope.rotate(q, k)
    assert {tuple(t.shape) for t in kept} == {(32, 32)}
    up, side = torch.randn_like(y), torch.randn_like(z)
    torch.autograd.backward((y, z), (up, side))
    cos, sin = rope.cos_sin(32)
    assert torch.equal(q.grad, apply_rotary(up, cos, sin, conjugate=True))
    assert torch.equal(k.grad, apply_rotary(side, cos, sin, conjugate=True))


def test_only_what_requires_a_gradient_gets_one():
    rope = RotaryEmbedding(10)
    q, k = inputs()
    y, z = rope.rotate(q.detach(), k)
    assert not y.requires_grad and z.requires_grad
    z.sum().backward()
    assert k.grad is not None
    with torch.no_grad():
        assert not rope.rotate(q, k)[0].requires_grad
    y, z = rope.rotate(q, k)
    torch.autograd.grad(y.sum(), q)  # the other output's gradient is absent


def test_tables_that_require_a_gradient_receive_it():
    x, _ = inputs(grad=False)
    cos, sin = (t.requires_grad_() for t in RotaryEmbedding(8).cos_sin(4, torch.float64))
    for interleaved in (False, True):
        assert gradcheck(lambda c, s: apply_rotary(x, c, s, interleaved=interleaved), (cos, sin))
    q, k = inputs()
    key_cos, key_sin = (t.detach().clone().requires_grad_() for t in (cos, sin))
    assert gradcheck(
        lambda *t: apply_rotary_qk(t[0], t[1], t[2], t[3], key_cos=t[4], key_sin=t[5]),
        (q, k, cos, sin, key_cos, key_sin),
    )


def test_tables_that_require_a_gradient_receive_it_in_place_too():
    x, _ = inputs()
    tables = [t.requires_grad_() for t in RotaryEmbedding(8).cos_sin(4, torch.float64)]
    assert gradcheck(lambda *t: apply_rotary(t[0] * 1, t[1], t[2], inplace=True), (x, *tables))


@pytest.mark.parametrize("interleaved", [False, True])
def test_conjugate_is_the_adjoint(interleaved: bool):
    x, y = (torch.randn(3, 5, 12, dtype=torch.float64) for _ in range(2))
    cos, sin = torch.randn(2, 5, 4, dtype=torch.float64)
    forth = apply_rotary(x, cos, sin, interleaved=interleaved)
    back = apply_rotary(y, cos, sin, interleaved=interleaved, conjugate=True)
    torch.testing.assert_close((forth * y)[..., :8].sum(), (x * back)[..., :8].sum(), rtol=1e-12, atol=1e-12)


# --- in place -------------------------------------------------------------------------------------------------------------------------


def test_in_place_returns_the_same_objects_and_bumps_versions():
    rope = RotaryEmbedding(8)
    q, k = inputs(torch.float32, grad=False)
    expected = rope.rotate(q, k)
    versions = q._version, k._version
    y, z = rope.rotate(q, k, inplace=True)
    assert y is q and z is k
    assert torch.equal(q, expected[0]) and torch.equal(k, expected[1])
    assert q._version > versions[0] and k._version > versions[1]
    with torch.inference_mode():
        x = torch.randn(4, 10)
        assert rope.rotate(x, inplace=True) is x


def test_in_place_in_training_right_after_a_linear_layer_and_after_slices():
    rope = RotaryEmbedding(8)
    torch.manual_seed(0)
    layer, x = nn.Linear(6, 30).double(), torch.randn(2, 4, 6, dtype=torch.float64)

    def run(in_place: bool) -> tuple[Tensor, Tensor]:
        layer.zero_grad()
        qkv = layer(x)
        q, k = qkv[..., :10], qkv[..., 10:20]
        q, k = rope.rotate(q, k, inplace=in_place)
        loss = (q * k).sum() + qkv[..., 20:].pow(2).sum()
        loss.backward()
        return loss.detach(), layer.weight.grad.clone()

    for fresh, written in zip(run(False), run(True), strict=True):
        torch.testing.assert_close(fresh, written, rtol=1e-12, atol=1e-12)
    out = layer(x)
    rope.rotate(out, inplace=True).sum().backward()


def test_a_write_that_autograd_must_notice_is_noticed():
    rope = RotaryEmbedding(10)
    x = torch.randn(2, 4, 10, requires_grad=True)
    y = x * 2
    z = y.exp()
    rope.rotate(z, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


def refused() -> dict[str, tuple]:
    leaf = torch.randn(2, 4, 10, requires_grad=True)
    hidden = nn.Linear(10, 20)(torch.randn(2, 4, 10))
    buffer = torch.randn(2, 4, 30)
    return {
        "leaf tensor": (leaf,),
        "view of a leaf": (leaf[:, 1:],),
        "split, chunk or unbind": (hidden.chunk(2, -1)[0],),
        "expanded": (torch.randn(1, 4, 10).expand(2, 4, 10),),
        "share memory": (buffer[..., :10], buffer[..., 5:15]),
    }


@pytest.mark.parametrize("reason", refused().keys())
def test_in_place_is_refused_with_a_remedy_before_anything_is_written(reason: str):
    xs = refused()[reason]
    before = [x.detach().clone() for x in xs]
    with pytest.raises(RuntimeError, match=reason) as raised:
        RotaryEmbedding(10).rotate(*xs, inplace=True)
    assert "inplace=False" in str(raised.value)
    assert all(torch.equal(x.detach(), b) for x, b in zip(xs, before, strict=True))


def test_one_bad_tensor_of_two_leaves_both_unwritten():
    q, k = torch.randn(2, 4, 10), torch.randn(2, 4, 10, requires_grad=True)
    before = q.clone()
    with pytest.raises(RuntimeError, match="k is a leaf"):
        RotaryEmbedding(10).rotate(q, k, inplace=True)
    assert torch.equal(q, before)


def test_a_leaf_may_be_written_where_gradients_are_off():
    leaf = torch.randn(4, 10, requires_grad=True)
    expected = RotaryEmbedding(10).rotate(leaf.detach())
    with torch.no_grad():
        RotaryEmbedding(10).rotate(leaf, inplace=True)
    assert torch.equal(leaf, expected)


# --- tensors no pointer may be taken of -------------------------------------------------------------------------------------------------


class Tagged(Tensor):
    pass


def test_unusual_tensors_are_answered():
    rope = RotaryEmbedding(8)
    x = torch.randn(2, 4, 8)
    expected = rope.rotate(x)
    assert torch.equal(rope.rotate(x.as_subclass(Tagged)), expected)
    negative = torch.imag(torch.complex(x, -x).conj())  # a view with the negative bit
    assert negative.is_neg() and torch.equal(rope.rotate(negative), expected)
    assert rope.rotate(x.to("meta")).shape == x.shape
    assert torch.equal(rope.rotate(nn.Parameter(x)).detach(), expected)


def test_checkpointing_gives_the_same_gradient():
    from torch.utils.checkpoint import checkpoint

    rope = RotaryEmbedding(10)
    q, k = inputs(torch.float32)
    plain = torch.autograd.grad(sum(t.pow(2).sum() for t in rope.rotate(q, k)), (q, k))
    again = torch.autograd.grad(sum(t.pow(2).sum() for t in checkpoint(rope.rotate, q, k, use_reentrant=False)), (q, k))
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


def test_the_backend_of_the_forward_does_the_backward():
    rope = RotaryEmbedding(10)
    q, k = inputs(torch.float32)
    with use_backend("eager"):
        y, z = rope.rotate(q, k)
    (y.sum() + z.sum()).backward()
    assert q.grad is not None
