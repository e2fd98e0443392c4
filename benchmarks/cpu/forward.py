"""Ready tables, q and k rotated: every length compared with every rival, and every dtype, head width and pairing compared with a copy."""

from __future__ import annotations

from dataclasses import replace

import torch

from benchmarks.cpu.measured import CACHE, DTYPES, MEMORY, Effort, Record, record, states
from benchmarks.cpu.rivals import COMPILED, COPY, HALF, HUB, INPLACE, OF_HALVES, OF_NEIGHBOURS, contenders
from rotary.cli.work import Work

LENGTHS = (1, 16, 128, 512, 4096, 32768)
COMPILED_LENGTHS = (1, 128, 4096, 32768)
WIDTHS = ((64, 0), (80, 0), (96, 0), (128, 0), (256, 0), (128, 32))
"""(head_dim, channels that rotate, 0 for all)"""


def lengths(effort: Effort, pages: str) -> list[Record]:
    """Every length for every dtype; with cold pages the one length at which they matter."""
    works = [Work(n, dtype=dtype) for dtype in DTYPES for n in LENGTHS]
    if pages == "cold":
        works = [work for work in works if work.seq == 4096]
    else:
        works += [Work(4096, transposed=True, dtype=dtype) for dtype in DTYPES]
        works += [Work(1, batch=64, dtype=dtype) for dtype in DTYPES]
        works += [Work(n, dtype=torch.float64) for n in (1, 128, 4096)]
        works += [Work(n, interleaved=True, dtype=dtype) for dtype in DTYPES[:2] for n in (128, 4096)]
    return [one_length(work, state, effort, pages) for work in works for state in states(work)]


def one_length(work: Work, state: str, effort: Effort, pages: str) -> Record:
    rivals = dict(OF_NEIGHBOURS if work.interleaved else OF_HALVES)
    rivals.pop(HUB, None)  # it has a part of its own
    if effort.quick or work.seq not in COMPILED_LENGTHS or work.batch > 1 or work.dtype == torch.float64:
        rivals = {name: rival for name, rival in rivals.items() if name not in (COMPILED, HALF)}
    small = effort.shrunk(work)
    rota = small.inputs(from_memory=state == MEMORY and not effort.quick)
    with torch.no_grad():
        calls = contenders(small, rota, rivals)
        one = record("lengths", work, calls, effort, pages=pages, state=state, floor=COPY, weight=2.0)
    if COMPILED in rivals:
        torch.compiler.reset()
    return one


def breadth(effort: Effort, pages: str) -> list[Record]:
    """In place compared with copy_, in the cache and from memory: every dtype, head width and pairing at 512 tokens."""
    records: list[Record] = []
    for dtype in (*DTYPES, torch.float64):
        for head_dim, rotary_dim in WIDTHS:
            for interleaved in (False, True):
                work = Work(512, head_dim=head_dim, rotary_dim=rotary_dim, dtype=dtype, interleaved=interleaved)
                records.append(_against_a_copy(_that_fits(work), CACHE, effort, pages))
                records.append(_against_a_copy(work, MEMORY, effort, pages))
    return records


def _that_fits(work: Work) -> Work:
    """The work with fewer tokens, if the cache is too small for it."""
    while not work.fits_the_cache() and work.seq > 1:
        work = replace(work, seq=work.seq // 2)
    return work


def _against_a_copy(work: Work, state: str, effort: Effort, pages: str) -> Record:
    small = effort.shrunk(work)
    rota = small.inputs(from_memory=state == MEMORY and not effort.quick)
    with torch.no_grad():
        calls = contenders(small, rota, {})
        return record(
            "breadth",
            work,
            {name: calls[name] for name in (COPY, INPLACE)},
            effort,
            pages=pages,
            state=state,
            weight=0.6,
        )
