"""What a part of benchmarks.cpu measured: a list of records, each a case with the timings of its contenders."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from rotary.cli.bench import show, title
from rotary.cli.clock import Contender, Timing, alternate
from rotary.cli.work import Work

Record = dict[str, Any]
"""part, case, pages, state and the fields of the work, and timings: {contender: [median, first quartile, third quartile] in seconds}."""

CACHE, MEMORY = "cache", "memory"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Effort:
    """How much is measured: the seconds for each case; quick shrinks every case, so that it shows that the parts run and nothing else."""

    seconds: float = 1.0
    quick: bool = False

    def shrunk(self, work: Work) -> Work:
        if not self.quick:
            return work
        return replace(work, seq=min(work.seq, 3), heads=2, key_heads=1, batch=min(work.batch, 2))

    def timed(self, calls: Mapping[str, Contender], weight: float, *, in_cache: bool = False) -> dict[str, Timing]:
        """Each at least five times, for weight times the seconds in all; twice where it is quick."""
        rounds = (2, 2) if self.quick else (5, 200)
        return alternate(calls, weight * self.seconds, rounds, in_cache=in_cache)


def states(work: Work) -> tuple[str, ...]:
    """Where q and k can be: 512 tokens are measured in both places, fewer in the cache, what does not fit it from memory."""
    if not work.fits_the_cache():
        return (MEMORY,)
    return (CACHE, MEMORY) if work.seq >= 512 else (CACHE,)


def record(
    part: str,
    work: Work,
    calls: Mapping[str, Contender],
    effort: Effort,
    *,
    pages: str = "warm",
    state: str = CACHE,
    floor: str | None = None,
    weight: float = 1.0,
    what: str = "",
) -> Record:
    """Time the contenders, print and return what was found."""
    case = title(work) + (f", {what}" if what else "")
    timings = effort.timed(calls, weight, in_cache=state == CACHE)
    print(f"{part}: {case}, {state}, {pages} pages")
    show(timings, floor or next(iter(timings)))
    fields = {**vars(work), "dtype": str(work.dtype)[6:], "dim": work.dim}
    if not effort.quick:
        gc.collect()
    return {"part": part, "case": case, "pages": pages, "state": state, **fields, "timings": timings}


def select(records: list[Record], **fields: Any) -> list[Record]:
    """Those with these values; a callable is a condition on the value."""

    def fits(record: Record) -> bool:
        return all(
            key in record and (expected(record[key]) if callable(expected) else record[key] == expected)
            for key, expected in fields.items()
        )

    return [record for record in records if fits(record)]


def ratios(records: list[Record], a: str, b: str, **fields: Any) -> list[float]:
    """Median of a over median of b in each selected record that has both."""
    return [
        r["timings"][a][0] / r["timings"][b][0]
        for r in select(records, **fields)
        if a in r["timings"] and b in r["timings"]
    ]
