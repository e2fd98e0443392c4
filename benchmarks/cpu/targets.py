"""The table of targets: each line with its figure of a run, whether it was reached, and what limits it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.cpu.calls import EXACT, MODULE_AND_APPLY, PRODUCT, ROTATE
from benchmarks.cpu.measured import CACHE, MEMORY, Record, ratios, select
from benchmarks.cpu.one_on_one import ONNX_ONE, ONNX_SPINNING
from benchmarks.cpu.package import INSTALL, NOW, THEN
from benchmarks.cpu.rivals import COPY, EAGER, FRESH, HUB, HUB_INPLACE, INPLACE, ONNX, TWO_CLONES
from benchmarks.record import table

NOT_MEASURED = "not measured"


class Measured(NamedTuple):
    text: str
    reached: bool | None


Reading = Callable[[list[Record]], Measured]


@dataclass(frozen=True)
class Line:
    """One row: which part measures it, what is divided by what, what is aimed at, how it is read off the records, what limits it."""

    part: str
    work: str
    target: str
    read: Reading
    limit: str


def spread(values: list[float], unit: str = "") -> str:
    """The least and the largest, or the only one."""
    low, high = (f"{v:.2f}" if v < 10 else f"{v:.1f}" if v < 100 else f"{v:.0f}" for v in (min(values), max(values)))
    return (low if low == high else f"{low} – {high}") + unit


def at_most(limit: float, values: Callable[[list[Record]], list[float]], unit: str = "") -> Reading:
    """The target is reached where the largest value is within the limit, at the two decimals that are shown."""

    def read(records: list[Record]) -> Measured:
        figures = values(records)
        return (
            Measured(spread(figures, unit), round(max(figures), 2) <= limit)
            if figures
            else Measured(NOT_MEASURED, None)
        )

    return read


def at_least(limit: float, values: Callable[[list[Record]], list[float]]) -> Reading:
    def read(records: list[Record]) -> Measured:
        figures = values(records)
        return Measured(spread(figures), round(min(figures), 2) >= limit) if figures else Measured(NOT_MEASURED, None)

    return read


def _one_token(contender: str) -> Callable[[list[Record]], list[float]]:
    three = ("float32", "bfloat16", "float16")
    where = {"part": "lengths", "seq": 1, "batch": 1, "pages": "warm", "dtype": lambda d: d in three}
    return lambda records: ratios(records, contender, EAGER, **where)


def _microseconds(records: list[Record]) -> list[float]:
    return [r["timings"][ROTATE][0] * 1e6 for r in select(records, part="decode", seq=1)]


def _tables(rows: int) -> Callable[[list[Record]], list[float]]:
    return lambda records: ratios(records, EXACT, PRODUCT, part="tables", seq=rows)


def in_place_over_copy(records: list[Record], **where: object) -> list[float]:
    return ratios(records, INPLACE, COPY, **where)


def _float16(state: str) -> Callable[[list[Record]], list[float]]:
    return lambda records: in_place_over_copy(records, part="breadth", dtype="float16", state=state)


def _odd_heads(records: list[Record]) -> list[float]:
    odd = {"head_dim": lambda n: n in (80, 96)}
    return in_place_over_copy(records, part="breadth", dtype="bfloat16", state=CACHE, **odd)


def _from_memory(records: list[Record]) -> list[float]:
    return in_place_over_copy(records, part=lambda p: p in ("breadth", "lengths"), state=MEMORY, pages="warm")


def _hub(near: bool) -> Callable[[list[Record]], list[float]]:
    def values(records: list[Record]) -> list[float]:
        where = {"part": "hub", "seq": lambda n: (n <= 1024) == near}
        return ratios(records, HUB, FRESH, **where) + ratios(records, HUB_INPLACE, INPLACE, **where)

    return values


def onnx_over_ours(records: list[Record], seq: int) -> list[float]:
    """The best of its three ways of using threads."""
    return [
        min(r["timings"][n][0] for n in (ONNX, ONNX_ONE, ONNX_SPINNING)) / r["timings"][INPLACE][0]
        for r in select(records, part="onnx", seq=seq)
    ]


def _backward(dtype: str) -> Reading:
    def read(records: list[Record]) -> Measured:
        where = {"part": "backward", "dtype": dtype}
        theirs, clones = ratios(records, EAGER, FRESH, **where), ratios(records, FRESH, TWO_CLONES, **where)
        if not theirs:
            return Measured(NOT_MEASURED, None)
        reached = round(min(theirs), 2) >= 4 or round(max(clones), 2) <= 1.2
        return Measured(f"{spread(theirs)}; {spread(clones)} clones", reached)

    return read


def _import(records: list[Record]) -> list[float]:
    return ratios(records, NOW, THEN, part="package", case="import")


def _install(records: list[Record]) -> list[float]:
    return [r["timings"][INSTALL][0] for r in select(records, part="package", case="installation")]


_CALLS = "checks and two allocations; the rotation itself takes under a microsecond"
_MEMORY = "memory: a copy moves as many bytes"
_TWO_FORMATS = "converting to float32 and back, where the copy converts nothing"

LINES = (
    Line("lengths", "one token, ready tables / transformers", "≤ 0.2", at_most(0.2, _one_token(FRESH)), _CALLS),
    Line("lengths", "the same in place", "≤ 0.15", at_most(0.15, _one_token(INPLACE)), "checks"),
    Line(
        "decode",
        "`rotate(q, k, offset=n)`, one token / transformers' module and formula",
        "≤ 0.3",
        at_most(0.3, lambda records: ratios(records, ROTATE, MODULE_AND_APPLY, part="decode", seq=1)),
        "checks, tables, two allocations",
    ),
    Line("decode", "the same, time", "≤ 10 µs", at_most(10.0, _microseconds, " µs"), "as above"),
    Line(
        "tables",
        "exact tables, 8,192 x 64 / float32 product",
        "≤ 0.5",
        at_most(0.5, _tables(8192)),
        "integer products and two polynomials in float64",
    ),
    Line("tables", "exact tables, one position / float32 product", "≤ 1", at_most(1.0, _tables(1)), "checks"),
    Line(
        "breadth",
        "float16, in place / `copy_`, in cache, every width",
        "≤ 2",
        at_most(2.0, _float16(CACHE)),
        _TWO_FORMATS,
    ),
    Line("breadth", "the same from memory", "≤ 1.1", at_most(1.1, _float16(MEMORY)), _MEMORY),
    Line(
        "breadth",
        "bfloat16, heads of 80 and 96, in place / `copy_`, in cache",
        "≤ 3.2",
        at_most(3.2, _odd_heads),
        _TWO_FORMATS,
    ),
    Line(
        "breadth",
        "every dtype, width and pairing, in place / `copy_`, from memory",
        "≤ 1.1",
        at_most(1.1, _from_memory),
        _MEMORY,
    ),
    Line(
        "hub",
        "kernels-community / ours, bfloat16, 1 to 1,024 tokens",
        "≥ 1.5",
        at_least(1.5, _hub(True)),
        "few tokens: calls; many: the same conversions in both",
    ),
    Line("hub", "the same, 4,096 tokens", "≥ 1", at_least(1.0, _hub(False)), "memory, in both"),
    Line(
        "onnx",
        "ONNX Runtime, its best / ours in place, one token",
        "≥ 1",
        at_least(1.0, lambda records: onnx_over_ours(records, 1)),
        "checks: its shapes and addresses are bound beforehand",
    ),
    *(
        Line(
            "backward",
            f"forward and backward, 2,048 tokens, {dtype}: transformers / ours; ours / two clones of q and k",
            "≥ 4, or ≤ 1.2 clones",
            _backward(dtype),
            "pages of the four outputs, as in clones",
        )
        for dtype in ("float32", "bfloat16", "float16")
    ),
    Line("package", "import of rotary / before this", "≤ 1.05", at_most(1.05, _import), "files that Python reads"),
    Line("package", "`pip install .` from source", "≤ 30 s", at_most(30.0, _install, " s"), "the C++ compiler"),
)


def targets(records: list[Record]) -> str:
    """The table in Markdown. A target that was not measured is marked so."""
    answer = {True: "yes", False: "no", None: ""}
    rows: list[list[str]] = []
    for line in LINES:
        measured = line.read(records)
        rows.append([line.work, line.target, measured.text, answer[measured.reached], line.limit])
    return table(["", "target", "measured", "reached", "limited by"], rows)
