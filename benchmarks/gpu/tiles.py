"""Which tile of the rotation kernel is fastest on this GPU, and how far is the one that the launcher chooses from it?

    python -m benchmarks.gpu.tiles            2 minutes; writes results/gpu_tiles.json and results/gpu_tiles.md

Every candidate rotates the same q and k, (batch, seq, heads, head_dim) in memory, out of place, cold (benchmarks/gpu/clock.py). The
kernels are compiled first, by processes side by side, into Triton's cache.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from benchmarks import record as results
from benchmarks.gpu import clock, workers
from benchmarks.gpu.run import bandwidth
from rotary import RotaryEmbedding, apply_rotary_qk
from rotary._rotation import triton as launcher
from rotary._triton.launch import ACCESS
from rotary._triton.tiles import LARGE, SMALL, Tile, tile_of

HEADS = {"32 + 8": (32, 8), "4 + 1": (4, 1)}
SEQS = ((1, 1), (1, 128), (256, 1), (1, 1024), (1, 4096), (1, 32768), (1, 131072))  # (batch, seq)
MOST_STAGED = 16  # accesses of a thread before its first store; beyond, registers spill
KEPT = 5  # of the fastest, in the report


class Shape(NamedTuple):
    dtype: str
    heads: str
    batch: int
    seq: int
    interleaved: bool
    head_dim: int = 128

    def draw(self) -> list[torch.Tensor]:
        """New q and k, (batch, heads, seq, head_dim), transposed views."""
        dtype = getattr(torch, self.dtype)
        sizes = ((self.batch, self.seq, heads, self.head_dim) for heads in HEADS[self.heads])
        return [torch.randn(size, dtype=dtype, device="cuda").transpose(1, 2) for size in sizes]

    @property
    def bytes(self) -> int:
        """q and k, read once and written once."""
        return 2 * self.batch * self.seq * sum(HEADS[self.heads]) * self.head_dim * getattr(torch, self.dtype).itemsize

    def __str__(self) -> str:
        pairing = "interleaved" if self.interleaved else "half"
        return f"{self.dtype}, {self.heads} heads, {self.batch} x {self.seq}, {pairing}"


def shapes() -> Iterator[Shape]:
    for batch, seq in SEQS:
        for heads in HEADS:
            for interleaved in (False, True):
                yield Shape("bfloat16", heads, batch, seq, interleaved)
    for seq in (4096, 131072):
        for heads in HEADS:
            yield Shape("float32", heads, 1, seq, False)


def candidates(shape: Shape) -> list[Tile]:
    size = getattr(torch, shape.dtype).itemsize
    result: list[Tile] = []
    for warps in (1, 2, 4, 8):
        for accesses in (0.5, 1, 2):  # of a thread, for each of the two channels of its planes
            tokens = int(accesses * 32 * warps * ACCESS // size // (shape.head_dim // 2))
            result += [Tile(tokens, n, warps) for n in (1, 2, 4, 8) if tokens and 2 * accesses * n <= MOST_STAGED]
    return result


@contextmanager
def fixed(tile: Tile | None) -> Generator[None, None, None]:
    """The launcher takes this tile, or for None the one that it chooses."""
    before: Callable[..., Tile] = launcher.tile_of
    launcher._launches.cache_clear()
    if tile is not None:
        launcher.tile_of = lambda *_: tile
    try:
        yield
    finally:
        launcher.tile_of = before
        launcher._launches.cache_clear()


def call(shape: Shape) -> list[Callable[[], Any]]:
    """Rotations of tensors of their own, as many as go through the cache several times."""
    rope = RotaryEmbedding(shape.head_dim, base=500_000, device="cuda")
    positions = torch.arange(shape.seq, device="cuda")[None]
    if shape.seq == 1 and shape.batch > 1:
        positions = 1000 + 7 * torch.arange(shape.batch, device="cuda")[:, None]
    cos, sin = rope.cos_sin(positions)

    def one() -> Callable[[], Any]:
        q, k = shape.draw()
        return lambda: apply_rotary_qk(q, k, cos, sin, interleaved=shape.interleaved)

    return [one() for _ in range(clock.cold_calls(shape.bytes))]


@torch.no_grad()
def measure() -> dict[str, dict[str, float]]:
    """shape -> tile -> microseconds; "chosen" is the launcher's own."""
    result: dict[str, dict[str, float]] = {}
    for shape in shapes():
        calls = call(shape)
        one = result.setdefault(str(shape), {"bytes": shape.bytes})
        for tile in (None, *candidates(shape), None):
            name = "chosen" if tile is None else named(tile)
            with fixed(tile):
                time = clock.cold(calls).median
            one[name] = min(time, one.get(name, time))
        print(shape, *(f"{name}: {one[name]:.2f}" for name in best(one)), sep="   ", flush=True)
        del calls
        torch.cuda.empty_cache()
    return result


def named(tile: Tile) -> str:
    return f"{tile.tokens} tokens, {tile.heads} heads, {tile.warps} warps"


def best(one: dict[str, float]) -> list[str]:
    names = sorted((name for name in one if name not in ("bytes", "chosen")), key=one.__getitem__)
    return ["chosen", *names[:KEPT]]


def compile_part(word: str) -> None:
    """Rotate a few tokens by every kernel of one part."""
    kinds = list(dict.fromkeys((shape.dtype, shape.interleaved) for shape in shapes()))
    every = [Shape(dtype, "32 + 8", 1, 8192, interleaved) for dtype, interleaved in kinds]
    for shape, tile in workers.part_of([(one, tile) for one in every for tile in candidates(one)], word):
        with fixed(tile), torch.no_grad():
            call(shape)[0]()


def report(result: dict[str, Any]) -> str:
    times: dict[str, dict[str, float]] = result["times"]
    of = {str(shape): shape for shape in shapes()}
    rows: list[list[str]] = []
    for shape, one in times.items():
        first = best(one)[1]
        size = getattr(torch, of[shape].dtype).itemsize
        tiles = (tile_of(of[shape].head_dim, 0, size, share) for share in (LARGE, SMALL))
        beside = [f"{one[named(tile)] / one[first]:.2f}" for tile in tiles]
        rows.append([shape, first, f"{one[first]:.2f}", *beside, f"{one['chosen'] / one[first]:.2f}"])
    return f"""# Tiles of the rotation kernel

`python -m benchmarks.gpu.tiles`, {result["device"]}, commit {result["commit"]}. The fastest of all tiles that were tried, its
microseconds for q and k, cold, and the times of the launcher's two tiles of today, and of the one that it chose at that commit, over
it. The launcher takes the large tile where every multiprocessor has a program.

{results.table(["shape", "fastest tile", "us", "large", "small", "chosen then"], rows)}"""


def main() -> None:
    if not torch.cuda.is_available():
        print("no CUDA device: nothing measured")
        return
    if len(sys.argv) == 2 and workers.is_part(sys.argv[1]):
        compile_part(sys.argv[1])
        return
    workers.compiled("benchmarks.gpu.tiles")
    with clock.aside():
        result = {**results.circumstances("triton"), "bandwidth": bandwidth(), "times": measure()}
    results.write("gpu_tiles", result, report(result))
    print(report(result))


if __name__ == "__main__":
    main()
