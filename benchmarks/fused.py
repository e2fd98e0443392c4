"""What do norm, rotation and cache write cost on a CPU in one pass, compared with transformers' own code and torch.compile?

    python -m benchmarks.fused             3 minutes; writes results/fused.json and results/fused.md
    python -m benchmarks.fused --quick     few tokens and repeats, half a minute; writes nothing

Queries and keys of Qwen3-8B, 32 + 8 heads of 128, as views of projections (batch, tokens, heads, 128), half pairing. Theirs: Qwen3RMSNorm
twice and apply_rotary_pos_emb, from the installed transformers, eager and by torch.compile. Contenders take turns in one process, two
threads, one for one token; medians, and their ratios. Where the allocator maps new pages for large outputs, these are dearer than norm
and rotation: 4,096 tokens are measured with pages that it keeps (warm) and with new ones (cold), each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm, apply_rotary_pos_emb

from benchmarks.record import PAGES, circumstances, table, write
from rotary import RotaryEmbedding, fused
from rotary._fused.autograd import by_formula
from rotary._fused.work import Norm

HEADS, KEY_HEADS, DIM, EPS = 32, 8, 128, 1e-6
ROPE = RotaryEmbedding(DIM, base=1_000_000)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Call = Callable[[], Any]


class Work:
    """Arguments for one number of tokens, and everything that is measured on them."""

    def __init__(self, tokens: int, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        self.q = torch.randn(1, tokens, HEADS, DIM).to(dtype).transpose(1, 2)
        self.k = torch.randn(1, tokens, KEY_HEADS, DIM).to(dtype).transpose(1, 2)
        self.cos, self.sin = ROPE.cos_sin(tokens)
        self.full_cos, self.full_sin = (torch.cat((t, t), -1)[None].to(dtype) for t in (self.cos, self.sin))
        # Weights are 1: in place another weight would multiply q and k at every call, down to denormal numbers.
        self.q_norm, self.k_norm = Qwen3RMSNorm(DIM, EPS).to(dtype), Qwen3RMSNorm(DIM, EPS).to(dtype)

    def ours(self, q: Tensor, k: Tensor, **how: Any) -> tuple[Tensor, Tensor]:
        weights = {"q_weight": self.q_norm.weight, "k_weight": self.k_norm.weight}
        return fused.norm_rotate(q, k, self.cos, self.sin, **weights, eps=EPS, **how)

    def formula(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """The plain formula, for torch.compile."""
        norm, table_of_both = Norm(EPS, 0.0, False, False), (self.cos, self.sin)
        weights = self.q_norm.weight, self.k_norm.weight
        y, z = by_formula((q, k), weights, (table_of_both,) * 2, norm, seq_dim=2, interleaved=False, in_place=False)
        return y, z

    def theirs(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        q, k = self.q_norm(q.transpose(1, 2)).transpose(1, 2), self.k_norm(k.transpose(1, 2)).transpose(1, 2)
        return apply_rotary_pos_emb(q, k, self.full_cos, self.full_sin)

    def both_ways(self, call: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Call:
        """Forward and backward, with gradients for q, k and both weights."""
        q, k = self.q.detach().requires_grad_(), self.k.detach().requires_grad_()
        up = torch.randn_like(q), torch.randn_like(k)
        leaves = (q, k, self.q_norm.weight, self.k_norm.weight)
        return lambda: torch.autograd.grad(call(q, k), leaves, up)

    def saved(self, call: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> int:
        """Bytes kept for the backward pass, each memory once."""
        kept: dict[int, int] = {}

        def pack(t: Tensor) -> Tensor:
            kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            call(self.q.detach().clone().requires_grad_(), self.k.detach().clone().requires_grad_())
        return sum(kept.values())


def medians(calls: dict[str, Call], seconds: float) -> dict[str, float]:
    """Microseconds of each, in turn until the time is up, at least seven times each; short calls in blocks."""
    blocks = {}
    for name, call in calls.items():
        call()
        call()
        start = time.perf_counter()
        call()
        blocks[name] = max(1, int(1e-3 / max(time.perf_counter() - start, 1e-7)))
    taken: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(taken.values()))) < 7:
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(blocks[name]):
                call()
            taken[name].append((time.perf_counter() - start) / blocks[name] * 1e6)
    return {name: statistics.median(times) for name, times in taken.items()}


def forward(work: Work, seconds: float, compiled: bool) -> dict[str, float]:
    q, k = work.q, work.k
    to = torch.empty_like(q), torch.empty_like(k)
    held = q.clone(), k.clone()
    calls: dict[str, Call] = {
        "copy": lambda: (to[0].copy_(q), to[1].copy_(k)),
        "in place": lambda: work.ours(*held, inplace=True),
        "fresh": lambda: work.ours(q, k),
        "fresh, rounded as the model does": lambda: work.ours(q, k, rounding="model"),
        "transformers": lambda: work.theirs(q, k),
    }
    if compiled:
        torch._dynamo.reset()
        for name, call in (
            ("transformers, compiled", work.theirs),
            ("ours compiled: operator", work.ours),
            ("ours compiled: formula", work.formula),
        ):
            calls[name] = _compiled(call, q, k)
    with torch.no_grad():
        return medians(calls, seconds)


def _compiled(call: Any, q: Tensor, k: Tensor) -> Call:
    made = torch.compile(call, fullgraph=True, dynamic=False)
    return lambda: made(q, k)


def training(work: Work, seconds: float, compiled: bool) -> dict[str, float]:
    calls = {"ours": work.both_ways(work.ours), "transformers": work.both_ways(work.theirs)}
    if compiled:
        torch._dynamo.reset()
        for name, call in (
            ("transformers, compiled", work.theirs),
            ("ours compiled: operator", work.ours),
            ("ours compiled: formula", work.formula),
        ):
            calls[name] = work.both_ways(torch.compile(call, fullgraph=True, dynamic=False))
    return medians(calls, seconds)


def caching(keys: int, dtype: torch.dtype, seconds: float) -> dict[str, float]:
    """One token with so many cached keys. DynamicCache.update grows its cache, so each call starts from a cache of that length."""
    work = Work(1, dtype)
    k, v = work.k, torch.randn_like(work.k)
    old = torch.randn(2, 1, KEY_HEADS, keys, DIM).to(dtype)
    key_pages, value_pages = torch.zeros(2, 1, keys + 1, KEY_HEADS, DIM, dtype=dtype)
    slots = torch.tensor([[keys]])
    cache = DynamicCache()
    cache.update(old[0], old[1], 0)
    layer: Any = cache.layers[0]

    def dynamic() -> None:
        layer.keys, layer.values = old[0], old[1]
        cache.update(k, v, 0)

    calls: dict[str, Call] = {
        "DynamicCache.update": dynamic,
        "rotate_and_store": lambda: fused.rotate_and_store(k, v, work.cos, work.sin, key_pages, value_pages, slots),
    }
    with torch.no_grad():
        return medians(calls, seconds)


def measure(quick: bool, pages: str = "warm") -> dict[str, Any]:
    """Everything with warm pages, in which this process has to be already; with cold ones the largest size."""
    torch.set_num_threads(2)
    seconds, sizes = (0.02, (1, 64)) if quick else (6.0, (1, 128, 4096))
    warm = pages == "warm"
    result: dict[str, Any] = {
        "at": circumstances("transformers"),
        "forward": {},
        "training": {},
        "saved": {},
        "cache": {},
    }
    for name, dtype in DTYPES.items():
        for tokens in sizes if warm else sizes[-1:]:
            work, case = Work(tokens, dtype), f"{name}, {tokens}{'' if warm else ' cold'}"
            torch.set_num_threads(
                1 if tokens == 1 else 2
            )  # a token has no work for two, and waiting for a thread is all one would see
            result["forward"][case] = forward(work, seconds, not quick)
            if tokens > 1:
                result["training"][case] = training(work, seconds, not quick)
                result["saved"][case] = {
                    "ours": work.saved(work.ours),
                    "transformers": work.saved(work.theirs),
                }
        torch.set_num_threads(2)
        if warm:
            result["cache"][name] = caching(64 if quick else 4096, dtype, seconds)
    return result


def in_a_process(pages: str) -> dict[str, Any]:
    """The same in a process whose pages are in that state."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [sys.executable, "-m", "benchmarks.fused", "--pages", pages, "--into", file.name]
        subprocess.run(command, env=os.environ | PAGES[pages], check=True)
        return json.loads(Path(file.name).read_text())


def merged(warm: dict[str, Any], cold: dict[str, Any]) -> dict[str, Any]:
    """Both in one result, by dtype."""
    parts = {
        part: dict(
            sorted((warm[part] | cold[part]).items(), key=lambda item: tuple(DTYPES).index(item[0].split(",")[0]))
        )
        for part in ("forward", "training", "saved")
    }
    return warm | parts


def ratios(result: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The lines of the page: work -> dtype and tokens -> ratio."""
    lines: dict[str, dict[str, float]] = {}

    def add(part: str, line: str, above: str, below: str) -> None:
        for case, times in result[part].items():
            if above in times and below in times:
                lines.setdefault(line, {})[case] = times[above] / times[below]

    add("forward", "in place / copy of q and k", "in place", "copy")
    add("forward", "fresh / transformers eager", "fresh", "transformers")
    add("forward", "transformers eager / fresh", "transformers", "fresh")
    add("forward", "transformers compiled / fresh", "transformers, compiled", "fresh")
    add("forward", "rounded as the model does / rounded once", "fresh, rounded as the model does", "fresh")
    add("forward", "ours compiled: formula / operator", "ours compiled: formula", "ours compiled: operator")
    add("training", "forward + backward: transformers eager / ours", "transformers", "ours")
    add("training", "forward + backward: transformers compiled / ours", "transformers, compiled", "ours")
    add(
        "training",
        "forward + backward, ours compiled: formula / operator",
        "ours compiled: formula",
        "ours compiled: operator",
    )
    add("saved", "saved for the backward pass: transformers / ours", "transformers", "ours")
    add("cache", "rotate_and_store / DynamicCache.update, one token", "rotate_and_store", "DynamicCache.update")
    return lines


def page(result: dict[str, Any]) -> str:
    at = result["at"]
    lines = ratios(result)
    cases = list(result["forward"])
    rows = [
        [line, *(f"{found[case]:.2f}" if case in found else "" for case in cases)]
        for line, found in lines.items()
        if "DynamicCache" not in line
    ]
    cache = [
        [
            name,
            *(f"{times[call]:.1f}" for call in times),
            f"{times['rotate_and_store'] / times['DynamicCache.update']:.2f}",
        ]
        for name, times in result["cache"].items()
    ]
    micro = [
        [f"{part}, {case}: {call}", f"{value:.1f}"]
        for part in ("forward", "training")
        for case, times in result[part].items()
        for call, value in times.items()
    ]
    return "\n\n".join(
        [
            "# Norm, rotation and cache write in one pass, on a CPU",
            f"`python -m benchmarks.fused`, {at['device']}, torch {at['versions']['torch']}, transformers "
            f"{at['versions']['transformers']}, commit {at['commit']}. Qwen3-8B: 32 + 8 heads of 128. Ratios of medians, contenders in "
            f"turn, one thread for one token; columns are dtype and tokens. Cold: the allocator maps new pages for every large output.",
            table(["", *cases], rows),
            "One token into a cache of 4,096 keys, microseconds. Ours rotates the keys as well.",
            table(["", "DynamicCache.update", "rotate_and_store", "ratio"], cache),
            "Medians, microseconds.",
            table(["", "us"], micro),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few tokens and repeats; writes nothing")
    parser.add_argument("--pages", choices=tuple(PAGES), help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.into:
        options.into.write_text(json.dumps(measure(options.quick, options.pages)))
        return
    result = measure(True) if options.quick else merged(in_a_process("warm"), in_a_process("cold"))
    print(page(result))
    if not options.quick:
        write("fused", result, page(result))


if __name__ == "__main__":
    main()
