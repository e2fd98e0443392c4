"""The native library on a processor without torch: cases whose answers the eager formula gives, replayed by replay.cpp.

    python tests/_native/replay.py                the library built for this machine, by its own compiler
    python tests/_native/replay.py --aarch64      cross-compiled by aarch64-linux-gnu-g++ and run by qemu-aarch64 (Debian: apt-get install
                                                  g++-aarch64-linux-gnu qemu-user)

Every dtype, both pairings, both directions, heads of all kinds, in place and not; numbers of every kind, all 65,536 of half precision
among them. Exit status 0 where every bit is the formula's.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from rotary._native import build
from rotary._rotation import eager

HERE = Path(__file__).parent
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)  # as the library numbers them
HEADS = (
    (128, 128),
    (96, 96),
    (80, 80),
    (80, 32),
    (64, 64),
    (256, 256),
    (128, 32),
    (16, 2),
    (6, 6),
    (10, 10),
    (7, 4),
    (5, 0),
    (74, 74),
)
CROSS, RUNNER = "aarch64-linux-gnu-g++", "qemu-aarch64"


def kinds(count: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Numbers of every kind: any bits at all in half of them, ordinary ones in the rest."""
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    low, high = torch.iinfo(integer).min, torch.iinfo(integer).max
    anything = torch.randint(low, high, (count,), generator=generator, dtype=torch.int64).to(integer).view(dtype)
    ordinary = torch.randn(count, generator=generator, dtype=torch.float64).to(dtype)
    return torch.where(torch.rand(count, generator=generator) < 0.5, anything, ordinary)


def case(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool, conjugate: bool, in_place: bool) -> bytes:
    """One tensor (..., seq, channels) as replay.cpp reads it."""
    out = x.clone() if in_place else torch.full_like(x, torch.nan)
    eager.rotate((x,), (out,), ((cos, sin),), seq_dim=x.ndim - 2, interleaved=interleaved, conjugate=conjugate)
    parts = [x] if in_place else [x, torch.full_like(x, torch.nan)]
    after = [out] if in_place else [x, out]
    numbers = sum(len(raw(part)) for part in parts)
    table = numbers + -numbers % cos.element_size()  # aligned
    gap = bytes(table - numbers)
    places = [0, 0 if in_place else len(raw(x)), table, table + len(raw(cos))]
    words = [1, DTYPES.index(x.dtype), interleaved, conjugate, x.ndim - 2, *places, cos.ndim, x.ndim]
    words += [*x.shape, *x.stride(), *x.stride(), *cos.shape, *cos.stride(), *sin.stride()]
    tables = gap + raw(cos) + raw(sin)
    before_memory, after_memory = (b"".join(map(raw, of)) + tables for of in (parts, after))
    head = (len(words), len(before_memory), x.element_size(), numbers, *words)
    return struct.pack(f"<{len(head)}q", *head) + before_memory + after_memory


def raw(t: Tensor) -> bytes:
    return t.contiguous().view(torch.uint8).numpy().tobytes() if t.numel() else b""


def cases() -> Iterator[bytes]:
    generator = torch.Generator().manual_seed(0)
    directions = tuple(itertools.product((False, True), (False, True), (False, True)))
    for dtype, (channels, dim), (interleaved, conjugate, in_place) in itertools.product(DTYPES, HEADS, directions):
        work = torch.float64 if dtype == torch.float64 else torch.float32
        cos, sin = (torch.randn(5, dim // 2, generator=generator, dtype=work) for _ in range(2))
        for x in (kinds(3 * 5 * channels, dtype, generator), torch.randn(15 * channels, generator=generator).to(dtype)):
            x = x.view(3, 5, channels)
            yield case(x, cos, sin, interleaved=interleaved, conjugate=conjugate, in_place=in_place)
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    for dtype, (interleaved, conjugate, in_place) in itertools.product((torch.bfloat16, torch.float16), directions):
        x = every[torch.randperm(2**16, generator=generator)].view(dtype).view(512, 128)
        for scale in (1.0, 2.0**-12):  # the second makes denormals of half precision of most numbers
            cos, sin = (scale * torch.randn(512, 64, generator=generator) for _ in range(2))
            yield case(x, cos, sin, interleaved=interleaved, conjugate=conjugate, in_place=in_place)


def missing(*programs: str) -> str | None:
    """Which of these programs is not installed."""
    return next((program for program in programs if shutil.which(program) is None), None)


def built(folder: Path, compiler: str) -> Path:
    """A library by that compiler. SystemExit with its message where it fails."""
    library = folder / build.LIBRARY
    environment = {k: v for k, v in os.environ.items() if k not in ("CC", "CFLAGS", "CXXFLAGS", "LDFLAGS")}
    command = (sys.executable, build.__file__, library)
    made = subprocess.run(command, env=environment | {"CXX": compiler}, capture_output=True, text=True)
    if not library.exists():
        raise SystemExit(f"no library by {compiler}: {made.stdout}{made.stderr}")
    return library


def replay(
    library: Path, folder: Path, of: Iterable[bytes], compiler: str = "c++", runner: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """The output of replay.cpp, compiled by that compiler in that folder, for these cases."""
    program, file = folder / "replay", folder / "cases"
    link = (f"-L{library.parent}", f"-l:{library.name}", f"-Wl,-rpath,{library.parent}")
    subprocess.run((compiler, "-std=c++17", "-O1", str(HERE / "replay.cpp"), *link, "-o", str(program)), check=True)
    with file.open("wb") as to:
        to.writelines(of)
    return subprocess.run((*runner, str(program), str(file)), capture_output=True, text=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aarch64", action="store_true", help="cross-compile, and run by qemu")
    cross = parser.parse_args().aarch64
    compiler, runner = ("c++", ()) if not cross else (CROSS, (RUNNER, "-L", "/usr/aarch64-linux-gnu"))
    absent = missing(compiler, *runner[:1])
    if absent:
        print(f"{absent} is not installed (Debian: apt-get install g++-aarch64-linux-gnu qemu-user)")
        return 2
    with tempfile.TemporaryDirectory() as folder:
        done = replay(built(Path(folder), compiler), Path(folder), cases(), compiler, runner)
    print((done.stdout + done.stderr)[-2000:].strip())
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
