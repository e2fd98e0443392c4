"""Do two checkpoints attend alike, each rotated by its own pairing? Scores of random states, layer by layer, in float64."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..functional import apply_rotary
from .files import Entry, File
from .layout import Layout, Role, Turned

TOKENS = 5


def scores_differ(
    before: list[File], after: list[File], turned: Iterable[Turned], layout: Layout, was: str, to: str
) -> tuple[int, float]:
    """(layers, largest relative difference of scores): queries against keys, or each with itself where a file holds only one."""
    by_module: dict[str, list[Turned]] = {}
    for one in turned:
        by_module.setdefault(one.module, []).append(one)
    worst = 0.0
    for tensors in by_module.values():
        found = layout.arguments(tensors[0].layer)
        inv_freq = found.base ** (-torch.arange(0, found.dim, 2, dtype=torch.float64) / found.dim)
        angles = torch.arange(1, TOKENS + 1, dtype=torch.float64)[:, None] * 7.0 * inv_freq
        scores = [_scores(files, tensors, angles, pairing) for files, pairing in ((before, was), (after, to))]
        for a, b in zip(*scores, strict=True):
            worst = max(worst, float((a - b).abs().max() / a.abs().max().clamp(min=1e-300)))
    return len(by_module), worst


def _scores(files: list[File], tensors: list[Turned], angles: Tensor, pairing: str) -> list[Tensor]:
    """(heads, tokens, tokens) of every query head with every key head, or of one with itself."""
    heads: dict[Role, Tensor] = {}
    for role in ("q", "k"):
        made = _vectors(files, tensors, role)
        if made is not None:
            heads[role] = apply_rotary(made, angles.cos(), angles.sin(), interleaved=pairing == "interleaved")
    q, k = heads.get("q"), heads.get("k")
    if q is None or k is None:
        return [x @ x.transpose(-1, -2) for x in heads.values()]
    return [(q[:, None] @ k[None].transpose(-1, -2)).flatten(0, 1)]


def _vectors(files: list[File], tensors: list[Turned], role: Role) -> Tensor | None:
    """(heads, tokens, dim) float64 that these tensors make of random states, for the channels that turn; None where there are none."""
    total: Tensor | None = None
    kinds = {"weight": 0, "bias": 1, "gain": 2, "shift": 3}
    for one in sorted(tensors, key=lambda t: (kinds[t.kind], t.name)):
        where: Mapping[Any, Tensor] = one.where
        if role not in where:
            continue
        file, entry = _find(files, one.name)
        part = torch.stack(
            [_rows(file, entry, rows, one.kind) for rows in where[role]]
        )  # (heads or 1, tokens or 1, dim)
        if total is None:
            total = part
        elif one.kind == "gain":
            total = total * part
        else:
            total = total + part
    return None if total is None else total.expand(-1, TOKENS, -1)


def _rows(file: File, entry: Entry, rows: Tensor, kind: str) -> Tensor:
    """(tokens or 1, dim): what some consecutive rows make of random states, the same for the same width."""
    if kind in ("gain", "shift"):  # heads by channels, or a row of all
        entry = replace(entry, shape=(math.prod(entry.shape),))
    numbers = file.numbers(entry, slice(int(rows[0]), int(rows[-1]) + 1))
    if kind != "weight":
        return numbers.view(1, -1)
    states = torch.randn(TOKENS, numbers.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return states @ numbers.T


def _find(files: list[File], name: str) -> tuple[File, Entry]:
    return next((file, entry) for file in files for entry in file.entries if entry.name == name)
