"""The difference of attention scores between two checkpoints, each rotated by its own pairing: random states, layer by layer, in float64.

Scores do not change when queries and keys are reordered together with the pairing. A row that was moved to a wrong place changes them by
about their own size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .._types import Role
from ..functional import apply_rotary
from .layout import Layout, RotatedTensor
from .safetensors import Entry
from .source import AnyFile

TOKENS = 5


def compare_scores(
    before: Sequence[AnyFile],
    after: Sequence[AnyFile],
    rotated: Iterable[RotatedTensor],
    layout: Layout,
    old: str,
    new: str,
) -> tuple[int, float]:
    """(layers, largest relative difference of scores): before in the old pairing against after in the new one.

    Scores of queries with keys, or of one with itself in a layer for which the files have only one of them. ValueError for weights or
    scores that are not finite, which have no difference.
    """
    by_module: dict[str, list[RotatedTensor]] = {}
    for tensor in rotated:
        by_module.setdefault(tensor.module, []).append(tensor)
    worst = 0.0
    for tensors in by_module.values():
        rope = layout.arguments(tensors[0].layer)
        inv_freq = rope.base ** (-torch.arange(0, rope.dim, 2, dtype=torch.float64) / rope.dim)
        angles = torch.arange(1, TOKENS + 1, dtype=torch.float64)[:, None] * 7.0 * inv_freq
        scores = [_scores(files, tensors, angles, pairing) for files, pairing in ((before, old), (after, new))]
        for a, b in zip(*scores, strict=True):
            if not (a.isfinite().all() and b.isfinite().all()):
                raise ValueError(
                    f"attention scores of {tensors[0].module} overflow float64; its weights are too large to compare"
                )
            worst = max(worst, float((a - b).abs().max() / a.abs().max().clamp(min=1e-300)))
    return len(by_module), worst


def _scores(files: Sequence[AnyFile], tensors: list[RotatedTensor], angles: Tensor, pairing: str) -> list[Tensor]:
    """(head pairs, tokens, tokens): scores of every query head with every key head, or of each head with itself."""
    rotated: dict[Role, Tensor] = {}
    for role in ("query", "key"):
        x = _projected(files, tensors, role)
        if x is not None:
            rotated[role] = apply_rotary(x, angles.cos(), angles.sin(), interleaved=pairing == "interleaved")
    q, k = rotated.get("query"), rotated.get("key")
    if q is None or k is None:
        return [x @ x.transpose(-1, -2) for x in rotated.values()]
    return [(q[:, None] @ k[None].transpose(-1, -2)).flatten(0, 1)]


def _projected(files: Sequence[AnyFile], tensors: list[RotatedTensor], role: Role) -> Tensor | None:
    """(heads, tokens, dim) float64: random states through these tensors, rotated channels only; None if no tensor has this role."""
    total: Tensor | None = None
    steps = {"weight": 0, "bias": 1, "gain": 2, "shift": 3}
    for tensor in sorted(tensors, key=lambda t: (steps[t.effect], t.name)):
        if role not in tensor.rows:
            continue
        file, entry = _find(files, tensor.name)
        heads = [_head(file, entry, rows, tensor) for rows in tensor.rows[role]]
        values = torch.stack(heads)  # (heads or 1, tokens or 1, dim)
        if total is None:
            total = values
        elif tensor.effect == "gain":
            total = total * values
        else:
            total = total + values
    return None if total is None else total.expand(-1, TOKENS, -1)


def _head(file: AnyFile, entry: Entry, rows: Tensor, tensor: RotatedTensor) -> Tensor:
    """(tokens or 1, dim): the numbers of one head, or their product with states, the same states for the same width."""
    if tensor.flat:
        entry = replace(entry, shape=(math.prod(entry.shape),))
    values = file.float64_rows(entry, slice(int(rows[0]), int(rows[-1]) + 1))
    if tensor.effect != "weight":
        return values.view(1, -1)
    states = torch.randn(TOKENS, values.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return states @ values.T


def _find(files: Sequence[AnyFile], name: str) -> tuple[AnyFile, Entry]:
    return next((file, entry) for file in files for entry in file.entries if entry.name == name)
