"""The picture of the quickstart: frequencies, attention scores of a text, and errors far from position 0."""

from __future__ import annotations

import random
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from mpmath import mp
from sheet import GREY, INK, PAPER, sheet, title
from torch import Tensor
from torch.nn.functional import normalize

from rotary import RotaryEmbedding, apply_rotary

DIM = 64
LETTERS = 48
OURS, USUAL = "#1f6f8b", "#c8553d"
WAVE = (USUAL, "#eec9bd", PAPER, "#bcd8df", OURS)


def usual_cos_sin(inv_freq: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """The usual computation: cos and sin of position x inv_freq in float32."""
    angles = positions.to(torch.float32)[..., None] * inv_freq
    return angles.cos(), angles.sin()


def draw(text: bytes, path: Path) -> str:
    """Save the picture and return its path, or return the reason why there is none."""
    if find_spec("matplotlib") is None:
        return "none, because matplotlib is not installed (pip install 'rotary[plot]')"
    with sheet(path, titlepad=10) as figure:
        axes = figure.subplots(2, 2)
        rope = RotaryEmbedding(DIM)
        _turning(axes[0, 0], rope)
        _scores(axes[0, 1], rope, text)
        _errors(axes[1, 0], rope)
        _same_pair(axes[1, 1], rope)
    return str(path)


def _image(axis: Any, values: Tensor, **options: Any) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    axis.spines[:].set_visible(False)
    wave = LinearSegmentedColormap.from_list("wave", WAVE)
    return axis.imshow(values, cmap=wave, vmin=-1, vmax=1, interpolation="nearest", aspect="auto", **options)


def _turning(axis: Any, rope: RotaryEmbedding) -> None:
    cos, _ = rope.cos_sin(256)
    title(
        axis, "Each plane rotates at its own frequency", f"cos(position × inv_freq[j]), {DIM // 2} planes, base 10,000"
    )
    _image(axis, cos.T)
    axis.set(xlabel="position [token]", ylabel="plane j")


def _scores(axis: Any, rope: RotaryEmbedding, text: bytes) -> None:
    """Each byte is a random unit vector, as query and as key, so that scores show equal letters, weighted by their distance."""
    shown = text.partition(b"\n\n")[2][:LETTERS]
    letters = shown.decode()
    vectors = torch.randn(256, DIM, generator=torch.Generator().manual_seed(1))
    x = rope.rotate(normalize(vectors, dim=-1)[list(shown)])
    scores = (x @ x.T).masked_fill(torch.ones(LETTERS, LETTERS).triu(1).bool(), float("nan"))
    title(axis, "Scores fall with distance", "scores of a text with itself: equal letters score high, near ones higher")
    image = _image(axis, scores)
    scale = axis.inset_axes((0.55, 0.86, 0.42, 0.03))
    axis.figure.colorbar(image, cax=scale, orientation="horizontal", ticks=(-1, 0, 1)).outline.set_visible(False)
    scale.set_title("rotated query · rotated key", fontsize=9, color=INK)
    for set_ticks in (axis.set_xticks, axis.set_yticks):
        set_ticks(range(LETTERS), [c if c > " " else "·" for c in letters], fontsize=7)
    axis.tick_params(length=0, pad=1.5)
    axis.set(xlabel="key", ylabel="query")


def _errors(axis: Any, rope: RotaryEmbedding) -> None:
    mp.dps = 40
    chosen = _positions(160, 0)
    positions = torch.tensor(chosen)
    truth = [[mp.cos_sin(p * mp.mpf(f)) for f in rope.inv_freq.tolist()] for p in chosen]
    exact = torch.tensor([[[float(v) for v in pair] for pair in row] for row in truth], dtype=torch.float64)
    title(axis, "Exact at every position", "largest error of cos and sin over all planes, judged by mpmath")
    for tables, colour in ((usual_cos_sin(rope.inv_freq, positions), USUAL), (rope.cos_sin(positions), OURS)):
        axis.loglog(positions, (torch.stack(tables, -1) - exact).abs().amax((1, 2)), color=colour, linewidth=2)
    axis.text(2.5e3, 1.2e-3, "the usual\nfloat32 product", color=USUAL, ha="right")
    axis.text(1e6, 5e-8, "rotary", color=OURS, ha="right", fontweight="bold")
    axis.text(2**31, 1.2e-8, "3.0e-8: half a unit in the last place of float32", color=GREY, ha="right")
    axis.text(4e8, 0.35, "as wrong as\ncan be", color=USUAL, ha="center", va="top")
    axis.set(xlabel="position [token]", ylabel="|error|", xlim=(1, 2**31), ylim=(5e-9, 8))


def _same_pair(axis: Any, rope: RotaryEmbedding) -> None:
    """In exact arithmetic the score of a query and a key depends on their distance alone."""
    starts = torch.tensor(_positions(600, 4))
    x = normalize(torch.randn(DIM, generator=torch.Generator().manual_seed(2)), dim=0).expand(len(starts), DIM)

    def score(here: tuple[Tensor, Tensor], there: tuple[Tensor, Tensor]) -> Tensor:
        return (apply_rotary(x, *here) * apply_rotary(x, *there)).sum(-1)

    usual = score(usual_cos_sin(rope.inv_freq, starts), usual_cos_sin(rope.inv_freq, starts + 33))
    ours = score(rope.cos_sin(starts), rope.cos_sin(starts + 33))
    note = "one query and one key, 33 tokens apart, at later and later positions"
    title(axis, "A score depends on the distance alone", note)
    axis.semilogx(starts, usual, ".", color=USUAL, markersize=4, markeredgewidth=0)
    axis.semilogx(starts, ours, color=OURS, linewidth=2)
    axis.text(2e4, float(ours[0]) + 0.03, "rotary", color=OURS, fontweight="bold")
    axis.text(2e4, float(ours[0]) - 0.05, "the usual float32 product", color=USUAL)
    axis.text(4.5e8, 1.0, "both positions round to one number", color=USUAL, ha="right", va="center")
    axis.set(
        xlabel="position of the key [token]", ylabel="rotated query · rotated key", xlim=(1e4, 2**31), ylim=(0.2, 1.05)
    )


def _positions(n: int, magnitude: int) -> list[int]:
    """n random positions from 10^magnitude to 2^31, log-uniform: not powers of two, whose float32 products are exact."""
    generator = random.Random(5)
    low, high = magnitude * 3.321928, 31.0
    return sorted(int(2 ** (low + (high - low) * (i + generator.random()) / n)) for i in range(n))
