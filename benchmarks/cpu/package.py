"""The package itself: how long `import rotary` takes beyond torch, how long the native library takes to build and rotary to install."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.cpu.measured import CACHE, Effort, Record

ROOT = Path(__file__).parents[2]
BEFORE = "9de2ed2cc3d6"
"""The commit that imports are compared with: the last one before the CPU path was made over."""

NOW, THEN, TORCH = "import rotary", f"import rotary, {BEFORE[:7]}", "import torch"
BUILD, INSTALL = "native library", "pip install ."

_IMPORT = """
import time
start = time.perf_counter()
import torch
between = time.perf_counter()
import rotary
print(between - start, time.perf_counter() - between)
"""


def package(effort: Effort, pages: str) -> list[Record]:
    """Medians of imports in turn, each in a process of its own, and one build and one installation from a copy of the sources."""
    records: list[Record] = []
    fields = {"part": "package", "pages": pages, "state": CACHE}
    with tempfile.TemporaryDirectory() as folder:
        times = _imports(Path(folder), 1 if effort.quick else 9)
        timings = {name: _quartiles(t) for name, t in times.items()}
        records.append({**fields, "case": "import", "timings": timings})
        if not effort.quick:
            installed = _installation(Path(folder))
            records.append({**fields, "case": "installation", "timings": {n: [t, t, t] for n, t in installed.items()}})
    for one in records:
        print(f"package: {one['case']}", {n: f"{t[0] * 1e3:.1f} ms" for n, t in one["timings"].items()}, flush=True)
    return records


def _quartiles(times: list[float]) -> list[float]:
    return [
        statistics.median(times),
        *(statistics.quantiles(times, n=4, method="inclusive")[::2] if len(times) > 1 else times * 2),
    ]


def _imports(folder: Path, count: int) -> dict[str, list[float]]:
    """Seconds of `import rotary` after torch, of the checkout and of the commit before, where git has it; and of torch itself.

    Both are copies with a native library and compiled files, whatever PYTHONDONTWRITEBYTECODE says: as pip installs a package.
    """
    sources = {NOW: folder / "now"}
    shutil.copytree(ROOT / "src", sources[NOW], ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    archive = subprocess.run(("git", "archive", BEFORE, "src"), cwd=ROOT, capture_output=True, check=False)
    if archive.returncode == 0:
        subprocess.run(("tar", "-x", "-C", str(folder)), input=archive.stdout, check=True)
        sources[THEN] = folder / "src"
        for library in (sources[NOW] / "rotary" / "_native").glob("*.so"):
            shutil.copy(library, sources[THEN] / "rotary" / "_native")
    for source in sources.values():
        subprocess.run((sys.executable, "-m", "compileall", "-q", str(source)), check=True)
    times: dict[str, list[float]] = {name: [] for name in (*sources, TORCH)}
    first = 0 if count == 1 else 1  # the first of several fills the file cache
    for turn in range(count + first):
        for name, source in sources.items():
            environment = os.environ | {"PYTHONPATH": str(source)}
            run = subprocess.run(
                (sys.executable, "-c", _IMPORT), cwd=folder, env=environment, capture_output=True, text=True, check=True
            )
            if turn >= first:
                before, own = map(float, run.stdout.split())
                times[name].append(own)
                if name == NOW:
                    times[TORCH].append(before)
    return times


def _installation(folder: Path) -> dict[str, float]:
    """Seconds of building the library alone, and of `pip install` of a copy of the sources, torch and setuptools being there."""
    copy = folder / "checkout"
    copy.mkdir()
    for name in ("src", "setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info"))
        else:
            shutil.copy(source, copy / name)
    build = (sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(folder / "built"))
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    install = (*pip, "--disable-pip-version-check", "--target", str(folder / "installed"), ".")
    seconds: dict[str, float] = {}
    for name, command in ((BUILD, build), (INSTALL, install)):
        start = time.perf_counter()
        subprocess.run(command, cwd=copy, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds[name] = time.perf_counter() - start
    libraries = [p for p in (folder / "installed" / "rotary" / "_native").iterdir() if p.suffix in (".so", ".dylib")]
    if not libraries:
        raise RuntimeError("the installation has no native library: its time would be that of another package")
    return seconds
