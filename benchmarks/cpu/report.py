"""results/cpu.md and docs/pictures/cpu.png from the records of benchmarks.cpu.run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.cpu.calls import MODULE_AND_APPLY, ROTATE
from benchmarks.cpu.measured import CACHE, DTYPES, MEMORY, Record, ratios, select
from benchmarks.cpu.rivals import (
    CLONE,
    COMPILED,
    COPY,
    EAGER,
    FRESH,
    HALF,
    HUB,
    HUB_INPLACE,
    INPLACE,
    OF_HALVES,
    OF_NEIGHBOURS,
)
from benchmarks.cpu.targets import NOT_MEASURED, in_place_over_copy, onnx_over_ours, spread, targets
from benchmarks.record import table

PICTURE = Path(__file__).parents[2] / "docs" / "pictures" / "cpu.png"
NAMES = [str(dtype)[6:] for dtype in DTYPES]


def report(records: list[Record], at: dict[str, Any]) -> str:
    lines = [
        machine(at),
        "",
        "q and k have 32 + 8 heads of 128 channels unless a row names others.",
        "",
        "## Targets",
        "",
        targets(records),
        "",
        "## Time of others over ours",
        "",
        summary(records),
        "",
    ]
    for pages, state in (("warm", CACHE), ("warm", MEMORY), ("cold", MEMORY)):
        chosen = select(records, part="lengths", pages=pages, state=state)
        if chosen:
            where = "in cache" if state == CACHE else "from memory"
            lines += [f"## Ready tables, {where}, {pages} pages", "", "Time over `copy_` into allocated tensors.", ""]
            lines += [_over(chosen, COPY), ""]
    lines += ["## Every dtype, width and pairing: in place over `copy_`", "", breadth(records), ""]
    for part, heading in (
        ("decode", "Tables and rotation in one call"),
        ("tables", "Tables: (tokens, 64)"),
        ("hub", "The CPU kernel of kernels-community, bfloat16"),
        ("onnx", "ONNX Runtime"),
        ("backward", "Forward and backward, 2,048 tokens"),
        ("package", "The package"),
        ("model", "A Llama-shaped model: 4 layers, hidden 2,048, float32"),
    ):
        chosen = select(records, part=part)
        timed = [record for record in chosen if record["timings"]]
        lines += [
            f"## {heading}",
            "",
            _times(timed) if timed else ", ".join(r["case"] for r in chosen) or NOT_MEASURED,
            "",
        ]
    for record in select(records, part="memory"):
        lines += [f"## Memory: growth during one call, {record['case']} (q and k: 80 MiB)", ""]
        lines += [table(["", ""], [[n, f"{size / 2**20:.0f} MiB"] for n, size in record["bytes"].items()])]
    return "\n".join(lines)


def machine(at: dict[str, Any]) -> str:
    """Processor, threads, versions, and how busy it was with other things."""
    versions = ", ".join(f"{name} {version}" for name, version in at["versions"].items())
    busy = "not known how busy" if at["busy"] is None else f"other processes took {at['busy']:.0%} of the cores' time"
    note = f" {at['note']}" if at.get("note") else ""
    return (
        f"{at['processor']}. {at['threads']} threads; rotary's kernel: {at['rotates']}; {busy}. Python {at['python']}; {versions}; "
        f"kernels-community/rotary: {at['hub']}; commit {at['commit']}.{note}"
    )


def summary(records: list[Record]) -> str:
    """The summary: time of the others over ours, by dtype."""

    def row(name: str, values: Callable[[str], list[float]]) -> list[str]:
        return [name, *(spread(figures) if (figures := values(dtype)) else "–" for dtype in NAMES)]

    def lengths(theirs: str, ours: str, seq: int) -> Callable[[str], list[float]]:
        plain = {"part": "lengths", "seq": seq, "batch": 1, "transposed": False, "interleaved": False}
        return lambda dtype: ratios(records, theirs, ours, dtype=dtype, **plain)

    def hub(dtype: str) -> list[float]:
        where = {"part": "hub", "dtype": dtype}
        return ratios(records, HUB, FRESH, **where) + ratios(records, HUB_INPLACE, INPLACE, **where)

    def best_compiled(dtype: str) -> list[float]:
        both = [lengths(name, FRESH, 4096)(dtype) for name in (COMPILED, HALF)]
        return [min(pair) for pair in zip(*both, strict=True)]

    rows = [
        row("transformers, one token", lengths(EAGER, FRESH, 1)),
        row(
            "transformers, one token, with its tables",
            lambda dtype: ratios(records, MODULE_AND_APPLY, ROTATE, part="decode", seq=1, dtype=dtype),
        ),
        row("transformers, 128 tokens", lengths(EAGER, FRESH, 128)),
        row("transformers, 4,096 tokens", lengths(EAGER, FRESH, 4096)),
        row("transformers, 4,096 tokens; ours in place", lengths(EAGER, INPLACE, 4096)),
        row("the better of two formulas under torch.compile, 4,096 tokens", best_compiled),
        row(
            "transformers, forward and backward, 2,048 tokens",
            lambda dtype: ratios(records, EAGER, FRESH, part="backward", dtype=dtype),
        ),
        row("kernels-community, 1 to 4,096 tokens", hub),
        row(
            "ONNX Runtime, one token; ours in place",
            lambda dtype: onnx_over_ours(select(records, dtype=dtype), 1),
        ),
        row(
            "a copy, from memory; ours in place",
            lambda dtype: [1 / v for v in in_place_over_copy(records, part="breadth", state=MEMORY, dtype=dtype)],
        ),
    ]
    return table(["others / ours", *NAMES], rows)


IN_SHORT = (
    "transformers, one token",
    "transformers, 4,096 tokens",
    "the better of two formulas under torch.compile, 4,096 tokens",
    "a copy, from memory; ours in place",
)
"""The rows of the summary that the README shows: the usual code at two lengths, the fastest code without a kernel, and a copy."""


def in_short(records: list[Record]) -> str:
    """The header of the summary and four of its rows."""
    header, rule, *rows = summary(records).splitlines()
    return "\n".join((header, rule, *(row for name in IN_SHORT for row in rows if row.startswith(f"| {name} |"))))


def breadth(records: list[Record]) -> str:
    """A row for each dtype and width; 512 tokens, fewer where these do not fit the cache."""
    rows: dict[tuple[str, int, int], dict[tuple[str, bool], Record]] = {}
    for record in select(records, part="breadth"):
        key = (record["dtype"], record["head_dim"], record["dim"])
        rows.setdefault(key, {})[record["state"], record["interleaved"]] = record
    lines: list[list[str]] = []
    for (dtype, head_dim, dim), by_place in rows.items():
        cells = [f"{dtype}, {head_dim}" if dim == head_dim else f"{dtype}, {dim} of {head_dim}"]
        for place in ((CACHE, False), (CACHE, True), (MEMORY, False), (MEMORY, True)):
            cells += [spread(in_place_over_copy([by_place[place]])) if place in by_place else "–"]
        cells += [f"{by_place[CACHE, False]['seq']}" if (CACHE, False) in by_place else "–"]
        lines.append(cells)
    header = [
        "",
        "in cache, half",
        "in cache, interleaved",
        "from memory, half",
        "from memory, interleaved",
        "tokens in cache",
    ]
    return table(header, lines)


def _columns(records: list[Record]) -> list[str]:
    return list(dict.fromkeys(name for record in records for name in record["timings"]))


def _over(records: list[Record], floor: str) -> str:
    """Rows of multiples of one contender, with quartiles."""
    names = [name for name in _columns(records) if name != floor]
    rows: list[list[str]] = []
    for record in records:
        timings, unit = record["timings"], record["timings"][floor][0]
        cells = [
            f"{timings[n][0] / unit:.2f} ({timings[n][1] / unit:.2f}–{timings[n][2] / unit:.2f})"
            if n in timings
            else "–"
            for n in names
        ]
        rows.append([_short(record["case"]), time(unit), *cells])
    return table(["", floor, *names], rows)


def _times(records: list[Record]) -> str:
    names = _columns(records)
    rows = [
        [
            _where(record, records),
            *(time(record["timings"][n][0]) if n in record["timings"] else "–" for n in names),
        ]
        for record in records
    ]
    return table(["", *names], rows)


def _where(record: Record, records: list[Record]) -> str:
    """The case, with the state of pages where the part was measured in both."""
    both = len({r["pages"] for r in records}) > 1
    return _short(record["case"]) + (f", {record['pages']} pages" if both else "")


def _short(case: str) -> str:
    """The name of a case without its heads, which are the same in all parts but that of widths, and are stated in the first lines."""
    return case.replace(", 32 + 8 heads of 128", "")


def time(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def plot(records: list[Record]) -> None:
    """Bars: time over a copy, at 4,096 tokens, from memory, warm pages."""
    from matplotlib.figure import Figure

    where = {"seq": 4096, "pages": "warm", "state": MEMORY, "transposed": False}
    names = [INPLACE, FRESH, CLONE, *OF_HALVES, *OF_NEIGHBOURS]
    figure = Figure(figsize=(8.0, 5.6), layout="constrained")
    axes = figure.subplots()
    for i, (dtype, colour, hatch) in enumerate(
        zip(NAMES, ("#0072B2", "#D55E00", "#999999"), ("", "//", ".."), strict=True)
    ):
        chosen = select(records, part=lambda p: p in ("lengths", "hub"), dtype=dtype, **where)
        values = [next(iter(ratios(chosen, name, COPY)), 0.0) for name in names]
        places = [y + 0.28 * (i - 1) for y in range(len(names))]
        bars = axes.barh(places, values, 0.26, color=colour, hatch=hatch, edgecolor="white", label=dtype)
        for bar, value in zip(
            bars, values, strict=True
        ):  # behind the bar and the line of 1; "–" where its bar would begin
            place = max(value, 1.0) if value else 0.65
            axes.annotate(
                f"{value:.2f}" if value else "–",
                (place, bar.get_y() + bar.get_height() / 2),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
            )
    axes.axvline(1.0, color="#555555", lw=0.8)
    axes.set_xscale("log")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("time over that of copying q and k (the line); – not measured")
    axes.set_title("Rotating 4,096 tokens on a CPU, 32 + 8 heads of 128, read from memory", loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.1)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(PICTURE, dpi=200)
