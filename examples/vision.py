"""A small vision transformer on handwritten digits, at the resolution it was trained at and at others: rotation in two dimensions beside
learned absolute positions.

    python examples/vision.py [--quick] [--out FOLDER]       needs scikit-learn, rich and matplotlib; 3 minutes on two cores

The digits are the 1,797 images of 8 x 8 pixels that scikit-learn ships. The model sees them resized to 16 x 16 and cut into patches of
2 x 2 pixels: 8 x 8 tokens. At other resolutions the patches stay 2 x 2 pixels and the number of tokens changes: at half, the images as
they are shipped, 4 x 4 tokens; at twice, 32 x 32 pixels, 16 x 16 tokens. Each model is trained at 16 x 16 alone, and then judged at all:

    learned absolute    an embedding of each place of the 8 x 8, added to the patches, interpolated for another number of tokens
    axial rotation      RotaryEmbedding.axial: half the planes turn with the row, half with the column
    RoPE-Mixed          cos_sin_of: how far each plane of each head turns with row and column is learned (arXiv:2403.13298)
    no positions        a bag of patches, to show what the others add

Rotation may count patches (0, 1, 2, ...), so that neighbours are one apart at every resolution, or place them (positions.centres), so
that the image spans the same range: at another resolution these positions are fractions. The weights are the same for both.

A third of the images is held out, the same for all; nothing is chosen by it. Accuracies are means over seeds, which set the weights
and the order of training. Two processes train side by side, with one thread each, so that the number of cores does not change a
result. Every printed number is measured in this run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, scaled_dot_product_attention
from vision_picture import draw

from rotary import RotaryEmbedding, apply_rotary, apply_rotary_qk, cos_sin_of
from rotary.positions import centres, grid

Kind = Literal["learned", "axial", "mixed", "none"]
KINDS: tuple[Kind, ...] = ("learned", "axial", "mixed", "none")
PATCH, SIDE = 2, 16
"""Pixels of a patch's side, and of the side of the images that are trained on."""
GRID = SIDE // PATCH
WIDTH, HEADS, LAYERS, BASE = 64, 4, 2, 10.0
PLANES = WIDTH // HEADS // 2
EPOCHS, BATCH, SEEDS = 20, 64, 3
SIDES = (8, 12, 16, 20, 24, 28, 32)


class Learned(nn.Module):
    """An embedding of each place in the trained grid."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(0.02 * torch.randn(1, WIDTH, GRID, GRID))

    def forward(self, side: int) -> Tensor:
        """(tokens, width) for a grid of side x side, interpolated where that is not the trained one."""
        places = self.places
        if side != GRID:
            places = interpolate(places, size=(side, side), mode="bicubic", align_corners=False)
        return places[0].flatten(1).T


class Mixed(nn.Module):
    """RoPE-Mixed: for each plane of each head a direction (rows, columns), in pairs at right angles at first."""

    def __init__(self) -> None:
        super().__init__()
        size = BASE ** -(torch.arange(PLANES // 2) / (PLANES // 2))
        way = 2 * torch.pi * torch.rand(HEADS, 1)
        ways = torch.cat((way.expand(-1, PLANES // 2), way.expand(-1, PLANES // 2) + torch.pi / 2), -1)
        self.directions = nn.Parameter(torch.stack((ways.cos(), ways.sin()), -1) * size.repeat(2)[:, None])
        self.first: Tensor = self.directions.detach().clone()

    def rotate(self, q: Tensor, k: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """q, k (batch, heads, tokens, head_dim): heads are the batch of a view, since each has tables of its own."""
        cos, sin = cos_sin_of(at, self.directions)
        q, k = (apply_rotary(x.transpose(0, 1), cos, sin).transpose(0, 1) for x in (q, k))
        return q, k


class Block(nn.Module):
    def __init__(self, kind: Kind, axial: RotaryEmbedding) -> None:
        super().__init__()
        self.mixed = Mixed() if kind == "mixed" else None
        self.axial = axial if kind == "axial" else None
        self.norms = nn.ModuleList((nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)))
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, x: Tensor, at: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        q, k, v = self.qkv(self.norms[0](x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        if self.mixed is not None:
            q, k = self.mixed.rotate(q, k, at)
        elif self.axial is not None:
            q, k = apply_rotary_qk(q, k, *tables)
        x = x + self.out(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norms[1](x))


class VisionTransformer(nn.Module):
    """Patches -> tokens -> blocks -> mean over tokens -> one of ten digits. kind: where a token learns its place from."""

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.embed = nn.Linear(PATCH * PATCH, WIDTH)
        self.learned = Learned() if kind == "learned" else None
        self.axial = RotaryEmbedding.axial(PLANES, PLANES, base=BASE)
        self.blocks = nn.ModuleList(Block(kind, self.axial) for _ in range(LAYERS))
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10))

    def forward(self, images: Tensor, placed: bool = False) -> Tensor:
        """images (batch, side, side) -> logits. placed: patches stand where they are in the image, instead of being counted."""
        side = images.shape[-1] // PATCH
        at = centres(side, side) * (GRID / 2) if placed else grid(side, side)  # float64 or int64, (tokens, 2)
        tables = self.axial.cos_sin(at)
        patches = images.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH).flatten(3).flatten(1, 2)
        x = self.embed(patches)
        if self.learned is not None:
            x = x + self.learned(side)
        for block in self.blocks:
            x = block(x, at, tables)
        return self.head(x.mean(1))


@dataclass(frozen=True)
class Digits:
    """Images (n, 8, 8) with grey values of mean 0 and deviation 1 over the training images, and which digit each is."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def digits(quick: bool) -> Digits:
    """quick: a few of the images."""
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images, labels, test_size=1 / 3, random_state=0, stratify=labels)
    if quick:
        parts = [part[:n] for part, n in zip(parts, (192, 50, 192, 50), strict=True)]
    train, test = (torch.tensor(part, dtype=torch.float32).view(-1, 8, 8) for part in parts[:2])
    mean, deviation = train.mean(), train.std()
    train_labels, test_labels = (torch.tensor(part) for part in parts[2:])
    return Digits((train - mean) / deviation, train_labels, (test - mean) / deviation, test_labels)


def resized(images: Tensor, side: int) -> Tensor:
    """(n, 8, 8) -> (n, side, side), bilinear; at 8 the images as they are."""
    return interpolate(images[:, None], size=(side, side), mode="bilinear", align_corners=False)[:, 0]


def train(kind: Kind, seed: int, data: Digits, epochs: int, batch: int) -> VisionTransformer:
    torch.manual_seed(seed)
    model, images = VisionTransformer(kind), resized(data.train, SIDE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    steps = epochs * -(-len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    for _ in range(epochs):
        for chosen in torch.randperm(len(images)).split(batch):
            optimizer.zero_grad()
            cross_entropy(model(images[chosen]), data.train_labels[chosen]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: VisionTransformer, data: Digits, side: int, placed: bool) -> float:
    """Percent of the held-out images."""
    right = [
        (model(images, placed).argmax(-1) == labels).sum().item()
        for images, labels in zip(resized(data.test, side).split(200), data.test_labels.split(200), strict=True)
    ]
    return 100 * sum(right) / len(data.test)


@dataclass(frozen=True)
class Run:
    """One model, trained: its accuracies at each of SIDES, by whether patches are placed."""

    kind: Kind
    seed: int
    weights: dict[str, Tensor]
    accuracies: dict[bool, list[float]]
    seconds: float


def run(kind: Kind, seed: int, quick: bool) -> Run:
    torch.set_num_threads(1)
    data, start = digits(quick), time.perf_counter()
    model = train(kind, seed, data, *((1, 16) if quick else (EPOCHS, BATCH)))
    seconds = time.perf_counter() - start
    ways = (False, True) if kind in ("axial", "mixed") else (False,)
    accuracies = {placed: [accuracy(model, data, side, placed) for side in SIDES] for placed in ways}
    return Run(kind, seed, model.state_dict(), accuracies, seconds)


def runs(quick: bool) -> Iterator[Run]:
    """All kinds under all seeds, as they are done."""
    if quick:
        yield from (run(kind, 0, quick) for kind in KINDS)
        return
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        wanted = [pool.submit(run, kind, seed, quick) for seed in range(SEEDS) for kind in KINDS]
        yield from (future.result() for future in as_completed(wanted))


NAMES: dict[tuple[Kind, bool], str] = {
    ("learned", False): "learned absolute",
    ("axial", False): "axial, counted",
    ("axial", True): "axial, placed",
    ("mixed", False): "RoPE-Mixed, counted",
    ("mixed", True): "RoPE-Mixed, placed",
    ("none", False): "no positions",
}


def shown(found: list[Run]) -> Table:
    """A row for each model and each way to give it positions: mean over seeds, and half the range."""
    seeds = 1 + max(one.seed for one in found)
    words = f"mean of {seeds} seeds ± half their range" if seeds > 1 else "one seed"
    table = Table(title=f"Accuracy [%] on held-out digits, {words}", title_justify="left")
    table.add_column("positions\n")
    table.add_column("weights\n", justify="right")
    for name, side in (("half", 8), ("trained", 16), ("twice", 32)):
        table.add_column(f"{name}: {side} px\n{side // PATCH} x {side // PATCH} tokens", justify="right")
    for (kind, placed), name in NAMES.items():
        chosen = [one for one in found if one.kind == kind]
        cells: list[str] = []
        for side in (8, 16, 32):
            values = [one.accuracies[placed][SIDES.index(side)] for one in chosen]
            spread = f" ± {(max(values) - min(values)) / 2:.1f}" if seeds > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}")
        table.add_row(name, f"{sum(t.numel() for t in VisionTransformer(kind).parameters()):,}", *cells)
    return table


def reads(found: list[Run], kind: Kind) -> float:
    """Mean accuracy at the trained resolution."""
    return statistics.mean(one.accuracies[False][SIDES.index(SIDE)] for one in found if one.kind == kind)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed and a few epochs: seconds, and worse accuracies")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of the picture")
    options = parser.parse_args(arguments)
    data, console, seeds = digits(options.quick), Console(), 1 if options.quick else SEEDS
    console.print(f"{len(data.train):,} images to train on, {len(data.test)} held out; {seeds} x {len(KINDS)} models")
    found: list[Run] = []
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("training", total=seeds * len(KINDS))
        for one in runs(options.quick):
            found.append(one)
            progress.advance(task)
    console.print(shown(found))
    times = {kind: statistics.mean(one.seconds for one in found if one.kind == kind) for kind in KINDS}
    console.print("training, one thread: " + ", ".join(f"{kind} {seconds:.0f} s" for kind, seconds in times.items()))
    pixels = {side: resized(data.test[:1], side)[0] for side in (8, 16, 32)}
    console.print(f"the picture: {picture(found, pixels, options.out / 'vision.png')}")

    if options.quick:
        console.print("vision: ran; too short to learn, so nothing is judged")
        return 0
    good = all(reads(found, kind) > reads(found, "none") for kind in KINDS if kind != "none")
    console.print(f"vision: {'every model with positions reads better than the one without' if good else 'FAILED'}")
    return 0 if good else 1


def picture(found: list[Run], pixels: dict[int, Tensor], path: Path) -> str:
    """What it shows: one digit, accuracies by resolution, and what each model of the first seed knows of places."""
    models: dict[Kind, VisionTransformer] = {}
    for one in found:
        if one.seed == 0:
            torch.manual_seed(0)
            models[one.kind] = VisionTransformer(one.kind)
            models[one.kind].load_state_dict(one.weights)
    lines = {
        name: [one.accuracies[placed] for one in found if one.kind == kind] for (kind, placed), name in NAMES.items()
    }
    return draw(path, pixels, SIDES, lines, models)


if __name__ == "__main__":
    sys.exit(main())
