"""Schemes with a rule for each plane, against their formulas."""

from __future__ import annotations

import mpmath
import pytest
import torch

from rotary import RotaryEmbedding
from rotary.scaling import Clipped, Gains, Power, Proportional, Resonance, Truncated
from support import formulas

PLAIN = formulas.progression(128, 1e4)


def near(rope: RotaryEmbedding, exact: list[mpmath.mpf], within: float = 1) -> None:
    assert max(formulas.ulps(a, b) for a, b in zip(rope.inv_freq.tolist(), exact, strict=True)) <= within


def test_proportional_is_not_partial():
    """Gemma 4: a quarter of 512 channels rotates; the exponent counts all 512, and pairs stay half a head apart."""
    rope = RotaryEmbedding(512, base=1e6, scaling=Proportional(0.25))
    near(rope, formulas.progression(512, 1e6)[:64] + [mpmath.mpf(0)] * 192)
    x = torch.randn(3, 512)
    y = rope.rotate(x, offset=1000)
    moved = (x != y).any(0)
    assert moved[:64].all() and moved[256:320].all() and not moved[64:256].any() and not moved[320:].any()
    partial = RotaryEmbedding(128, base=1e6)
    assert not torch.allclose(partial.inv_freq[1:], rope.inv_freq[1:64], rtol=0.01)


def test_truncated():
    """Planes of at least one turn in the window are kept, those of 1/8 to 1 turn get 1/16 turn, slower ones do not rotate."""
    rope = RotaryEmbedding(128, scaling=Truncated(4096))
    expected = []
    for theta in PLAIN:
        r = formulas.turns(theta, 4096)
        expected.append(theta if r >= 1 else 2 * mpmath.pi / (16 * 4096) if r >= mpmath.mpf(1) / 8 else mpmath.mpf(0))
    near(rope, expected)
    assert (
        len(set(rope.inv_freq.tolist())) == 48 and rope.inv_freq[-1] == 0 and rope.inv_freq[45] > rope.inv_freq[46] > 0
    )


@pytest.mark.parametrize("exponent", [0.5, 1.0, 3.0])
def test_power(exponent: float):
    exact = [t * (1 - mpmath.mpf(i) / 64) ** exponent for i, t in enumerate(PLAIN)]
    near(RotaryEmbedding(128, scaling=Power(exponent)), exact)


def test_clipped():
    exact = list(PLAIN)
    for k in range(20):
        exact[44 + k] *= (1 + mpmath.cos(mpmath.pi * k / 19)) / 2
    rope = RotaryEmbedding(128, scaling=Clipped())
    near(rope, [*exact[:-1], mpmath.mpf(0)] if rope.inv_freq[-1] == 0 else exact, within=2)
    hard = RotaryEmbedding(128, scaling=Clipped(20, taper="hard"))
    near(hard, PLAIN[:44] + [mpmath.mpf(0)] * 20)


def test_resonance():
    rope = RotaryEmbedding(128, scaling=Resonance())
    near(rope, [2 * mpmath.pi / mpmath.nint(2 * mpmath.pi / t) for t in PLAIN])
    assert rope.inv_freq[0].item() == pytest.approx(float(2 * mpmath.pi / 6))
    first = rope.cos_sin(torch.tensor([5, 5 + 6, 5 + 6 * 10**6]))[0][:, 0]
    # Frequencies are float32, which drifts over 6e6 tokens.
    torch.testing.assert_close(first, first[:1].expand(3), atol=2e-1, rtol=0.0)


def test_gains():
    gains = [0.5 + i / 64 for i in range(63)] + [0.0]
    near(RotaryEmbedding(128, scaling=Gains(gains)), [t * mpmath.mpf(g) for t, g in zip(PLAIN, gains, strict=True)])


def test_refusals():
    cases = {
        "partial_rotary_factor must be between 0 and 1, got 1.5": lambda: Proportional(1.5),
        "gains needs 4 values.*got 3": lambda: RotaryEmbedding(8, scaling=Gains([1.0, 1.0, 1.0])),
        r"gains\[1\] must be": lambda: Gains([1.0, -1.0]),
        "planes must be <= 4": lambda: RotaryEmbedding(8, scaling=Clipped(5)),
        "planes must be >= 1, got 0": lambda: Clipped(0),
        "taper": lambda: Clipped(2, taper="soft"),
        "exponent": lambda: Power(0.0),
        "dropped": lambda: Truncated(4096, dropped=0.5),
    }
    for message, call in cases.items():
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="planes"):
        Clipped(2.0)
