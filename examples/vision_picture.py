"""The picture of vision.py: a digit at three resolutions, accuracies by resolution, and what each model knows of places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from sheet import GREY, INK, PAPER, sheet, title
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate

from rotary.positions import grid

COLOURS = {"learned": "#c8553d", "axial": "#1f6f8b", "RoPE-Mixed": "#8a5a9e", "no": "#9aa1a8"}
FINE = 96
"""Points of a side of the maps, which have no need to be patches."""


def draw(
    path: Path,
    pixels: Mapping[int, Tensor],
    sides: Sequence[int],
    lines: Mapping[str, list[list[float]]],
    models: Mapping[Any, Any],
) -> str:
    """Save the picture and return its path. lines: for each name the accuracies at each of sides, one list for each seed."""
    with sheet(path, titlepad=6) as figure:
        top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.08))
        left, right = top.subfigures(1, 2, width_ratios=(1.75, 1))
        _accuracies(left.subplots(), sides, lines)
        _digit(right, pixels)
        left, right = bottom.subfigures(1, 2, width_ratios=(1.75, 1))
        _maps(left, models)
        _directions(right.subplots(), models)
        for part in (top, bottom, *top.subfigs, *bottom.subfigs):
            part.set_facecolor(PAPER)
    return str(path)


def _heading(figure: Any, title: str, note: str) -> None:
    figure.suptitle(f"{title}\n", x=0.02, ha="left", fontsize=12, fontweight="bold")
    figure.text(0.02, 0.925, note, color=GREY)


def _colour(name: str) -> str:
    return next(colour for start, colour in COLOURS.items() if name.startswith(start))


def _accuracies(axis: Any, sides: Sequence[int], lines: Mapping[str, list[list[float]]]) -> None:
    title(
        axis,
        "Trained at one resolution, judged at others",
        "held-out digits; mean of the seeds, and their range shaded",
    )
    for name, seeds in lines.items():
        runs, style = torch.tensor(seeds), "--" if name.endswith("counted") else ":" if name.startswith("no") else "-"
        colour, mean = _colour(name), runs.mean(0)
        axis.fill_between(sides, runs.amin(0), runs.amax(0), color=colour, alpha=0.15, linewidth=0)
        axis.plot(sides, mean, style, color=colour, linewidth=2, marker="o", markersize=4, label=name)
    axis.axvline(16, color=GREY, linewidth=0.8)
    axis.text(16.2, 1, "trained here", color=GREY)
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.6), fontsize=9, handlelength=3.2)
    axis.set(xlabel="side of the image [pixel]", ylabel="accuracy [%]", ylim=(0, 100), xticks=list(sides))


def _digit(figure: Any, pixels: Mapping[int, Tensor]) -> None:
    _heading(figure, "One digit, patches of 2 x 2 pixels", "at half, the trained and twice the resolution, to scale")
    axes = figure.subplots(1, len(pixels), gridspec_kw={"width_ratios": list(pixels), "wspace": 0.05})
    for axis, (side, image) in zip(axes, pixels.items(), strict=True):
        axis.imshow(image, cmap="Greys", interpolation="nearest")
        axis.set_xticks([x - 0.5 for x in range(0, side + 1, 2)], [])
        axis.set_yticks([y - 0.5 for y in range(0, side + 1, 2)], [])
        axis.grid(color=COLOURS["axial"], linewidth=0.5, alpha=0.6)
        axis.tick_params(length=0)
        axis.set_title(f"{side} px", fontsize=9, color=GREY)
        axis.spines[:].set_visible(False)


@torch.no_grad()
def _maps(figure: Any, models: Mapping[Any, Any]) -> None:
    """How like the place of one patch every other place is, between patches too: the score of two equal vectors."""
    places = models["learned"].learned.places
    side, here = places.shape[-1], torch.tensor([4.0, 3.0])
    points = grid(FINE, FINE).double() * (side / FINE) + (0.5 * side / FINE - 0.5)
    planes = models["axial"].axial.inv_freq.double().unflatten(0, (2, -1))
    still = torch.zeros_like(planes[0])
    axial = torch.cat((torch.stack((planes[0], still), -1), torch.stack((still, planes[1]), -1)))
    mixed = models["mixed"].blocks[-1].mixed.directions.double()
    fine = interpolate(places, size=(FINE, FINE), mode="bicubic", align_corners=False)[0]
    maps = {
        "learned absolute": cosine_similarity(fine, places[0, :, 4, 3][:, None, None], dim=0),
        "axial": _score(axial, points - here),
        **{f"RoPE-Mixed, head {h + 1}": _score(head, points - here) for h, head in enumerate(mixed)},
    }
    _heading(figure, "Similarity of places", "score of two equal vectors, one at the dot: 1 where they look alike")
    axes = figure.subplots(2, 3)
    for axis, (name, values) in zip(axes.flat, maps.items(), strict=True):
        image = axis.imshow(
            values.view(FINE, FINE), cmap="RdBu", vmin=-1, vmax=1, extent=(-0.5, side - 0.5, side - 0.5, -0.5)
        )
        axis.plot(here[1], here[0], "o", color=INK, markersize=4)
        axis.set_title(name, fontsize=10, color=_colour(name))
        axis.set(xticks=(0, side - 1), yticks=(0, side - 1))
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
    figure.colorbar(image, ax=axes, shrink=0.6, ticks=(-1, 0, 1)).outline.set_visible(False)


def _score(directions: Tensor, apart: Tensor) -> Tensor:
    return (apart @ directions.T).cos().mean(-1)


@torch.no_grad()
def _directions(axis: Any, models: Mapping[Any, Any]) -> None:
    title(axis, "Directions of the planes", "RoPE-Mixed: lines start where training began")
    for block in models["mixed"].blocks:
        before, after = (x.flatten(0, 1) for x in (block.mixed.first, block.mixed.directions))
        for a, b in zip(before.tolist(), after.tolist(), strict=True):
            axis.plot((a[1], b[1]), (a[0], b[0]), color=COLOURS["RoPE-Mixed"], linewidth=0.8, alpha=0.6)
        axis.plot(after[:, 1], after[:, 0], "o", color=COLOURS["RoPE-Mixed"], markersize=4, label="RoPE-Mixed")
    rows, columns = models["axial"].axial.inv_freq.unflatten(0, (2, -1))
    axis.plot([0] * len(rows), rows, "s", color=COLOURS["axial"], markersize=5)
    axis.plot(columns, [0] * len(columns), "s", color=COLOURS["axial"], markersize=5)
    axis.text(0.06, 1.02, "axial", color=COLOURS["axial"], fontweight="bold")
    axis.axhline(0, color=GREY, linewidth=0.5, zorder=0)
    axis.axvline(0, color=GREY, linewidth=0.5, zorder=0)
    axis.set(
        xlabel="along columns [rad/patch]",
        ylabel="along rows [rad/patch]",
        aspect="equal",
        ylim=(-1.2, 1.2),
        xticks=(-1, -0.5, 0, 0.5, 1),
    )
