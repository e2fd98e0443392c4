"""The JSON document of `rotary show --json`: the numbers that the report shows, for programs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .. import config as configs
from ..analysis import Coordinates, Diagnosis


def as_json(
    layer_type: str | None, arguments: configs.Arguments, diagnoses: Sequence[Diagnosis], several: Coordinates | None
) -> dict[str, Any]:
    """One entry of "layers": the rotation of layers of that type, its schemes plane by plane, and its coordinates.

    Infinite numbers, which JSON does not have, are null: the reach of a scheme without a limit, the wavelength of a plane at rest.
    """
    return {
        "layer_type": layer_type,
        "dim": arguments.dim,
        "head_dim": arguments.head_dim,
        "base": arguments.base,
        "interleaved": arguments.interleaved,
        "temperatures": [repr(temperature) for temperature in arguments.temperatures],
        "notes": list(arguments.notes),
        "schemes": [_scheme_as_json(d) for d in diagnoses],
        "coordinates": None if several is None else _coordinates_as_json(several),
    }


def _coordinates_as_json(several: Coordinates) -> dict[str, Any]:
    return {
        "axes": list(several.axes),
        "grid": list(several.grid),
        "inv_freq": list(several.inv_freq),
        "whole": [several.whole(c) for c in range(len(several.grid))],
    }


def _scheme_as_json(d: Diagnosis) -> dict[str, Any]:
    return {
        "name": d.name,
        "scaling": [repr(scheme) for scheme in d.scaling],
        "window": d.window,
        "length": d.length,
        "attention_factor": d.attention_factor,
        "critical_dimension": d.critical_dimension,
        "reach": None if math.isinf(d.reach) else d.reach,
        "warnings": list(d.warnings),
        "notes": list(d.notes),
        "planes": [
            {
                "index": plane.index,
                "trained_inv_freq": plane.trained,
                "inv_freq": plane.inv_freq,
                "wavelength": None if math.isinf(plane.wavelength) else plane.wavelength,
                "trained_turns": plane.trained_turns,
                "turns": plane.turns(d.length),
                "whole": plane.whole,
                "treatment": d.treatment(plane),
            }
            for plane in d.planes
        ],
    }
