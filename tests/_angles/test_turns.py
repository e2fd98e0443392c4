"""Exact angles compared with exact arithmetic: errors and correct rounding, in both precisions, at every kind of position."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch

from rotary._angles.eager import cos_sin_of_turns, cos_sin_without_float64, in_blocks
from rotary._angles.turns import ONE_TURN, in_one_word, turns, turns_per_token
from support import truth

BASES = (1e4, 5e5, 1e6)
FLOAT32_BOUND = 3.1e-8
HARD = (0, 1, -1, 2**24 - 1, 2**24, 2**24 + 1, -(2**24) - 1, 2**31 - 1, -(2**31), 1_000_000)


def frequencies(base: float, dim: int = 128) -> torch.Tensor:
    return torch.tensor([float(f) for f in truth.inv_freq(dim, base)], dtype=torch.float64).to(torch.float32)


def signed_log_uniform(n: int, seed: int) -> list[int]:
    draw = random.Random(seed)
    return [draw.choice((-1, 1)) * int(2.0 ** draw.uniform(0, 31)) for _ in range(n)]


def tables(positions: list[int], inv_freq: torch.Tensor, dtype: torch.dtype, divisor: float = 1.0):
    words = turns_per_token(inv_freq, divisor)
    return cos_sin_of_turns(
        turns(torch.tensor(positions), *(words if dtype == torch.float64 else (in_one_word(*words),))), dtype
    )


def worst(
    positions: list[int], inv_freq: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, divisor: float = 1.0
) -> float:
    errors = [
        max(abs(c - cos[i, j].item()), abs(s - sin[i, j].item()))
        for i, row in enumerate(truth.table(positions, inv_freq.tolist(), divisor))
        for j, (c, s) in enumerate(row)
    ]
    return float(max(errors))


def test_one_turn_is_the_digits_of_one_over_two_pi():
    with mpmath.workprec(800):
        assert int(mpmath.floor(mpmath.ldexp(1 / (2 * mpmath.pi), 320))) == ONE_TURN


@pytest.mark.parametrize("divisor", [1.0, 3.7, 8.0])
def test_words_hold_every_float32_frequency_to_two_to_the_minus_95(divisor: float):
    draw = random.Random(0)
    values = [draw.choice((-1, 1)) * 2.0 ** draw.uniform(-140, 4) for _ in range(300)] + [0.0, 1.0, -1.0, 2.0**-149]
    inv_freq = torch.tensor(values, dtype=torch.float32)
    high, low = turns_per_token(inv_freq, divisor)
    with mpmath.workprec(800):
        for value, h, l in zip(inv_freq.tolist(), high.tolist(), low.tolist(), strict=True):
            exact = mpmath.mpf(value) / mpmath.mpf(divisor) / (2 * mpmath.pi) * mpmath.mpf(2) ** 95
            assert 0 <= l < 2**31
            off = (((h << 31) + l) - int(mpmath.floor(exact))) % 2**95
            assert min(off, 2**95 - off) <= 1, value


@pytest.mark.parametrize("base", BASES)
def test_error_of_float32_tables(base: float):
    inv_freq = frequencies(base)
    positions = [*HARD, *signed_log_uniform(150, int(base))]
    cos, sin = tables(positions, inv_freq, torch.float32)
    assert cos.dtype == sin.dtype == torch.float32
    assert worst(positions, inv_freq, cos, sin) <= FLOAT32_BOUND


def test_error_where_cos_is_nearest_to_zero():
    """Positions nearest to odd multiples of a quarter turn; the error stays absolute, however small cos becomes."""
    inv_freq = frequencies(1e4)[7:8]
    quarter = mpmath.pi / 2 / mpmath.mpf(inv_freq.item())
    positions = [int(mpmath.nint((2 * k + 1) * quarter)) for k in range(5000)]
    near = sorted(positions, key=lambda p: abs(truth.cos_sin(p, inv_freq.item())[0]))[:40]
    positions = near
    cos, sin = tables(positions, inv_freq, torch.float32)
    assert cos.abs().max() < 1e-2 and cos.abs().min() < 1e-3
    assert worst(positions, inv_freq, cos, sin) <= FLOAT32_BOUND


@pytest.mark.parametrize("base", BASES)
def test_float64_tables(base: float):
    inv_freq = frequencies(base)[::3]
    positions = [*HARD, *signed_log_uniform(60, 1)]
    cos, sin = tables(positions, inv_freq, torch.float64)
    assert worst(positions, inv_freq, cos, sin) <= 1e-15


def test_divisor_is_exact_too():
    inv_freq = frequencies(1e4)[::5]
    positions = [*HARD, *signed_log_uniform(40, 2)]
    for divisor in (4.0, 3.7):
        cos, sin = tables(positions, inv_freq, torch.float32, divisor)
        assert worst(positions, inv_freq, cos, sin, divisor) <= FLOAT32_BOUND


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_jit_trace_has_the_words_of_every_exponent():
    """Denormal numbers and both zeros included; what is not finite has no words in either."""
    bits = torch.arange(0xFF)[:, None] << 23 | torch.tensor([0, 1, 2, 0x400000, 0x2AAAAA, 0x7FFFFF])
    x = torch.cat((bits.flatten(), torch.arange(2000))).to(torch.int32).view(torch.float32)
    x = torch.cat((x, -x))
    traced = torch.jit.trace(lambda x: turns_per_token(x, 3.0), torch.ones(2), check_trace=False)
    assert all(torch.equal(a, b) for a, b in zip(traced(x), turns_per_token(x, 3.0), strict=True))
    for number in (math.inf, math.nan):
        for words in (traced, turns_per_token):
            with pytest.raises((IndexError, RuntimeError)):
                words(torch.full((2,), number))


def test_positions_far_beyond_two_to_the_31():
    """A looser bound, but never noise: the frequency's last bit, 2^-65 turn, times the position."""
    inv_freq = frequencies(1e4)[::9]
    positions = [2**40 + 12345, -(2**45) - 7, 2**50 + 1]
    cos, sin = tables(positions, inv_freq, torch.float64)
    assert worst(positions, inv_freq, cos, sin) <= 1e-12
    cos, sin = tables(positions[:1], inv_freq, torch.float32)
    assert worst(positions[:1], inv_freq, cos, sin) <= 4e-7


def test_without_float64():
    inv_freq = frequencies(5e5)
    positions = [*HARD, *signed_log_uniform(100, 3)]
    words = turns_per_token(inv_freq)
    cos, sin = cos_sin_without_float64(turns(torch.tensor(positions), in_one_word(*words)))
    assert cos.dtype == torch.float32
    assert worst(positions, inv_freq, cos, sin) <= 1.0e-7


def test_without_float64_carries_the_amplitude():
    words = turns_per_token(frequencies(1e4))
    t = turns(torch.arange(50), in_one_word(*words))
    for doubled, plain in zip(cos_sin_without_float64(t, 2.0), cos_sin_without_float64(t), strict=True):
        assert torch.equal(doubled, 2 * plain)


def _correctly_rounded(positions: np.ndarray, inv_freq: torch.Tensor) -> float:
    """Share of values equal to the rounded 80-bit ones; the angle in turns by exact integers, its cos and sin in long double."""
    cos, sin = tables(positions.tolist(), inv_freq, torch.float32)
    right = total = 0
    for j, f in enumerate(inv_freq.tolist()):
        scaled = round(Fraction(f) * ONE_TURN / 2 ** (320 - 128))
        turn = np.array([((int(p) * scaled) % 2**128) >> 64 for p in positions], dtype=np.uint64)
        angle = (
            turn.astype(np.longdouble)
            / np.longdouble(2) ** 64
            * (2 * np.longdouble("3.14159265358979323846264338327950288"))
        )
        for ours, true in ((cos[:, j], np.cos(angle)), (sin[:, j], np.sin(angle))):
            right += int((ours.numpy() == true.astype(np.float32)).sum())
            total += len(positions)
    return right / total


def test_correct_rounding_below_two_to_the_17():
    rng = np.random.default_rng(0)
    positions = rng.choice(2**17, 8000, replace=False)
    assert (
        _correctly_rounded(positions, frequencies(1e4)[::4]) >= 0.99999
    )  # the exhaustive run, 99.9999 %, is benchmarks/accuracy/run.py


def test_correct_rounding_sampled_to_two_to_the_31():
    rng = np.random.default_rng(1)
    sign = rng.choice((-1, 1), 4000)
    log_uniform = (sign * 2 ** rng.uniform(0, 31, 4000)).astype(np.int64)
    uniform = rng.integers(-(2**31), 2**31, 4000)
    assert _correctly_rounded(log_uniform, frequencies(5e5)[::4]) >= 0.999
    assert _correctly_rounded(uniform, frequencies(5e5)[::4]) >= 0.99


def test_the_long_double_judge_agrees_with_mpmath():
    f = frequencies(1e4)[3].item()
    scaled = round(Fraction(f) * ONE_TURN / 2 ** (320 - 128))
    for p in (12345, 2**31 - 1):
        turn = ((p * scaled) % 2**128) >> 64
        angle = (
            np.longdouble(turn) / np.longdouble(2) ** 64 * (2 * np.longdouble("3.14159265358979323846264338327950288"))
        )
        assert abs(float(np.cos(angle)) - float(truth.cos_sin(p, f)[0])) < 2e-16


def test_blocks_change_no_bit():
    positions = torch.arange(5000)
    words = turns_per_token(frequencies(1e4))

    def made(p: torch.Tensor):
        return cos_sin_of_turns(turns(p[..., 0], in_one_word(*words)), torch.float32)

    positions = positions[:, None]
    for whole, parts in zip(made(positions), in_blocks(made, positions, 64, torch.float32), strict=True):
        assert torch.equal(whole, parts)
    two_rows = positions.view(2, 2500, 1)
    for whole, parts in zip(made(two_rows), in_blocks(made, two_rows, 64, torch.float32), strict=True):
        assert parts.shape == (2, 2500, 64) and torch.equal(whole, parts)
