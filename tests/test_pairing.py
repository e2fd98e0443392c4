"""A permutation of channels, judged by rotating: scores and rotated values must not notice."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from rotary import RotaryEmbedding
from rotary.pairing import half_to_interleaved, interleaved_to_half, permutation


@pytest.mark.parametrize(("dim", "head_dim"), [(8, 8), (4, 10), (2, 3), (64, 96)])
def test_rotating_commutes_with_reordering(dim: int, head_dim: int):
    x = torch.randn(2, 5, head_dim)
    half, neighbours = RotaryEmbedding(dim), RotaryEmbedding(dim, interleaved=True)
    reordered = neighbours.rotate(half_to_interleaved(x, dim=dim))
    assert torch.equal(interleaved_to_half(reordered, dim=dim), half.rotate(x))
    assert torch.equal(interleaved_to_half(half_to_interleaved(x, dim=dim), dim=dim), x)
    if dim > 2:
        assert not torch.equal(half_to_interleaved(x, dim=dim), x)
    assert torch.equal(reordered[..., dim:], x[..., dim:])


def test_weights_and_biases_of_a_projection():
    torch.manual_seed(0)
    layer = torch.nn.Linear(6, 3 * 10, dtype=torch.float64)
    x = torch.randn(4, 6, dtype=torch.float64)
    half, neighbours = RotaryEmbedding(8), RotaryEmbedding(8, interleaved=True)
    expected = half.rotate(layer(x).view(4, 3, 10), seq_dim=0)
    with torch.no_grad():
        for parameter in (layer.weight, layer.bias):
            parameter.copy_(half_to_interleaved(parameter, dim=8, head_dim=10, axis=0))
    got = neighbours.rotate(layer(x).view(4, 3, 10), seq_dim=0)
    torch.testing.assert_close(interleaved_to_half(got, dim=8), expected)


def test_the_drawing():
    letters = list("abcdabcd")
    order = permutation(8, 8, to_interleaved=True)
    assert [letters[i] for i in order.tolist()] == list("aabbccdd")
    assert permutation(4, 6, to_interleaved=False).tolist() == [0, 2, 1, 3, 4, 5]


def test_the_order_is_made_where_x_is():
    x = torch.arange(16.0).view(2, 8)
    with torch.device("meta"):
        reordered = half_to_interleaved(x, head_dim=4)
        assert half_to_interleaved(torch.empty(3, 8)).device.type == "meta"
    assert torch.equal(reordered, half_to_interleaved(x, head_dim=4))
    assert torch.equal(interleaved_to_half(reordered, head_dim=4), x)
    with FakeTensorMode():
        assert interleaved_to_half(torch.empty(3, 8)).shape == (3, 8)


def test_refusals():
    x = torch.randn(3, 10)
    for options in ({"dim": 3}, {"dim": 0}, {"dim": 12}, {"dim": 2, "head_dim": 4}):
        with pytest.raises(ValueError, match="dim"):
            half_to_interleaved(x, **options)


@pytest.mark.parametrize("dim", [-2, 0, 3, 10])
def test_a_rotated_part_that_is_none_is_refused(dim: int):
    with pytest.raises(ValueError, match=f"dim must be even, positive and at most head_dim 8, got {dim}"):
        half_to_interleaved(torch.zeros(8), dim=dim)


def test_a_jagged_tensor_is_refused():
    x = torch.nested.nested_tensor([torch.randn(n, 8) for n in (2, 3)], layout=torch.jagged)
    for reorder in (half_to_interleaved, interleaved_to_half):
        with pytest.raises(TypeError, match=r"x is a jagged nested tensor, .* give its values\(\)"):
            reorder(x)
