"""The numbers of a module's tables, packed for the native library once, so that each call passes one object.

The block of 64-bit numbers, packed by of() here and read by plan_of() in _native/plan.cpp, P planes:

    planes  coordinates  window  furthest[4]  amplitude                integers, the amplitude float64
    one word of turns per token [P]   high [P]   low [P]   axes [P]    integers; axes only where positions have coordinates
    decay of queries [P + 1]   of keys [P + 1]                         float64, only with xPos

coordinates 0: no axes; window -1: no scheme that depends on the length; furthest: for each Dtype of _native/numbers.h, the largest
|position| whose xPos scale fits it, -1 without xPos.
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


class LibraryPlan:
    """Holds the native library's object of a module, made at the first call. Copies share it; a pickle leaves it out.

    packed: the object (_native/plan.h); None before the first call; False where the library does not make the tables.
    """

    __slots__ = ("packed",)

    def __init__(self) -> None:
        self.packed: Any = None

    def make(self, spectrum: Spectrum, xpos: XPos | None) -> Any:
        """The object, or False; kept in `packed`."""
        self.packed = False if spectrum.angles != "exact" else call.plan(of(spectrum, xpos)) or False
        return self.packed

    def __copy__(self) -> LibraryPlan:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> LibraryPlan:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return LibraryPlan, ()


def of(spectrum: Spectrum, xpos: XPos | None) -> bytes:
    """The block of numbers drawn at the top of this file."""
    one_word, (high, low) = spectrum.turns_per_token
    planes, axes = len(one_word), spectrum.axes or ()
    furthest = [-1] * 4 if xpos is None else [min(xpos.furthest(dtype), _LARGEST) for dtype in _DTYPES]
    head = (planes, max(axes) + 1 if axes else 0, -1 if spectrum.window is None else spectrum.window, *furthest)
    packed = struct.pack(f"{len(head)}qd", *head, spectrum.attention_factor)
    packed += struct.pack(f"{3 * planes + len(axes)}q", *one_word, *high, *low, *axes)
    decay = () if xpos is None else (*xpos.decay("query").powers.values, *xpos.decay("key").powers.values)
    return packed + struct.pack(f"{len(decay)}d", *decay)
