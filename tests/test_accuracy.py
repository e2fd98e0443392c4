"""The proof of accuracy that `make accuracy` runs in full, in a few seconds: its judge, every scheme, every sixty-first position."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from accuracy_ours import SCHEMES, exhaustive, judge_is_right, schemes

G1 = 3.1e-8


@pytest.mark.parametrize("name", [*SCHEMES])
def test_G1_under_every_scheme(name: str):
    """The bound moves with the amplitude's binade, and nothing else moves it; `make accuracy` looks at sixty thousand positions."""
    found = next(f for f in schemes(300, [name]))
    assert found.worst <= found.bound


def test_G1_at_a_stride_of_every_position_below_two_to_the_17():
    for found in exhaustive(step=61):
        assert found.worst <= G1 and found.rounded >= 0.99999


def test_the_judge_of_the_long_runs_agrees_with_mpmath():
    assert judge_is_right() < 1e-18
