"""A sheet of pictures in the style of these examples: its colours, the titles of its panels, and how it is saved."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

INK, GREY, PAPER = "#1d2733", "#626a72", "#fbfaf7"


@contextmanager
def sheet(path: Path, *, titlepad: float) -> Generator[Any, None, None]:
    """A matplotlib figure to draw on, saved at path when the block ends."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    colours = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    spines = {"axes.edgecolor": GREY, "axes.spines.top": False, "axes.spines.right": False}
    with pyplot.rc_context({**colours, **spines, "font.size": 9.5, "axes.facecolor": PAPER, "axes.titlepad": titlepad}):
        figure = pyplot.figure(figsize=(12, 9.6), layout="constrained", facecolor=PAPER)
        yield figure
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=90)
        pyplot.close(figure)


def title(axis: Any, words: str, note: str) -> None:
    axis.set_title(f"{words}\n", loc="left", fontsize=12, fontweight="bold")
    axis.text(0, 1.025, note, transform=axis.transAxes, color=GREY)
