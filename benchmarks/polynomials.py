"""How many values do the polynomials that define cos, sin and exp here give other bits than torch's functions?

    python -m benchmarks.polynomials        two minutes; writes results/polynomials.json and results/polynomials.md

Until 0.1 exact tables on a CPU were torch's cos and sin of float64 angles; the difference is what changed. torch's differ between
instruction sets and versions; those of the results are of the processor and the version named there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.accuracy.judge import signed_log_uniform
from benchmarks.record import circumstances, table, write
from rotary import RotaryEmbedding
from rotary._angles import polynomials
from rotary._angles.eager import scaled
from rotary._angles.turns import turns_along
from rotary._angles.xpos import XPos
from rotary.scaling import Resonance

ROUNDS, VALUES = 40, 4_000_000
YARN = 1.138629436111989
ONE, FACTOR, XPOS = "random angles", f"the same, amplitude {YARN:.4f} (YaRN)", "the same, xPos at positions to ±5,000"
FIRST, SAMPLED = "positions 0 .. 131,072, dim 128", "600,000 positions to ±2^31"
RESONANCE = "the same under Resonance, whose planes stop at quarter turns"


def by_torch(turns: Tensor) -> tuple[Tensor, Tensor]:
    angles = turns.to(torch.float64) * polynomials.RADIANS_PER_UNIT
    return angles.cos(), angles.sin()


def count(
    found: dict[str, float], ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor], amplitude: Tensor | float = 1.0
) -> None:
    for a, b in zip(ours, theirs, strict=True):
        found["values"] = found.get("values", 0) + a.numel()
        found["float32"] = found.get("float32", 0) + int((a.float() != b.float()).sum())
        found["float64"] = found.get("float64", 0) + int((a != b).sum())
        found["largest"] = max(found.get("largest", 0.0), float(((a - b).abs() / amplitude).max()))


def main() -> None:
    torch.manual_seed(0)
    result: dict[str, dict[str, float]] = {name: {} for name in (ONE, FACTOR, XPOS, FIRST, SAMPLED, RESONANCE)}
    zeta = XPos(128, 512).decay()
    powers = zeta.powers.on(torch.device("cpu"))
    for _ in range(ROUNDS):
        turns = torch.randint(-(2**63), 2**63 - 1, (VALUES // 64, 64))
        ours, theirs = polynomials.cos_sin(turns), by_torch(turns)
        count(result[ONE], ours, theirs)
        count(result[FACTOR], scaled(ours, YARN, torch.float64), scaled(theirs, YARN, torch.float64), YARN)
        positions = torch.randint(-5000, 5000, (VALUES // 64,))
        power = (positions.double() / powers[-1])[:, None] * powers[:-1]
        count(
            result[XPOS],
            scaled(ours, zeta.at(positions), torch.float64),
            scaled(theirs, power.exp(), torch.float64),
            power.exp(),
        )
    sampled = torch.from_numpy(signed_log_uniform(600_000, 20))
    for name, rope, positions in (
        (FIRST, RotaryEmbedding(128), torch.arange(2**17 + 1)),
        (SAMPLED, RotaryEmbedding(128), sampled),
        (RESONANCE, RotaryEmbedding(128, scaling=Resonance()), sampled),
    ):
        word = rope._tables.spectrum._one_word.on(torch.device("cpu"))
        for part in positions.split(50_000):
            turns = turns_along(part[:, None], word, None)
            count(result[name], polynomials.cos_sin(turns), by_torch(turns))
    at = circumstances()
    rows = [
        [
            name,
            f"{one['values']:,.0f}",
            f"{one['float32']:,.0f}",
            f"{one['float64'] / one['values']:.1%}",
            f"{one['largest']:.1e}",
        ]
        for name, one in result.items()
    ]
    page = f"""# The polynomials of tables beside torch's cos, sin and exp

`python -m benchmarks.polynomials`, {at["device"]}, torch {at["versions"]["torch"]}, commit {at["commit"]}. The largest
difference is of float64 values, in parts of the amplitude. float64 tables take two words for an angle, here one, which
changes nothing in the comparison.

{table(["cos and sin", "values", "differ in float32", "differ in float64", "largest difference"], rows)}
"""
    write("polynomials", {**at, "found": result}, page)
    print(page)


if __name__ == "__main__":
    main()
