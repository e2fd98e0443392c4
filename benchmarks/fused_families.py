"""Which model families give the same outputs and gradients when their norms are fused into the rotation, and which norms are left?

    python -m benchmarks.fused_families [FAMILY ...]     10 minutes; writes results/fused_families.json and results/fused_families.md

It runs every family of tests/transformers/zoo whose source has a norm of queries or keys, under patch(fuse="norms") and unpatched. With
families named it prints their rows and writes nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from typing import Any

from benchmarks.record import circumstances, table, write
from tests.transformers.zoo import families, fused_proof
from tests.transformers.zoo.proof import LIMIT, NEW

_NORM = re.compile(r"self\.\w*(?:q|k|qk|query|key|kv)\w*_(?:layer)?norm\b")


def with_norms() -> list[str]:
    """Families whose modeling files name a norm of queries or keys."""
    files = {family: sorted((families.FOLDER / family).glob("modeling_*.py")) for family in families.families()}
    return [family for family, paths in files.items() if any(_NORM.search(path.read_text()) for path in paths)]


def row(result: fused_proof.Fused) -> list[str]:
    """A family with fused norms, as the page shows it."""
    norms = dict.fromkeys(norm.partition(": ")[2] for norm in result.norms)
    return [
        result.family,
        result.model,
        "; ".join(norms),
        f"{result.fused} of {result.calls}",
        f"{result.logits:.0e}",
        f"{result.gradient:.0e}",
        "" if result.greedy is None else str(result.greedy),
        "" if result.rotated is None else f"{result.rotated:.2f}",
        "yes" if result.passes else "NO",
    ]


def why(result: fused_proof.Fused) -> str:
    """Why nothing of a family was fused."""
    left = "; ".join(f"{norm}: {reason}" for norm, reason in sorted(result.left.items()))
    return (result.reason or left or "none was called").replace("|", "/")


def page(results: list[fused_proof.Fused], at: dict[str, Any]) -> str:
    """The Markdown of the results."""
    fused, left = [r for r in results if r.fused], [r for r in results if not r.fused]
    header = [
        "family",
        "model",
        "its norm",
        "rotations fused",
        "output",
        "gradient",
        "greedy",
        "q, k in bf16",
        "passes",
    ]
    return f"""# Norms fused into the rotation, by family

`python -m benchmarks.fused_families`, {at["device"]}, transformers {at["versions"]["transformers"]}, commit {at["commit"]}.
{sum(r.passes for r in fused)} of {len(fused)} families with fused norms pass: output and gradient in float32 within {LIMIT:g} of the
unpatched model (relative), the same greedy tokens (of {NEW}), and in bfloat16 an rms error of normalised and rotated q and k, against
float64, that is not larger than that of the model's own code.

{table(header, [row(result) for result in fused])}

Not fused, by what the report of the patch says:

{table(["family", "why"], [[result.family, why(result)] for result in left])}
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("family", nargs="*", help="families to run; by default all, and the results are written")
    chosen: list[str] = parser.parse_args().family
    results = [fused_proof.outcome(family) for family in chosen or with_norms()]
    if chosen:
        for result in results:
            print(" | ".join(row(result) if result.fused else [result.family, why(result)]))
        return
    at = circumstances("transformers")
    records = [dataclasses.asdict(result) for result in results]
    write("fused_families", {**at, "records": records}, page(results, at))


if __name__ == "__main__":
    main()
