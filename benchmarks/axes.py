"""What do several coordinates cost? Time of tables of cos and sin, on a CPU.

    python -m benchmarks.axes        half a minute; writes results/axes.json and results/axes.md
    python -m benchmarks.axes 1      the same on one thread, by the time that it computed: fit for a machine that does other work too

Tables are float32, positions int64 and ready, 64 planes. The pair whose ratio is judged is measured in turn, A B A B.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.record import circumstances, table, write
from rotary import RotaryEmbedding, cos_sin_of
from rotary.axes import sections, strided
from rotary.positions import grid, multimodal

ROUNDS, TOKENS, SIDE, TARGET = 61, 4096, 32, 1.2


def clock_of() -> tuple[Callable[[], float], str]:
    """The clock that the command line asks for, and what it measures."""
    if sys.argv[1:] != ["1"]:
        return time.perf_counter, "time on the wall"
    torch.set_num_threads(1)
    return time.thread_time, "time computed"


def in_turn(works: list[Callable[[], Any]], rounds: int, clock: Callable[[], float]) -> list[list[float]]:
    """Milliseconds of each, after three rounds of warm-up."""
    taken: list[list[float]] = [[] for _ in works]
    for i in range(rounds + 3):
        for work, times in zip(works, taken, strict=True):
            start = clock()
            work()
            if i >= 3:
                times.append(1e3 * (clock() - start))
    return taken


def cases() -> dict[str, tuple[int, Callable[[], Any]]]:
    """Name -> (rows, work). The first is the measure of the others of its size."""
    one = RotaryEmbedding(128, base=1e6)
    blocks = RotaryEmbedding(128, base=1e6, axes=sections(16, 24, 24))
    turns = RotaryEmbedding(128, base=1e6, axes=strided((24, 20, 20)))
    side_by_side = RotaryEmbedding.axial(44, 42, 42)
    text = torch.arange(TOKENS)
    mixed = multimodal(1000, (1, 48, 48), TOKENS - 1000 - 48 * 48)[0]
    video = grid(SIDE, SIDE, SIDE)
    real = video.double()
    long = torch.arange(len(video))
    exact = torch.randn(64, 3).tolist()
    return {
        "one coordinate": (TOKENS, lambda: one.cos_sin(text)),
        "three, in blocks (Qwen2.5-VL)": (TOKENS, lambda: blocks.cos_sin(mixed)),
        "three, in turn (Qwen3-VL)": (TOKENS, lambda: turns.cos_sin(mixed)),
        "one coordinate, as many rows": (len(video), lambda: one.cos_sin(long)),
        "grid of 32 x 32 x 32, axial(44, 42, 42)": (len(video), lambda: side_by_side.cos_sin(video)),
        "the same positions as float64": (len(video), lambda: side_by_side.cos_sin(real)),
        "dense directions, exact": (len(video), lambda: cos_sin_of(video, exact)),
    }


def main() -> None:
    clock, clocked = clock_of()
    made = cases()
    names = list(made)
    taken: dict[str, list[float]] = {}
    for rows in (TOKENS, SIDE**3):
        group = [name for name in names if made[name][0] == rows]
        rounds = ROUNDS if rows == TOKENS else ROUNDS // 3
        taken |= dict(zip(group, in_turn([made[name][1] for name in group], rounds, clock), strict=True))
    first = {made[name][0]: name for name in reversed(names)}
    rows, result = [], {}
    for name in names:
        times, measure = taken[name], taken[first[made[name][0]]]
        median = statistics.median(times)
        ratio = statistics.median(a / b for a, b in zip(times, measure, strict=True))
        result[name] = {"rows": made[name][0], "median_ms": median, "ratio": ratio, "ms": times}
        rows.append([name, f"{made[name][0]:,}", f"{median:.2f}", f"{ratio:.2f}"])
    at = circumstances()
    made_page = f"""# Tables for several coordinates

Time of `cos_sin` ({clocked}), medians of {ROUNDS} rounds ({ROUNDS // 3} for {SIDE**3:,} rows), measured in turn; ratio: median over
the rounds of the time beside one coordinate in the same round. `python -m benchmarks.axes`, {at["device"]}, torch
{at["versions"]["torch"]}, commit {at["commit"]}.

{table(["tables of 64 planes", "rows", "ms", "ratio"], rows)}
"""
    write("axes", {**at, "cases": result}, made_page)
    print(made_page)
    worst = max(result[name]["ratio"] for name in names if made[name][0] == TOKENS)
    print(f"three coordinates beside one, {TOKENS:,} tokens: {worst:.2f}, target at most {TARGET}")


if __name__ == "__main__":
    main()
