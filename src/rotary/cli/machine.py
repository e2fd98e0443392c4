"""The processor of this machine, which every result of speed names: its name, caches and instruction sets.

Read from /proc and /sys on Linux and by sysctl on macOS; what these do not have is left out.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from functools import cache
from pathlib import Path

# Instruction sets that a rotation may use, by the names of /proc/cpuinfo.
_X86 = (
    "avx",
    "f16c",
    "fma",
    "avx2",
    "avx512f",
    "avx512dq",
    "avx512bw",
    "avx512vl",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
)
_ARM = ("asimd", "fphp", "asimdhp", "bf16", "sve", "sve2", "i8mm")
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_GENERATION = (("family", "cpu family"), ("model", "model"))


@cache
def processor() -> str:
    """The processor's name, on x86 with its generation: "AMD EPYC, family 25 model 17"; its architecture where no name is found."""
    if name := _cpuinfo("model name"):
        generation = [f"{word} {number}" for word, key in _GENERATION if (number := _cpuinfo(key))]
        return ", ".join([" ".join(name.split()), *([" ".join(generation)] if generation else [])])
    return _sysctl("machdep.cpu.brand_string") or platform.processor() or platform.machine()


@cache
def instruction_sets() -> tuple[str, ...]:
    """Those of the instruction sets that a rotation may use which this processor has; empty where the system does not list them."""
    flags = set((_cpuinfo("flags") or _cpuinfo("Features") or "").split())
    return tuple(name for name in (*_X86, *_ARM) if name in flags)


@cache
def caches() -> dict[str, int]:
    """Cache -> bytes, of the caches through which the first core reads data: {"L1d": 32768, "L2": 1048576, "L3": 33554432}."""
    sizes: dict[str, int] = {}
    for folder in sorted(_CACHES.glob("index*")):
        try:
            level, content, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        if content != "Instruction":
            unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
            sizes[f"L{level}{'d' if content == 'Data' else ''}"] = int(size.rstrip("KMG")) * unit.get(size[-1], 1)
    for name, key in (("L1d", "hw.l1dcachesize"), ("L2", "hw.l2cachesize"), ("L3", "hw.l3cachesize")):
        if name not in sizes and (size := _sysctl(key)) and size.isdigit() and int(size):
            sizes[name] = int(size)
    return sizes


def last_cache() -> int:
    """Bytes of the last cache before memory; 32 MiB where the system does not say."""
    return max(caches().values(), default=32 << 20)


def described() -> str:
    """Processor, cores, caches and instruction sets in one line."""
    sizes = ", ".join(f"{name} {_size(n)}" for name, n in caches().items())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parts = [processor(), f"{cores} core{'s' * (cores > 1)}", sizes, " ".join(instruction_sets())]
    return "; ".join(part for part in parts if part)


def _size(n: int) -> str:
    return f"{n / 2**20:g} MiB" if n >= 1 << 20 else f"{n / 2**10:g} KiB"


def _cpuinfo(key: str) -> str | None:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    line = re.search(rf"^{re.escape(key)}\s*:\s*(.*)$", text, re.MULTILINE)
    return line[1].strip() if line else None


def _sysctl(key: str) -> str | None:
    if platform.system() != "Darwin":
        return None
    try:
        return subprocess.run(("sysctl", "-n", key), capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None
