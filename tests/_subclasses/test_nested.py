"""Nested jagged tensors: each document as if it were alone, gradients too, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import rotary
from rotary import RotaryEmbedding, apply_rotary, apply_rotary_qk, operators
from rotary.scaling import DynamicNTK

LENGTHS = (4, 1, 6)
DIM = 8


def documents(heads: int = 3, requires_grad: bool = False) -> tuple[Tensor, list[Tensor]]:
    """A jagged (3, tokens, heads, DIM), and its documents (tokens, heads, DIM)."""
    alone = [torch.randn(n, heads, DIM) for n in LENGTHS]
    return torch.nested.nested_tensor(alone, layout=torch.jagged, requires_grad=requires_grad), alone


def keys_like(q: Tensor, heads: int = 2) -> Tensor:
    return torch.nested.nested_tensor_from_jagged(torch.randn(q.values().shape[0], heads, DIM), q.offsets())


@pytest.mark.parametrize("interleaved", [False, True])
def test_each_document_is_rotated_as_if_it_were_alone(interleaved: bool):
    rope, (q, alone) = RotaryEmbedding(DIM, interleaved=interleaved), documents()
    y = rope.rotate(q, seq_dim=1)
    assert y.layout is torch.jagged and y.shape == q.shape
    for got, x in zip(y.unbind(), alone, strict=True):
        assert torch.equal(got, rope.rotate(x, seq_dim=0))


def test_the_layout_of_attention_heads_before_tokens():
    """(batch, heads, tokens, head_dim), the transposed view that torch's attention takes: the default seq_dim."""
    rope, (q, alone) = RotaryEmbedding(DIM), documents()
    y = rope.rotate(q.transpose(1, 2))
    assert y.shape == q.transpose(1, 2).shape
    for got, x in zip(y.transpose(1, 2).unbind(), alone, strict=True):
        assert torch.equal(got, rope.rotate(x, seq_dim=0))
    attended = torch.nn.functional.scaled_dot_product_attention(y, y, q.transpose(1, 2))  # the results work together
    assert attended.shape == y.shape


def test_queries_and_keys_with_offsets_of_their_own():
    rope, (q, alone) = RotaryEmbedding(DIM), documents()
    k, offset = keys_like(q), torch.tensor([5, 0, 100])
    ys = rope.rotate(q, k, seq_dim=1, offset=offset)
    for jagged, parts in ((ys[0], alone), (ys[1], k.unbind())):
        for got, x, first in zip(jagged.unbind(), parts, offset.tolist(), strict=True):
            assert torch.equal(got, rope.rotate(x, seq_dim=0, offset=first))


def test_tables_and_positions_are_jagged_too():
    rope, (q, _) = RotaryEmbedding(DIM), documents()
    positions = torch.nested.nested_tensor([torch.arange(n) + 7 for n in LENGTHS], layout=torch.jagged)
    positions = torch.nested.nested_tensor_from_jagged(positions.values(), q.offsets())
    cos, sin = rope.cos_sin(positions)
    assert cos.layout is torch.jagged and cos.shape[1] == q.shape[1] and cos.shape[2] == DIM // 2
    wanted = rope.rotate(q, seq_dim=1, offset=7)
    for y in (apply_rotary(q, cos, sin, seq_dim=1), rope.rotate(q, seq_dim=1, positions=positions)):
        assert torch.equal(y.values(), wanted.values())


def test_dense_tables_give_each_document_their_first_rows():
    rope, (q, _) = RotaryEmbedding(DIM), documents()
    k = keys_like(q)
    cos, sin = rope.cos_sin(9)
    wanted = rope.rotate(q, k, seq_dim=1)
    for got, y in zip(apply_rotary_qk(q, k, cos, sin, seq_dim=1), wanted, strict=True):
        assert torch.equal(got.values(), y.values())
    back = apply_rotary(wanted[0], cos, sin, seq_dim=1, conjugate=True)
    assert torch.allclose(back.values(), q.values(), rtol=0, atol=1e-6)


def test_gradients_are_those_of_each_document_alone():
    rope, (q, alone) = RotaryEmbedding(DIM), documents(requires_grad=True)
    weight = torch.randn(DIM)
    (rope.rotate(q, seq_dim=1).values() * weight).sum().backward()
    for got, x in zip(q.grad.unbind(), alone, strict=True):
        x.requires_grad_()
        (rope.rotate(x, seq_dim=0) * weight).sum().backward()
        assert torch.allclose(got, x.grad, rtol=0, atol=1e-6)


def test_a_packed_batch_in_torchs_own_layout_raises_no_internal_error():
    """AttributeError: 'NestedIntNode' object has no attribute 'add', it was."""
    q, _ = documents()
    with pytest.raises(ValueError, match=r"lie along dimension 1: pass seq_dim=1, got -2"):
        RotaryEmbedding(DIM).rotate(q)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_the_strided_layout_is_refused_by_name():
    q = torch.nested.nested_tensor([torch.randn(n, 2, DIM) for n in LENGTHS])
    with pytest.raises(TypeError, match=r"q is a nested tensor of strided layout.*layout=torch\.jagged"):
        RotaryEmbedding(DIM).rotate(q)


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"inplace": True}, TypeError, "cannot be rotated in place: leave inplace out"),
        ({"cu_seqlens": torch.tensor([0, 11])}, TypeError, "leave cu_seqlens out"),
        ({"positions": torch.arange(11)}, ValueError, "positions must be jagged with the documents of x"),
        (
            {"length": torch.tensor([3, 5, 2])},
            TypeError,
            r"length is one number .* int64 \(3,\): give an int or a 0-d tensor",
        ),
        ({"k": torch.randn(3, 6, 2, DIM)}, TypeError, "k is Tensor: both must be"),
        ({"k": documents(2)[0].transpose(1, 2)}, ValueError, "documents of k .* lie along dimension 2"),
        (
            {"k": torch.nested.nested_tensor([torch.randn(n, 2, DIM) for n in (1, 2, 3)], layout=torch.jagged)},
            ValueError,
            "other lengths",
        ),
    ],
)
def test_what_does_not_fit_is_named(how: dict[str, Any], error: type[Exception], message: str):
    q, _ = documents()
    with pytest.raises(error, match=message):
        RotaryEmbedding(DIM).rotate(q, seq_dim=1, **how)


def test_a_length_is_one_number_for_all_documents():
    """A tensor of lengths gave tables with a batch, wrapped as if their first dimension were the tokens."""
    q, alone = documents()
    positions = torch.nested.nested_tensor_from_jagged(torch.arange(11), q.offsets())
    for rope in (RotaryEmbedding(DIM), RotaryEmbedding(DIM, scaling=DynamicNTK(2.0, 4))):
        for lengths in (torch.tensor([3, 5, 2]), torch.tensor([5])):
            with pytest.raises(TypeError, match="length is one number for all documents"):
                rope.cos_sin(positions, length=lengths)
            with pytest.raises(TypeError, match="length is one number for all documents"):
                rope.rotate_qkv(torch.cat([q, q, q], 2), heads=(3, 3), length=lengths)
        y = rope.rotate(q, seq_dim=1, length=torch.tensor(9))
        for got, x in zip(y.unbind(), alone, strict=True):
            assert torch.equal(got, rope.rotate(x, seq_dim=0, length=9))


def test_functions_without_cu_seqlens_advise_none():
    q, _ = documents()
    rope = RotaryEmbedding(DIM)
    calls = (
        lambda: rope.rerotate(q, 0, 5),
        lambda: operators.apply_rotary(q, *rope.cos_sin(6), seq_dim=1),
        lambda: rotary.apply_rotary_pos_emb(q, *rope(6)),
        lambda: RotaryEmbedding.from_inv_freq(q),
    )
    for call in calls:
        with pytest.raises(
            TypeError, match=r"is a jagged nested tensor, which is not served here: give its values\(\), all documents"
        ):
            call()


def test_tables_that_are_too_short_are_refused():
    q, _ = documents()
    with pytest.raises(ValueError, match="cos has 5 rows, the longest document 6"):
        apply_rotary(q, *RotaryEmbedding(DIM).cos_sin(5), seq_dim=1)
