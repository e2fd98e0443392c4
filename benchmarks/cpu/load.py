"""How busy other processes kept the machine while something was measured."""

from __future__ import annotations

import os
import time
from pathlib import Path

QUIET = 0.1
"""The share below which figures of two threads are worth keeping: a thread that waits for its core makes the other wait too."""


class Load:
    """From its making on: the share of all cores' time that went to processes other than this one and its children."""

    def __init__(self) -> None:
        self._before = self._spent()

    def others(self) -> float | None:
        """Between 0 and 1; None where /proc/stat is not there."""
        if self._before is None or (now := self._spent()) is None:
            return None
        busy, total, own = (b - a for a, b in zip(self._before, now, strict=True))
        return min(1.0, max(0.0, (busy - own) / total)) if total else None

    @classmethod
    def now(cls, seconds: float = 1.0) -> float | None:
        """What others take while this process sleeps."""
        load = cls()
        time.sleep(seconds)
        return load.others()

    @staticmethod
    def _spent() -> tuple[float, float, float] | None:
        """Seconds that cores were busy, that they had, and that this process and its children (those that ended) took."""
        try:
            fields = [int(n) for n in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        except (OSError, ValueError):
            return None
        tick = os.sysconf("SC_CLK_TCK")
        idle = fields[3] + fields[4]  # waiting for a disk is idle too
        return (sum(fields) - idle) / tick, sum(fields) / tick, sum(os.times()[:4])
