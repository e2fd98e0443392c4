"""How many times as fast as the rotation function of a transformers model is ours, for each kind of rotation that models have?

    python -m benchmarks.models [--seconds 2]       6 minutes; writes results/models.json and results/models.md

For each kind (a RotationSpec) it times the function of the first family that has it, and our replacement, in turn in one process, at
the heads of Llama-3-8B: 2,048 tokens, 32 query and 8 key heads, head_dim 128, in float32 and bfloat16; forward, and forward with
backward. Both return new tensors, since a model keeps its own.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor

from benchmarks.record import circumstances, table, write
from rotary.cli.clock import alternate
from rotary.transformers import RotationSpec
from rotary.transformers.spec import GATHERED, STACKED
from rotary.transformers.wrapper import Replacement
from tests.transformers.zoo import families

TOKENS, QUERY_HEADS, KEY_HEADS, HEAD_DIM = 2048, 32, 8, 128
LAYOUTS = [  # of x around heads and channels, and of the rows of its tables
    (lambda h: (1, h, TOKENS), (1, TOKENS)),
    (lambda h: (1, h, TOKENS), (TOKENS,)),
    (lambda h: (1, TOKENS, h), (1, TOKENS)),
    (lambda h: (1, TOKENS, h), (TOKENS,)),
    (lambda h: (TOKENS, h), (TOKENS,)),
]


def tables(spec: RotationSpec, rows: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """cos and sin in the width and layout of the spec."""
    planes = HEAD_DIM // 2 if not spec.partial else HEAD_DIM // 4
    angles = torch.arange(TOKENS)[:, None] * 1e4 ** (-torch.arange(planes) / planes)
    width = {
        "cat": lambda t: torch.cat((t, t), -1),
        "repeat": lambda t: t.repeat_interleave(2, -1),
        "half": lambda t: t,
    }
    width["first"] = width["cat"]
    cos, sin = (width[spec.widths](t).expand(*rows, -1).contiguous() for t in (angles.cos(), angles.sin()))
    given = spec.form.pack(*((sin, cos) if spec.sin_first else (cos, sin)))
    return [t.to(dtype) if t.is_floating_point() else t for t in given]


def works(function: Any, spec: RotationSpec, dtype: torch.dtype) -> tuple[Replacement, list[Tensor], list[Tensor]]:
    """(our call, its tensors, its tables) in the first layout that both the function and our kernels take."""
    for layout, rows in LAYOUTS:
        if spec.form is STACKED:
            rows = (TOKENS, 1, 1)
        elif spec.form is GATHERED:
            rows = (1, TOKENS)
        heads = (QUERY_HEADS, KEY_HEADS, KEY_HEADS)[: spec.tensors]
        xs = [torch.randn(*layout(h), HEAD_DIM).to(dtype) for h in heads]
        if spec.form.folded:
            xs = [x.flatten(-2) for x in xs]
        given, ours = tables(spec, rows, dtype), Replacement(function, spec, lambda: True)
        arguments = given + xs if spec.form.tables_first else xs + given
        try:
            truth, mine = function(*arguments), ours(*arguments)
        except (RuntimeError, IndexError):
            continue
        pairs = [(truth, mine)] if isinstance(truth, Tensor) else list(zip(truth, mine, strict=True))
        if ours.calls and all(a.shape == b.shape and (a.float() - b.float()).abs().max() < 0.1 for a, b in pairs):
            return ours, xs, given
    raise RuntimeError(f"no layout serves {spec}")


def ratio(function: Any, spec: RotationSpec, dtype: torch.dtype, seconds: float, *, backward: bool) -> float:
    """Median time of the model's own function over the median of ours."""
    ours, xs, given = works(function, spec, dtype)
    if backward:
        xs = [x.requires_grad_() for x in xs]
    arguments = given + xs if spec.form.tables_first else xs + given

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
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="for each pair of contenders")
    options = parser.parse_args()
    first: dict[RotationSpec, tuple[str, Any]] = {}
    for family in families.families():
        for name, spec in families.specs(family).items():
            if isinstance(spec, RotationSpec) and spec not in first:
                module = next(m for m in families.modeling(family) if hasattr(m, name))
                first[spec] = (f"{family}.{name}", getattr(module, name))
    rows: list[list[str]] = []
    result: dict[str, dict[str, float]] = {}
    for spec, (name, function) in first.items():
        cells = {}
        for dtype in (torch.float32, torch.bfloat16):
            for backward in (False, True):
                cell = f"{str(dtype).removeprefix('torch.')}, {'forward + backward' if backward else 'forward'}"
                cells[cell] = ratio(function, spec, dtype, options.seconds, backward=backward)
        result[str(spec)] = cells
        rows.append([str(spec), name, *(f"{value:.1f} x" for value in cells.values())])
        print(f"{name:50} {'  '.join(rows[-1][2:])}", flush=True)
    at = circumstances("transformers")
    versions = ", ".join(f"{name} {version}" for name, version in at["versions"].items())
    text = f"""# The rotation of models, their own function over ours

Times as fast: medians in turn, {TOKENS:,} tokens, {QUERY_HEADS} query and {KEY_HEADS} key heads of {HEAD_DIM} channels, fresh outputs.
`python -m benchmarks.models`, {at["device"]}, {versions}, commit {at["commit"]}.

{table(["body", "function", *next(iter(result.values()))], rows)}
"""
    write("models", {**at, "ratios": result}, text)


if __name__ == "__main__":
    main()
