"""What a function that rotates does, as a value: how it takes its tensors and tables, and how it turns them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Widths = Literal["cat", "repeat", "first", "half"]
"""Where plane j of P finds its numbers. In tables of width 2P: cat at j for its first channel and at j + P for its second, repeat at
2j and 2j + 1, first at j for both. In tables of width P: half, at j."""


@dataclass(frozen=True)
class Form:
    """How a function is handed its two tables.

    arguments: (first, second) -> the arguments they come as; tables: back again, from those arguments.
    count: how many arguments. leads: they stand before what is rotated. folded: that is (batch, seq, heads * head_dim).
    """

    name: str
    arguments: Callable[[Tensor, Tensor], list[Tensor]]
    tables: Callable[[Sequence[Tensor]], tuple[Tensor, Tensor]]
    count: int = 2
    leads: bool = False
    folded: bool = False

    def __repr__(self) -> str:
        return self.name


def _by_rows(first: Tensor, second: Tensor) -> list[Tensor]:
    ids = torch.arange(first[..., 0].numel()).view(first.shape[:-1])
    return [first.flatten(0, -2), second.flatten(0, -2), ids]


def _one_row_each(table: Tensor) -> Tensor:
    return table.reshape(table.shape[0], 1, table.shape[-1])


TWO = Form("two tables", lambda a, b: [a, b], lambda given: (given[0], given[1]))
COMPLEX = Form("complex table", lambda a, b: [torch.complex(a, b)], lambda given: (given[0].real, given[0].imag), 1)
JOINED = Form("joined table", lambda a, b: [torch.cat((a, b), -1)], lambda given: given[0].chunk(2, -1), 1, leads=True)  # type: ignore[arg-type, return-value]
STACKED = Form(
    "stacked table",
    lambda a, b: [torch.stack((a, b))],
    lambda given: (_one_row_each(given[0][0]), _one_row_each(given[0][1])),
    1,
    folded=True,
)
GATHERED = Form("two tables by row", _by_rows, lambda given: (given[0][given[2]], given[1][given[2]]), 3)
FORMS = (TWO, COMPLEX, JOINED, STACKED, GATHERED)


@dataclass(frozen=True, kw_only=True)
class Body:
    """What a function that rotates does.

    interleaved: planes are channels (2j, 2j + 1) of its input; otherwise (j, j + P).
    to_half: its output has the planes in half order whatever its input has.
    widths: of its tables, see Widths.
    form: how it is handed them.
    conjugate: it turns the other way.
    sin_first: the first table is sin.
    tensors: how many it rotates: 1, 2 (q and k) or 3 (v too).
    partial: which channels turn where tables are narrower: the "leading" or the "trailing" ones; False where none may be left.
    prefix: tokens before those of the tables pass through.
    promotes: a half-precision input with float32 tables comes out in float32.
    unsqueeze: where it puts an axis into tables, None where it takes them as they are; "argument" where its caller says so.
    """

    interleaved: bool = False
    to_half: bool = False
    widths: Widths = "cat"
    form: Form = TWO
    conjugate: bool = False
    sin_first: bool = False
    tensors: int = 2
    partial: Literal[False, "leading", "trailing"] = False
    prefix: bool = False
    promotes: bool = False
    unsqueeze: int | Literal["argument"] | None = None

    def __str__(self) -> str:
        said = ["interleaved" if self.interleaved else "half", f"tables {self.widths}"]
        said += [] if self.form is TWO else [repr(self.form)]
        said += [name for name in ("conjugate", "sin_first", "to_half", "prefix", "promotes") if getattr(self, name)]
        return ", ".join(said + ([f"{self.partial} part"] if self.partial else []))


def formula(body: Body, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """What the body does, in the dtype of x and its tables, which broadcast against it: the full-width path, and the judge of probes."""
    width = 2 * cos.shape[-1] if body.widths == "half" else cos.shape[-1]
    x, still = turning(body, x, width)
    a, b = split(x, body.interleaved)
    (cos_a, cos_b), (sin_a, sin_b) = (channels(t, body.widths) for t in (cos, sin))
    if body.conjugate:
        sin_a, sin_b = -sin_a, -sin_b
    first, second = a * cos_a - b * sin_a, b * cos_b + a * sin_b
    if body.interleaved and not body.to_half:
        y = torch.stack((first, second), -1).flatten(-2)
    else:
        y = torch.cat((first, second), -1)
    return beside(body, y, still)


def turning(body: Body, x: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """(the channels that turn, those that do not)."""
    if body.partial == "trailing":
        still, turns = x.split((x.shape[-1] - width, width), -1)
        return turns, still
    return x[..., :width], x[..., width:]


def beside(body: Body, turned: Tensor, still: Tensor) -> Tensor:
    """The two parts of turning() in one again."""
    if not still.shape[-1]:
        return turned
    return torch.cat((still, turned) if body.partial == "trailing" else (turned, still), -1)


def channels(table: Tensor, widths: Widths) -> tuple[Tensor, Tensor]:
    """What of a table goes to the first and what to the second channel of each plane."""
    if widths == "half":
        return table, table
    a, b = split(table, widths == "repeat")
    return (a, a) if widths == "first" else (a, b)


def split(t: Tensor, neighbours: bool) -> tuple[Tensor, Tensor]:
    """The first and the second channel of each plane."""
    if neighbours:
        return t[..., ::2], t[..., 1::2]
    planes = t.shape[-1] // 2
    return t[..., :planes], t[..., planes:]
