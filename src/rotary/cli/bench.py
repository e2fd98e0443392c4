"""`rotary bench`: the time of the rotation, against that of a copy of the same memory and of the formulas of most models.

Contenders are timed in turn in one process; results are ratios of medians. The output of every formula is checked before it is timed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch

from .. import _checks
from ..functional import apply_rotary_qk
from .clock import Contender, Timing, alternate
from .machine import described
from .work import Inputs, Work, float32_product, half_width, judge, usual, wide

COPY = "copy_ into allocated"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def contenders(
    work: Work, device: torch.device | str = "cpu", *, compiled: bool = True, from_memory: bool = False
) -> dict[str, Contender]:
    """rotary, a copy and the usual formulas on the same q and k. RuntimeError if a formula does not compute the rotation.

    Contenders that get tables come first; then tables and rotation in one call, as users write it; then tables alone. from_memory: as many
    sets of tensors take turns as fill the caches four times over.
    """
    rota = work.inputs(device, from_memory=from_memory)
    cos, sin = work.tables(device)
    rope, offset, positions = work.rope(device), work.offset(device), work.positions(device)
    narrow, broad = [t[..., None, :, :] for t in (cos, sin)], wide(cos, sin, work.dtype, interleaved=work.interleaved)
    inv_freq = rope.inv_freq.to(device)

    def eager(s: Inputs) -> Contender:
        return lambda: usual(s.q, s.k, *broad, work.interleaved)

    def with_tables(s: Inputs) -> Contender:
        def run() -> Any:
            tables = wide(*float32_product(positions, inv_freq), work.dtype, interleaved=work.interleaved)
            return usual(s.q, s.k, *tables, work.interleaved)

        return run

    def by_rotary(inplace: bool) -> Callable[[Inputs], Contender]:
        return lambda s: lambda: apply_rotary_qk(s.q, s.k, cos, sin, interleaved=work.interleaved, inplace=inplace)

    formulas: dict[str, Callable[[Inputs], Contender]] = {"usual formula, eager": eager}
    if compiled:
        first: Callable[..., Any] = torch.compile(usual, dynamic=False)
        second: Callable[..., Any] = torch.compile(half_width, dynamic=False)
        formulas["usual formula, torch.compile"] = lambda s: lambda: first(s.q, s.k, *broad, work.interleaved)
        formulas["half-width formula, torch.compile"] = lambda s: lambda: second(s.q, s.k, *narrow, work.interleaved)
    exact = [t.double() for t in (rota[0].q, rota[0].k, cos, sin)]
    truth = apply_rotary_qk(exact[0], exact[1], exact[2], exact[3], interleaved=work.interleaved)
    for name, formula in formulas.items():
        judge(name, formula(rota[0])(), truth, work.dtype)
    makers: dict[str, Callable[[Inputs], Contender]] = {
        COPY: lambda s: lambda: (s.out_q.copy_(s.q), s.out_k.copy_(s.k)),
        "clone": lambda s: lambda: (s.q.clone(), s.k.clone()),
        "rotary, in place": by_rotary(True),
        "rotary": by_rotary(False),
        **formulas,
        "rotary, rotate(offset=)": lambda s: lambda: rope.rotate(s.q, s.k, offset=offset),
        "float32 product + usual formula": with_tables,
    }
    calls = {name: rota.contender(make) for name, make in makers.items()}
    calls["rotary, cos_sin"] = lambda: rope.cos_sin(positions)
    calls["float32 product"] = lambda: float32_product(positions, inv_freq)
    return calls


def register(commands: Any) -> None:
    """Add `bench` to the commands of `rotary`."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "bench",
        help="time the rotation on this machine, against a copy and the usual formulas",
        description="Prints medians and their ratios to a copy of q and k into allocated memory (1.00 x), timed in turn in one process.",
    )
    parser.add_argument("--seq", type=int, nargs="+", default=[1, 128, 4096], metavar="TOKENS")
    parser.add_argument("--heads", type=int, nargs=2, default=[32, 8], metavar=("QUERY", "KEY"))
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--rotary-dim", type=int, default=0, help="channels that rotate (default: all)")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", choices=tuple(_DTYPES), nargs="+", default=["float32"])
    parser.add_argument("--interleaved", action="store_true", help="planes are channels 2j, 2j + 1")
    parser.add_argument("--transposed", action="store_true", help="memory is (batch, seq, heads, head_dim)")
    parser.add_argument(
        "--from-memory",
        action="store_true",
        help="let as many q and k take turns as fill the last cache four times over (default: only for sizes that do not fit it)",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--no-compile",
        action="store_true",
        help="leave out the formulas under torch.compile, which take long to compile",
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="time to measure each length for (default 2)")
    parser.add_argument("--json", action="store_true", help="print one object of JSON, seconds per call")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure, and print a table per dtype and length. ValueError for sizes that do not fit, and for a device that cannot be used."""
    sizes = {
        "--seq": options.seq,
        "--heads": options.heads,
        "--batch": [options.batch],
        "--head-dim": [options.head_dim],
    }
    for flag, counts in sizes.items():
        for count in counts:
            _checks.count(flag, count)
    _checks.number("--seconds", options.seconds)
    dim = options.rotary_dim or options.head_dim
    if dim % 2 or not 0 < dim <= options.head_dim:
        raise ValueError(f"the channels that rotate must be even and at most --head-dim {options.head_dim}, got {dim}")
    _check_device(options.device)
    measured: list[dict[str, Any]] = []
    if not options.json:
        print(f"{described()}; {torch.get_num_threads()} threads; torch {torch.__version__}\n")
    for dtype in options.dtype:
        for seq in options.seq:
            work = Work(
                seq,
                *options.heads,
                head_dim=options.head_dim,
                batch=options.batch,
                rotary_dim=options.rotary_dim,
                dtype=_DTYPES[dtype],
                transposed=options.transposed,
                interleaved=options.interleaved,
            )
            in_cache = not options.from_memory and work.fits_the_cache(options.device)
            calls = contenders(work, options.device, compiled=not options.no_compile, from_memory=not in_cache)
            with torch.no_grad():
                timings = alternate(calls, options.seconds, in_cache=in_cache)
            if options.json:
                seconds = {name: timing._asdict() for name, timing in timings.items()}
                measured.append({"tokens": seq, "dtype": dtype, "in_cache": in_cache, "seconds": seconds})
                continue
            print(f"{title(work)}, {options.device}, {'in cache' if in_cache else 'from memory'}")
            show(timings, COPY)
    if options.json:
        named = ("heads", "head_dim", "rotary_dim", "batch", "interleaved", "transposed", "device")
        machine = {"machine": described(), "threads": torch.get_num_threads(), "torch": str(torch.__version__)}
        print(json.dumps(machine | {name: getattr(options, name) for name in named} | {"measured": measured}, indent=1))
    return 0


def title(work: Work) -> str:
    """The work in words: "128 tokens, 32 + 8 heads of 80, bfloat16"."""
    words = [f"{work.seq:,} token{'s' * (work.seq != 1)}", f"{work.heads} + {work.key_heads} heads of {work.head_dim}"]
    words += [f"batch {work.batch}"] * (work.batch > 1) + [f"{work.dim} channels rotate"] * (work.dim < work.head_dim)
    words += ["interleaved"] * work.interleaved + ["transposed"] * work.transposed + [str(work.dtype)[6:]]
    return ", ".join(words)


def show(timings: dict[str, Timing], floor: str) -> None:
    """Print medians, their ratios to that of the contender `floor`, and the quartiles of these."""
    unit = timings[floor].median
    for name, (median, low, high) in timings.items():
        spread = f"{low / unit:.2f} to {high / unit:.2f}"
        print(f"  {name:36}{median * 1e3:10.4f} ms {median / unit:8.2f} x   {spread}")
    print(flush=True)


def _check_device(name: str) -> None:
    try:
        probe = torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:  # AssertionError: from a torch that was built without that device
        raise ValueError(f"--device {name!r} cannot be used: {error}") from None
    if probe.is_meta:
        raise ValueError(
            f"--device {name!r} cannot be used: it has no memory, so there is nothing to time; pass cpu or cuda"
        )
