"""Schemes in the spelling of the command line: "yarn:4+resonance"."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable

from ..scaling import (
    NTK,
    Clipped,
    DynamicNTK,
    Linear,
    Llama3,
    NTKByParts,
    NTKMixed,
    Power,
    Proportional,
    Resonance,
    Scheme,
    Truncated,
    YaRN,
)

Chain = tuple[Scheme, ...]
AUTO = "auto"
_LARGEST_FACTOR = 2.0**20

# name -> (what its number is, for the help, or "" if it takes none; the scheme from that number and the trained window [token]).
SPELLINGS: dict[str, tuple[str, Callable[[float, int], Scheme]]] = {
    "linear": ("factor", lambda x, window: Linear(x)),
    "ntk": ("factor", lambda x, window: NTK(x)),
    "dynamic": ("factor", DynamicNTK),
    "mixed": ("factor", lambda x, window: NTKMixed(x)),
    "parts": ("factor", NTKByParts),
    "yarn": ("factor", YaRN),
    "llama3": ("factor", Llama3),
    "proportional": ("share", lambda x, window: Proportional(x)),
    "power": ("exponent", lambda x, window: Power(x)),
    "clipped": ("planes", lambda x, window: Clipped(_whole(x))),
    "truncated": ("", lambda x, window: Truncated(window)),
    "resonance": ("", lambda x, window: Resonance()),
}


def schemes(
    spelling: str,
    window: int,
    own: Chain = (),
    *,
    length: int | None = None,
    reach: Callable[[Chain], float] | None = None,
) -> Chain:
    """The schemes of a spelling such as "yarn:4+resonance", for a trained window [token]. "config" stands for own, "plain" for none.

    length: the context [token] that a factor `auto` is to reach. reach: chain -> the longest context [token] without an angle that training
    did not have. ValueError for another spelling.

    >>> schemes("linear:4+resonance", window=4096)
    (Linear(factor=4.0), Resonance())
    """
    chain: Chain = ()
    for part in spelling.split("+"):
        if part == "config":
            chain += own
        elif part != "plain":
            chain += (_scheme(part, window, chain, length, reach),)
    return chain


def _scheme(
    part: str, window: int, before: Chain, length: int | None, reach: Callable[[Chain], float] | None
) -> Scheme:
    name, _, value = part.partition(":")
    if name not in SPELLINGS:
        close = difflib.get_close_matches(name, SPELLINGS, n=1)
        raise ValueError(
            f"unknown scheme {part!r}; {'did you mean ' + close[0] if close else 'known: ' + ', '.join(SPELLINGS)}"
        )
    number, make = SPELLINGS[name]
    if bool(number) != bool(value):
        raise ValueError(f"scheme {part!r} needs {'a number, as ' + name + ':4' if number else 'no number'}")
    if value != AUTO:
        number_of_scheme = _number(part, name, value)
        try:
            return make(number_of_scheme, window)
        except ValueError as error:
            raise ValueError(f"scheme {part!r}: {error}") from None
    if number != "factor" or length is None or reach is None:
        raise ValueError(f"scheme {part!r}: auto is a factor, and {name} takes {number or 'none'}")
    enough = length * (1.0 - 1e-6)  # frequencies are float32 numbers
    return make(_factor(part, lambda factor: reach((*before, make(factor, window))) >= enough, length / window), window)


def _number(part: str, name: str, value: str) -> float:
    """The number of a scheme, 0 for one that takes none."""
    try:
        return float(value or 0)
    except ValueError:
        raise ValueError(f"scheme {part!r} needs a number, as {name}:4, got {value!r}") from None


def _whole(value: float) -> int:
    if not value.is_integer():  # infinity and nan too
        raise ValueError(f"planes must be an integer, got {value:g}")
    return int(value)


def _factor(part: str, reaches: Callable[[float], bool], first: float) -> float:
    """The smallest factor that reaches, rounded up to four digits. first: a guess."""
    if reaches(1.0):
        return 1.0
    low, high = 1.0, max(2.0, first)
    while not reaches(high):
        low, high = high, 2 * high
        if high > _LARGEST_FACTOR:
            raise ValueError(f"scheme {part!r}: no factor up to {_LARGEST_FACTOR:,.0f} reaches the context shown")
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    digits = 10.0 ** (3 - math.floor(math.log10(high)))
    nearest = round(high * digits) / digits
    return nearest if reaches(nearest) else math.ceil(high * digits) / digits
