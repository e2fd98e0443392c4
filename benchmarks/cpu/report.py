"""results/cpu.md and docs/pictures/cpu.png from the figures of benchmarks.cpu.run: tables, and each target beside what was measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.record import table

PICTURE = Path(__file__).parents[2] / "docs" / "pictures" / "cpu.png"
FLOOR, INPLACE, FRESH = "copy_ into allocated", "rotary, in place", "rotary"
EAGER, COMPILED = "transformers", "transformers, torch.compile"
HALF = "half-width formula, torch.compile"
Timings = dict[str, Any]


def ratio(timings: Timings, a: str, b: str) -> float:
    """Median of a over median of b."""
    return timings[a][0] / timings[b][0]


def report(found: dict[str, Any], at: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in at["versions"].items())
    lines = [f"{at['device']}; Python {at['python']}; {versions}; commit {at['commit']}.", ""]
    lines += ["## What was aimed at, and what was reached", "", targets(found), ""]
    for state, shapes in found["forward"].items():
        lines += [
            f"## Forward, {state} pages",
            "",
            "Time as a multiple of `copy_` of q and k into allocated tensors.",
            "",
        ]
        names = list(dict.fromkeys(name for timings in shapes.values() for name in timings))
        rows = [
            [shape, f"{timings[FLOOR][0] * 1e3:.4g} ms", *(_times(timings, name) for name in names if name != FLOOR)]
            for shape, timings in shapes.items()
        ]
        lines += [table(["", "copy_", *(n for n in names if n != FLOOR)], rows), ""]
    lines += ["## Forward and backward, 4,096 tokens", ""]
    names = list(next(iter(found["backward"].values())))
    rows = [[dtype, *(f"{timings[n][0] * 1e3:.3g} ms" for n in names)] for dtype, timings in found["backward"].items()]
    lines += [table(["", *names], rows), "", "## Tables, 8,192 x 64", ""]
    rows = [[name, f"{timing[0] * 1e3:.3g} ms"] for name, timing in found["tables"].items()]
    lines += [
        table(["", ""], rows),
        "",
        "## Memory: growth during one call, 4,096 tokens, float32 (q and k: 80 MiB)",
        "",
    ]
    lines += [table(["", ""], [[n, f"{size / 2**20:.0f} MiB"] for n, size in found["memory"].items()]), ""]
    lines += ["## A Llama-shaped model: 4 layers, hidden 2,048, float32", ""]
    names = list(next(iter(found["model"].values())))
    rows = [
        [step, *(f"{timings[n][0] * 1e3:.4g} ms ({ratio(timings, n, EAGER):.3f})" for n in names)]
        for step, timings in found["model"].items()
    ]
    return "\n".join([*lines, table(["", *names], rows)])


def _times(timings: Timings, name: str) -> str:
    if name not in timings:
        return "–"
    return f"{ratio(timings, name, FLOOR):.2f} ({timings[name][1] / timings[FLOOR][0]:.2f}–{timings[name][2] / timings[FLOOR][0]:.2f})"


Met = Callable[[float], bool]


def targets(found: dict[str, Any]) -> str:
    """Each aim of the kernel, the figure of this run, and whether it was reached."""
    warm, cold = found["forward"]["warm"], found["forward"]["cold"]
    f32, bf16 = warm["4,096 tokens, float32"], warm["4,096 tokens, bfloat16"]
    one = warm["1 token, float32"]
    rows: list[list[str]] = []

    def aim(what: str, value: float, limit: float, *, at_least: bool = False) -> None:
        met = value >= limit if at_least else value <= limit
        rows.append([what, f"{'≥' if at_least else '≤'} {limit:g}", f"{value:.2f}", "yes" if met else "no"])

    aim("in place / `copy_`, 4,096 tokens, float32", ratio(f32, INPLACE, FLOOR), 0.85)
    aim("in place / `copy_`, 4,096 tokens, bfloat16", ratio(bf16, INPLACE, FLOOR), 1.0)
    for state, shapes in found["forward"].items():
        aim(f"fresh / `clone`, float32, {state} pages", ratio(shapes["4,096 tokens, float32"], FRESH, "clone"), 1.1)
        aim(f"fresh / `clone`, bfloat16, {state} pages", ratio(shapes["4,096 tokens, bfloat16"], FRESH, "clone"), 1.2)
    for state, shapes in found["forward"].items():
        timings = shapes["4,096 tokens, float32"]
        aim(f"transformers / in place, {state} pages", ratio(timings, EAGER, INPLACE), 20, at_least=True)
        aim(f"transformers / fresh, {state} pages", ratio(timings, EAGER, FRESH), 3, at_least=True)
        aim(f"compiled / in place, {state} pages", ratio(timings, COMPILED, INPLACE), 10, at_least=True)
        aim(f"compiled / fresh, {state} pages", ratio(timings, COMPILED, FRESH), 1.7, at_least=True)
        aim(f"half-width compiled / in place, {state} pages", ratio(timings, HALF, INPLACE), 5, at_least=True)
        aim(f"half-width compiled / fresh, {state} pages", ratio(timings, HALF, FRESH), 1.0, at_least=True)
    back = found["backward"]["float32"]
    aim("transformers / ours, forward and backward, float32", ratio(back, EAGER, "rotary"), 4, at_least=True)
    turned = warm["4,096 tokens, transposed, float32"]
    aim("transposed / contiguous, in place, float32", turned[INPLACE][0] / f32[INPLACE][0], 1.15)
    aim("one token, fresh / transformers", ratio(one, FRESH, EAGER), 0.5)
    aim("one token, in place / transformers", ratio(one, INPLACE, EAGER), 0.5)
    aim("exact tables / float32 product", ratio(found["tables"], "exact", "float32 product"), 3.0)
    aim("memory beyond outputs, fresh [MiB]", (found["memory"][FRESH] - found["memory"]["clone"]) / 2**20, 1.0)
    aim("memory in place [MiB]", found["memory"][INPLACE] / 2**20, 1.0)
    slower = [
        f"{name}: {shape}, {state} ({ratio(timings, name, FRESH):.2f})"
        for state, shapes in (("warm", warm), ("cold", cold))
        for shape, timings in shapes.items()
        for name in timings
        if name not in (FLOOR, "clone") and not name.startswith("rotary,") and name != FRESH
        if ratio(timings, name, FRESH) < 0.98
    ]
    rows.append(["peers faster than ours, fresh", "none", f"{len(slower)}", "no" if slower else "yes"])
    said = table(["", "aim", "measured", "reached"], rows)
    return said + ("\n\nFaster than ours: " + "; ".join(slower) + "." if slower else "")


def plot(found: dict[str, Any]) -> None:
    """Bars: time over a copy, at 4,096 tokens, warm pages, float32 and bfloat16."""
    from matplotlib.figure import Figure

    colours = ("#0072B2", "#D55E00")
    shapes = found["forward"]["warm"]
    both = [shapes["4,096 tokens, float32"], shapes["4,096 tokens, bfloat16"]]
    names = [n for n in both[0] if n not in (FLOOR, "rotary, interleaved")]
    figure = Figure(figsize=(8.0, 4.2), layout="constrained")
    axes = figure.subplots()
    for i, (label, timings) in enumerate(zip(("float32", "bfloat16"), both, strict=True)):
        values = [ratio(timings, n, FLOOR) if n in timings else 0.0 for n in names]
        places = [y + (0.2 if i else -0.2) for y in range(len(names))]
        bars = axes.barh(
            places, values, 0.38, color=colours[i], hatch="//" if i else None, edgecolor="white", label=label
        )
        axes.bar_label(bars, [f"{v:.2f}" if v else "no such type" for v in values], padding=3, fontsize=8)
    axes.axvline(1.0, color="#555555", lw=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("time / copy_ of q and k into allocated tensors; the line is a copy")
    axes.set_title("Rotating 4,096 tokens on a CPU, 32 + 8 heads of 128", loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.1)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(PICTURE, dpi=200)
