"""Temperatures of queries against their formulas, and against the functions of models that have them."""

from __future__ import annotations

import mpmath
import pytest
import torch

from rotary import RotaryEmbedding
from rotary.scaling import YaRN
from rotary.scaling.temperature import Llama4, LogN, MScale, Temperature

POSITIONS = torch.tensor([[0, 1, 4094, 4095, 4096], [8191, 8192, 100_000, 10**6, 2**31 - 1]])


def near(temperature: Temperature, exact: list[mpmath.mpf]) -> None:
    factors = temperature(POSITIONS)
    assert factors.shape == POSITIONS.shape and factors.dtype == torch.float32
    for value, expected in zip(factors.flatten().tolist(), exact, strict=True):
        assert value == pytest.approx(float(expected), rel=3e-7)


@pytest.mark.parametrize("window", [2, 4096, 8192])
def test_logn(window: int):
    near(
        LogN(window), [max(mpmath.mpf(1), mpmath.log(p + 1) / mpmath.log(window)) for p in POSITIONS.flatten().tolist()]
    )


@pytest.mark.parametrize("first", [0, 1])
def test_llama4_by_its_formula(first: int):
    windows = [(p + first) // 8192 for p in POSITIONS.flatten().tolist()]
    near(Llama4(0.1, 8192, first), [1 + mpmath.mpf("0.1") * mpmath.log(1 + n) for n in windows])


INTEGERS = [getattr(torch, f"{sign}int{bits}") for bits in (8, 16, 32, 64) for sign in ("", "u")]


@pytest.mark.parametrize("temperature", [LogN(16), Llama4(0.1, 64), Llama4(0.1, 64, first=1)], ids=str)
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_the_last_positions_of_each_integer_dtype(dtype: torch.dtype, temperature: LogN | Llama4):
    """The next position, or the window, may not fit the dtype. (The last uint64 positions do not fit int64.)"""
    last = min(torch.iinfo(dtype).max, 2**63 - 1)
    positions = [0, last - 1, last]
    if isinstance(temperature, LogN):
        exact = [max(mpmath.mpf(1), mpmath.log(p + 1) / mpmath.log(16)) for p in positions]
    else:
        exact = [1 + mpmath.mpf("0.1") * mpmath.log(1 + (p + temperature.first) // 64) for p in positions]
    factors = temperature(torch.tensor(positions, dtype=dtype)).tolist()
    assert factors == pytest.approx([float(factor) for factor in exact], rel=3e-7)


def test_ministral_and_deepseek_of_transformers():
    pytest.importorskip("transformers")
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import yarn_apply_mscale
    from transformers.models.ministral3.modeling_ministral3 import get_llama_4_attn_scale

    near_enough = {"rtol": 2e-7, "atol": 0.0}
    within = POSITIONS.clamp(max=2**24)  # larger positions are rounded to float32 in transformers
    expected = get_llama_4_attn_scale(within, 0.1, 16384)[:, 0, :, 0]
    torch.testing.assert_close(Llama4(0.1, 16384)(within), expected, **near_enough)
    for factor, weight in ((40.0, 1.0), (40.0, 0.707), (1.0, 1.0)):
        applied = yarn_apply_mscale({"rope_type": "yarn", "factor": factor, "mscale_all_dim": weight}, 1.0)
        assert MScale(factor, weight).value == pytest.approx(applied, rel=1e-15)
        assert (MScale(factor, weight)(POSITIONS) == torch.tensor(applied, dtype=torch.float32)).all()


def test_a_temperature_never_touches_keys():
    """The temperature multiplies rows of the scores, which belong to queries; rotated keys are the same without it."""
    rope, positions = RotaryEmbedding(64, scaling=YaRN(4.0, 64)), torch.arange(200, 210)
    q, k = torch.randn(2, 1, 2, 10, 64)
    plain_q, plain_k = rope.rotate(q, k, positions=positions)
    tempered = LogN(64)(positions)[:, None]
    warm_q, same_k = rope.rotate(q * tempered, k, positions=positions)
    assert torch.equal(same_k, plain_k)
    torch.testing.assert_close(warm_q @ same_k.mT, (plain_q @ plain_k.mT) * tempered, rtol=1e-4, atol=1e-4)


def test_refusals():
    for wrong in (0, 1, -5):
        with pytest.raises(ValueError, match="original_max_position_embeddings must be >="):
            LogN(wrong)
    with pytest.raises(ValueError, match=r"first must be 0 \(Mistral\) or 1 \(Llama 4\), got int 2"):
        Llama4(0.1, 8192, first=2)
    with pytest.raises(ValueError, match=r"beta must be a finite number >= 0\.0, got -1"):
        Llama4(-1.0, 8192)
    for temperature in (LogN(64), Llama4(0.1, 64), MScale(4.0)):
        with pytest.raises(TypeError, match="positions must be an integer tensor"):
            temperature(torch.rand(3))


@pytest.mark.parametrize("temperature", [Llama4(0.1, 8192), LogN(4096), MScale(1.2)], ids=lambda t: type(t).__name__)
def test_a_value(temperature: Temperature):
    assert hash(temperature) == hash(type(temperature)(**vars(temperature)))
    with pytest.raises(AttributeError):
        setattr(temperature, next(iter(vars(temperature))), 2.0)
