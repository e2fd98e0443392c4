"""The short form of `make accuracy`: its measures by strides and samples, its judge against a search, its page against its results."""

from __future__ import annotations

import json
from types import ModuleType

import mpmath
import numpy as np
import pytest
import torch

from benchmarks.record import RESULTS
from rotary import RotaryEmbedding, scaling

FLOAT32_BOUND = 3.1e-8
KINDS = [name for name in scaling.__all__ if name != "Scheme"]
FAR_CONTEXT = "DynamicNTK, a context of 2^31"

pytestmark = pytest.mark.skipif(
    np.finfo(np.longdouble).nmant < 63, reason="the judge of millions is 80-bit long double"
)


@pytest.fixture(scope="module")
def accuracy() -> ModuleType:
    """The script as a module; it imports all the libraries that it compares."""
    from benchmarks.accuracy import run

    return run


@pytest.mark.parametrize("base", [10_000, 500_000, 1_000_000])
def test_every_position_by_a_stride(accuracy: ModuleType, base: int):
    result = accuracy.exhaustive(base, stride=61)
    assert result["values"] == 2 * 64 * (2**17 // 61 + 1)
    assert result["float32"] <= FLOAT32_BOUND and result["float64"] <= 1e-15
    assert result["wrong"] <= 1e-5 * result["values"]
    assert result["judge"] <= 1e-19


@pytest.mark.parametrize(
    "name", [*KINDS, "none", "YaRN, factor 0.7", "YaRN, factor 2.5", "YaRN, Resonance", FAR_CONTEXT]
)
def test_float32_tables_under_every_scheme(accuracy: ModuleType, name: str):
    """Signed positions to 2^31, hard ones among them, and the attention factor in the tables."""
    result = accuracy.scheme(name, sampled=512)
    assert result["bound"] == (
        0.52 * 2.0**-24 if result["amplitude"] <= 1 else pytest.approx(0.52 * 2.0**-23, rel=1.01)
    )
    assert max(result["hard"], result["nearest"], result["sampled"]) <= result["bound"]
    assert result["float64"] <= 1e-15 * max(result["amplitude"], 1.0)
    assert result["rounded"] >= 0.995 and result["judge"] <= 1e-19


def test_bounds_follow_the_binade(accuracy: ModuleType):
    assert accuracy.bound(0.7) == accuracy.bound(1.0) == 0.52 * 2**-24 <= FLOAT32_BOUND
    assert accuracy.bound(1.2) == 0.52 * 2**-23 and accuracy.bound(2.5) == 0.52 * 2**-22


def test_without_float64(accuracy: ModuleType):
    assert accuracy.without_float64(512) <= 1.0e-7


def test_positions_nearest_to_quarter_turns_are_found(accuracy: ModuleType):
    """The same by looking at every position up to 20,000."""
    for frequency in (float(f) for f in RotaryEmbedding(16, base=500_000).inv_freq[:5]):
        quarter, nearest, result = mpmath.pi / 2 / mpmath.mpf(frequency), mpmath.inf, []
        for p in range(1, 20_001):
            turns = p / quarter
            distance = abs(turns - mpmath.nint(turns))
            if distance < nearest:
                nearest = distance
                result.append(p)
        given = [p for p in accuracy.nearest_to_quarter_turns(frequency) if p <= 20_000]
        assert set(result) <= set(given) and len(given) <= len(result) + 1
    assert accuracy.nearest_to_quarter_turns(0.0) == []


def test_the_measures_see_float32_angles(accuracy: ModuleType, monkeypatch: pytest.MonkeyPatch):
    def usual(dim: int, **options: object) -> RotaryEmbedding:
        return RotaryEmbedding(dim, **options, angles="float32")

    monkeypatch.setattr(accuracy, "RotaryEmbedding", usual)
    assert accuracy.exhaustive(10_000, stride=997)["float32"] > 1e-3
    result = accuracy.scheme("Linear", sampled=64)
    assert min(result["hard"], result["nearest"], result["sampled"]) > 0.1


def test_others_are_measured_by_the_frequencies_they_show(accuracy: ModuleType):
    positions = torch.tensor([3, 1_000, 100_000])
    for name, implementation in accuracy.IMPLEMENTATIONS.items():
        inv_freq, *given = implementation(10_000, positions)
        exact = accuracy.by_mpmath(positions.tolist(), inv_freq.tolist())
        worst, _ = accuracy.compare(given, exact)
        assert (
            worst <= FLOAT32_BOUND if name == "rotary" or "float64" in name or "double" in name else 1e-4 < worst < 1e-2
        ), name
        assert accuracy.compare([t[:1] for t in given], tuple(e[:1] for e in exact))[0] <= 3e-7, name


def test_the_page_says_what_was_measured():
    from benchmarks.accuracy import page

    result = json.loads((RESULTS / "accuracy.json").read_text(encoding="utf-8"))
    assert page.PAGE.read_text(encoding="utf-8") == page.page(result), "run python -m benchmarks.accuracy.page"
    assert set(result["schemes"]) >= {*KINDS, FAR_CONTEXT}
    assert max(e["float32"] for e in result["exhaustive"].values()) <= FLOAT32_BOUND
    for scheme in result["schemes"].values():
        assert max(scheme["hard"], scheme["nearest"], scheme["sampled"]) <= scheme["bound"]
