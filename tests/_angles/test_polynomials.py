"""The definition of cos, sin and exp: against mpmath, against Python's own floats one operation at a time, and under Inductor."""

from __future__ import annotations

import math
import random

import mpmath
import pytest
import torch
from torch import Tensor

from rotary import RotaryEmbedding
from rotary._angles import polynomials
from support import truth

assert truth.mpmath.mp.dps >= 60
UNIT = 2 * mpmath.pi / mpmath.mpf(2) ** 64
HARD = [n * 2**61 + d for n in range(-4, 4) for d in (-1, 0, 1) if n * 2**61 + d >= -(2**63)]


def signed(turns: int) -> int:
    return (turns + 2**63) % 2**64 - 2**63


def by_floats(turns: int) -> tuple[float, float]:
    """The definition in Python, whose floats are rounded after every operation."""
    quarter = ((turns + 2**61) % 2**64) >> 62
    x = float(signed(turns - (quarter << 62))) * (2.0 * math.pi * 2.0**-64)
    z = x * x
    s, c = 1 / math.factorial(17), 1 / math.factorial(16)
    for n in range(15, 2, -2):
        s = z * s + (-1) ** (n // 2) / math.factorial(n)
    for n in range(14, 3, -2):
        c = z * c + (-1) ** (n // 2) / math.factorial(n)
    s, c = x + x * (z * s), 1.0 - (z * 0.5 - z * (z * c))
    cos, sin = (s, c) if quarter & 1 else (c, s)
    return (-cos if (quarter + 1) & 2 else cos), (-sin if quarter & 2 else sin)


def bits(x: Tensor) -> list[int]:
    return x.view(torch.int64).tolist()


def some_turns(n: int) -> list[int]:
    draw = random.Random(3)
    small = [draw.choice((-1, 1)) * int(2 ** draw.uniform(0, 62)) for _ in range(n // 2)]
    return [*HARD, *small, *(draw.randrange(-(2**63), 2**63) for _ in range(n // 2))]


def test_F57_every_operation_is_rounded_by_itself():
    turns = some_turns(4000)
    cos, sin = polynomials.cos_sin(torch.tensor(turns))
    expected = torch.tensor([by_floats(t) for t in turns], dtype=torch.float64)
    assert bits(cos) == bits(expected[:, 0].contiguous()) and bits(sin) == bits(expected[:, 1].contiguous())


def test_cos_and_sin_are_right_to_less_than_a_unit_of_float64():
    turns = some_turns(3000)
    cos, sin = polynomials.cos_sin(torch.tensor(turns))
    for t, c, s in zip(turns, cos.tolist(), sin.tolist(), strict=True):
        assert abs(mpmath.cos(t * UNIT) - c) <= 2.0**-52 and abs(mpmath.sin(t * UNIT) - s) <= 2.0**-52


def test_quarter_turns_are_exact():
    cos, sin = polynomials.cos_sin(torch.tensor([0, 2**62, -(2**63), -(2**62)]))
    assert cos.tolist() == [1, 0, -1, 0] and sin.tolist() == [0, 1, 0, -1]


def test_exp_is_right_to_two_units_and_saturates():
    draw = random.Random(4)
    x = (
        [draw.uniform(-745.0, 709.7) for _ in range(1000)]
        + [draw.uniform(-1, 1) for _ in range(1000)]
        + [0.0, 0.5, -0.5]
    )
    for value, got in zip(x, polynomials.exp(torch.tensor(x, dtype=torch.float64)).tolist(), strict=True):
        assert abs(mpmath.exp(value) - got) <= max(2 * math.ulp(got), 2.0**-1074)
    far = torch.tensor([709.8, 1e5, math.inf, -746.0, -1e300, -math.inf], dtype=torch.float64)
    assert polynomials.exp(far).tolist() == [math.inf] * 3 + [0.0] * 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_jit_trace_has_the_bits_of_exp():
    x = torch.cat((torch.linspace(-1200, 1200, 9_999, dtype=torch.float64), torch.tensor([math.inf, -math.inf])))
    traced = torch.jit.trace(polynomials.exp, torch.zeros(3, dtype=torch.float64), check_trace=False)
    assert torch.equal(traced(x), polynomials.exp(x))


def test_the_constants_of_exp_are_a_split_logarithm():
    high, low = mpmath.mpf(polynomials.LN2_HIGH), mpmath.mpf(polynomials.LN2_LOW)
    assert abs(high + low - mpmath.log(2)) <= mpmath.mpf(2) ** -92
    assert all(math.fmod(k * polynomials.LN2_HIGH, 2.0**-36) == 0 for k in (1, 3, 1587))  # a product is exact


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inductor_keeps_the_bits_on_a_cpu(dtype: torch.dtype):
    """It contracts no products there (-ffp-contract=off), and what it joins it joins in the same order."""
    rope = RotaryEmbedding(96)
    torch.manual_seed(0)
    positions = torch.randint(-(2**31), 2**31, (300,))
    compiled = torch.compile(lambda p: rope.cos_sin(p, dtype), fullgraph=True)
    for a, b in zip(compiled(positions), rope.cos_sin(positions, dtype), strict=True):
        assert torch.equal(a, b)
