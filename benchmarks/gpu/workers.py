"""Kernels compiled by processes side by side, so that the one that measures finds them in Triton's cache."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import TypeVar

MOST = 12
T = TypeVar("T")


def compiled(module: str, *words: str) -> None:
    """Run `python -m module words PART/PARTS` for every part, all at once; SystemExit where one of them fails."""
    parts = min(os.cpu_count() or 1, MOST)
    workers = [subprocess.Popen([sys.executable, "-m", module, *words, f"{part}/{parts}"]) for part in range(parts)]
    statuses = [worker.wait() for worker in workers]
    if any(statuses):
        raise SystemExit("a kernel did not compile; see above")


def is_part(word: str) -> bool:
    return "/" in word


def part_of(work: Sequence[T], word: str) -> Sequence[T]:
    """What falls to the part that a word of the command line names, PART/PARTS."""
    part, parts = (int(number) for number in word.split("/"))
    return work[part::parts]
