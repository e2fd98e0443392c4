"""`rotary bench`: the rotation, timed against a copy of the same memory and against the formulas of most models.

Contenders are timed in turn, A B C A B C, in one process, so that other load on the machine affects them equally. Results are ratios of
medians. The output of every formula is checked before it is timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..embedding import RotaryEmbedding
from ..functional import apply_rotary_qk

Pair = tuple[Tensor, Tensor]
Contender = Callable[[], Any]
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


@dataclass(frozen=True)
class Work:
    """A size to measure: queries (batch, heads, seq, head_dim) and keys with key_heads, of which rotary_dim channels rotate (0: all).

    transposed: the memory is (batch, seq, heads, head_dim), as a projection leaves it.
    """

    seq: int
    heads: int = 32
    key_heads: int = 8
    head_dim: int = 128
    batch: int = 1
    rotary_dim: int = 0
    dtype: torch.dtype = torch.float32
    transposed: bool = False

    @property
    def dim(self) -> int:
        return self.rotary_dim or self.head_dim

    def tensors(self, device: torch.device | str = "cpu") -> Pair:
        """Random q and k."""
        return self._tensor(self.heads, device), self._tensor(self.key_heads, device)

    def _tensor(self, heads: int, device: torch.device | str) -> Tensor:
        shape = (self.batch, self.seq, heads) if self.transposed else (self.batch, heads, self.seq)
        x = torch.randn(*shape, self.head_dim, device=device).to(self.dtype)
        return x.transpose(1, 2) if self.transposed else x

    def tables(self, device: torch.device | str = "cpu") -> Pair:
        """cos and sin of half width; for batched decoding (seq 1, batch > 1) one position per row."""
        rope = RotaryEmbedding(self.dim, base=500_000, device=device)
        positions: int | Tensor = self.seq
        if self.seq == 1 and self.batch > 1:
            positions = 1000 + 7 * torch.arange(self.batch, device=device)[:, None]
        return rope.cos_sin(positions, torch.float64 if self.dtype == torch.float64 else torch.float32)


class Timing(NamedTuple):
    """Seconds per call: the median, and the first and third quartile."""

    median: float
    low: float
    high: float


def alternate(
    contenders: Mapping[str, Contender], seconds: float = 2.0, rounds: tuple[int, int] = (5, 200)
) -> dict[str, Timing]:
    """Time the contenders in turn, for about `seconds` in all and between rounds[0] and rounds[1] times each.

    Calls below 100 us are timed several at a time, after one that is not timed: otherwise each would also pay for the state in which
    the contender before it left the caches.
    """
    repeats: dict[str, int] = {}
    for name, call in contenders.items():
        call()
        repeats[name] = max(1, min(200, int(1e-4 / max(_time(call, 1), 1e-7))))
    once = sum(_time(call, repeats[name]) * repeats[name] for name, call in contenders.items())
    count = max(rounds[0], min(rounds[1], int(seconds / max(once, 1e-9))))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(count):
        for name, call in contenders.items():
            times[name].append(_time(call, repeats[name]))
    return {name: Timing(statistics.median(t), *statistics.quantiles(t, n=4)[::2]) for name, t in times.items()}


def _time(call: Contender, repeats: int) -> float:
    if repeats > 1:
        call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def usual(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Pair:
    """The formula of most models, x cos + rotate_half(x) sin, with tables (seq, dim) that hold every value twice."""

    def rotate_half(x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return torch.cat((-b, a), -1)

    return q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin


def half_width(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Pair:
    """The same rotation with tables (seq, dim/2) and without rotate_half, the form that torch.compile makes fastest."""

    def turn(x: Tensor) -> Tensor:
        a, b = x.float().chunk(2, -1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)

    return turn(q), turn(k)


def contenders(work: Work, device: torch.device | str = "cpu", *, compiled: bool = True) -> dict[str, Contender]:
    """rotary, a copy and the usual formulas on the same q and k. RuntimeError if a formula does not compute the rotation."""
    q, k = work.tensors(device)
    cos, sin = work.tables(device)
    wide = [torch.cat((t, t), -1).to(work.dtype)[..., None, :, :] for t in (cos, sin)]
    narrow = [t[..., None, :, :] for t in (cos, sin)]
    out_q, out_k = torch.empty_like(q), torch.empty_like(k)
    own_q, own_k = q.clone(), k.clone()
    calls: dict[str, Contender] = {
        "copy_ into allocated": lambda: (out_q.copy_(q), out_k.copy_(k)),
        "clone": lambda: (q.clone(), k.clone()),
        "rotary, in place": lambda: apply_rotary_qk(own_q, own_k, cos, sin, inplace=True),
        "rotary": lambda: apply_rotary_qk(q, k, cos, sin),
    }
    if work.dim == work.head_dim:
        calls["usual formula, eager"] = lambda: usual(q, k, wide[0], wide[1])
        if compiled:
            first = torch.compile(usual, dynamic=False)
            second = torch.compile(half_width, dynamic=False)
            calls["usual formula, torch.compile"] = lambda: first(q, k, wide[0], wide[1])
            calls["half-width formula, torch.compile"] = lambda: second(q, k, narrow[0], narrow[1])
    truth = apply_rotary_qk(q.double(), k.double(), cos.double(), sin.double())
    for name, call in calls.items():
        if "formula" in name:
            judge(name, call(), truth, work.dtype)
    return calls


def judge(name: str, result: Pair, truth: Pair, dtype: torch.dtype) -> None:
    """RuntimeError if a contender's result differs from the true q and k by more than rounding in dtype explains."""
    for x, exact in zip(result, truth, strict=True):
        error = float((x.double() - exact).abs().max())
        if x.shape != exact.shape or not error <= 64 * torch.finfo(dtype).eps:
            raise RuntimeError(f"{name} is not timed: it differs from the rotation by {error:.2g} in {dtype}")


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
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", choices=tuple(_DTYPES), default="float32")
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
    """Measure, and print a table per length. ValueError for sizes that are not positive and for a device that cannot be used."""
    if min(*options.seq, *options.heads, options.batch, options.head_dim) < 1 or options.seconds <= 0:
        raise ValueError("sizes and seconds must be positive")
    _check_device(options.device)
    measured: list[dict[str, Any]] = []
    for seq in options.seq:
        work = Work(
            seq, options.heads[0], options.heads[1], options.head_dim, options.batch, dtype=_DTYPES[options.dtype]
        )
        timings = alternate(contenders(work, options.device, compiled=not options.no_compile), options.seconds)
        floor = timings["copy_ into allocated"].median
        if options.json:
            measured.append({"tokens": seq, "seconds": {name: t._asdict() for name, t in timings.items()}})
            continue
        print(
            f"{seq:,} tokens, {options.heads[0]} + {options.heads[1]} heads of {options.head_dim}, {options.dtype}, {options.device}"
        )
        for name, (median, low, high) in timings.items():
            spread = f"{low / floor:.2f} to {high / floor:.2f}"
            print(f"  {name:36}{median * 1e3:10.4f} ms {median / floor:8.2f} x   {spread}")
        print(flush=True)
    if options.json:
        names = ("heads", "head_dim", "batch", "dtype", "device")
        print(json.dumps({name: getattr(options, name) for name in names} | {"measured": measured}, indent=1))
    return 0


def _check_device(name: str) -> None:
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:  # AssertionError: from a torch that was built without that device
        raise ValueError(f"--device {name!r} cannot be used: {error}") from None
