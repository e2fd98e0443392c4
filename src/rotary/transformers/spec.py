"""RotationSpec: what a model's rotation function does, as a value: how it takes its arguments, and which table entry multiplies which
channel; and formula(), that rotation in plain operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .._types import CosSin

Widths = Literal["cat", "repeat", "first", "half"]
"""Layout of the cos/sin table for P pairs. "cat": [c0, .., cP, c0, .., cP]; "repeat": [c0, c0, c1, c1, ..]; "first": width 2P, only the
first half is read; "half": width P."""

Partial = Literal[False, "leading", "trailing"]


@dataclass(frozen=True)
class Form:
    """How a function takes its two tables.

    pack: two tables -> the function's arguments for them, `count` in number. unpack: these arguments -> the two tables.
    tables_first: the tables come before the tensors that are rotated.
    folded: the tensors that are rotated are (batch, seq, heads * head_dim).
    """

    name: str
    pack: Callable[[Tensor, Tensor], list[Tensor]]
    unpack: Callable[[Sequence[Tensor]], CosSin]
    count: int = 2
    tables_first: bool = False
    folded: bool = False

    def __repr__(self) -> str:
        return self.name


def _pack_by_row(first: Tensor, second: Tensor) -> list[Tensor]:
    ids = torch.arange(first[..., 0].numel()).view(first.shape[:-1])
    return [first.flatten(0, -2), second.flatten(0, -2), ids]


def _unpack_joined(arguments: Sequence[Tensor]) -> CosSin:
    first, second = arguments[0].chunk(2, -1)
    return first, second


def _unpack_stacked(arguments: Sequence[Tensor]) -> CosSin:
    """(2, seq, ..., width) -> two tables (seq, 1, width)."""
    first, second = arguments[0][0], arguments[0][1]
    return _one_row_per_token(first), _one_row_per_token(second)


def _one_row_per_token(table: Tensor) -> Tensor:
    return table.reshape(table.shape[0], 1, table.shape[-1])


TWO = Form("two tables", lambda a, b: [a, b], lambda arguments: (arguments[0], arguments[1]))
COMPLEX = Form(
    "complex table", lambda a, b: [torch.complex(a, b)], lambda arguments: (arguments[0].real, arguments[0].imag), 1
)
JOINED = Form("joined table", lambda a, b: [torch.cat((a, b), -1)], _unpack_joined, 1, tables_first=True)
STACKED = Form("stacked table", lambda a, b: [torch.stack((a, b))], _unpack_stacked, 1, folded=True)
GATHERED = Form(
    "two tables by row",
    _pack_by_row,
    lambda arguments: (arguments[0][arguments[2]], arguments[1][arguments[2]]),
    3,
)
FORMS = (TWO, COMPLEX, JOINED, STACKED, GATHERED)


@dataclass(frozen=True, kw_only=True)
class RotationSpec:
    """What a rotation function does.

    interleaved: it pairs channels (2j, 2j + 1) of its input; otherwise (j, j + P).
    to_half: its output is half-paired whatever the pairing of its input.
    widths: the layout of its tables, see Widths.
    form: how the tables are passed, see Form.
    conjugate: it rotates by minus the angle.
    sin_first: the first table is sin.
    tensors: how many tensors it rotates: 1, 2 (q and k) or 3 (v too).
    partial: which channels rotate when the tables are narrower than the input, the "leading" or the "trailing" ones; False if it
        does not accept narrower tables.
    prefix: if the tables have fewer rows than the input has tokens, they belong to the last tokens, and the tokens before pass through.
    promotes: a half-precision input with float32 tables gives a float32 output.
    unsqueeze: the position of the axis that it inserts into its tables, None if it inserts none, "argument" if the caller passes it
        as unsqueeze_dim.
    """

    interleaved: bool = False
    to_half: bool = False
    widths: Widths = "cat"
    form: Form = TWO
    conjugate: bool = False
    sin_first: bool = False
    tensors: int = 2
    partial: Partial = False
    prefix: bool = False
    promotes: bool = False
    unsqueeze: int | Literal["argument"] | None = None

    def __str__(self) -> str:
        words = ["interleaved" if self.interleaved else "half", f"tables {self.widths}"]
        words += [] if self.form is TWO else [repr(self.form)]
        words += [name for name in ("conjugate", "sin_first", "to_half", "prefix", "promotes") if getattr(self, name)]
        return ", ".join(words + ([f"{self.partial} part"] if self.partial else []))


def formula(spec: RotationSpec, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The rotation that the spec describes, in plain torch operations and in the dtype of its arguments.

    rotations.py uses it for tables whose two halves differ, and the probe compares functions with it. cos, sin: of the width in
    spec.widths; they broadcast against x.
    """
    width = 2 * cos.shape[-1] if spec.widths == "half" else cos.shape[-1]
    x, passed = split_partial(spec, x, width)
    a, b = split_pairs(x, spec.interleaved)
    (cos_a, cos_b), (sin_a, sin_b) = (per_channel(table, spec.widths) for table in (cos, sin))
    if spec.conjugate:
        sin_a, sin_b = -sin_a, -sin_b
    first, second = a * cos_a - b * sin_a, b * cos_b + a * sin_b
    if spec.interleaved and not spec.to_half:
        y = torch.stack((first, second), -1).flatten(-2)
    else:
        y = torch.cat((first, second), -1)
    return join_partial(spec, y, passed)


def split_partial(spec: RotationSpec, x: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """x (..., head_dim) -> (the `width` channels that rotate, the channels that pass through)."""
    if spec.partial == "trailing":
        passed, rotated = x.split((x.shape[-1] - width, width), -1)
        return rotated, passed
    return x[..., :width], x[..., width:]


def join_partial(spec: RotationSpec, rotated: Tensor, passed: Tensor) -> Tensor:
    """The inverse of split_partial()."""
    if not passed.shape[-1]:
        return rotated
    return torch.cat((passed, rotated) if spec.partial == "trailing" else (rotated, passed), -1)


def per_channel(table: Tensor, widths: Widths) -> CosSin:
    """(..., P) each: the entries for the first channel of every pair, and those for the second."""
    if widths == "half":
        return table, table
    a, b = split_pairs(table, widths == "repeat")
    return (a, a) if widths == "first" else (a, b)


def split_pairs(x: Tensor, interleaved: bool) -> tuple[Tensor, Tensor]:
    """x (..., 2P) -> the first and the second channel of each pair, (..., P) each."""
    if interleaved:
        return x[..., ::2], x[..., 1::2]
    pairs = x.shape[-1] // 2
    return x[..., :pairs], x[..., pairs:]
