"""Each way in which models of transformers rotate, their own function against the one that stands in for it, in turn in one process.

    python benchmarks/models.py [--seconds 2]       writes results/models.json and results/models.md, in a few minutes

The function of the first family that has the body, at the heads of Llama-3-8B: 2,048 tokens, 32 query and 8 key heads, head_dim 128,
in float32 and bfloat16; forward, and forward with backward. Fresh outputs on both sides, since a model keeps its own.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from record import circumstances, table, write
from torch import Tensor

from rotary.bench import alternate
from rotary.transformers import Body
from rotary.transformers.body import GATHERED, STACKED
from rotary.transformers.replace import Replacement

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import model_families as families

TOKENS, QUERY_HEADS, KEY_HEADS, HEAD_DIM = 2048, 32, 8, 128
LAYOUTS = [  # of x around heads and channels, and of the rows of its tables
    (lambda h: (1, h, TOKENS), (1, TOKENS)),
    (lambda h: (1, h, TOKENS), (TOKENS,)),
    (lambda h: (1, TOKENS, h), (1, TOKENS)),
    (lambda h: (1, TOKENS, h), (TOKENS,)),
    (lambda h: (TOKENS, h), (TOKENS,)),
]


def tables(body: Body, rows: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """cos and sin as wide as the body wants them, in its form."""
    planes = HEAD_DIM // 2 if not body.partial else HEAD_DIM // 4
    angles = torch.arange(TOKENS)[:, None] * 1e4 ** (-torch.arange(planes) / planes)
    width = {
        "cat": lambda t: torch.cat((t, t), -1),
        "repeat": lambda t: t.repeat_interleave(2, -1),
        "half": lambda t: t,
    }
    width["first"] = width["cat"]
    cos, sin = (width[body.widths](t).expand(*rows, -1).contiguous() for t in (angles.cos(), angles.sin()))
    given = body.form.arguments(*((sin, cos) if body.sin_first else (cos, sin)))
    return [t.to(dtype) if t.is_floating_point() else t for t in given]


def works(function: Any, body: Body, dtype: torch.dtype) -> tuple[Replacement, list[Tensor], list[Tensor]]:
    """(ours, what it rotates, its tables) in the first layout that the function takes and our kernels serve."""
    for layout, rows in LAYOUTS:
        if body.form is STACKED:
            rows = (TOKENS, 1, 1)
        elif body.form is GATHERED:
            rows = (1, TOKENS)
        heads = (QUERY_HEADS, KEY_HEADS, KEY_HEADS)[: body.tensors]
        xs = [torch.randn(*layout(h), HEAD_DIM).to(dtype) for h in heads]
        if body.form.folded:
            xs = [x.flatten(-2) for x in xs]
        given, ours = tables(body, rows, dtype), Replacement(function, body, lambda: True)
        arguments = given + xs if body.form.leads else xs + given
        try:
            truth, mine = function(*arguments), ours(*arguments)
        except (RuntimeError, IndexError):
            continue
        pairs = [(truth, mine)] if isinstance(truth, Tensor) else list(zip(truth, mine, strict=True))
        if ours.calls and all(a.shape == b.shape and (a.float() - b.float()).abs().max() < 0.1 for a, b in pairs):
            return ours, xs, given
    raise RuntimeError(f"no layout serves {body}")


def ratio(function: Any, body: Body, dtype: torch.dtype, seconds: float, *, backward: bool) -> float:
    """Median of the model's own over median of ours."""
    ours, xs, given = works(function, body, dtype)
    if backward:
        xs = [x.requires_grad_() for x in xs]
    arguments = given + xs if body.form.leads else xs + given

    def contender(f: Any) -> Any:
        def forward() -> Any:
            return f(*arguments)

        def both() -> Any:
            y = f(*arguments)
            ys = [y] if isinstance(y, Tensor) else list(y)
            return torch.autograd.grad(ys, xs, [t.detach() for t in ys])

        return both if backward else forward

    timed = alternate({"theirs": contender(function), "ours": contender(ours)}, seconds)
    return timed["theirs"].median / timed["ours"].median


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="for each pair of contenders")
    options = parser.parse_args()
    first: dict[Body, tuple[str, Any]] = {}
    for family in families.families():
        for name, body in families.bodies(family).items():
            if isinstance(body, Body) and body not in first:
                module = next(m for m in families.modeling(family) if hasattr(m, name))
                first[body] = (f"{family}.{name}", getattr(module, name))
    rows: list[list[str]] = []
    found: dict[str, dict[str, float]] = {}
    for body, (name, function) in first.items():
        cells = {}
        for dtype in (torch.float32, torch.bfloat16):
            for backward in (False, True):
                cell = f"{str(dtype).removeprefix('torch.')}, {'forward + backward' if backward else 'forward'}"
                cells[cell] = ratio(function, body, dtype, options.seconds, backward=backward)
        found[str(body)] = cells
        rows.append([str(body), name, *(f"{value:.1f} x" for value in cells.values())])
        print(f"{name:50} {'  '.join(rows[-1][2:])}", flush=True)
    at = circumstances("transformers")
    versions = ", ".join(f"{name} {version}" for name, version in at["versions"].items())
    text = f"""# The rotation of models, their own function over ours

Times as fast: medians in turn, {TOKENS:,} tokens, {QUERY_HEADS} query and {KEY_HEADS} key heads of {HEAD_DIM} channels, fresh outputs.
`python benchmarks/models.py`, {at["device"]}, {versions}, commit {at["commit"]}.

{table(["body", "function", *next(iter(found.values()))], rows)}
"""
    write("models", {**at, "ratios": found}, text)


if __name__ == "__main__":
    main()
