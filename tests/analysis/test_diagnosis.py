"""Diagnosis: what schemes do to the planes, against the formulas and the published critical dimensions."""

from __future__ import annotations

import math

import pytest

from rotary.analysis import Diagnosis, Plane
from rotary.scaling import NTK, Linear, Llama3, LongRoPE, Proportional, Resonance, Scheme, Truncated, YaRN
from support import formulas


def diagnosis(
    *scaling: Scheme, dim: int = 128, base: float = 1e4, window: int = 4096, length: int = 16384
) -> Diagnosis:
    return Diagnosis("it", dim, base, scaling, window, length)


@pytest.mark.parametrize(
    ("dim", "base", "window", "published"),
    [
        (128, 1e4, 4096, 92),  # Llama 2: Liu et al. 2023, table 1
        (128, 1e4, 2048, 82),  # LLaMA
        (128, 5e5, 8192, 70),  # Llama 3: LongRoPE2's 35 planes
        (96, 1e4, 2048, 62),  # Phi-3: LongRoPE2's 31 planes
        (64, 1e4, 4096, 46),  # DeepSeek-V3
        (64, 1.5e5, 4096, 36),  # gpt-oss
        (128, 1e6, 32768, 80),  # Qwen2.5
    ],
)
def test_critical_dimension(dim: int, base: float, window: int, published: int):
    own = diagnosis(dim=dim, base=base, window=window, length=window)
    assert own.critical_dimension == published
    assert own.critical_dimension == 2 * math.ceil(dim / 2 * math.log(window / (2 * math.pi), base))


def test_planes_against_the_formula():
    planes = diagnosis(Linear(4.0)).planes
    for plane, exact in zip(planes, formulas.progression(128, 1e4), strict=True):
        wavelength = 2 * formulas.mpmath.pi / exact
        assert plane.trained_wavelength == pytest.approx(float(wavelength), rel=1e-6)
        assert plane.wavelength == pytest.approx(float(4 * wavelength), rel=1e-6)
        assert plane.trained_turns == pytest.approx(float(4096 / wavelength), rel=1e-6)
        assert plane.turns(16384) == pytest.approx(float(4096 / wavelength), rel=1e-6)
        assert plane.whole == (wavelength <= 4096)


@pytest.mark.parametrize(
    ("scheme", "runs"),
    [
        ((), [("kept", 0, 63)]),
        ((Linear(4.0),), [("interpolated", 0, 63)]),
        ((YaRN(16.0, 4096),), [("kept", 0, 20), ("ramped", 21, 45), ("interpolated", 46, 63)]),
        ((NTK(4.0),), [("kept", 0, 0), ("slowed", 1, 62), ("interpolated", 63, 63)]),
        ((Proportional(0.25),), [("kept", 0, 15), ("at rest", 16, 63)]),
    ],
)
def test_treatments(scheme: tuple[Scheme, ...], runs: list[tuple[str, int, int]]):
    assert diagnosis(*scheme).treatments() == runs


@pytest.mark.parametrize("factor", [2.0, 4.0, 8.0])
def test_reach_is_the_factor_times_the_window(factor: float):
    """For every scheme that slows down equally all planes with less than a turn in the trained window."""
    for scheme in (Linear(factor), YaRN(factor, 4096), Llama3(factor, 4096)):
        assert diagnosis(scheme).reach == pytest.approx(factor * 4096, rel=1e-6)
    assert diagnosis(NTK(factor)).reach < factor * 4096
    assert diagnosis(base=1e4, dim=64, window=70000).reach == math.inf  # every plane makes a full turn
    assert Plane(0, 1e-3, 0.0, 4096).reach == math.inf


def test_attention_factor_and_length_are_those_of_the_schemes():
    assert diagnosis(YaRN(4.0, 4096)).attention_factor == pytest.approx(0.1 * math.log(4) + 1, rel=1e-15)
    longrope = LongRoPE([1.0] * 64, [4.0] * 64, 4096, factor=4.0)
    assert diagnosis(longrope, length=4096).treatments() == [("kept", 0, 63)]
    assert diagnosis(longrope, length=4097).treatments() == [("interpolated", 0, 63)]


def test_warnings():
    def words(*scaling: Scheme, length: int = 16384) -> str:
        return "; ".join(diagnosis(*scaling, length=length).warnings)

    assert words(length=4096) == words(YaRN(4.0, 4096)) == words(Linear(4.0)) == ""
    assert "18 of 64 planes reach angles that did not occur in training, plane 46 from token 4,096 on" in words()
    assert "without a scheme it does not reach 16,384 tokens" in words() and words().endswith("extend it 4 times")
    assert "the scheme does not reach 16,384 tokens" in words(Linear(2.0))
    assert "Linear and YaRN both extend the context" in words(Linear(2.0), YaRN(4.0, 4096))
    assert words(YaRN(4.0, 4096), Resonance()) == ""
    assert "LongRoPE depends on the length" in words(LongRoPE([1.0] * 64, [4.0] * 64, 4096, factor=4.0))


def test_xpos_warnings():
    near, far = (Diagnosis("it", 64, 1e4, (), 4096, length, scale_base=512.0).warnings for length in (512, 65536))
    assert not near
    assert any("xPos with scale_base 512 leaves the range of float16 at position" in warning for warning in far)
    assert any("attenuates the fastest plane" in warning for warning in far)


def test_xpos_whose_scale_leaves_a_dtype_at_once():
    """0.286^(1 / 0.05) is 1.3e-11; the advice is the scale_base that keeps the whole context, 4096 x 1.2528 / ln(65504 / 64)."""
    at_once = Diagnosis("it", 128, 1e4, (), 4096, 4096, scale_base=0.05).warnings
    assert "leaves the range of float16 at the first token; a scale_base of 741 stays in it" in at_once[0]
    advised = Diagnosis("it", 128, 1e4, (), 4096, 4096, scale_base=741.0).warnings
    assert not any("float16" in warning for warning in advised)


def test_truncated_planes_are_at_rest_and_a_diagnosis_is_a_value():
    truncated = diagnosis(Truncated(4096))
    assert truncated == diagnosis(Truncated(4096)) and any(plane.inv_freq == 0.0 for plane in truncated.planes)
    assert truncated.planes[-1].wavelength == math.inf and truncated.planes[-1].slowdown == math.inf
