"""How far are cos, sin and the rotation from the truth, at positions to 2^31: rotary alone, and rotary beside other libraries?

    python -m benchmarks.accuracy.run      1 minute; writes results/accuracy.json, results/accuracy.md, docs/accuracy.md
                                           and docs/pictures/accuracy.png

    exhaustive   every position 0 .. 2^17 for three bases, float32 and float64 tables
    schemes      every scheme of rotary.scaling, signed positions to 2^31 and the hard ones, amplitude included
    arithmetic   each implementation against exact cos and sin of position x the float32 frequencies that it shows itself.
                 Checkpoints were trained with such frequencies: this is the error that an implementation adds.
    formula      against exact cos and sin of position x base^(-2j/dim) in real numbers. No float32 frequency can be good here,
                 ours included: rounding the frequency alone costs up to 3e-8 x position, and arithmetic in float32 doubles it.
    rotation     q and k turned by tables, against the rotation in float64 by exact ones

judge.py computes the truth without any code of the implementations. peers.py has the other libraries.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import torch
from torch import Tensor

from benchmarks.accuracy import page
from benchmarks.accuracy.judge import (
    FURTHEST,
    HARD,
    Pair,
    blocks,
    by_long_double,
    by_mpmath,
    each_by_mpmath,
    long_double_error,
    nearest_to_quarter_turns,
    signed_log_uniform,
    upper_half,
)
from benchmarks.accuracy.peers import DIM, FLOAT32, IMPLEMENTATIONS
from benchmarks.cpu import rivals
from benchmarks.record import circumstances, table, write
from rotary import RotaryEmbedding, apply_rotary_qk
from rotary._angles.eager import cos_sin_without_float64
from rotary._angles.turns import in_one_word, turns, turns_per_token
from rotary.cli.work import Inputs, Work
from rotary.scaling import (
    NTK,
    Clipped,
    DynamicNTK,
    Gains,
    Linear,
    Llama3,
    LongRoPE,
    NTKByParts,
    NTKMixed,
    Power,
    Proportional,
    Resonance,
    Scheme,
    Truncated,
    YaRN,
)

BASES = (10_000, 500_000, 1_000_000)
MAGNITUDES = (10**3, 10**4, 10**5, 10**6, 10**7, 10**8, 10**9, 2**31 - 1)
POSITIONS = 32  # per magnitude, in its upper half
EXHAUSTIVE = 2**17
SAMPLED = 60_000  # per scheme
SEED = 20
WINDOW = 4096
FAR_CONTEXT = "DynamicNTK, a context of 2^31"
SCHEMES: dict[str, tuple[Scheme, ...]] = {
    "none": (),
    "Linear": (Linear(4.0),),
    "NTK": (NTK(4.0),),
    "DynamicNTK": (DynamicNTK(4.0, WINDOW),),
    "NTKMixed": (NTKMixed(4.0),),
    "NTKByParts": (NTKByParts(4.0, WINDOW),),
    "YaRN": (YaRN(4.0, WINDOW),),
    "YaRN, factor 0.7": (YaRN(4.0, WINDOW, attention_factor=0.7),),
    "YaRN, factor 2.5": (YaRN(4.0, WINDOW, attention_factor=2.5),),
    "Llama3": (Llama3(8.0, WINDOW),),
    "LongRoPE": (LongRoPE([1.0] * 64, [1.0 + i / 4 for i in range(64)], WINDOW, factor=4.0),),
    "Proportional": (Proportional(0.25),),
    "Truncated": (Truncated(WINDOW),),
    "Power": (Power(0.1),),
    "Clipped": (Clipped(18),),
    "Resonance": (Resonance(),),
    "Gains": (Gains([1.0 - i / 128 for i in range(64)]),),
    "YaRN, Resonance": (YaRN(4.0, WINDOW), Resonance()),
    FAR_CONTEXT: (DynamicNTK(4.0, WINDOW),),
}
LENGTHS = {"DynamicNTK": 16384, "LongRoPE": 16384, FAR_CONTEXT: FURTHEST}
"""of the whole context [token], for schemes that depend on it"""
RIVALS = rivals.OF_HALVES | rivals.OF_NEIGHBOURS


def bound(amplitude: float) -> float:
    """0.52 units in the last place of the largest values that the amplitude leaves, and no less than those of 1."""
    return 0.52 * 2.0 ** (max(math.ceil(math.log2(amplitude)), 0) - 24)


def shown(rope: RotaryEmbedding, length: int | None) -> tuple[np.ndarray, float]:
    """The float32 frequencies that a module shows, or at a length would show, and the attention factor."""
    if length is None:
        return rope.inv_freq.numpy(), rope.attention_factor
    assert rope.base is not None
    inv_freq, factor = rope.base ** -(torch.arange(DIM // 2, dtype=torch.float64) / (DIM // 2)), 1.0
    for scheme in rope.scaling:
        inv_freq, more = scheme(inv_freq, base=rope.base, dim=DIM, length=length)
        factor *= float(more)
    return inv_freq.float().numpy(), factor


def compare(given: tuple[Tensor, Tensor], exact: Pair) -> tuple[float, int]:
    """The largest error, and how many values are not the correctly rounded ones."""
    pairs = [(g.numpy(), e) for g, e in zip(given, exact, strict=True)]
    worst = max(float(np.abs(g - e).max()) for g, e in pairs)
    return worst, sum(int((g != e.astype(g.dtype)).sum()) for g, e in pairs)


def exhaustive(base: int, upto: int = EXHAUSTIVE, stride: int = 1) -> dict[str, float]:
    """Positions 0, stride .. upto of one base: float32 and float64 tables against the long double judge, and it against mpmath."""
    rope = RotaryEmbedding(DIM, base=base)
    positions, inv_freq = np.arange(0, upto + 1, stride), rope.inv_freq.numpy()
    result = {"float32": 0.0, "wrong": 0, "float64": 0.0, "values": 2 * positions.size * inv_freq.size}
    for part, exact in blocks(positions, inv_freq):
        worst, wrong = compare(rope.cos_sin(torch.from_numpy(part)), exact)
        fine, _ = compare(rope.cos_sin(torch.from_numpy(part), torch.float64), exact)
        result["float32"], result["float64"] = max(result["float32"], worst), max(result["float64"], fine)
        result["wrong"] += wrong
    return result | {"judge": long_double_error(positions, inv_freq)}


def scheme(name: str, sampled: int = SAMPLED) -> dict[str, float]:
    """mpmath judges the hard positions, of all planes and of each; long double judges the sampled ones."""
    rope, length = RotaryEmbedding(DIM, base=10_000, scaling=SCHEMES[name]), LENGTHS.get(name)
    inv_freq, amplitude = shown(rope, length)

    def tables(positions: list[int] | np.ndarray, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        cos, sin = rope.cos_sin(torch.as_tensor(positions), dtype, length=length)
        return cos, sin

    def scaled(exact: Pair) -> Pair:
        cos, sin = (part * np.longdouble(amplitude) for part in exact)
        return cos, sin

    truth = scaled(by_mpmath(HARD, inv_freq.tolist()))
    hard, fine = compare(tables([*HARD]), truth)[0], compare(tables([*HARD], torch.float64), truth)[0]
    near = [
        (sign * p, j) for j, f in enumerate(inv_freq.tolist()) for p in nearest_to_quarter_turns(f) for sign in (1, -1)
    ]
    places, planes = [p for p, _ in near], [j for _, j in near]
    cos, sin = (t[range(len(near)), planes] for t in tables(places))
    nearest, _ = compare((cos, sin), scaled(each_by_mpmath(places, inv_freq[planes].tolist())))
    worst, wrong, positions = 0.0, 0, signed_log_uniform(sampled, SEED)
    for part, exact in blocks(positions, inv_freq):
        error, more = compare(tables(part), scaled(exact))
        worst, wrong = max(worst, error), wrong + more
    rounded = 1.0 - wrong / (2 * sampled * inv_freq.size)
    return {
        "amplitude": amplitude,
        "bound": bound(amplitude),
        "hard": hard,
        "nearest": nearest,
        "sampled": worst,
        "rounded": rounded,
        "float64": fine,
        "judge": long_double_error(positions, inv_freq, 500),
    }


def without_float64(sampled: int = SAMPLED) -> float:
    """The path of devices that have no float64."""
    worst = 0.0
    for base in BASES:
        rope = RotaryEmbedding(DIM, base=base)
        words = turns_per_token(rope.inv_freq)
        for part, exact in blocks(signed_log_uniform(sampled, base), rope.inv_freq.numpy()):
            given = cos_sin_without_float64(turns(torch.from_numpy(part), in_one_word(*words)))
            worst = max(worst, compare(given, exact)[0])
    return worst


Errors = dict[str, dict[str, dict[str, list[float]]]]


def against_others(base: int, found: Errors) -> None:
    """question -> base -> implementation -> one worst error per magnitude; "rounded" is the share of correctly rounded values."""
    for kind in ("arithmetic", "formula", "rounded"):
        found.setdefault(kind, {})[str(base)] = {name: [] for name in IMPLEMENTATIONS}
    real = [mpmath.power(base, -mpmath.mpf(2 * j) / DIM) for j in range(DIM // 2)]
    for magnitude in MAGNITUDES:
        positions = upper_half(magnitude, POSITIONS, SEED)
        by_formula = by_mpmath(positions, real)
        truths: dict[tuple[float, ...], Pair] = {}
        for name, implementation in IMPLEMENTATIONS.items():
            inv_freq, *given = implementation(base, torch.tensor(positions))
            key = tuple(inv_freq.tolist())
            if key not in truths:
                truths[key] = by_mpmath(positions, key)
            worst, wrong = compare((given[0], given[1]), truths[key])
            found["arithmetic"][str(base)][name].append(worst)
            found["formula"][str(base)][name].append(compare((given[0], given[1]), by_formula)[0])
            found["rounded"][str(base)][name].append(1.0 - wrong / (2 * len(positions) * len(key)))


def curves(base: int = 500_000, each: int = 64) -> dict[str, list[float]]:
    """Largest error in each octave 2^i .. 2^(i+1) of positions, i = 0 .. 30."""
    result: dict[str, list[float]] = {name: [] for name in IMPLEMENTATIONS}
    for octave in range(31):
        low = 2**octave
        positions = np.unique(
            np.append(np.linspace(low, 2 * low, min(each, low), endpoint=False).astype(np.int64), 2 * low - 1)
        )
        for name, implementation in IMPLEMENTATIONS.items():
            inv_freq, cos, sin = implementation(base, torch.from_numpy(positions))
            result[name].append(compare((cos, sin), by_long_double(positions, inv_freq.numpy()))[0])
    return result


def turned(x: Tensor, exact: Pair, interleaved: bool) -> Tensor:
    """The rotation in float64."""
    cos, sin = (torch.from_numpy(part.astype(np.float64)) for part in exact)
    x = x.double()
    a, b = (x[..., ::2], x[..., 1::2]) if interleaved else x.chunk(2, -1)
    pair = a * cos - b * sin, b * cos + a * sin
    return torch.stack(pair, -1).flatten(-2) if interleaved else torch.cat(pair, -1)


def rotation() -> dict[str, dict[str, float]]:
    """Largest error of turned queries, elements normal with variance 1; all get rotary's tables of the same 2,048 far positions."""
    result: dict[str, dict[str, float]] = {}
    rope = RotaryEmbedding(DIM, base=500_000)
    positions = np.arange(10**6, 10**6 + 2048)
    cos, sin = rope.cos_sin(torch.from_numpy(positions))
    exact = by_long_double(positions, rope.inv_freq.numpy())
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(SEED)
        work = Work(len(positions), heads=8, key_heads=2, head_dim=DIM, dtype=dtype)
        q, k = work.tensors()
        inputs = Inputs(q, k, torch.empty_like(q), torch.empty_like(k))
        contenders: dict[str, tuple[bool, Callable[[], Any] | None]] = {
            "rotary": (False, lambda q=q, k=k: apply_rotary_qk(q, k, cos, sin)),
            "rotary, interleaved": (True, lambda q=q, k=k: apply_rotary_qk(q, k, cos, sin, interleaved=True)),
        }
        for name in (
            "transformers",
            "ONNX Runtime",
            "torchtune's formula",
            "rotary-embedding-torch",
            "complex product",
        ):
            maker = RIVALS[name](work, cos, sin)
            contenders[name] = (name in rivals.OF_NEIGHBOURS, maker and maker(inputs))
        for name, (interleaved, run) in contenders.items():
            if run is not None:
                expected, given = turned(q, exact, interleaved), run()[0].double()
                error = (given - expected).abs()
                result.setdefault(name, {})[str(dtype).removeprefix("torch.")] = float(error.max())
                if name == "rotary" and dtype == torch.bfloat16:
                    result["one rounding"] = {"units beyond half a unit": beyond_half(q, expected, error, dtype)}
    return result


def beyond_half(x: Tensor, exact: Tensor, error: Tensor, dtype: torch.dtype) -> float:
    """By how much errors exceed half a unit in the last place of the result, in units of 2^-24 (|x1| + |x2|); four are promised."""
    info = torch.finfo(dtype)
    ulp = info.eps * torch.exp2(exact.abs().clamp(min=info.smallest_normal).log2().floor())
    a, b = x.double().abs().chunk(2, -1)
    return float(((error - 0.5 * ulp) / (2.0**-24 * torch.cat((a + b, a + b), -1))).max())


def in_words(magnitude: int) -> str:
    return "2^31 - 1" if magnitude == 2**31 - 1 else f"{magnitude:,}"


def tables(found: dict[str, dict[str, list[float]]], form: str) -> str:
    """One table: a row per base and magnitude, a column per implementation."""
    rows = [
        [f"{base:,}", in_words(magnitude), *(format(found[str(base)][name][i], form) for name in FLOAT32)]
        for base in BASES
        for i, magnitude in enumerate(MAGNITUDES)
    ]
    return table(["base", "positions up to", *FLOAT32], rows)


def results(at: dict[str, Any], found: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in at["versions"].items())
    return f"""# Accuracy of cos and sin

Largest |error| over {POSITIONS} positions in the upper half of each range x {DIM // 2} planes (dim {DIM}), float32 tables,
judged by mpmath at {mpmath.mp.dps} digits. `python -m benchmarks.accuracy.run`, {at["device"]}, {versions}, commit {at["commit"]}.

## Against exact arithmetic on the float32 frequencies that each shows

{tables(found["arithmetic"], ".1e")}

Correctly rounded values, of all:

{tables(found["rounded"], ".2%")}

## Against base^(-2j/dim) in real numbers

Here the rounding of the frequency to float32 decides, which every implementation shares and every checkpoint was trained with.

{tables(found["formula"], ".1e")}
"""


def main() -> None:
    at = circumstances("transformers", "rotary-embedding-torch", "onnxruntime", "mpmath")
    result: dict[str, Any] = {"exhaustive": {}, "schemes": {}}
    others: Errors = {}
    steps: list[tuple[str, Callable[[], Any]]] = []
    for base in BASES:
        steps.append(
            (
                f"every position to {EXHAUSTIVE:,}, base {base:,}",
                lambda b=base: result["exhaustive"].update({str(b): exhaustive(b)}),
            )
        )
    for name in SCHEMES:
        steps.append((f"scheme {name}", lambda n=name: result["schemes"].update({n: scheme(n)})))
    steps.append(("without float64", lambda: result.update(without_float64=without_float64())))
    for base in BASES:
        steps.append((f"beside others, base {base:,}", lambda b=base: against_others(b, others)))
    steps.append(("beside others, octave by octave", lambda: result.update(curves=curves())))
    steps.append(("the rotation", lambda: result.update(rotation=rotation())))
    for i, (words, step) in enumerate(steps, 1):
        start = time.perf_counter()
        step()
        print(f"{i:3}/{len(steps)}  {words:42} {time.perf_counter() - start:5.1f} s", flush=True)
    result |= others
    shape = {"dim": DIM, "bases": BASES, "magnitudes": MAGNITUDES, "positions": POSITIONS, "seed": SEED}
    shape |= {"exhaustive_to": EXHAUSTIVE, "sampled": SAMPLED, "furthest": FURTHEST}
    record = {**at, **shape, **result}
    write("accuracy", record, results(at, result))
    page.write()
    print(f"wrote {page.PAGE} and {page.PICTURE}")


if __name__ == "__main__":
    main()
