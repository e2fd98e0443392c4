"""The table that people read: every figure is the diagnosis's, lines fit a terminal."""

from __future__ import annotations

import pytest

from rotary import config
from rotary.analysis.diagnosis import Diagnosis
from rotary.analysis.report import text
from rotary.config import read
from rotary.scaling import Linear, YaRN


def shown(*compared: tuple[str, tuple[object, ...]], every: bool = False) -> str:
    found = read(config.path("qwen2.5-7b-yarn"))
    own = Diagnosis("own", found.dim, found.base, found.scaling, 32768, 131072)
    others = [Diagnosis(name, found.dim, found.base, scaling, 32768, 131072) for name, scaling in compared]  # type: ignore[arg-type]
    return text(found, [own, *others], every=every)


def test_the_preamble_says_what_the_config_says():
    lines = shown().splitlines()
    assert lines[:2] == ["own", "==="]
    assert "rotation            128 of 128 channels, base 1,000,000, half pairing" in lines
    assert "attention factor    1.13863 on q and on k" in lines
    assert "critical dimension  80 of 128: 40 of 64 planes came full circle in training, 24 never did" in lines
    assert "planes              0-23 kept, 24-39 ramped, 40-63 interpolated" in lines
    assert "reach               no new angle up to 131,072 tokens" in lines


def test_a_row_for_some_planes_or_for_every_one():
    def planes(said: str) -> list[int]:
        rows = said.partition("training\n")[2].splitlines()
        return [int(row.split()[0]) for row in rows]

    some, every = planes(shown()), planes(shown(every=True))
    assert every == list(range(64)) and set(some) < set(every)
    assert {0, 23, 24, 39, 40, 63} <= set(some)
    # 2 pi 10^(6 x 63/64) = 5,063,256 tokens; four times that; 32,768 / 5,063,256 = 0.647 %
    row = shown(every=True).splitlines()[-1].split()
    assert row == ["63", "5,063,256", "20,253,023", "0.006", "0.006", "0.647", "%", "interpolated,", "/", "4"]


def test_side_by_side():
    said = shown(("yarn:2", (YaRN(2.0, 32768),)), ("linear:4", (Linear(4.0),)))
    assert "attention factor                       own" not in said and "linear:4" in said
    assert "warning: yarn:2: 24 of 64 planes turn to angles that training never showed" in said
    assert (
        "the weights were trained with YaRN; yarn:2, linear:4 would change, in its place, planes they rely on"
        in " ".join(said.split())
    )


@pytest.mark.parametrize("name", config.shipped())
def test_lines_fit(name: str):
    layer_type = "full_attention" if "gemma" in name else None
    found = read(config.path(name), layer_type=layer_type)
    diagnosis = Diagnosis(name, found.dim, found.base, found.scaling, found.window or 4096, found.target or 4096)
    assert max(map(len, text(found, [diagnosis], every=True).splitlines())) <= 110
