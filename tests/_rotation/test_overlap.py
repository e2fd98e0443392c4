"""Memory that overlaps, against enumerating every address."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from rotary._rotation.overlap import check, overlap, overlaps_itself


def addresses(x: Tensor) -> list[int]:
    at = torch.tensor(x.data_ptr() // x.element_size())
    for size, stride in zip(x.shape, x.stride(), strict=True):
        at = at[..., None] + torch.arange(size) * stride
    return at.flatten().tolist()


def test_overlap_is_what_enumeration_says():
    draw, memory = random.Random(0), torch.zeros(400)
    seen = {"itself": [0, 0], "other": [0, 0]}

    def tensor() -> Tensor:
        n = draw.randint(1, 3)
        sizes = [draw.randint(0, 4) if draw.random() < 0.1 else draw.randint(1, 4) for _ in range(n)]
        return memory.as_strided(
            sizes, [draw.choice((0, 1, 2, 3, 4, 6, 8, 12, 16, 24)) for _ in range(n)], draw.randint(0, 60)
        )

    for _ in range(4000):
        x, y = tensor(), tensor()
        at_x, at_y = addresses(x), addresses(y)
        itself, other = len(set(at_x)) < len(at_x), bool(set(at_x) & set(at_y))
        assert overlaps_itself(x) == itself
        assert overlap(x, y) == other
        seen["itself"][itself] += 1
        seen["other"][other] += 1
    assert min(seen["itself"] + seen["other"]) > 300


def test_slices_of_one_projection_do_not_overlap():
    qkv = torch.zeros(2, 512, 3, 32, 128)
    q, k, v = qkv.unbind(2)
    assert not overlap(q, k)
    assert not overlap(q, v)
    assert overlap(q, qkv[:, :, 0])
    assert not overlap(q, torch.zeros(4))
    assert overlap(qkv[..., :65], qkv[..., 64:])
    flat = torch.zeros(2, 512, 40 * 128)
    assert not overlap(
        flat[..., : 32 * 128].view(2, 512, 32, 128).transpose(1, 2),
        flat[..., 32 * 128 :].view(2, 512, 8, 128).transpose(1, 2),
    )


def test_a_search_without_end_is_cut_off_with_the_careful_answer():
    memory = torch.zeros(6000)
    assert overlaps_itself(memory.as_strided((5,) * 8, (101, 103, 107, 109, 113, 127, 131, 137)))


class Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad


def test_views_made_where_autograd_cannot_follow_are_refused():
    view = Through.apply(torch.randn(4, 8, requires_grad=True) * 1)
    with pytest.raises(RuntimeError, match="view"):
        view.mul_(2)  # torch refuses it too
    with pytest.raises(RuntimeError, match="IN_CUSTOM_FUNCTION.*inplace=False"):
        check((view,), ("x",))
