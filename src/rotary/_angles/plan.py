"""The numbers that a module computes tables from, handed to the native library once, so that a call hands over one object.

The block of 64-bit numbers, packed by of() here and read by plan_of() in _native/plan.cpp, P planes:

    planes  coordinates  window  furthest[4]  amplitude                integers, the amplitude float64
    one word of turns per token [P]   high [P]   low [P]   axes [P]    integers; axes only where positions have coordinates
    decay of queries [P + 1]   of keys [P + 1]                         float64, only with xPos

coordinates 0: no axes; window -1: no scheme that depends on the length; furthest: by dtype as the library numbers them, the largest
|position| that xPos scales within it, -1 without xPos.
"""

from __future__ import annotations

import struct
from typing import Any

import torch

from .._rotation import call
from .frequencies import Spectrum
from .xpos import XPos

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_LARGEST = 2**63 - 1


class Plan:
    """What the library keeps for a module, made when it is first wanted: no part of a copy, a pickle or a comparison.

    kept: the library's object; None before the first call; False where tables are not made by the library.
    """

    __slots__ = ("kept",)

    def __init__(self) -> None:
        self.kept: Any = None

    def make(self, spectrum: Spectrum, xpos: XPos | None) -> Any:
        self.kept = False if spectrum.angles != "exact" else call.plan(of(spectrum, xpos)) or False
        return self.kept

    def __copy__(self) -> Plan:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Plan:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Plan, ()


def of(spectrum: Spectrum, xpos: XPos | None) -> bytes:
    """The block of numbers above."""
    one_word, (high, low) = spectrum.turns_per_token
    planes, axes = len(one_word), spectrum.axes or ()
    furthest = [-1] * 4 if xpos is None else [min(xpos.furthest(dtype), _LARGEST) for dtype in _DTYPES]
    head = (planes, max(axes) + 1 if axes else 0, -1 if spectrum.window is None else spectrum.window, *furthest)
    packed = struct.pack(f"{len(head)}qd", *head, spectrum.attention_factor)
    packed += struct.pack(f"{3 * planes + len(axes)}q", *one_word, *high, *low, *axes)
    decay = () if xpos is None else (*xpos.decay("query").powers.values, *xpos.decay("key").powers.values)
    return packed + struct.pack(f"{len(decay)}d", *decay)
