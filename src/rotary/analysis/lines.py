"""Lines of a report: as wide as the terminal, at most 110 columns, with a margin of labels."""

from __future__ import annotations

import textwrap
from typing import Any

from .. import _checks

COLUMNS = 110
"""Columns of a report for a wide terminal, and of one that is not for a terminal."""
_MARGIN, _NARROWEST = 20, 72


def columns(width: Any) -> int:
    """The columns of a report on a terminal of that width. TypeError or ValueError for what is no width."""
    return max(_NARROWEST, min(COLUMNS, _checks.count("width", width)))


def shortened(text: str, width: int) -> str:
    """The text, its middle left out where it is longer than width.

    >>> shortened("/home/someone/models/llama-3.1-8b", 20)
    '/home/som...-3.1-8b'
    """
    if len(text) <= width:
        return text
    ends = (width - 2) // 2
    return f"{text[:ends]}...{text[len(text) - (width - 3 - ends) :]}"


def title(name: str, width: int) -> list[str]:
    """The first two lines of a report."""
    name = shortened(name, width)
    return [name, "=" * len(name)]


def field(label: str, value: str, width: int) -> str:
    """A label in the margin, and its value in as many lines as it needs."""
    return textwrap.fill(value, width, initial_indent=f"{label:{_MARGIN}}", subsequent_indent=" " * _MARGIN)


def warning(text: str, width: int) -> str:
    """A warning in as many lines as it needs."""
    return textwrap.fill(text, width, initial_indent="warning: ", subsequent_indent=" " * 9)
