"""The report as text: its figures are those of the diagnosis, and its lines fit a terminal."""

from __future__ import annotations

import pytest

from rotary import config
from rotary.analysis import Diagnosis, report_text
from rotary.config import read
from rotary.scaling import Linear, Scheme, YaRN


def report(*compared: tuple[str, tuple[Scheme, ...]], all_planes: bool = False) -> str:
    arguments = read(config.path("qwen2.5-7b-yarn"))
    own = Diagnosis("own", arguments.dim, arguments.base, arguments.scaling, 32768, 131072)
    others = [Diagnosis(name, arguments.dim, arguments.base, scaling, 32768, 131072) for name, scaling in compared]
    return report_text(arguments, [own, *others], all_planes=all_planes)


def test_the_preamble_says_what_the_config_says():
    lines = report().splitlines()
    assert lines[:2] == ["own", "==="]
    assert "rotation            128 of 128 channels, base 1,000,000, half pairing" in lines
    assert "attention factor    1.13863 on q and on k" in lines
    assert "critical dimension  80 of 128: 40 of 64 planes came full circle in training, 24 never did" in lines
    assert "planes              0-23 kept, 24-39 ramped, 40-63 interpolated" in lines
    assert "reach               no new angle up to 131,072 tokens" in lines


def test_a_row_for_some_planes_or_for_every_one():
    def planes(text: str) -> list[int]:
        rows = text.partition("training\n")[2].splitlines()
        return [int(row.split()[0]) for row in rows]

    some, every = planes(report()), planes(report(all_planes=True))
    assert every == list(range(64)) and set(some) < set(every)
    assert {0, 23, 24, 39, 40, 63} <= set(some)
    # 2 pi 10^(6 x 63/64) = 5,063,256 tokens; four times that; 32,768 / 5,063,256 = 0.647 %
    row = report(all_planes=True).splitlines()[-1].split()
    assert row == ["63", "5,063,256", "20,253,023", "0.006", "0.006", "0.647", "%", "interpolated,", "/", "4"]


def test_side_by_side():
    text = report(("yarn:2", (YaRN(2.0, 32768),)), ("linear:4", (Linear(4.0),)))
    assert "attention factor                       own" not in text and "linear:4" in text
    assert "warning: yarn:2: 24 of 64 planes reach angles that did not occur in training" in text
    assert (
        "the weights were trained with YaRN; yarn:2, linear:4, in its place, would change planes that they rely on"
        in " ".join(text.split())
    )


@pytest.mark.parametrize("name", config.shipped())
def test_lines_fit(name: str):
    layer_type = "full_attention" if "gemma" in name else None
    arguments = read(config.path(name), layer_type=layer_type)
    window, length = arguments.window or 4096, arguments.target or 4096
    diagnosis = Diagnosis(name, arguments.dim, arguments.base, arguments.scaling, window, length)
    assert max(map(len, report_text(arguments, [diagnosis], all_planes=True).splitlines())) <= 110


@pytest.mark.parametrize("width", [72, 80, 110])
def test_long_names_are_shortened(width: int):
    arguments = read("plain")
    own, other = (Diagnosis(name, 128, 1e4, (), 4096, 4096) for name in ("/folder" * 30, "yarn:4+" * 30))
    for diagnoses in ([own], [own, other], [other, own, own, other]):
        lines = report_text(arguments, diagnoses, width=width).splitlines()
        assert max(map(len, lines)) <= width
        assert lines[0].startswith("/folder" if diagnoses[0] is own else "yarn:4+") and "..." in lines[0]


def test_diagnoses_of_one_dim_are_compared():
    arguments = read("plain")
    whole, half = (Diagnosis("it", dim, 1e4, (), 4096, 4096) for dim in (128, 64))
    with pytest.raises(ValueError, match=r"diagnoses\[1\] has dim 64 and diagnoses\[0\] 128"):
        report_text(arguments, [whole, half], all_planes=True)
