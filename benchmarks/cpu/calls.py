"""Calls as users write them: tables and rotation of one token, tables alone, forward and backward, memory that a call takes."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from benchmarks.cpu.measured import CACHE, DTYPES, MEMORY, Effort, Record, record
from benchmarks.cpu.rivals import CLONE, COMPILED, EAGER, FRESH, INPLACE, TWO_CLONES, transformers, transformers_tables
from rotary import apply_rotary_qk
from rotary.cli.clock import Contender
from rotary.cli.work import Inputs, Work, float32_product

ROTATE, ROTATE_INPLACE = "rotary, rotate(offset=)", "rotary, rotate(offset=), in place"
MODULE_AND_APPLY = "transformers, module + apply"
EXACT, EXACT64, PRODUCT, MODULE = (
    "rotary, cos_sin",
    "rotary, cos_sin, float64",
    "float32 product",
    "transformers' module",
)


def decode(effort: Effort, pages: str) -> list[Record]:
    """q and k of one new token, and of 16, tables made in the call; transformers' position_ids are made beforehand."""
    records: list[Record] = []
    for dtype in DTYPES:
        for seq in (1, 16):
            work = Work(seq, dtype=dtype)
            small = effort.shrunk(work)
            q, k = small.tensors()
            rope, offset, module, ids = work.rope(), work.offset(), transformers_tables(work), small.positions()[None]

            def ours(inplace: bool, q: Tensor = q, k: Tensor = k, rope: Any = rope, offset: Any = offset) -> Contender:
                return lambda: rope.rotate(q, k, offset=offset, inplace=inplace)

            def theirs(q: Tensor = q, k: Tensor = k, module: Any = module, ids: Tensor = ids) -> Any:
                return apply_rotary_pos_emb(q, k, *module(q, ids))

            calls: dict[str, Contender] = {ROTATE: ours(False), ROTATE_INPLACE: ours(True), MODULE_AND_APPLY: theirs}
            with torch.no_grad():
                for x, y in zip(calls[ROTATE](), theirs(), strict=True):  # their angles are products in float32
                    torch.testing.assert_close(x, y, rtol=0, atol=max(2e-3, 64 * torch.finfo(dtype).eps))
                records.append(record("decode", work, calls, effort, pages=pages, floor=MODULE_AND_APPLY, weight=2.0))
    return records


def tables(effort: Effort, pages: str) -> list[Record]:
    """cos and sin of 8,192 positions and of one, dim 128. transformers' module makes every value twice, the product once, as we do."""
    records: list[Record] = []
    for count in (8192, 1):
        work = Work(count)
        rope, module, n = work.rope(), transformers_tables(work), 8 if effort.quick else count
        positions: int | Tensor = work.positions() if count == 1 else n  # cos_sin(1) would be position 0
        ids, x = work.positions()[None, :n], torch.empty(0)

        def product(rope: Any = rope, positions: int | Tensor = positions) -> Any:
            return float32_product(
                positions if isinstance(positions, Tensor) else torch.arange(positions), rope.inv_freq
            )

        calls: dict[str, Contender] = {
            PRODUCT: product,
            EXACT: lambda rope=rope, positions=positions: rope.cos_sin(positions),
            EXACT64: lambda rope=rope, positions=positions: rope.cos_sin(positions, torch.float64),
            MODULE: lambda module=module, x=x, ids=ids: module(x, ids),
        }
        with torch.no_grad():
            for x, y in zip(calls[EXACT](), product(), strict=True):
                torch.testing.assert_close(x, y, rtol=0, atol=1e-2)
            records.append(record("tables", work, calls, effort, pages=pages, weight=2.0))
    return records


def backward(effort: Effort, pages: str) -> list[Record]:
    """Forward and backward of q and k at 2,048 tokens, gradients of ones; and what allocating the four results by clone costs."""
    records: list[Record] = []
    for dtype in DTYPES:
        work = Work(2048, dtype=dtype)
        q, k = (x.requires_grad_() for x in effort.shrunk(work).tensors())
        small = effort.shrunk(work)
        cos, sin = small.tables()
        grads, inputs = (torch.ones_like(q), torch.ones_like(k)), Inputs(q, k, q, k)

        def both(rotate: Contender, q: Tensor = q, k: Tensor = k, grads: Any = grads) -> Contender:
            return lambda: torch.autograd.grad(rotate(), (q, k), grads)

        def clones(q: Tensor = inputs.q, k: Tensor = inputs.k) -> Any:
            with torch.no_grad():
                return (q.clone(), k.clone()), (q.clone(), k.clone())

        calls: dict[str, Contender] = {
            TWO_CLONES: clones,
            FRESH: both(lambda q=q, k=k, cos=cos, sin=sin: apply_rotary_qk(q, k, cos, sin)),
            EAGER: both(transformers(small, cos, sin)(inputs)),
        }
        if not effort.quick:
            compiled = torch.compile(apply_rotary_pos_emb, dynamic=False)
            calls[COMPILED] = both(transformers(small, cos, sin, compiled)(inputs))
        for x, y in zip(calls[FRESH](), calls[EAGER](), strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=64 * torch.finfo(dtype).eps)
        what = "forward and backward"
        records.append(record("backward", work, calls, effort, pages=pages, state=MEMORY, weight=3.0, what=what))
        if COMPILED in calls:
            torch.compiler.reset()
    return records


def memory(effort: Effort, pages: str) -> list[Record]:
    """Largest growth of resident memory during one call at 4,096 tokens in float32, in bytes; q and k are 80 MiB."""
    if not Path("/proc/self/clear_refs").exists():
        return []
    work = Work(4096)
    small = effort.shrunk(work)
    q, k = small.tensors()
    cos, sin = small.tables()
    calls: dict[str, Contender] = {
        CLONE: lambda: (q.clone(), k.clone()),
        INPLACE: lambda: apply_rotary_qk(q, k, cos, sin, inplace=True),
        FRESH: lambda: apply_rotary_qk(q, k, cos, sin),
        EAGER: transformers(small, cos, sin)(Inputs(q, k, q, k)),
    }
    with torch.no_grad():
        grown = {name: _peak(call) for name, call in calls.items()}
    print("memory:", {name: f"{size / 2**20:.0f} MiB" for name, size in grown.items()}, flush=True)
    fields = {"part": "memory", "case": "4,096 tokens, float32", "pages": pages, "state": CACHE}
    return [{**fields, "bytes": grown, "timings": {}}]


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
