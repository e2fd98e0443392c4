"""The size of each coordinate of a config, which `rotary show` compares wavelengths with."""

from __future__ import annotations

import argparse
import math
from typing import Any

from .. import config as configs
from ..analysis import Coordinates

_PATCHES = 32.0  # a side of an image whose config does not say its size


def coordinates_of(name: str, arguments: configs.Arguments, grid: tuple[float, ...]) -> Coordinates:
    """Which planes read which coordinate, and how their wavelengths compare with the grid."""
    from .. import RotaryEmbedding

    module = RotaryEmbedding._of_arguments(arguments, "exact", None)
    return Coordinates(name, arguments.axes or (), arguments.inv_freq or tuple(module.inv_freq.tolist()), grid)


def grid_of(
    arguments: configs.Arguments, config: dict[str, Any], options: argparse.Namespace, window: int | None = None
) -> tuple[float, ...]:
    """The size of each coordinate: that of --grid; the extent of real coordinates; the window of text; else patches of an image, or 32."""
    count = max(arguments.axes or (0,)) + 1
    if options.grid:
        if len(options.grid) != count or not all(0 < size < math.inf for size in options.grid):
            raise ValueError(f"--grid must be {count} numbers > 0, one for each coordinate, got {options.grid}")
        return tuple(options.grid)
    if arguments.extent or window:
        return (arguments.extent or float(window or 0),) * count
    image, patch = config.get("image_size"), config.get("patch_size")
    side = (
        float(image // patch) if isinstance(image, int) and isinstance(patch, int) and image >= patch > 0 else _PATCHES
    )
    return (side,) * count
