"""How far do cached keys drift when they are moved again and again, and what does moving them cost on a CPU?

    python -m benchmarks.caches            3 minutes; writes results/caches.json, results/caches.md and docs/pictures/caches.png
    python -m benchmarks.caches --quick    a twentieth of it, half a minute; writes nothing

Drift: random normal keys of 128 channels, base 500,000, moved by -1 from position 8,000, one seed. The error is |key - truth| / |truth|
over all keys, the truth being the unrotated keys rotated at the last position in float64. Three ways to move, for each dtype:

    naive       tables of the move in the dtype of the keys, and arithmetic in it, as most code has it; int8 by way of bfloat16
    each time   RotaryEmbedding.rerotate at each move: exact angles, one rounding
    once        RotaryEmbedding.rerotate from the keys as they were first rotated

Cost: 8 heads of 128, one layer, contenders in turn on one thread; medians of the CPU time of this process, which other processes disturb
less than the time of a clock, and their ratio to a copy of the same memory.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.record import circumstances, table, write
from rotary import RotaryEmbedding, apply_rotary
from rotary.positions import streaming

PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "caches.png"
MOVES = (1, 10, 100, 1000, 4000)
ORIGIN, KEYS, DIM = 8000, 256, 128
ROPE = RotaryEmbedding(DIM, base=500_000)
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32, "int8": torch.int8}
WAYS = ("naive", "each time", "once")
Stored = Tensor | tuple[Tensor, Tensor]


def stored(x: Tensor, dtype: torch.dtype) -> Stored:
    """Keys in the form of a cache; int8 with a scale for each row."""
    if dtype != torch.int8:
        return x.to(dtype)
    scale = x.float().abs().amax(-1, keepdim=True) / 127
    return (x / scale).round().clamp(-127, 127).to(torch.int8), scale


def read(keys: Stored) -> Tensor:
    return keys[0].float() * keys[1] if isinstance(keys, tuple) else keys


def naive(keys: Stored, dtype: torch.dtype, cos: Tensor, sin: Tensor) -> Stored:
    """One move by -1, tables and arithmetic in the dtype of the keys."""
    x = read(keys).to(cos.dtype)
    a, b = x.chunk(2, -1)
    return stored(torch.cat((a * cos - b * sin, b * cos + a * sin), -1), dtype)


def drift(dtype: torch.dtype, moves: tuple[int, ...]) -> dict[str, dict[int, float]]:
    x = torch.randn(KEYS, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    raw = x.to(torch.bfloat16 if dtype == torch.int8 else dtype)
    origin = stored(ROPE.rotate(raw, positions=torch.full((KEYS,), ORIGIN)), dtype)
    work = torch.bfloat16 if dtype == torch.int8 else dtype
    angles = -ROPE.inv_freq
    cos, sin = angles.cos().to(work), angles.sin().to(work)
    step = ROPE.rerotation(0, -1, rows=KEYS)
    result: dict[str, dict[int, float]] = {way: {} for way in WAYS}
    keys = {"naive": origin, "each time": origin}
    for n in range(1, max(moves) + 1):
        keys["naive"] = naive(keys["naive"], dtype, cos, sin)
        keys["each time"] = stored(apply_rotary(read(keys["each time"]), *step), dtype)
        if n not in moves:
            continue
        truth = ROPE.rotate(raw.double(), positions=torch.full((KEYS,), ORIGIN - n))
        keys["once"] = stored(
            ROPE.rerotate(read(origin), torch.full((KEYS,), ORIGIN), torch.full((KEYS,), ORIGIN - n)), dtype
        )
        for way in WAYS:
            error = float((read(keys[way]).double() - truth).norm() / truth.norm())
            result[way][n] = error
    return result


def strides(distance: int = 4096) -> dict[int, float]:
    """The same distance in steps of several sizes, bfloat16, each time: what counts is how many moves there are."""
    x = torch.randn(KEYS, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64).bfloat16()
    result: dict[int, float] = {}
    truth = ROPE.rotate(x.double(), positions=torch.full((KEYS,), ORIGIN - distance))
    for step in (1, 16, 256, 4096):
        keys, table_of_step = (
            ROPE.rotate(x, positions=torch.full((KEYS,), ORIGIN)),
            ROPE.rerotation(0, -step, rows=KEYS),
        )
        for _ in range(distance // step):
            keys = apply_rotary(keys, *table_of_step)
        result[step] = float((keys.double() - truth).norm() / truth.norm())
    return result


def far(sinks: int = 4, window: int = 256) -> dict[int, dict[str, float]]:
    """Attention in float32 with the sinks moved and the window left, against raw keys at their slots in float64: largest error of a
    weight. And the same with float32 angles throughout."""
    generator = torch.Generator().manual_seed(0)
    raw, q = (torch.randn(n, DIM, generator=generator, dtype=torch.float64) for n in (sinks + window, 64))
    slot = torch.full((64,), sinks + window - 1)

    def attention(q: Tensor, k: Tensor) -> Tensor:
        return (q.double() @ k.double().mT / DIM**0.5).softmax(-1)

    truth = attention(ROPE.rotate(q, positions=slot), ROPE.rotate(raw))
    rough = RotaryEmbedding(DIM, base=500_000, angles="float32")
    result: dict[int, dict[str, float]] = {}
    for n in (10_000, 1_000_000, 2_000_000_000):
        old, new = streaming(n, sinks, window)
        first, late = raw[:sinks].float(), raw[sinks:].float()
        now = torch.full((64,), n - 1)
        moved = torch.cat((ROPE.rerotate(ROPE.rotate(first), old, new), ROPE.rotate(late, offset=n - window)))
        exact = attention(ROPE.rotate(q.float(), positions=now), moved)
        usual = torch.cat((rough.rotate(first, positions=new), rough.rotate(late, offset=n - window)))
        inexact = attention(rough.rotate(q.float(), positions=now), usual)
        result[n] = {
            "moved sinks": float((exact - truth).abs().max()),
            "float32 angles": float((inexact - truth).abs().max()),
        }
    return result


def cost(tokens: int, dtype: torch.dtype, rounds: int) -> dict[str, float]:
    """Medians [s] of CPU time for one layer."""
    keys = torch.randn(1, 8, tokens, DIM).to(dtype)
    out = torch.empty_like(keys)
    positions = torch.arange(tokens)
    mixed = torch.where(positions % 2 == 0, positions + 7, positions + 3)
    sinks = keys[:, :, :4].clone()
    shift = ROPE.rerotation(0, -1, rows=tokens)
    tables = ROPE.cos_sin(tokens)
    raw = keys.clone()

    def fresh() -> None:
        out.copy_(raw)
        apply_rotary(out, *tables, inplace=True)

    contenders: dict[str, Callable[[], Any]] = {
        "copy": lambda: out.copy_(keys),
        "move all by one shift": lambda: ROPE.rerotate(keys, 0, -1, inplace=True),
        "the same, tables made before": lambda: apply_rotary(keys, *shift, inplace=True),
        "move each by its own": lambda: ROPE.rerotate(keys, positions, mixed, inplace=True),
        "raw keys rotated at a read, tables made before": fresh,
        "move 4 sinks": lambda: ROPE.rerotate(sinks, 0, tokens),
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds + 1):
        for name, call in contenders.items():
            start = time.process_time()
            call()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(measured[1:]) for name, measured in times.items()}


def plot(found: dict[str, dict[str, dict[int, float]]]) -> None:
    from matplotlib.figure import Figure

    colours = {"naive": "#D55E00", "each time": "#0072B2", "once": "#009E73"}
    figure = Figure(figsize=(9.0, 3.2), layout="constrained")
    for axes, (name, ways) in zip(figure.subplots(1, len(found), sharey=True), found.items(), strict=True):
        for way, marker in zip(WAYS, "sov", strict=True):
            n = list(ways[way])
            axes.loglog(n, [ways[way][i] for i in n], marker=marker, ms=4, color=colours[way], label=way)
        axes.set_title(name, loc="left", fontsize=10)
        axes.set_xlabel("moves")
        axes.set_ylim(3e-8, 1e3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("relative error of the keys")
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(PICTURE, dpi=200)


def report(result: dict[str, Any]) -> str:
    at = result["at"]
    moves = list(next(iter(result["drift"].values()))["once"])
    heads = ["keys", "moved", *(f"{n:,}" for n in moves)]
    rows = [
        [dtype, way, *(f"{ways[way][n]:.1e}" for n in moves)] for dtype, ways in result["drift"].items() for way in WAYS
    ]
    lines = [
        "# Cached keys, moved",
        f"{at['device']}, torch {at['versions']['torch']}, commit {at['commit']}. `python -m benchmarks.caches`",
        f"Relative error of keys that were moved so many times by -1 from position {ORIGIN:,}: {KEYS} random keys of {DIM} channels, "
        f"base 500,000, against float64. int8 has a scale for each row.",
        table(heads, rows),
        "4,096 tokens in steps of several sizes, bfloat16, each time:",
        table(
            ["step", "moves", "error"], [[f"{s:,}", f"{4096 // s:,}", f"{e:.1e}"] for s, e in result["strides"].items()]
        ),
        "Attention in float32, sinks moved before a window of 256 that stays: largest error of a weight against raw keys at their slots in "
        "float64, and the same with float32 angles:",
        table(
            ["tokens seen", "moved sinks", "float32 angles"],
            [[f"{n:,}", *(f"{e:.1e}" for e in errors.values())] for n, errors in result["far"].items()],
        ),
        "CPU time for one layer, 8 heads of 128, one thread, over a copy of the same keys; the copy in ms. Contenders in turn, medians.",
    ]
    names = list(next(iter(result["cost"].values())))
    rows = [
        [shape, f"{times['copy'] * 1e3:.2f} ms", *(f"{times[n] / times['copy']:.2f}" for n in names[1:])]
        for shape, times in result["cost"].items()
    ]
    lines.append(table(["keys", *names], rows))
    return "\n\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a twentieth of it; writes nothing")
    quick = parser.parse_args().quick
    moves = MOVES[:3] if quick else MOVES
    result: dict[str, Any] = {
        "at": circumstances(),
        "drift": {name: drift(dtype, moves) for name, dtype in DTYPES.items()},
    }
    result["strides"], result["far"] = strides(), far()
    torch.set_num_threads(1)
    result["cost"] = {
        f"{tokens:,}, {str(dtype).removeprefix('torch.')}": cost(
            tokens, dtype, 5 if quick else max(9, 400_000 // tokens)
        )
        for tokens in ((4096,) if quick else (4096, 32768, 131072))
        for dtype in (torch.float32, torch.bfloat16)
    }
    print(report(result))
    if not quick:
        write("caches", result, report(result))
        plot(result["drift"])


if __name__ == "__main__":
    main()
