"""How long does the rotation take on a CPU, beside what a user would pick instead and beside a copy of the same memory?

    python -m benchmarks.cpu.run            10 minutes; writes results/cpu.json, results/cpu.md and docs/pictures/cpu.png
    python -m benchmarks.cpu.run --quick    2 shapes, 2 minutes; writes nothing

Contenders take turns in one process (A B C A B C); figures are medians and their ratio to `copy_` into allocated tensors. Fresh
outputs above a megabyte are dearer than the rotation where the allocator maps new pages for each, so they are measured twice: with
cold pages (glibc maps and unmaps every large tensor) and with warm ones (it keeps them), each in a process of its own.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from benchmarks.cpu.model import steps
from benchmarks.cpu.report import plot, report
from benchmarks.cpu.rivals import contenders, transformers
from benchmarks.record import circumstances, write
from rotary import RotaryEmbedding, apply_rotary_qk
from rotary._rotation import native as kernel
from rotary.cli.bench import Contender, Timing, Work, alternate

F32, BF16 = torch.float32, torch.bfloat16
SHAPES = {
    "1 token": Work(1),
    "128 tokens": Work(128),
    "4,096 tokens": Work(4096),
    "32,768 tokens": Work(32768),
    "batch of 64, 1 token each": Work(1, batch=64),
    "4,096 tokens, transposed": Work(4096, transposed=True),
    "1,024 tokens, 1 key head": Work(1024, key_heads=1),
    "1,024 tokens, head_dim 64": Work(1024, head_dim=64),
    "1,024 tokens, head_dim 80": Work(1024, head_dim=80),
    "1,024 tokens, head_dim 96": Work(1024, head_dim=96),
    "1,024 tokens, head_dim 256": Work(1024, head_dim=256),
    "1,024 tokens, half of 128 turns": Work(1024, rotary_dim=64),
}
Timings = dict[str, Timing]


# What glibc is told at the start of a process: give every tensor above 128 KB pages of its own and give them back; or keep all.
PAGES = {
    "cold": {"MALLOC_MMAP_THRESHOLD_": str(1 << 17), "MALLOC_MMAP_MAX_": str(1 << 16)},
    "warm": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_TOP_PAD_": str(1 << 26)},
}


def in_a_process(state: str, *arguments: str) -> dict[str, Any]:
    """What this script measures in a process of its own, whose pages are in that state."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = (sys.executable, "-m", "benchmarks.cpu.run", "--pages", state, "--into", file.name, *arguments)
        subprocess.run(command, env=os.environ | PAGES[state], check=True)
        return json.loads(Path(file.name).read_text())


def forward(state: str, seconds: float, quick: bool) -> dict[str, Timings]:
    found: dict[str, Timings] = {}
    for dtype in (F32, BF16):
        for name, shape in SHAPES.items():
            if (quick and name not in ("1 token", "4,096 tokens")) or (state == "cold" and shape.seq < 1024):
                continue
            work = Work(**{**vars(shape), "dtype": dtype})
            compiled = ("1 token", "128 tokens", "4,096 tokens", "32,768 tokens", "4,096 tokens, transposed")
            without = () if name in compiled else ("transformers, torch.compile", "half-width formula, torch.compile")
            calls = contenders(work, without=without)
            with torch.no_grad():
                timings = alternate(calls, seconds * (4 if work.seq > 10_000 else 1))
            title = f"{name}, {str(dtype)[6:]}"
            found[title] = timings
            say(f"{title}, {state} pages", timings)
            del calls
            gc.collect()
            torch._dynamo.reset()
    return found


def backward(seconds: float) -> dict[str, Any]:
    """Forward and backward of q and k at 4,096 tokens, fresh, gradients of ones; in place where autograd's node allows it."""
    found: dict[str, Any] = {}
    for dtype in (F32, BF16):
        work = Work(4096, dtype=dtype)
        q, k = (x.requires_grad_() for x in work.tensors())
        cos, sin = work.tables()
        grads = torch.ones_like(q), torch.ones_like(k)
        compiled = torch.compile(apply_rotary_pos_emb, dynamic=False)

        def both(rotate: Contender, q: Tensor = q, k: Tensor = k, grads: Any = grads) -> Contender:
            return lambda: torch.autograd.grad(rotate(), (q, k), grads)

        calls = {
            "rotary": both(lambda q=q, k=k, cos=cos, sin=sin: apply_rotary_qk(q, k, cos, sin)),
            "transformers": both(transformers(work, q, k, cos, sin)),
            "transformers, torch.compile": both(transformers(work, q, k, cos, sin, compiled)),
        }
        for x, y in zip(calls["rotary"](), calls["transformers"](), strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=64 * torch.finfo(dtype).eps)
        found[str(dtype)[6:]] = alternate(calls, seconds)
        say(f"4,096 tokens, {str(dtype)[6:]}, forward and backward", found[str(dtype)[6:]])
        torch._dynamo.reset()
    return found


def table_making(seconds: float) -> Timings:
    rope = RotaryEmbedding(128, base=500_000)
    inv_freq = rope.inv_freq

    def usual() -> tuple[Tensor, Tensor]:
        angles = torch.arange(8192).float()[:, None] * inv_freq
        return angles.cos(), angles.sin()

    timings = alternate({"exact": lambda: rope.cos_sin(8192), "float32 product": usual}, seconds)
    say("tables, 8,192 x 64", timings)
    return timings


def memory() -> dict[str, int]:
    """Largest growth of resident memory during one call at 4,096 tokens in float32, in bytes; q and k are 80 MiB."""
    q, k = Work(4096).tensors()
    cos, sin = Work(4096).tables()
    calls = {
        "clone": lambda: (q.clone(), k.clone()),
        "rotary, in place": lambda: apply_rotary_qk(q, k, cos, sin, inplace=True),
        "rotary": lambda: apply_rotary_qk(q, k, cos, sin),
        "transformers": transformers(Work(4096), q, k, cos, sin),
    }
    return {name: _peak(call) for name, call in calls.items()}


def _peak(call: Callable[[], Any]) -> int:
    call()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    before = _resident("VmRSS")
    kept = call()
    peak = _resident("VmHWM") - before
    del kept
    return peak


def _resident(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def say(title: str, timings: Timings) -> None:
    floor = timings.get("copy_ into allocated") or timings[list(timings)[-1]]
    print(title)
    for name, (median, low, high) in timings.items():
        print(
            f"  {name:36}{median * 1e3:11.4f} ms {median / floor.median:9.2f} x   {(high - low) / median:6.1%} between quartiles"
        )
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seconds", type=float, default=3.0, help="of measuring for each shape")
    parser.add_argument("--pages", choices=tuple(PAGES), help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if reason := kernel.unavailable():
        raise SystemExit(f"the native kernel is off, so there is nothing to measure: {reason}")
    torch.manual_seed(0)
    if options.pages:
        found: dict[str, Any] = {"forward": forward(options.pages, options.seconds, options.quick)}
        if options.pages == "cold":
            found["memory"] = memory()
        else:
            found["backward"] = backward(options.seconds)
            found["tables"] = table_making(options.seconds)
            found["model"] = {} if options.quick else steps(options.seconds)
            for name, timings in found["model"].items():
                say(name, timings)
        options.into.write_text(json.dumps(found))
        return
    arguments = ["--seconds", str(options.seconds), *(["--quick"] if options.quick else [])]
    states = {state: in_a_process(state, *arguments) for state in PAGES}
    found = {**states["warm"], **states["cold"], "forward": {s: found["forward"] for s, found in states.items()}}
    if options.quick:
        print(found["memory"])
    else:
        at = circumstances("transformers", "rotary-embedding-torch", "onnxruntime")
        write("cpu", {**at, **found}, report(found, at))
        plot(found)


if __name__ == "__main__":
    main()
