"""Which model families of transformers give the same outputs and gradients with their norms fused into the rotation?

    python -m benchmarks.fused_families        about 5 minutes on one core; writes results/fused_families.json and results/fused_families.md

Every family of tests/transformers/zoo whose code has norms of queries and keys is patched with fuse="norms" and compared with itself.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import torch

from benchmarks.record import circumstances, table, write
from tests.transformers.zoo import families
from tests.transformers.zoo.fused_proof import Fused, outcome
from tests.transformers.zoo.proof import NEW

NORMS = re.compile(r"self\.(q|k|qk|query|key|kv_a|q_a)_?(input_)?(layer_?)?norm\b")


def with_norms() -> list[str]:
    """Families whose modeling code has a norm of queries or keys."""
    return [
        family
        for family in families.families()
        if any(NORMS.search(path.read_text()) for path in (families.FOLDER / family).glob("modeling_*.py"))
    ]


def page(result: dict[str, Any]) -> str:
    """results/fused_families.md."""
    records = [Fused(**record | {"norms": tuple(record["norms"])}) for record in result["records"]]
    fused = [record for record in records if record.fused]
    others = [record for record in records if not record.fused]
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

`python -m benchmarks.fused_families`, {result["device"]}, transformers {result["versions"]["transformers"]}, commit {result["commit"]}.
{sum(record.passes for record in fused)} of {len(fused)} families with fused norms pass: output and gradient in float32 within 1e-5 of the
unpatched model (relative), the same greedy tokens (of {NEW}), and in bfloat16 an rms error of normalised and rotated q and k, against
float64, that is not larger than that of the model's own code.

{table(header, [row(record) for record in fused])}

Not fused, by what the report of the patch says:

{table(["family", "why"], [[record.family, why(record)] for record in others])}
"""


def row(record: Fused) -> list[str]:
    specs = dict.fromkeys(norm.partition(": ")[2] for norm in record.norms)
    return [
        record.family,
        record.model,
        "; ".join(specs),
        f"{record.fused} of {record.calls}",
        f"{record.logits:.0e}",
        f"{record.gradient:.0e}",
        "" if record.greedy is None else str(record.greedy),
        "" if record.rotated is None else f"{record.rotated:.2f}",
        "yes" if record.passes else "no",
    ]


def why(record: Fused) -> str:
    reasons = "; ".join(f"{name}: {reason}" for name, reason in record.left.items())
    return record.reason or reasons or "none was called"


if __name__ == "__main__":
    torch.set_num_threads(1)
    records: list[Fused] = []
    for family in with_norms():
        records.append(outcome(family))
        print(*row(records[-1]), sep="   ", flush=True)
    result = circumstances("transformers") | {"records": [dataclasses.asdict(record) for record in records]}
    write("fused_families", result, page(result))
