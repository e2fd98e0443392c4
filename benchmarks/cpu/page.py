"""What do README.md and docs/cpu.md say about speed on a CPU? Made from results/cpu.json; nothing is measured.

    python -m benchmarks.cpu.page     5 seconds; writes results/cpu.md, docs/pictures/cpu.png, and the marked parts of both pages

A part is between <!-- cpu: NAME --> and <!-- /cpu -->.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.cpu.load import QUIET
from benchmarks.cpu.measured import MEMORY, Record, ratios
from benchmarks.cpu.report import in_short, machine, plot, report, summary
from benchmarks.cpu.rivals import COPY, EAGER, INPLACE
from benchmarks.cpu.targets import spread, targets
from benchmarks.record import RESULTS

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "docs" / "cpu.md")
_PART = re.compile(r"(<!-- cpu: (\w+) -->)(\s*)(.*?)(\s*)(<!-- /cpu -->)", re.DOTALL)
_ROWS = "<!-- rows of benchmarks/results/cpu.md -->"


def main() -> None:
    results = json.loads((RESULTS / "cpu.json").read_text(encoding="utf-8"))
    records, at = results["records"], {key: value for key, value in results.items() if key != "records"}
    (RESULTS / "cpu.md").write_text(report(records, at).rstrip() + "\n", encoding="utf-8")
    plot(records)
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8"), parts(records, at)), encoding="utf-8")


def parts(records: list[Record], at: dict[str, Any]) -> dict[str, str]:
    """Markdown of each part by its name."""
    warning = f"\n\n{busy(at)}" if busy(at) else ""
    return {
        "headline": headline(records) + (" (Measured on a busy machine: not to be relied on.)" if busy(at) else ""),
        "machine": f"Measured on: {machine(at)}",
        "in_short": f"{_ROWS}\n{in_short(records)}{warning}",
        "summary": f"{_ROWS}\n{summary(records)}{warning}",
        "targets": f"{_ROWS}\n{targets(records)}",
    }


def busy(at: dict[str, Any]) -> str:
    """A warning if the machine was busy with other work; empty if not, or if that was not recorded."""
    if at["busy"] is None or at["busy"] <= QUIET:
        return ""
    return (
        f"**Not to be relied on:** while this was measured, other processes took {at['busy']:.0%} of the cores' time."
    )


def headline(records: list[Record]) -> str:
    """One sentence with the figures that matter most: in place from memory, 4,096 tokens, contiguous, half pairing."""
    where: dict[str, Any] = {"part": "lengths", "seq": 4096, "state": MEMORY, "pages": "warm", "interleaved": False}
    where |= {"dtype": lambda d: d in ("float32", "bfloat16", "float16"), "transposed": False}
    own, theirs = ratios(records, INPLACE, COPY, **where), ratios(records, EAGER, COPY, **where)
    low, high = (spread([v]) for v in (min(theirs), max(theirs)))
    return (
        f"On a CPU, rotating queries and keys in place takes **{spread(own).replace(' – ', ' to ')} of the time of copying them** "
        f"(4,096 tokens; float32, bfloat16, float16); the usual formula takes {low} to {high} times as long as the copy."
    )


def filled(page: str, markdown: dict[str, str]) -> str:
    """The page with its marked parts made anew. KeyError for a mark that no part has."""
    return _PART.sub(lambda m: f"{m[1]}{m[3]}{markdown[m[2]]}{m[5]}{m[6]}", page)


if __name__ == "__main__":
    main()
