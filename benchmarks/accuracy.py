"""How far cos and sin are from the truth: rotary beside what people use, at positions to 2^31, for three bases.

    python benchmarks/accuracy.py        writes results/accuracy.{json,md}, the tables of docs/accuracy.md and its picture, in three minutes

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
from dataclasses import asdict
from pathlib import Path

import mpmath
import numpy as np
import torch
from accuracy_ours import BASES, DIM, SAMPLED, Found, exhaustive, hard, judge_is_right, schemes
from record import circumstances, table, write
from rotary_embedding_torch import RotaryEmbedding as RotaryEmbeddingTorch
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from rotary import RotaryEmbedding
from rotary.plots import COLOURS

ROOT = Path(__file__).parents[1]
PAGE, PICTURE = ROOT / "docs" / "accuracy.md", ROOT / "docs" / "pictures" / "accuracy.png"
BEGIN, END = "<!-- made by benchmarks/accuracy.py -->\n", "<!-- end -->"
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
    """Its formula, written anew: float32 frequencies, float32 positions, their outer product, cos and sin. It tabulates from 0.

    timm's freq_bands times a float32 grid (pos_embed_sincos.py, 1.0) are the same operations in the same order.
    """
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


def draw(found: dict[str, dict[str, list[float]]], worst_of_ours: float) -> None:
    """Error against position at the base of Llama 3, both axes logarithmic, for print and for the colour-blind."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4.0), dpi=160, layout="constrained")
    styles = (
        ("rotary", "o", "-"),
        ("transformers", "s", "--"),
        ("torchtune's formula", "^", ":"),
        ("rotary-embedding-torch", "x", "-."),
    )
    for (name, marker, dash), colour in zip(styles, COLOURS, strict=False):
        axes.plot(MAGNITUDES, found["500000"][name], marker=marker, ls=dash, color=colour, lw=1.6, ms=5, label=name)
    axes.axhline(2.0**-25, color="0.5", lw=0.8)
    axes.annotate(
        "half a unit in the last place below 1",
        (1e3, 2.0**-25),
        xytext=(0, -11),
        textcoords="offset points",
        fontsize=8,
        color="0.35",
    )
    axes.annotate(f"all of 0 to 131,072: {worst_of_ours:.2e}", (1e3, 6e-8), fontsize=8, color=COLOURS[0])
    axes.set(
        xscale="log", yscale="log", xlabel="position [token]", ylabel="largest error of cos and sin", ylim=(1e-8, 6)
    )
    axes.legend(loc="center right", fontsize=8)
    axes.grid(alpha=0.25, which="major")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE)


def rows_of(found: list[Found]) -> list[list[str]]:
    return [[f.name, f"{f.values:,}", f"{f.worst:.3e}", f"{f.bound:.3e}", f"{f.rounded:.5%}"] for f in found]


def main() -> None:
    mpmath.mp.dps = 60
    at = circumstances("transformers", "rotary-embedding-torch", "mpmath")
    off = judge_is_right()
    print(f"the long double judge is within {off:.0e} of mpmath", flush=True)
    every = [_said(f) for f in exhaustive()]
    sampled = [_said(f) for f in schemes()]
    found = measure()
    versions = ", ".join(f"{name} {version}" for name, version in at["versions"].items())
    source = f"`python benchmarks/accuracy.py`, {at['device']}, {versions}, commit {at['commit']}."
    header = ["", "values", "largest error", "bound", "correctly rounded"]
    ours = f"""Every position from 0 to 131,072, dim {DIM}, by base:

{table(["base", *header[1:]], rows_of(every))}

{SAMPLED:,} signed positions, log-uniform to 2^31, and {len(hard())} hard ones (around 2^24 and 2^31, and where cos of some plane
is nearest to zero), under every scheme.
An amplitude above 1 (YaRN's and LongRoPE's attention factor) moves the numbers to a larger binade, and the bound with it:

{table(["scheme", *header[1:]], rows_of(sampled))}

The judge is long double, from integers; it is within {off:.0e} of mpmath. {source}
"""
    text = f"""# Accuracy of cos and sin

Largest |error| over {POSITIONS} positions in the upper half of each range x {DIM // 2} planes (dim {DIM}), float32 tables,
judged by mpmath at {mpmath.mp.dps} digits. {source}

## Against exact arithmetic on the float32 frequencies that each shows

{tables(found["arithmetic"], ".1e")}

Correctly rounded values, of all:

{tables(found["rounded"], ".2%")}

## Against base^(-2j/dim) in real numbers

Here the rounding of the frequency to float32 decides, which every implementation shares and every checkpoint was trained with.

{tables(found["formula"], ".1e")}

## Ours alone

{ours}"""
    shape = {"dim": DIM, "bases": BASES, "magnitudes": MAGNITUDES, "positions": POSITIONS, "seed": SEED}
    alone = {"judge": off, "exhaustive": [asdict(f) for f in every], "schemes": [asdict(f) for f in sampled]}
    write("accuracy", {**at, **shape, **found, **alone}, text)
    draw(found["arithmetic"], max(f.worst for f in every))
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + ours + END + rest.partition(END)[2], encoding="utf-8")
    late = [f.name for f in (*every, *sampled) if f.worst > f.bound]
    print(f"NOT within bounds: {', '.join(late)}" if late else f"all {len(every) + len(sampled)} within their bounds")


def _said(found: Found) -> Found:
    print(
        f"{found.name:22} {found.values:>12,} values   {found.worst:.3e}   {found.rounded:.5%} correctly rounded",
        flush=True,
    )
    return found


if __name__ == "__main__":
    main()
