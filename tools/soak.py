"""Do eight threads on shared modules, with mixed dtypes, lengths, schemes and directions, get the same bits, and does memory not grow?

    python -m tools.soak [--minutes 10]        10 minutes; writes nothing; exit status 0, or 1 where a result differed or memory grew

Each thread first rotates its inputs with the plain formula, then again and again with the kernels, and compares bits.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

from rotary import RotaryEmbedding, use_backend
from rotary.scaling import DynamicNTK, YaRN

THREADS, ALLOWED = 8, 5 * 2**20
MODULES = [
    RotaryEmbedding(64),
    RotaryEmbedding(64, interleaved=True, base=500_000),
    RotaryEmbedding(32, use_xpos=True),
    RotaryEmbedding(64, scaling=YaRN(4.0, 128)),
    RotaryEmbedding(64, scaling=DynamicNTK(2.0, 128)),
    RotaryEmbedding(64, angles="float32"),
]


def resident() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def soak(seconds: float, threads: int = THREADS) -> tuple[int, int, int]:
    """(rotations, mismatches, growth of resident memory after a first fifth [bytes])."""
    counts, wrong = [0] * threads, [0] * threads
    stop = threading.Event()

    def job(i: int) -> None:
        draw = random.Random(i)
        generator = torch.Generator().manual_seed(i)
        works = []
        for _ in range(12):
            rope, seq = draw.choice(MODULES), draw.choice([1, 7, 128, 300])
            dtype = draw.choice([torch.float32, torch.bfloat16, torch.float16, torch.float64])
            q = torch.randn(2, 4, seq, 64, generator=generator).to(dtype)
            k = torch.randn(2, 2, seq, 64, generator=generator).to(dtype)
            options: Any = {"offset": draw.choice([0, 5, 40]), "length": 512}
            with use_backend("eager"):
                works.append((rope, q, k, options, rope.rotate(q, k, **options)))
        while not stop.is_set():
            rope, q, k, options, expected = draw.choice(works)
            if draw.random() < 0.3:
                q, k = q.clone(), k.clone()
                rotated = rope.rotate(q, k, inplace=True, **options)
            elif draw.random() < 0.3:
                q, k = q.detach().requires_grad_(), k.detach().requires_grad_()
                rotated = rope.rotate(q, k, **options)
                (rotated[0].float().sum() + rotated[1].float().sum()).backward()
            else:
                rotated = rope.rotate(q, k, **options)
            wrong[i] += not all(torch.equal(a.detach(), b) for a, b in zip(rotated, expected, strict=True))
            counts[i] += 1

    workers = [threading.Thread(target=job, args=(i,)) for i in range(threads)]
    for worker in workers:
        worker.start()
    time.sleep(seconds / 5)
    gc.collect()
    before = resident()
    time.sleep(seconds * 4 / 5)
    gc.collect()
    growth = resident() - before
    stop.set()
    for worker in workers:
        worker.join()
    return sum(counts), sum(wrong), growth


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    rotations, mismatches, growth = soak(60 * parser.parse_args().minutes)
    print(
        f"{rotations:,} rotations in {THREADS} threads, {mismatches} mismatches, memory grew by {growth / 2**20:.1f} MiB"
    )
    sys.exit(bool(mismatches or growth > ALLOWED or not rotations))
