"""Pictures of diagnoses, legible in print, in grey and to the colour-blind.

spectrum   wavelengths without and with each scheme, and the trained window
decay      the attention score of equal vectors against their distance (RoFormer's decay curve)
error      the errors of cos from float32 angles and from exact ones
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import _checks
from .._angles.frequencies import Spectrum
from .diagnosis import Diagnosis, check_diagnoses

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette without its yellow: distinct for all common forms of colour blindness. Dashes distinguish curves in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
DASHES = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 1, 1, 1, 1, 1)), (0, (8, 3)))
GREY = "#555555"
WITHOUT = "without a scheme"
STYLE: dict[str, Any] = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,
    "svg.hashsalt": "rotary",
}


def draw(file: Path, layers: Sequence[Sequence[Diagnosis]], picture: str = "all") -> None:
    """Write one picture, or all three side by side, into a file.

    file: its suffix is the format, .png, .pdf or .svg among others.
    layers: one row of pictures for each kind of layer. In a row, one diagnosis per scheme, the config's own first.
    picture: "spectrum", "decay", "error" or "all".

    ValueError if matplotlib is missing or does not write the format, and for another picture; TypeError for what is no path or diagnosis.

    >>> import tempfile
    >>> from rotary.scaling import YaRN
    >>> diagnosis = Diagnosis("yarn", 64, 1e4, (YaRN(4.0, 1024),), window=1024, length=4096)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     draw(Path(folder) / "yarn.svg", [[diagnosis]], "spectrum")
    ...     [path.name for path in Path(folder).iterdir()]
    ['yarn.svg']
    """
    file = _checks.path("file", file)
    if not _checks.list_of("layers", layers, "lists of rotary.analysis.Diagnosis, one list for each kind of layer"):
        raise ValueError("layers must have at least one list of rotary.analysis.Diagnosis")
    for i, diagnoses in enumerate(layers):
        check_diagnoses(f"layers[{i}]", diagnoses)
    _checks.one_of("picture", picture, ("all", *PICTURES))
    names = list(PICTURES) if picture == "all" else [picture]

    def paint(figure: Any) -> None:
        rows = figure.subplots(len(layers), len(names), squeeze=False)
        for row, diagnoses in zip(rows, layers, strict=True):
            for axes, name in zip(row, names, strict=True):
                PICTURES[name](axes, diagnoses)
            if len(layers) > 1:
                row[0].set_title(f"{row[0].get_title(loc='left')}: {diagnoses[0].name}")

    painted(file, (4.6 * len(names), 3.6 * len(layers)), paint)


def painted(file: Path, inches: tuple[float, float], paint: Callable[[Any], None]) -> None:
    """Write a figure of that width and height, as paint(figure) fills it. ValueError as in draw()."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("pictures need matplotlib: pip install 'rotary[plot]'")
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=inches, layout="constrained")
        formats = figure.canvas.get_supported_filetypes()
        if file.suffix.lstrip(".") not in formats:
            raise ValueError(f"cannot draw into {str(file)!r}; suffixes are {', '.join(sorted(formats))}")
        paint(figure)
        figure.savefig(file)


def spectrum(axes: Axes, diagnoses: Sequence[Diagnosis]) -> None:
    """Wavelength of each plane [token], without a scheme and with each."""
    own = diagnoses[0]
    planes = [plane.index for plane in own.planes]
    if own.scaling:
        trained = [plane.trained_wavelength for plane in own.planes]
        axes.plot(planes, trained, color="black", lw=1.0, ls=(0, (1, 2)), label=WITHOUT)
    for i, d in enumerate(diagnoses):
        moving = [(p.index, p.wavelength) for p in d.planes if p.inv_freq]
        axes.plot(*zip(*moving, strict=True), color=_colour(i), ls=_dash(i), lw=1.6, label=d.name)
    axes.set_yscale("log")
    axes.axhline(own.window, color=GREY, lw=0.8)
    _label_above(axes, own.window, "trained window")
    if own.length != own.window:
        axes.axhline(own.length, color=GREY, lw=0.8, ls=(0, (4, 2)))
        _label_above(axes, own.length, "context shown")
    if own.whole < len(planes):
        axes.axvspan(own.whole - 0.5, len(planes) - 0.5, color="#000000", alpha=0.06, lw=0)
        right = own.whole > 0.6 * len(planes)
        axes.text(
            len(planes) - 1 if right else own.whole + 0.2,
            0.99,
            "never seen whole\nin training",
            ha="right" if right else "left",
            va="top",
            color=GREY,
            fontsize=8,
            transform=axes.get_xaxis_transform(),
        )
    axes.set_xlim(-0.5, len(planes) - 0.5)
    axes.set_ylim(3.0, 12.0 * axes.get_ylim()[1])  # room for labels above the curves
    axes.set_xlabel("plane")
    axes.set_ylabel("wavelength [token]")
    axes.set_title("Spectrum")
    axes.legend(loc="lower right")


def decay(axes: Axes, diagnoses: Sequence[Diagnosis]) -> None:
    """Score of equal vectors over dim, the mean over planes of attention_factor^2 cos(distance * inv_freq), against distance [token]."""
    own = diagnoses[0]
    shown = list(diagnoses)
    if own.scaling and all(d.scaling for d in diagnoses):
        shown.append(Diagnosis(WITHOUT, own.dim, own.base, (), own.window, own.length))
    for i, d in enumerate(shown):
        distances, low, middle, high = _score(d)
        plain = d.name == WITHOUT
        colour, dash = ("black", (0, (1, 2))) if plain else (_colour(i), _dash(i))
        if len(shown) <= 3 and not plain:
            axes.fill_between(distances, low, high, color=colour, alpha=0.15, lw=0)
        axes.plot(distances, middle, color=colour, ls=dash, lw=1.0 if plain else 1.6, label=d.name)
    axes.axvline(own.window, color=GREY, lw=0.8, label=f"trained window, {own.window:,}")
    axes.axhline(0.0, color=GREY, lw=0.5)
    axes.set_xscale("log")
    axes.set_xlim(1, own.length)
    axes.set_xlabel("distance [token]")
    axes.set_ylabel("score of equal vectors / dim")
    axes.set_title("Decay with distance")
    axes.legend(loc="upper right", frameon=True, facecolor="white", edgecolor="none", framealpha=1.0, borderaxespad=0.0)


def error(axes: Axes, diagnoses: Sequence[Diagnosis]) -> None:
    """Largest error of cos over all planes, against position [token]: from angles in float32, as is usual, and from exact ones."""
    own = diagnoses[0]
    last = max(own.length, 1 << 20)
    edges = torch.logspace(0, math.log2(last), 61, base=2.0, dtype=torch.float64)
    positions = (
        edges[:-1, None] + (edges[1:] - edges[:-1])[:, None] * torch.linspace(0.03, 0.97, 24, dtype=torch.float64)
    ).long()
    exact = Spectrum(own.dim, own.base, own.scaling)
    float32 = Spectrum(own.dim, own.base, own.scaling, angles="float32")
    truth = exact.cos_sin(positions, torch.float64, length=own.length)[0]
    curves = {
        "float32 angles, as is usual": float32.cos_sin(positions, torch.float32, length=own.length)[0],
        "rotary": exact.cos_sin(positions, torch.float32, length=own.length)[0],
    }
    for i, (name, cos) in enumerate(curves.items()):
        worst = (cos.double() - truth).abs().amax((1, 2)).clamp(min=1e-9)
        axes.plot(edges[1:], worst, color=_colour(1 - i), ls=_dash(1 - i), lw=1.6, label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(1, last)
    axes.set_xlabel("position [token]")
    axes.set_ylabel("largest error of cos")
    axes.set_title("Error of cos")
    axes.legend(loc="upper left")


PICTURES: dict[str, Callable[[Axes, Sequence[Diagnosis]], None]] = {
    "spectrum": spectrum,
    "decay": decay,
    "error": error,
}


def _score(d: Diagnosis, bins: int = 160, per_bin: int = 96) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Distances [token], (n,) with n <= bins, and the smallest, mean and largest score of `per_bin` distances around every one, (n,).

    Distances are spaced evenly in the logarithm, except for the first, which are one token apart.
    """
    inv_freq = torch.tensor([plane.inv_freq for plane in d.planes], dtype=torch.float64)
    centres = torch.logspace(0, math.log10(d.length), bins, dtype=torch.float64).round().unique()
    width = (d.length ** (1.0 / bins) - 1.0) * centres
    around = (
        (centres[:, None] + width[:, None] * torch.linspace(-1.0, 1.0, per_bin, dtype=torch.float64))
        .round()
        .clamp(min=1)
    )
    scores = (around[..., None] * inv_freq).cos().mean(-1) * d.attention_factor**2
    return centres, scores.amin(1), scores.mean(1), scores.amax(1)


def _label_above(axes: Axes, tokens: int, label: str) -> None:
    """A label just above the left end of a horizontal line."""
    axes.annotate(
        f"{label}, {tokens:,}", (0, tokens), xytext=(0, 3), textcoords="offset points", color=GREY, fontsize=8
    )


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def _dash(i: int) -> str | tuple[float, tuple[float, ...]]:
    return DASHES[i % len(DASHES)]
