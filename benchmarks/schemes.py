"""What does each scheme do to the planes of Llama 2?

python -m benchmarks.schemes        5 seconds; writes the table of docs/schemes.md and the pictures docs/pictures/schemes-*.png
"""

from __future__ import annotations

import math
from pathlib import Path

from rotary.analysis.diagnosis import Diagnosis
from rotary.analysis.plots import draw
from rotary.cli.schemes import schemes

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "schemes.md"
BEGIN, END = "<!-- made by benchmarks/schemes.py -->\n", "<!-- end -->"
WINDOW, TARGET, DIM, BASE = 4096, 16384, 128, 1e4
SHOWN = ("plain", "linear:4", "ntk:4", "dynamic:4", "mixed:4", "parts:4", "yarn:4", "llama3:4", "yarn:4+resonance")
SHOWN += ("power:0.1", "truncated", "clipped:18", "proportional:0.25")


def diagnosis(spelling: str) -> Diagnosis:
    return Diagnosis(spelling, DIM, BASE, schemes(spelling, WINDOW), WINDOW, TARGET)


def table() -> str:
    lines = ["| scheme | fastest plane | slowest plane | planes | reach [token] | attention factor |"]
    lines.append("| --- | ---: | ---: | --- | ---: | ---: |")
    for result in map(diagnosis, SHOWN):
        runs = result.treatments()
        words = ", ".join(f"{a}-{b} {word}" if a != b else f"{a} {word}" for word, a, b in runs)
        if len(runs) > 5:
            words = f"{len(result.planes)} in {len(runs)} runs"
        ends = [_times(result.planes[i].slowdown) for i in (0, -1)]
        reach = "any" if result.reach == math.inf else f"{result.reach:,.0f}"
        lines.append(f"| `{result.name}` | {ends[0]} | {ends[1]} | {words} | {reach} | {result.attention_factor:.4f} |")
    return "\n".join(lines) + "\n"


def _times(slowdown: float) -> str:
    return "at rest" if slowdown == math.inf else f"/ {slowdown:.4g}"


if __name__ == "__main__":
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + table() + END + rest.partition(END)[2], encoding="utf-8")
    compared = [diagnosis(name) for name in ("plain", "yarn:4", "linear:4", "ntk:4")]
    for picture in ("spectrum", "decay", "error"):
        draw(ROOT / "docs" / "pictures" / f"schemes-{picture}.png", [compared], picture)
