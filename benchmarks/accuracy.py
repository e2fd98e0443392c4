"""How far cos and sin are from the truth: rotary beside what people use, at positions to 2^31, for three bases.

    python benchmarks/accuracy.py        writes results/accuracy.json and results/accuracy.md, in seconds

Two questions, because they have different answers:

    arithmetic   each implementation against exact cos and sin of position x the float32 frequencies that it shows itself.
                 Checkpoints were trained with such frequencies: this is the error that an implementation adds.
    formula      against exact cos and sin of position x base^(-2j/dim) in real numbers. No float32 frequency can be good here,
                 ours included: rounding the frequency alone costs up to 3e-8 x position, and arithmetic in float32 doubles it.

The judge is mpmath at 60 digits; nothing of it comes from the implementations.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import mpmath
import numpy as np
import torch
from record import circumstances, table, write
from rotary_embedding_torch import RotaryEmbedding as RotaryEmbeddingTorch
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from rotary import RotaryEmbedding

DIM = 128
BASES = (10_000, 500_000, 1_000_000)
MAGNITUDES = (10**3, 10**4, 10**5, 10**6, 10**7, 10**8, 10**9, 2**31 - 1)
POSITIONS = 32  # per magnitude, uniform in its upper half, the magnitude itself among them
SEED = 20

Implementation = Callable[[int, Tensor], tuple[Tensor, Tensor, Tensor]]
"""(base, int64 positions (n,)) -> float32 (inv_freq (dim/2,), cos (n, dim/2), sin (n, dim/2))"""


def ours(base: int, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rope = RotaryEmbedding(DIM, base=base)
    return rope.inv_freq, *rope.cos_sin(positions)


def transformers(base: int, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    config = LlamaConfig(head_dim=DIM, rope_parameters={"rope_type": "default", "rope_theta": float(base)})
    rope = LlamaRotaryEmbedding(config)
    cos, sin = rope(torch.zeros(1), positions[None])
    return rope.inv_freq, cos[0, :, : DIM // 2], sin[0, :, : DIM // 2]


def torchtune(base: int, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Its formula, written anew: float32 frequencies, float32 positions, their outer product, cos and sin. It tabulates from 0."""
    inv_freq = 1.0 / base ** (torch.arange(0, DIM, 2).float() / DIM)
    angles = torch.einsum("i,j->ij", positions.to(inv_freq.dtype), inv_freq)
    return inv_freq, angles.cos(), angles.sin()


def rotary_embedding_torch(base: int, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rope = RotaryEmbeddingTorch(DIM, theta=base)
    with torch.no_grad():
        angles = rope(positions)[:, ::2]
    return rope.freqs.detach(), angles.cos(), angles.sin()


IMPLEMENTATIONS: dict[str, Implementation] = {
    "rotary": ours,
    "transformers": transformers,
    "torchtune's formula": torchtune,
    "rotary-embedding-torch": rotary_embedding_torch,
}


def sample(magnitude: int) -> list[int]:
    chosen = random.Random(SEED + magnitude).sample(range(magnitude // 2, magnitude), POSITIONS - 1)
    return sorted([*chosen, magnitude])


def truth(positions: list[int], inv_freq: list[mpmath.mpf]) -> tuple[np.ndarray, np.ndarray]:
    """Exact cos and sin, (n, dim/2), rounded once to float64, whose own error of 1e-16 is far below any asked about."""
    pairs = [[mpmath.cos_sin(p * f) for f in inv_freq] for p in positions]
    values = np.array([[(float(c), float(s)) for c, s in row] for row in pairs])
    return values[..., 0], values[..., 1]


def measure() -> dict[str, dict[str, dict[str, list[float]]]]:
    """question -> base -> implementation -> one worst error per magnitude; "rounded" is the share of correctly rounded values."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {"arithmetic": {}, "formula": {}, "rounded": {}}
    for base in BASES:
        for kind in found:
            found[kind][str(base)] = {name: [] for name in IMPLEMENTATIONS}
        real = [mpmath.power(base, -mpmath.mpf(2 * j) / DIM) for j in range(DIM // 2)]
        for magnitude in MAGNITUDES:
            positions = sample(magnitude)
            by_formula = truth(positions, real)
            shown: dict[tuple[float, ...], tuple[np.ndarray, np.ndarray]] = {}
            for name, implementation in IMPLEMENTATIONS.items():
                inv_freq, *tables = implementation(base, torch.tensor(positions))
                key = tuple(inv_freq.tolist())
                if key not in shown:
                    shown[key] = truth(positions, [mpmath.mpf(f) for f in key])
                given = [t.double().numpy() for t in tables]
                worst = max(float(np.abs(g - e).max()) for g, e in zip(given, shown[key], strict=True))
                real_worst = max(float(np.abs(g - e).max()) for g, e in zip(given, by_formula, strict=True))
                right = [(g == e.astype(np.float32)).mean() for g, e in zip(given, shown[key], strict=True)]
                found["arithmetic"][str(base)][name].append(worst)
                found["formula"][str(base)][name].append(real_worst)
                found["rounded"][str(base)][name].append(float(np.mean(right)))
            print(f"base {base:>9,}   positions to {magnitude:>13,}   done", flush=True)
    return found


def in_words(magnitude: int) -> str:
    return "2^31 - 1" if magnitude == 2**31 - 1 else f"{magnitude:,}"


def tables(found: dict[str, dict[str, list[float]]], form: str) -> str:
    """One table: a row per base and magnitude, a column per implementation."""
    rows = [
        [f"{base:,}", in_words(magnitude), *(format(found[str(base)][name][i], form) for name in IMPLEMENTATIONS)]
        for base in BASES
        for i, magnitude in enumerate(MAGNITUDES)
    ]
    return table(["base", "positions up to", *IMPLEMENTATIONS], rows)


def main() -> None:
    mpmath.mp.dps = 60
    at = circumstances("transformers", "rotary-embedding-torch", "mpmath")
    found = measure()
    versions = ", ".join(f"{name} {version}" for name, version in at["versions"].items())
    text = f"""# Accuracy of cos and sin

Largest |error| over {POSITIONS} positions in the upper half of each range x {DIM // 2} planes (dim {DIM}), float32 tables,
judged by mpmath at {mpmath.mp.dps} digits. `python benchmarks/accuracy.py`, {at["device"]}, {versions}, commit {at["commit"]}.

## Against exact arithmetic on the float32 frequencies that each shows

{tables(found["arithmetic"], ".1e")}

Correctly rounded values, of all:

{tables(found["rounded"], ".2%")}

## Against base^(-2j/dim) in real numbers

Here the rounding of the frequency to float32 decides, which every implementation shares and every checkpoint was trained with.

{tables(found["formula"], ".1e")}
"""
    shape = {"dim": DIM, "bases": BASES, "magnitudes": MAGNITUDES, "positions": POSITIONS, "seed": SEED}
    write("accuracy", {**at, **shape, **found}, text)
    print(text)


if __name__ == "__main__":
    main()
