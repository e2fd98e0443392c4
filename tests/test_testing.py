"""The shipped laws: they accept ours, and each kind of mistake breaks one of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rotary import RotaryEmbedding
from rotary.testing import assert_angles, assert_rotation

ROPE = RotaryEmbedding(16)


def ours(x: Tensor, positions: Tensor) -> Tensor:
    return ROPE.rotate(x, positions=positions)


def test_ours_obeys_at_every_distance():
    for options in ({}, {"interleaved": True}, {"interpolation_factor": 4.0}):
        rope = RotaryEmbedding(16, **options)
        for head_dim in (16, 20):
            assert_rotation(lambda x, p: rope.rotate(x, positions=p), head_dim=head_dim, dim=16, furthest=1 << 30)
    assert_rotation(lambda x, p: ROPE.rotate(x, positions=p), head_dim=16, dtype=torch.float32, tolerance=1e-6)


BROKEN = {
    "identity": lambda x, p: ours(x, p + 1),
    "input is left alone": lambda x, p: ours(x.mul_(1.0).add_(1e-3), p),
    "norms": lambda x, p: torch.cat((ours(x, p)[..., :16] * (1 + 1e-6 * (p != 0)[:, None]), x[..., 16:]), -1),
    "pass through": lambda x, p: torch.cat((ours(x[..., :16], p), -x[..., 16:]), -1),
    "distance alone": lambda x, p: ours(x, p * p.sign()),
    "rows of a batch": lambda x, p: ours(x, p + (x.shape[0] == 1) * 7 * (p != 0)),
    "one token alone": lambda x, p: ours(x, p + (x.shape[2] == 1) * 3),
    "float64": lambda x, p: ours(x, p).float(),
    "linearity": lambda x, p: torch.where(x.norm(dim=-1, keepdim=True) > 1.5, x, ours(x, p)),
    "something turns": lambda x, p: x.clone(),
    "expected torch.float64": lambda x, p: ours(x, p)[..., :-1],
}


@pytest.mark.parametrize("law", BROKEN)
def test_every_mistake_breaks_a_law(law: str):
    with pytest.raises(AssertionError, match=law):
        assert_rotation(BROKEN[law], head_dim=20, dim=16)


def test_angles():
    positions = [0, 1, -5, 131_071, 1_000_000, -(2**31)]
    cos, sin = ROPE.cos_sin(torch.tensor(positions))
    assert_angles(cos, sin, positions, ROPE.inv_freq)
    assert_angles(*ROPE.cos_sin(torch.tensor(positions), torch.float64), positions, ROPE.inv_freq, tolerance=1e-14)
    usual = torch.tensor(positions).float()[:, None] * ROPE.inv_freq
    with pytest.raises(AssertionError, match="of position .* is off by"):
        assert_angles(usual.cos(), usual.sin(), positions, ROPE.inv_freq)
    with pytest.raises(AssertionError, match="sin of position"):
        assert_angles(cos, -sin, positions, ROPE.inv_freq)
    with pytest.raises(AssertionError, match="shape"):
        assert_angles(cos[1:], sin, positions, ROPE.inv_freq)
    with pytest.raises(TypeError, match="float64"):
        assert_angles(cos, sin, positions, ROPE.inv_freq.double())
