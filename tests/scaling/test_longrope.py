"""LongRoPE: the switch between its lists, its attention factor, and its errors."""

from __future__ import annotations

import math

import pytest
import torch

from rotary import RotaryEmbedding
from rotary.scaling import LongRoPE
from support import formulas

SHORT, LONG = [1.0 + i / 16 for i in range(16)], [1.5 + 2.0 * i for i in range(16)]


def test_attention_factor_of_phi3():
    """128k from 4k: sqrt(17/12)."""
    scheme = LongRoPE(SHORT, LONG, 4096, factor=32.0)
    assert RotaryEmbedding(32, scaling=scheme).attention_factor == pytest.approx(math.sqrt(17 / 12), rel=1e-15)
    assert RotaryEmbedding(32, scaling=LongRoPE(SHORT, LONG, 4096, factor=1.0)).attention_factor == 1.0
    final = LongRoPE(SHORT, LONG, 4096, factor=32.0, attention_factor=1.5)
    assert RotaryEmbedding(32, scaling=final).attention_factor == 1.5


def test_the_switch_per_call_and_per_row():
    rope = RotaryEmbedding(32, scaling=LongRoPE(SHORT, LONG, 64, factor=8.0))
    plain = formulas.progression(32, 1e4)
    short, long = (
        RotaryEmbedding.from_inv_freq(
            torch.tensor([float(t) for t in formulas.searched(plain, f)]), attention_factor=rope.attention_factor
        )
        for f in (SHORT, LONG)
    )
    assert torch.equal(rope.inv_freq, short.inv_freq)
    for length, expected in ((None, short), (1, short), (64, short), (65, long), (10**6, long)):
        assert torch.equal(rope.cos_sin(50, length=length)[0], expected.cos_sin(50)[0])
    rows = rope.cos_sin(50, length=torch.tensor([65, 64, 3, 1000]))
    for row, expected in enumerate((long, short, short, long)):
        assert torch.equal(rows[0][row], expected.cos_sin(50)[0]) and torch.equal(rows[1][row], expected.cos_sin(50)[1])
    with pytest.raises(ValueError, match="trained window of 64"):
        rope.cos_sin(65)


def test_an_attention_factor_for_each_list():
    """PhiMoE has one attention factor for each list."""
    rope = RotaryEmbedding(32, scaling=LongRoPE(SHORT, LONG, 64, short_mscale=1.25, long_mscale=1.5))
    assert rope.attention_factor == 1.25
    for length, factor in ((None, 1.25), (64, 1.25), (65, 1.5)):
        assert rope.cos_sin(1, length=length)[0].unique().item() == factor
    assert rope.cos_sin(1, length=torch.tensor([64, 65]))[0][:, 0, 0].tolist() == [1.25, 1.5]


def test_refusals():
    cases = {
        r"short_factor needs 16 values.*got 3": lambda: RotaryEmbedding(
            32, scaling=LongRoPE([1.0] * 3, [2.0] * 3, 64, factor=2.0)
        ),
        r"equally long, got 16 and 3": lambda: LongRoPE(SHORT, [2.0] * 3, 64, factor=2.0),
        r"long_factor\[1\] must be a finite number > 0, got 0.0": lambda: LongRoPE(
            [1.0, 1.0], [1.0, 0.0], 64, factor=2.0
        ),
        "needs factor": lambda: LongRoPE(SHORT, LONG, 64),
        "not both": lambda: LongRoPE(SHORT, LONG, 64, attention_factor=1.0, short_mscale=1.0, long_mscale=1.0),
        "belong together": lambda: LongRoPE(SHORT, LONG, 64, short_mscale=1.0),
        "too short a window": lambda: LongRoPE(SHORT, LONG, 1, factor=2.0),
    }
    for message, call in cases.items():
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="short_factor"):
        LongRoPE("11", [1.0, 1.0], 64, factor=2.0)


def test_factors_are_lists_of_numbers():
    for wrong in (2.0, "1, 2", {1.0, 2.0}):
        with pytest.raises(TypeError, match="short_factor must be a list of numbers, one per plane, got"):
            LongRoPE(wrong, [1.0], 64, factor=2.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"long_factor\[1\] must be a finite number > 0, got 0"):
        LongRoPE([1.0, 1.0], [1.0, 0], 64, factor=2.0)
