"""What does docs/accuracy.md say about the measured errors? It is made from results/accuracy.json; nothing is measured.

    python -m benchmarks.accuracy.page     5 seconds; writes docs/accuracy.md and docs/pictures/accuracy.png

benchmarks.accuracy.run does the same at its end.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from benchmarks.record import RESULTS, table
from rotary.analysis.plots import COLOURS, DASHES, GREY, STYLE

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "accuracy.md"
PICTURE = DOCS / "pictures" / "accuracy.png"

FLOAT32_PRODUCTS = (
    "transformers",
    "torchtune's formula",
    "timm's formula",
    "torchscale's formula",
    "rotary-embedding-torch",
)
FLOAT64 = ("timm's formula, float64 frequencies", "rotary-embedding-torch, .double()")
SHOWN_BASE = "500000"
FAR_CONTEXT = "DynamicNTK, a context of 2^31"


def write() -> None:
    found = json.loads((RESULTS / "accuracy.json").read_text(encoding="utf-8"))
    PAGE.write_text(page(found), encoding="utf-8")
    draw(found["curves"])


def page(found: dict[str, Any]) -> str:
    exhaustive, schemes, rotation = found["exhaustive"], found["schemes"], found["rotation"]
    measured = [*exhaustive.values(), *schemes.values()]
    plain = [max(_errors(s)) for s in schemes.values() if s["amplitude"] <= 1.0]
    worst = max(*(e["float32"] for e in exhaustive.values()), *plain)
    share = max(max(_errors(s)) / s["bound"] for s in schemes.values())
    sampled = len(schemes) * found["sampled"] * found["dim"]  # cos and sin of dim / 2 planes
    looked_at = sampled + sum(e["values"] for e in exhaustive.values())
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return f"""# Accuracy

Among {looked_at / 1e6:.0f} million values of cos and sin the largest error is {0.52 * share:.3f} units in the last
place; rounding exact values costs 0.500 ([half a unit in the last place](glossary.md#half-a-unit-in-the-last-place)). For
[amplitudes](glossary.md#amplitude) up to 1 that is **{worst:.2e}**. The error does not grow with
the position, up to 2^31 in either direction. `make accuracy` measures all of this again and writes this page.

![Error by octave: float32 products from 3e-8 to 2, float64 frequencies good to 2^24, rotary flat](pictures/accuracy.png)

## What is promised, and what was found

{_promises(found, worst, share)}

The angles are those of the float32 frequencies that a module shows (`inv_freq`). The
[results](../benchmarks/results/accuracy.md) also answer a second question: what rounding a frequency to float32 costs.

## The same bits everywhere

cos and sin are [two polynomials in float64](design/0002-turns-in-fixed-point.md), one operation after the other, each
rounded by itself. For the same frequencies, tables of integer positions therefore have the same bits from the native
library on every instruction set, from plain torch operations, from the GPU kernel, under torch.compile on a CPU, and with
every version of torch, and so have the scales of xPos;
`tests/_angles/test_exact.py` tests that. On an H100 (torch 2.11, Triton 3.6) none of 33,554,432 float64 values of random
angles differed from a CPU's, neither from the kernel nor from torch operations
([results](../benchmarks/results/gpu_polynomials.md)).

Where it does not hold:

- *torch.compile on a GPU.* Inductor fuses multiplications and additions there: 1.0 % of those float64 values differed,
  by 1.1e-16, and no float32 value. With `torch._inductor.config.emulate_precision_casts = True` none differed.
- *What is computed before the turns*: frequencies and attention factors that depend on `length=`, which torch computes
  where the tensors are.
- *Real positions, `angles="float32"`, and directions given as a tensor* take torch's cos and sin, whose last bits depend
  on the processor and the version. Devices without float64 compute in float32.

[The difference from torch's own cos and sin](../benchmarks/results/polynomials.md) is measured too.

## The references

Tables are compared with mpmath at 60 digits, computed from the frequencies shown. Where there are millions of values,
they are compared with 80-bit long double: a position below 2^32 times a float32 frequency fits into its 64 bits
exactly, so that only cos and sin are rounded. Every run checks long double against mpmath on random values: it was
never off by more than {max(t["judge"] for t in measured):.1e}.

## Every position to {found["exhaustive_to"]:,}

dim {found["dim"]}: {exhaustive[SHOWN_BASE]["values"]:,} values per base.

{_exhaustive(exhaustive)}

## Every scheme, to ±2^31

Each column is a set of positions. *Hard*: 0, ±1, and 2^24 and 2^31 with their neighbours, compared with mpmath in all
planes. *Near zeros*: for each plane the positions whose angles are nearest to whole quarter turns, where cos or sin is
almost zero; they come from the plane's continued fraction and are compared with mpmath. *Sampled*: {found["sampled"]:,}
positions of either sign, uniform in their logarithm. The attention factor is in the tables, so the bound is 0.52 units
in the last place of its binade.

{_schemes(schemes)}

The one row below 99.9 % is DynamicNTK at a context of 2^31 tokens, half a million windows. Its slowest plane turns by
some 1e-10 rad a token; the last bit of fixed point, 2^-64 turn, is coarse compared with that, so that more of its small
sines are not correctly rounded. Their errors stay within the bound. In the other rows, schemes that depend on the length have
the frequencies of 16,384 tokens.

xPos multiplies each plane by its own amplitude:
`test_tables_with_xpos_are_right_to_half_a_unit_of_the_amplitudes_binade`.

## Compared with others

Base {int(SHOWN_BASE):,}, largest error over {found["positions"]} positions in the upper half of each range. Each
implementation is compared with the frequencies that it shows itself, with the settings that give it the smallest error.

{_others(found)}

Five implementations compute position × frequency in float32, as most models do. Their arithmetic is the same, and so is
their error, about 3e-8 × position. Two can compute in float64, and are then correctly rounded up to some position. timm
keeps positions in float32, which cannot hold 2^24 + 1. rotary-embedding-torch as a float64 module is less exact than fixed
point from 10^9 on; a cast of the whole model also casts it to float32.

- *torchtune, timm, torchscale*: written from their formulas. `tests/test_peers.py` compares those of timm and
  torchscale with the packages where these are installed. torchscale's base is always 10,000.
- *timm* places patches on grids. `build_rotary_pos_embed([n], in_pixels=False)` makes one axis with language
  frequencies. Its classes (`RotaryEmbedding`, `RotaryEmbeddingCat`, `RotaryEmbeddingMixed`, `RotaryEmbeddingDinoV3`,
  `RotaryEmbeddingMRope`) place height and width, and do not apply here.
- *ONNX Runtime* and ONNX's opset 23 take cos and sin as inputs, so that their tables are those of the exported model. The
  rotation below is theirs.

## The rotation itself

The largest error of rotated queries of variance 1, at positions from a million on, against the rotation in float64. All
use the same exact tables. Half a unit in the last place of the largest values is {2.0**-6:.1e} in bfloat16.

{_rotation(rotation)}

transformers rounds its tables to bfloat16 before the rotation, and every product after it; the others compute in
float32 and round once. rotary-embedding-torch takes angles, not tables; here they are between -π and π.

{found["device"]}; {versions}; commit {found["commit"]}.
"""


def _promises(found: dict[str, Any], worst: float, share: float) -> str:
    named = found["schemes"]
    exhaustive, schemes = found["exhaustive"].values(), named.values()
    values, wrong = (sum(e[key] for e in exhaustive) for key in ("values", "wrong"))
    fine = max(t["float64"] for t in (*exhaustive, *schemes))
    beyond = found["rotation"]["one rounding"]["units beyond half a unit"]
    rows = [
        [
            "every error ≤ 3.1e-8 to ±2^31 under every scheme, amplitude ≤ 1",
            f"{worst:.2e}",
            "`test_float32_tables_under_every_scheme`, `test_error_of_float32_tables`",
        ],
        [
            "≤ 0.52 units in the last place of the amplitude's binade",
            f"{0.52 * share:.3f}",
            "`test_float32_tables_under_every_scheme`",
        ],
        ["≤ 1.0e-7 on devices without float64", f"{found['without_float64']:.1e}", "`test_without_float64`"],
        ["float64 tables ≤ 1e-13", f"{fine:.1e}", "`test_float64_tables`, `test_every_position_by_a_stride`"],
        [
            "≥ 99.9999 % correctly rounded to 2^17",
            f"{1 - wrong / values:.5%}",
            "`test_correct_rounding_below_two_to_the_17`",
        ],
        [
            "≥ 99.9 % correctly rounded to 2^31, positions uniform in their logarithm",
            f"{min(s['rounded'] for name, s in named.items() if name != FAR_CONTEXT):.3%}, but for one",
            "`test_correct_rounding_sampled_to_two_to_the_31`",
        ],
        [
            "no cast, copy, move, mode, thread or order of calls changes a bit",
            "none",
            "`test_no_change_of_the_module_changes_a_bit`, `test_no_mode_around_a_call_changes_a_bit`, "
            "`test_threads_and_call_order_change_no_bit`",
        ],
        [
            "half precision: beyond half a unit in the last place ≤ 4 × 2^-24 (\\|x1\\| + \\|x2\\|)",
            f"{beyond:.2f} of 4",
            "`test_half_precision_is_rounded_once`",
        ],
    ]
    return table(["promised", "found", "tests"], rows).replace("---: | ---:", "---: | ---")


def _errors(scheme: dict[str, float]) -> list[float]:
    return [scheme[key] for key in ("hard", "nearest", "sampled")]


def _exhaustive(found: dict[str, Any]) -> str:
    rows = [
        [
            f"{int(base):,}",
            f"{e['float32']:.3e}",
            f"{e['wrong']}",
            f"{1 - e['wrong'] / e['values']:.5%}",
            f"{e['float64']:.1e}",
        ]
        for base, e in found.items()
    ]
    return table(["base", "float32 tables", "not correctly rounded", "correctly rounded", "float64 tables"], rows)


def _schemes(found: dict[str, Any]) -> str:
    rows = [
        [name, f"{s['amplitude']:.4f}", f"{s['bound']:.1e}", *(f"{e:.2e}" for e in _errors(s)), f"{s['rounded']:.3%}"]
        for name, s in found.items()
    ]
    return table(["scheme", "attention factor", "bound", "hard", "near zeros", "sampled", "correctly rounded"], rows)


def _others(found: dict[str, Any]) -> str:
    chosen = {
        10**3: "10^3",
        10**4: "10^4",
        10**5: "10^5",
        10**6: "10^6",
        10**8: "10^8",
        10**9: "10^9",
        2**31 - 1: "2^31",
    }
    at = [found["magnitudes"].index(magnitude) for magnitude in chosen]
    errors = found["arithmetic"][SHOWN_BASE]
    rows = [[name, *(f"{errors[name][i]:.1e}" for i in at)] for name in ("rotary", *FLOAT32_PRODUCTS, *FLOAT64)]
    return table(["positions up to", *chosen.values()], rows)


def _rotation(found: dict[str, Any]) -> str:
    rows = [
        [name, *(f"{errors[dtype]:.1e}" if dtype in errors else "-" for dtype in ("float32", "bfloat16"))]
        for name, errors in found.items()
        if name != "one rounding"
    ]
    return table(["", "float32", "bfloat16"], rows)


def draw(curves: dict[str, list[float]]) -> None:
    """Lines that coincide are drawn ever thinner upon each other, so that all of them are seen."""
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        axes = figure.subplots()
        ends = [2.0 ** (octave + 1) for octave in range(31)]
        shades = ("#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#000000")
        for i, name in enumerate(FLOAT32_PRODUCTS):
            width, dash = (9.0, 6.6, 4.4, 2.4, 0.9)[i], "solid"
            axes.plot(ends, curves[name], color=shades[i], lw=width, ls=dash, label=name, solid_capstyle="butt")
        axes.plot(ends, curves["rotary"], color=COLOURS[0], lw=5.0, label="rotary", solid_capstyle="butt")
        for name, dash in zip(FLOAT64, DASHES[1:], strict=False):
            axes.plot(ends, curves[name], color=COLOURS[1], lw=1.6, ls=dash, label=name)
        axes.axhline(2.0**-25, color=GREY, lw=0.7, ls=(0, (1, 2)))
        axes.annotate(
            "rounding alone, 2.98e-8",
            (2, 2.0**-25),
            xytext=(0, -11),
            textcoords="offset points",
            color=GREY,
            fontsize=8,
        )
        axes.annotate(
            "float32 products: one error,\nfive implementations",
            (3e5, 1e-2),
            xytext=(-6, 8),
            textcoords="offset points",
            ha="right",
            fontsize=8,
        )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlim(2, 2.0**31)
        axes.set_ylim(8e-9, 6)
        axes.set_xticks([2.0**n for n in (1, 5, 10, 15, 17, 20, 24, 28, 31)])
        axes.set_xlabel("position [token]")
        axes.set_ylabel("largest error of cos and sin")
        axes.set_title("Error against position, each implementation at its best, base 500,000, dim 128")
        axes.legend(loc="upper left", bbox_to_anchor=(0.0, 0.98))
        figure.savefig(PICTURE)


if __name__ == "__main__":
    write()
