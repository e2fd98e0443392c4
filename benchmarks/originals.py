"""How far are tables of other libraries from their own formula in float64, and how far are ours?

    python -m benchmarks.originals        half a minute; needs diffusers, timm and rotary-embedding-torch, each of which is optional

Results of packages that are missing stay as they are in results/originals.json. |cos, sin - float64|, the largest over positions of
each system's own; no times are taken.
"""

from __future__ import annotations

import json
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from rotary import RotaryEmbedding
from tests.support.originals import Original, error, originals

RESULTS = Path(__file__).parent / "results" / "originals.json"


def measured(original: Original) -> dict[str, Any]:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = error(original.theirs(original.at), original)
        one = original.at.shape[-1] == 1
        rope = (
            RotaryEmbedding.from_config(original.config)
            if original.config
            else RotaryEmbedding.from_inv_freq(original.inv_freq, axes=None if one else original.axes)
        )
        ours = error(rope.cos_sin(original.at[:, 0] if one else original.at), original)
    reach = float((original.at.double().abs().amax(0)[original.axes] * original.inv_freq).max())
    return {
        "package": f"{original.package} {metadata.version(original.package.replace('_', '-'))}",
        "planes": len(original.axes),
        "coordinates": original.at.shape[-1],
        "tokens": len(original.at),
        "radians": reach,
        "theirs": theirs,
        "rotary": ours,
    }


def main() -> None:
    result: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))["originals"] if RESULTS.exists() else {}
    for name, original in originals().items():
        try:
            result[name] = measured(original)
        except (ImportError, RuntimeError) as why:
            print(f"{name}: left as it was; {type(why).__name__}")
    result = {name: result[name] for name in originals() if name in result}
    RESULTS.write_text(json.dumps({"originals": result}, indent=1) + "\n", encoding="utf-8")
    RESULTS.with_suffix(".md").write_text(table(result), encoding="utf-8")


def table(found: dict[str, Any]) -> str:
    lines = [
        "# Originals beside their own formula",
        "",
        "Largest error of cos and sin against float64 of the formula in real numbers, at positions of each system "
        "(`python -m benchmarks.originals`). *largest angle* in radians.",
        "",
        "| system | package | planes, coordinates | tokens | largest angle | theirs | rotary |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {name} | {row['package']} | {row['planes']}, {row['coordinates']} | {row['tokens']:,} | {row['radians']:,.0f} | "
        f"{row['theirs']:.1e} | {row['rotary']:.1e} |"
        for name, row in found.items()
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
