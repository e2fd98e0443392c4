"""rotate_qkv: queries and keys of a packed projection as rotate gives them, values as they are, in every layout and with gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rotary import RotaryEmbedding

ROPE = RotaryEmbedding(16)
LAYOUTS: dict[str, tuple[tuple[int, ...], dict[str, Any], int]] = {
    "flash-attention": ((2, 7, 3, 4, 16), {}, 1),
    "flash-attention, packed": ((7, 3, 4, 16), {"cu_seqlens": torch.tensor([0, 3, 7])}, 0),
    "GPT-NeoX": ((2, 7, 4, 3, 16), {"qkv_dim": -2}, 1),
    "timm": ((3, 2, 4, 7, 16), {"qkv_dim": 0, "seq_dim": -2}, 2),
    "heads before the sequence": ((2, 3, 4, 7, 16), {"qkv_dim": 1, "seq_dim": 3}, 2),
    "partial": ((2, 7, 3, 4, 24), {"offset": 5, "conjugate": True}, 1),
    "fewer key heads": ((2, 7, 8, 16), {"heads": (4, 2)}, 1),
    "vLLM": ((7, 8, 16), {"heads": (6, 1), "positions": torch.tensor([9, 0, 1, 2, 0, 1, 2])}, 0),
}


def parts(qkv: Tensor, heads: tuple[int, int] | None = None, qkv_dim: int = -3, **_: Any) -> tuple[Tensor, ...]:
    return qkv.split((heads[0], heads[1], heads[1]), -2) if heads else qkv.unbind(qkv_dim)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("name", LAYOUTS)
def test_it_is_rotate_of_the_parts(name: str, inplace: bool):
    shape, how, axis = LAYOUTS[name]
    qkv = torch.randn(shape)
    before = qkv.clone()
    q, k, v = parts(before, **how)
    rotation = {n: value for n, value in how.items() if n not in ("heads", "qkv_dim", "seq_dim")}
    expected = (*ROPE.rotate(q, k, seq_dim=axis, **rotation), v)
    out = ROPE.rotate_qkv(qkv, inplace=inplace, **how)
    assert (out is qkv) == inplace
    assert all(torch.equal(a, b) for a, b in zip(parts(out, **how), expected, strict=True))
    assert inplace or torch.equal(qkv, before)
    assert not torch.equal(expected[0], q)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("name", ["flash-attention", "GPT-NeoX", "fewer key heads"])
def test_gradients(name: str, inplace: bool, compiled: bool):
    """Against rotate of separate tensors; in training the projection is no leaf, and may be written over."""
    shape, how, axis = LAYOUTS[name]
    x, weight = torch.randn(shape), torch.randn(shape)

    def loss(x: Tensor) -> Tensor:
        return (ROPE.rotate_qkv(x * 1.0, inplace=inplace, **how) * weight).sum()

    leaf = x.clone().requires_grad_()
    (torch.compile(loss, backend="aot_eager") if compiled else loss)(leaf).backward()
    separate = [part.clone().requires_grad_() for part in parts(x, **how)]
    q, k = ROPE.rotate(*separate[:2], seq_dim=axis)
    sum((y * w).sum() for y, w in zip((q, k, separate[2]), parts(weight, **how), strict=True)).backward()
    for a, b in zip(parts(leaf.grad, **how), separate, strict=True):
        torch.testing.assert_close(a, b.grad)


def test_xpos_turns_queries_and_keys_by_tables_of_their_own():
    rope = RotaryEmbedding(16, use_xpos=True)
    qkv = torch.randn(2, 7, 3, 4, 16)
    q, k = rope.rotate(qkv[:, :, 0], qkv[:, :, 1], seq_dim=1)
    out = rope.rotate_qkv(qkv)
    assert torch.equal(out[:, :, 0], q) and torch.equal(out[:, :, 1], k)


def test_a_joined_last_dimension_is_split_without_a_copy():
    fused = torch.randn(2, 7, (4 + 2 * 2) * 16)
    expected = ROPE.rotate_qkv(fused.unflatten(-1, (-1, 16)), heads=(4, 2)).flatten(-2)
    ROPE.rotate_qkv(fused.unflatten(-1, (-1, 16)), heads=(4, 2), inplace=True)
    assert torch.equal(fused, expected)


def test_nested_documents():
    documents = [torch.randn(n, 3, 4, 16) for n in (3, 5)]
    qkv = torch.nested.nested_tensor(documents, layout=torch.jagged)
    out = ROPE.rotate_qkv(qkv)
    assert out.layout is torch.jagged
    for document, rotated in zip(documents, out.unbind(), strict=True):
        assert torch.equal(rotated, ROPE.rotate_qkv(document))


@pytest.mark.parametrize(
    ("shape", "how", "error", "message"),
    [
        ((2, 7, 2, 4, 16), {}, ValueError, "qkv_dim -3 of qkv with shape .* must be a dimension of size 3"),
        ((7, 16), {}, ValueError, "must be a dimension of size 3"),
        ((7, 3), {"qkv_dim": 1}, ValueError, "must be a dimension of size 3"),
        ((3, 4, 16), {}, ValueError, "seq_dim -4 names no dimension of tokens"),
        ((2, 7, 3, 4, 16), {"seq_dim": 2}, ValueError, "seq_dim 2 names no dimension of tokens"),
        ((2, 7, 8, 16), {"heads": (4, 2), "seq_dim": -2}, ValueError, "seq_dim -2 names no dimension of tokens"),
        ((3, 2, 5, 4, 16), {"qkv_dim": 0}, TypeError, "qkv_dim 0 .* leaves open which dimension has the tokens"),
        ((3, 2, 5, 4, 16), {"qkv_dim": -5}, TypeError, "pass seq_dim=, -2 for"),
        ((2, 3, 5, 4, 16), {"qkv_dim": 1}, TypeError, "qkv_dim 1 .* leaves open"),
        ((3, 5, 4, 16), {"qkv_dim": 0}, TypeError, "leaves open"),
        ((2, 7, 8, 16), {"heads": (4, 4)}, ValueError, r"heads \(4, 4\) are 4 \+ 2 x 4 heads, dimension -2 .* has 8"),
        ((2, 7, 8, 16), {"heads": (4, 2), "qkv_dim": -2}, TypeError, "heads= is for heads side by side, qkv_dim= for"),
        ((2, 7, 8, 16), {"heads": (8, 0)}, ValueError, "heads"),
        ((2, 7, 8, 16), {"heads": 4}, TypeError, r"heads must be \(query heads, key heads\), got int 4"),
    ],
)
def test_what_is_no_packed_projection_is_refused(
    shape: tuple[int, ...], how: dict[str, Any], error: type[Exception], message: str
):
    with pytest.raises(error, match=message):
        ROPE.rotate_qkv(torch.randn(shape), **how)


def test_the_stacked_dimension_of_a_jagged_projection_is_counted_in_it():
    qkv = torch.nested.nested_tensor([torch.randn(n, 4, 3, 16) for n in (4, 2)], layout=torch.jagged)
    assert torch.equal(ROPE.rotate_qkv(qkv, qkv_dim=3).values(), ROPE.rotate_qkv(qkv, qkv_dim=-2).values())
    for wrong in (0, 1, 2, 4, -1):
        with pytest.raises(ValueError, match=rf"qkv_dim {wrong} of qkv with shape \(2, j\d+, 4, 3, 16\)"):
            ROPE.rotate_qkv(qkv, qkv_dim=wrong)
    with pytest.raises(TypeError, match="heads= is for"):
        ROPE.rotate_qkv(qkv, heads=(2, 1), qkv_dim=3)


def test_what_is_not_written_over():
    with pytest.raises(TypeError, match="qkv must be one tensor"):
        ROPE.rotate_qkv([torch.randn(7, 4, 16)] * 3)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="leaf"):
        ROPE.rotate_qkv(torch.randn(2, 7, 3, 4, 16, requires_grad=True), inplace=True)
