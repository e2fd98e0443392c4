"""How often does a float32 of the GPU's tables differ from the one that torch's cos and sin give?

    python -m benchmarks.gpu.polynomials        30 seconds; writes results/gpu_polynomials.json and results/gpu_polynomials.md

It compares the polynomials of rotary/_angles/gpu_kernel.py, written here in torch operations, with torch's cos and sin in float64.
tests/_angles/test_gpu.py compares the kernel itself with torch's operations, bit for bit, for as many values as the GPU in software
can make: too few to see a difference of one in a hundred million.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from benchmarks.record import circumstances, write
from rotary._angles.turns import RADIANS_PER_UNIT, cos_sin_of_turns

ROUNDS, VALUES = 40, 4_000_000


def cos_sin(turns: Tensor) -> tuple[Tensor, Tensor]:
    """(...) int64 in units of 2^-64 turn -> float64, operation by operation as in the kernel."""
    quarter = (turns + (1 << 61)) >> 62
    x = (turns - (quarter << 62)).to(torch.float64) * RADIANS_PER_UNIT
    z = x * x
    s, c = torch.full_like(z, 1 / math.factorial(17)), torch.full_like(z, 1 / math.factorial(16))
    for n in range(15, 2, -2):
        s = z * s + (-1) ** (n // 2) / math.factorial(n)
    for n in range(14, 3, -2):
        c = z * c + (-1) ** (n // 2) / math.factorial(n)
    s, c = x + x * (z * s), 1.0 - (z * 0.5 - z * (z * c))
    swapped = (quarter & 1) == 1
    cos, sin = torch.where(swapped, s, c), torch.where(swapped, c, s)
    return torch.where(((quarter + 1) & 2) == 2, -cos, cos), torch.where((quarter & 2) == 2, -sin, sin)


def main() -> None:
    torch.manual_seed(0)
    differ, worst = 0, 0.0
    for _ in range(ROUNDS):
        turns = torch.randint(-(2**63), 2**63 - 1, (VALUES,))
        for ours, theirs in zip(cos_sin(turns), cos_sin_of_turns(turns, torch.float64), strict=True):
            differ += int((ours.float() != theirs.float()).sum())
            worst = max(worst, float((ours - theirs).abs().max()))
    count, at = 2 * ROUNDS * VALUES, circumstances()
    found = {"values": count, "differ in float32": differ, "largest difference in float64": worst}
    write(
        "gpu_polynomials",
        {**at, **found},
        f"""# Polynomials for tables beside torch's cos and sin

`python -m benchmarks.gpu.polynomials`, {at["device"]}, torch {at["versions"]["torch"]}, commit {at["commit"]}. Random angles.

{count:,} values, {differ} differ once rounded to float32; the largest difference before rounding is {worst:.1e}.
""",
    )
    print(found)


if __name__ == "__main__":
    main()
