"""xPos: its scale, its range, and where it is centred."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import re

import mpmath
import pytest
import torch

from rotary import RotaryEmbedding
from rotary._angles import polynomials
from rotary._angles.xpos import XPos
from support import truth


@pytest.mark.parametrize(("dim", "base"), [(2, 512), (64, 512), (128, 1024.5)])
def test_scale_is_the_formula_in_float64(dim: int, base: float):
    xpos = XPos(dim, base)
    for z, exact in zip(xpos.zeta, truth.zeta(dim), strict=True):
        assert abs(z - exact) < 1e-15
    positions = [0, 1, -1, 77, 5000, -5000]
    for role, sign in (("query", 1), ("key", -1)):
        scale = xpos.scale(torch.tensor(positions), role)
        assert scale.dtype == torch.float64 and scale.shape == (6, dim // 2)
        for row, p in zip(scale.tolist(), positions, strict=True):
            for got, exact in zip(row, truth.xpos_scale(sign * p, dim, base), strict=True):
                assert abs(got - exact) <= exact * 2e-14


def test_integers_take_the_exp_that_has_the_same_bits_everywhere_and_real_positions_that_of_torch():
    decay, at = XPos(64, 512).decay(), torch.arange(-4000, 4000)
    power = (at.double() / 512)[:, None] * decay.powers.on(at.device)[:-1]
    assert torch.equal(decay.at(at), polynomials.exp(power))
    assert torch.equal(decay.at(at.double()), power.exp())


def test_the_centre_is_position_0_whatever_the_length():
    rope = RotaryEmbedding(16, use_xpos=True)
    cached = rope.rotate(torch.ones(1, 1, 3, 16), role="key")
    later = rope.rotate(torch.ones(1, 1, 900, 16), role="key")
    assert torch.equal(cached, later[:, :, :3])


def test_scores_decay_with_distance_alone():
    rope = RotaryEmbedding(16, use_xpos=True)
    q, k = torch.randn(2, 1, 16, dtype=torch.float64)

    def score(m: int, n: int) -> torch.Tensor:
        return rope.rotate(q, offset=m, role="query") @ rope.rotate(k, offset=n, role="key").mT

    for shift in (1, 500, -2000):
        torch.testing.assert_close(score(40 + shift, 3 + shift), score(40, 3), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_furthest_position_is_where_the_scale_reaches_a_sixty_fourth_of_the_range(dtype: torch.dtype):
    xpos = XPos(64, 512)
    furthest = xpos.furthest(dtype)
    limit = mpmath.mpf(torch.finfo(dtype).max) / 64
    assert truth.xpos_scale(-furthest, 64, 512)[0] <= limit < truth.xpos_scale(-furthest - 2, 64, 512)[0]
    assert xpos.overflow(furthest, dtype) is None
    message = xpos.overflow(furthest + 1, dtype)
    assert message is not None and re.search(rf"position {furthest + 1} by {0.4 / 1.4:.4f}\^\(\+-.*scale_base", message)


def test_the_remedy_named_is_enough():
    xpos = XPos(64, 512)
    message = xpos.overflow(100_000, torch.float16)
    assert message is not None
    named = int(message.split("at least ")[1].split(",")[0])
    assert XPos(64, named).overflow(100_000, torch.float16) is None


def test_overflow_is_refused_everywhere_the_host_knows_it():
    rope = RotaryEmbedding(64, use_xpos=True)
    x = torch.ones(1, 1, 2, 64, dtype=torch.float16)
    for call in (
        lambda: rope.rotate(x, x, offset=5000),
        lambda: rope.rotate(x, x, offset=-5000),
        lambda: rope.rotate(x, x, positions=torch.tensor([0, 5000])),
        lambda: rope.rotate(x, x, offset=torch.tensor([5000])),
        lambda: rope.cos_sin(5000, torch.float16, role="key"),
        lambda: rope(400_000),
    ):
        with pytest.raises(ValueError, match="larger scale_base"):
            call()
    assert rope.rotate(x, x, offset=2800)[1].isfinite().all()


def test_a_value():
    xpos = XPos(64, 512)
    assert pickle.loads(pickle.dumps(xpos)) == copy.deepcopy(xpos) == XPos(64, 512) != XPos(64, 513)


@pytest.mark.parametrize("n", [8, 9])
def test_the_documented_pair_is_centred_on_half_the_length_rounded_down(n: int):
    scale = RotaryEmbedding(8, use_xpos=True)(n)[1]
    assert torch.equal(scale[n // 2], torch.ones(8)) and not torch.equal(scale[n // 2 - 1], torch.ones(8))


def test_it_is_a_value():
    """Frozen: a module's tables depend on it, and nothing of it can be assigned."""
    decay = XPos(8, 512.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        decay.scale_base = 256.0
    assert decay == XPos(8, 512.0) and hash(decay) == hash(XPos(8, 512.0))
