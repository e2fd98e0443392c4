"""Which pairing does a checkpoint have? Read off its weights, or heard from a text; "unknown" rather than a guess.

By weights. Training gives the two channels of a plane rows of like norm, since they turn at one speed, and planes of different
speeds different ones. So the log norms n[c] of the channels of a head repeat after half a head where pairs are halves, and come in
twos where they are neighbours; with random weights they do neither. Counted as an intraclass correlation of pairs, 1 for alike.

By a text. The same weights are read by the family's code as they are, and reordered: the loss of each token under both, paired.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .convert import beside
from .files import read_all
from .layout import Layout

LIKELY = 4.0
"""Standard errors below which nothing is said."""
ALIKE, NATS = 0.2, 0.02
"""And the least effect: of likeness, and of loss per token. A fresh model's numbers may be steady, and mean nothing."""
LEAST, BLOCKS = 8, 16


@dataclass(frozen=True)
class Verdict:
    """pairing: or "unknown". confidence: standard errors between it and the other; below 4 it is unknown. why: in words, with numbers."""

    pairing: Literal["half", "interleaved", "unknown"]
    confidence: float
    why: str


def by_weights(source: str | os.PathLike[str], *, config: Any = None, like: str | None = None) -> Verdict:
    """The pairing of a checkpoint from the norms of its query and key rows; a tensor at a time, without a model.

    It needs planes that training has told apart: fresh weights, and models trained little, are "unknown".
    """
    source = Path(source)
    layout = Layout(beside(source) if config is None else config, like=like)
    halves: list[float] = []
    twos: list[float] = []
    for file in read_all(source):
        for entry in file.entries:
            turned = layout.turned(entry.name, entry.shape)
            if turned is None or turned.kind != "weight" or len(entry.shape) != 2:
                continue
            for heads in turned.where.values():
                likeness = [_likeness(file.numbers(entry, slice(int(rows[0]), int(rows[-1]) + 1))) for rows in heads]
                halves.append(sum(half for half, _ in likeness) / len(likeness))
                twos.append(sum(two for _, two in likeness) / len(likeness))
    if len(halves) < LEAST:
        return Verdict("unknown", 0.0, f"{len(halves)} weights of queries or keys, and {LEAST} are needed")
    half, two = torch.tensor(halves), torch.tensor(twos)
    said = f"likeness half a head apart {half.mean():.2f}, of neighbours {two.mean():.2f}, over {len(halves)} weights"
    # Speeds change little from plane to plane, so neighbours are somewhat alike under both; halves only where they are the pairs.
    for name, score in (("half", half), ("interleaved", torch.minimum(two, two - half))):
        if _clear(score) >= LIKELY and float(score.mean()) >= ALIKE:
            return Verdict(name, _clear(score), said)  # type: ignore[arg-type]
    return Verdict("unknown", max(0.0, _clear(half), _clear(two)), said)


def _likeness(rows: Tensor) -> tuple[float, float]:
    """(of halves, of neighbours) of one head's rows (dim, columns)."""
    norms, planes = rows.norm(dim=1).clamp(min=1e-30).log(), len(rows) // 2
    return alike(norms[:planes], norms[planes:]), alike(norms[::2], norms[1::2])


def _clear(values: Tensor) -> float:
    """Their mean in standard errors of it."""
    return float(values.mean() / (values.std() / len(values) ** 0.5).clamp(min=1e-6))


def alike(a: Tensor, b: Tensor) -> float:
    """Intraclass correlation of pairs (a[i], b[i]): 1 where each is equal, about 0 where they are unrelated."""
    both = torch.stack((a, b)).double()
    return 1.0 - float((both[0] - both[1]).square().mean() / (2 * both.var(correction=0)).clamp(min=1e-30))


def by_text(model: nn.Module, tokens: Tensor, *, config: Any = None, like: str | None = None) -> Verdict:
    """The pairing of a loaded causal model of transformers, from its losses on a text, read as it is and reordered.

    model: rotates by its family's own code. tokens: (batch, seq) int64, a few hundred of a text that it should know.
    The weights are reordered in place for a moment, and are the same bits afterwards.
    """
    layout = Layout(getattr(model, "config", None) if config is None else config, like=like)
    ours = "interleaved" if layout.interleaved else "half"
    other = "half" if ours == "interleaved" else "interleaved"
    plain = _losses(model, tokens)
    state = list(_turned(model, layout))
    kept = [parameter.data for parameter, _ in state]
    try:
        for parameter, turned in state:
            flat = parameter.data.view(-1, 1) if turned.kind in ("gain", "shift") else parameter.data
            parameter.data = flat[turned.order(flat.shape[0], ours)].view(parameter.shape)
        reordered = _losses(model, tokens)
    finally:
        for (parameter, _), data in zip(state, kept, strict=True):
            parameter.data = data
    gain = (reordered - plain).double()
    said = f"loss {plain.mean():.4f} as {ours}, {reordered.mean():.4f} as {other}, over {gain.numel()} tokens"
    if gain.numel() < 4 * BLOCKS:
        return Verdict("unknown", 0.0, f"{said}; {4 * BLOCKS} are needed")
    # Neighbouring tokens err together: means of blocks are nearly independent, single tokens are not.
    clear = _clear(torch.stack([block.mean() for block in gain.chunk(BLOCKS)]))
    if abs(clear) < LIKELY or abs(float(gain.mean())) < NATS:
        return Verdict("unknown", abs(clear), said)
    return Verdict(ours if clear > 0 else other, abs(clear), said)  # type: ignore[arg-type]


def _turned(model: nn.Module, layout: Layout) -> Iterable[Any]:
    for name, parameter in model.named_parameters():
        turned = layout.turned(name, tuple(parameter.shape))
        if turned is not None:
            yield parameter, turned


def _losses(model: nn.Module, tokens: Tensor) -> Tensor:
    """(n,) float32 loss of each token but the first."""
    with torch.no_grad():
        logits: Tensor = model(tokens).logits
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten(), reduction="none")
