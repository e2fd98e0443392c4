"""The two rivals that rotate in one pass, each measured with ours only: ONNX Runtime, and the CPU kernel of the kernels hub."""

from __future__ import annotations

import time

import torch

from benchmarks.cpu import hub, onnx_runtime
from benchmarks.cpu.measured import CACHE, DTYPES, MEMORY, Effort, Record, record
from benchmarks.cpu.rivals import HUB, HUB_INPLACE, ONNX, Maker, check, contenders, of_the_hub, of_the_hub_in_place
from rotary.cli.work import Work

ONNX_ONE, ONNX_SPINNING = f"{ONNX}, one thread", f"{ONNX}, spinning"
_REST = "rest"


def hub_lines(effort: Effort, pages: str) -> list[Record]:
    """bfloat16, half pairing: what its kernel is for. Up to 1,024 tokens in the cache, 4,096 from memory, both layouts."""
    if reason := hub.unavailable():
        print(f"hub: {reason}\n", flush=True)
        return [{"part": "hub", "case": reason, "pages": pages, "state": CACHE, "timings": {}}]
    records: list[Record] = []
    for transposed in (False, True):
        for seq in (1, 16, 128, 512, 1024, 4096):
            work = Work(seq, dtype=torch.bfloat16, transposed=transposed)
            state = CACHE if work.fits_the_cache() else MEMORY
            small = effort.shrunk(work)
            rota = small.inputs(from_memory=state == MEMORY and not effort.quick)
            with torch.no_grad():
                calls = contenders(small, rota, {HUB: of_the_hub, HUB_INPLACE: of_the_hub_in_place})
                records.append(record("hub", work, calls, effort, pages=pages, state=state, weight=1.5))
    return records


def onnx_lines(effort: Effort, pages: str) -> list[Record]:
    """Its best of three: as many threads as torch, these spinning between calls, and one. A pause follows the spinning contender."""
    records: list[Record] = []
    for dtype in DTYPES:
        if dtype == torch.bfloat16:  # its kernel has none
            continue
        for seq in (1, 128, 4096):
            work = Work(seq, dtype=dtype)
            state = CACHE if work.fits_the_cache() else MEMORY
            small = effort.shrunk(work)
            rota = small.inputs(from_memory=state == MEMORY and not effort.quick)
            cos, sin = small.tables()
            with torch.no_grad():
                calls = contenders(small, rota, {})
                sessions = {
                    ONNX: onnx_runtime.session(small, cos, sin),
                    ONNX_ONE: onnx_runtime.session(small, cos, sin, threads=1),
                    ONNX_SPINNING: onnx_runtime.session(small, cos, sin, spinning=True),
                }
                for name, session in sessions.items():
                    assert session is not None
                    maker: Maker = session.contender
                    check(name, small, maker, cos, sin)
                    calls[name] = rota.contender(maker)
                calls[_REST] = lambda: time.sleep(0.005)
                one = record("onnx", work, calls, effort, pages=pages, state=state, weight=1.5)
                del one["timings"][_REST]
                records.append(one)
    return records
