"""How long do exact tables of cos and sin take on a CPU: by the native library, and by torch operations where there is none?

    python -m benchmarks.tables        a minute; writes results/tables.json and results/tables.md
    python -m benchmarks.tables 1      the same on one thread, by the time that it computed: fit for a machine that does other work too

Tables are (tokens, 64), positions int64 and ready. Everything is measured in turn, round by round; a ratio is the median over the rounds
of a time beside that of the float32 product in the same round: position x frequency, cos and sin, which is what transformers computes.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.axes import clock_of, in_turn
from benchmarks.record import circumstances, table, write
from rotary import RotaryEmbedding, use_backend
from rotary._angles import exact, polynomials
from rotary._angles.eager import cos_sin_of_angles, in_blocks
from rotary._native import library
from rotary._types import CosSin
from rotary.axes import sections

TOKENS, ROUNDS = (1, 128, 8192), 101
PRODUCT, EAGER = "float32 product", "transformers' formula"
TARGET = {1: 1.0, 8192: 0.5}  # of the float32 product
CPU = torch.device("cpu")


def select(name: str) -> None:
    """Compute by that instruction set, without the check of library.use_instruction_set(), which takes longer than one table."""
    loaded = library.load()
    assert not isinstance(loaded, str)
    loaded.rotary_use_instruction_set(name.encode())


def works(tokens: int) -> dict[str, Callable[[], Any]]:
    """Name -> work. All begin at positions and words that are there, and end at two tables."""
    rope, xpos = RotaryEmbedding(128), RotaryEmbedding(128, use_xpos=True)
    three = RotaryEmbedding(128, axes=sections(16, 24, 24))
    positions, coordinates = torch.arange(tokens) + 1000, torch.randint(0, 1000, (tokens, 3))
    inv_freq = rope.inv_freq
    spectrum = rope._tables.spectrum
    word, amplitude = spectrum._one_word.on(CPU), spectrum._amplitude.on(CPU)

    def product() -> CosSin:
        angles = positions.float()[:, None] * inv_freq
        return angles.cos(), angles.sin()

    def as_transformers() -> CosSin:
        with torch.autocast("cpu", enabled=False):
            freqs = (inv_freq[None, :, None].float().expand(1, -1, 1) @ positions[None, None, :].float()).transpose(
                1, 2
            )
            whole = torch.cat((freqs, freqs), -1)
            return whole.cos() * 1.0, whole.sin() * 1.0

    def by_torch() -> CosSin:
        """Exact tables as they were made until 0.1: torch's cos and sin in float64, in blocks."""

        def made(positions: Tensor) -> CosSin:
            angles = (positions * word).to(torch.float64).mul_(polynomials.RADIANS_PER_UNIT)
            return cos_sin_of_angles(angles, torch.float32)

        return in_blocks(made, positions[:, None], 64, torch.float32)

    def tables() -> CosSin:
        return exact.cos_sin(positions, word, None, torch.float32, amplitude=amplitude, traced=False)

    def by_operations() -> CosSin:
        with use_backend("eager"):
            return tables()

    def by(name: str) -> Callable[[], Any]:
        def work() -> Any:
            select(name)
            return tables()

        return work

    def of_three() -> CosSin:
        select(best)
        return three._tables.spectrum.cos_sin(coordinates, torch.float32, coordinates=True)

    best = library.instruction_set()
    return {
        PRODUCT: product,
        EAGER: as_transformers,
        **{f"exact, {name}": by(name) for name, state in library.instruction_sets().items() if state == "available"},
        "exact, three coordinates": of_three,
        "exact, xPos": lambda: xpos.cos_sin(positions, role="query"),
        "exact, float64": lambda: rope.cos_sin(positions, torch.float64),
        "exact, the whole call": lambda: rope.cos_sin(positions),
        "exact, torch operations": by_operations,
        "torch's cos and sin in float64": by_torch,
    }


def main() -> None:
    clock, clocked = clock_of()
    best, cases, rows = library.instruction_set(), {}, {}
    for tokens in TOKENS:
        group = works(tokens)
        taken = dict(zip(group, in_turn(list(group.values()), ROUNDS, clock), strict=True))
        library.use_instruction_set(best)
        for name, times in taken.items():
            median = 1e3 * statistics.median(times)
            ratio = statistics.median(a / b for a, b in zip(times, taken[PRODUCT], strict=True))
            cases[f"{name}, {tokens}"] = {"median_us": median, "ratio": ratio}
            rows.setdefault(name, [name]).append(f"{median:,.1f} ({ratio:.2f})")
    at = circumstances()
    page = f"""# Exact tables on a CPU

Microseconds ({clocked}), and in brackets beside the float32 product; medians of {ROUNDS} rounds. `python -m benchmarks.tables`,
{at["device"]}, torch {at["versions"]["torch"]}, commit {at["commit"]}. Best instruction set here: {best}.

{table(["tables of 64 planes, tokens:", *(f"{n:,}" for n in TOKENS)], list(rows.values()))}
"""
    write("tables", {**at, "instruction_set": best, "clock": clocked, "cases": cases}, page)
    print(page)
    for tokens, target in TARGET.items():
        print(
            f"{tokens:,} tokens: {cases[f'exact, {best}, {tokens}']['ratio']:.2f} of the float32 product, target {target}"
        )


if __name__ == "__main__":
    main()
