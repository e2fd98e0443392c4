"""The shipped laws: they accept ours, and each kind of mistake breaks one of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rotary import RotaryEmbedding, apply_rotary
from rotary.scaling import YaRN
from rotary.testing import assert_angles, assert_rerotation, assert_rotation

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
    "nothing turns: rotate returns its input": lambda x, p: x.clone(),
    r"rotate returned torch.float64 \(3, 2, 12, 19\) on cpu": lambda x, p: ours(x, p)[..., :-1],
    "rotate returned tuple of 2, expected a dense tensor": lambda x, p: ROPE.rotate(x, x, positions=p),
    "rotate returned None, expected a dense tensor": lambda x, p: None,
    "rotate returned Tensor .*, expected a dense tensor": lambda x, p: x.to_sparse(),
    "on meta, expected a dense tensor": lambda x, p: x.to("meta"),
}


@pytest.mark.parametrize("law", BROKEN)
def test_every_mistake_breaks_a_law(law: str):
    with pytest.raises(AssertionError, match=law):
        assert_rotation(BROKEN[law], head_dim=20, dim=16)


def moved(k: Tensor, p: Tensor, q: Tensor) -> Tensor:
    return ROPE.rerotate(k, p, q)


def test_our_moves_obey():
    for rope in (RotaryEmbedding(16, interleaved=True), RotaryEmbedding(16, scaling=YaRN(8.0, 2048))):
        for head_dim in (16, 20):
            assert_rerotation(
                lambda x, p, rope=rope: rope.rotate(x, positions=p),
                rope.rerotate,
                head_dim=head_dim,
                dim=16,
                furthest=1 << 31,
                tolerance=1e-14,
            )
    for dtype, tolerance in ((torch.float32, 3e-7), (torch.bfloat16, 2.01 * 2**-9), (torch.float16, 2.01 * 2**-12)):
        assert_rerotation(ours, moved, head_dim=20, dim=16, furthest=1 << 31, dtype=dtype, tolerance=tolerance)


def at_call(n: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Moves that are right but for one call."""
    calls = itertools.count(1)
    return lambda k, p, q: moved(k, p, q + (next(calls) == n))


WRONG_MOVES = {
    "rotated afresh": lambda k, p, q: moved(k, q, p),
    "rotated keys are not changed by rerotate": lambda k, p, q: ROPE.rerotate(k, p, q, inplace=True),
    "pass through": lambda k, p, q: torch.cat((moved(k, p, q)[..., :16], -k[..., 16:]), -1),
    "that do not move keep": lambda k, p, q: moved(moved(k, p, 0 * p), 0 * p, q),  # there and back, rounded twice
    "there and back": at_call(4),
    "two moves are one": at_call(6),
    "one token alone": lambda k, p, q: moved(k, p, q + (k.shape[2] == 1) * 3),
    "float64": lambda k, p, q: moved(k, p, q).float(),
    "rerotate returned tuple of 1": lambda k, p, q: (moved(k, p, q),),
    "rerotate returned None": lambda k, p, q: None,
    "a shift of all": lambda k, p, q: moved(k, p, torch.where((q - p == 1000).all(), q + 1, q)),
}


@pytest.mark.parametrize("law", WRONG_MOVES)
def test_every_mistake_in_a_move_breaks_a_law(law: str):
    with pytest.raises(AssertionError, match=law):
        assert_rerotation(ours, WRONG_MOVES[law], head_dim=20, dim=16)


def test_float32_differences_do_not_obey_far_out():
    def naive(k: Tensor, p: Tensor, q: Tensor) -> Tensor:
        angles = (q - p)[:, None].float() * ROPE.inv_freq
        cos, sin = angles.cos().double(), angles.sin().double()
        return apply_rotary(k, cos, sin)

    with pytest.raises(AssertionError, match="rotated afresh"):
        assert_rerotation(ours, naive, head_dim=16)


@pytest.mark.parametrize("furthest", [1, 2, 2**62])
def test_the_nearest_and_the_furthest_positions(furthest: int):
    assert_rotation(ours, head_dim=16, furthest=furthest)
    assert_rerotation(ours, moved, head_dim=16, furthest=furthest)


def test_angles_of_tables_and_frequencies_without_values():
    cos, sin = ROPE.cos_sin(3)
    for wrong in (float("nan"), float("inf")):
        inv_freq = ROPE.inv_freq.clone()
        inv_freq[3] = wrong
        with pytest.raises(ValueError, match="inv_freq must be finite"):
            assert_angles(cos, sin, range(3), inv_freq)
    for table in (cos.long(), cos.to("meta"), cos.to_sparse()):
        with pytest.raises(TypeError, match="^cos "):
            assert_angles(table, sin, range(3), ROPE.inv_freq)


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
