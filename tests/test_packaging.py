"""What is installed: wheel and editable checkout, without torch at build time, with and without an upstream `zeta`."""

from __future__ import annotations

import email.parser
import os
import shlex
import shutil
import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
import setuptools

from rotary._native import library

ROOT = Path(__file__).parents[1]
NO_COMPILER = {"CXX": "/nonexistent/c++"}


def pip(*arguments: str | Path, python: Path | str = sys.executable, **environment: str) -> str:
    """Run pip for an interpreter, offline, with the build tools that are here."""
    command = (sys.executable, "-m", "pip", "--python", python, *arguments, "--disable-pip-version-check")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environment
    run = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def build(source: Path, to: Path, **environment: str) -> Path:
    pip("wheel", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", to, source, **environment)
    (wheel,) = to.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a checkout has, without anything built."""
    place = tmp_path_factory.mktemp("source") / "rotary"
    built = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.so", "build.txt")
    shutil.copytree(ROOT / "src", place / "src", ignore=built)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place)
    return place


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built where torch cannot be imported, as in an isolated build. The compiler gives the library that is built here already, in place
    of each file: what compilers do is judged in tests/_native/test_build.py, and make has built that library from the same sources."""
    without = tmp_path_factory.mktemp("without")
    (without / "torch.py").write_text("raise ImportError('there is no torch when a wheel is built')")
    chosen = {"CXXFLAGS": "-O0"}
    if library.LIBRARY.exists():
        compiler = without / "c++"
        compiler.write_text(f'#!/bin/sh\nfor last; do :; done\nexec cp {shlex.quote(str(library.LIBRARY))} "$last"\n')
        compiler.chmod(0o755)
        chosen = {"CXX": shlex.quote(str(compiler))}
    return build(source, tmp_path_factory.mktemp("wheel"), PYTHONPATH=str(without), **chosen)


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in for the package named `zeta`: a regular package with a subpackage zeta.nn."""
    place = tmp_path_factory.mktemp("upstream")
    (place / "zeta" / "nn").mkdir(parents=True)
    (place / "zeta" / "__init__.py").write_text("UPSTREAM = True\n")
    (place / "zeta" / "nn" / "__init__.py").write_text("class RotaryEmbedding: ...\n")
    (place / "setup.py").write_text(
        "from setuptools import setup\nsetup(name='zeta-stand-in', version='1', packages=['zeta', 'zeta.nn'])"
    )
    return build(place, tmp_path_factory.mktemp("upstream-wheel"))


class Environment:
    """A fresh virtual environment that imports torch from this one, after its own packages."""

    def __init__(self, place: Path) -> None:
        venv.create(place, with_pip=False, symlinks=True)
        self.python = place / "bin" / "python"
        self.place = place
        (self.packages,) = place.glob("lib/python*/site-packages")

    def install(self, *what: str | Path, **environment: str) -> None:
        """Install; setuptools alone is lent meanwhile, so that pip sees no other package of the lender."""
        tools = self.place / "tools"
        tools.mkdir(exist_ok=True)
        lender = Path(setuptools.__file__).parents[1]
        for path in (*lender.glob("setuptools*"), lender / "_distutils_hack"):
            if not (tools / path.name).exists():
                (tools / path.name).symlink_to(path)
        lent = {"PYTHONPATH": str(tools), **environment}
        pip("install", "--no-build-isolation", "--no-deps", "--no-index", *what, python=self.python, **lent)

    def run(self, *command: str | Path) -> str:
        """The output of a program of this environment, from a folder with nothing in it."""
        (self.packages / "borrowed.pth").write_text("\n".join(site.getsitepackages()))
        (self.place / "empty").mkdir(exist_ok=True)
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        run = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, cwd=self.place / "empty", env=environment
        )
        assert run.returncode == 0, run.stderr
        return run.stdout

    def zeta(self) -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in self.packages.glob("zeta/**/*.py")}


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path / "venv")


def test_a_wheel_holds_the_package_and_the_documented_path_and_nothing_else(wheel: Path, source: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (about,) = (n for n in names if n.endswith(".dist-info/METADATA"))
        metadata = email.parser.Parser().parsestr(archive.read(about).decode())
        commands = archive.read(about.replace("METADATA", "entry_points.txt")).decode()
    assert {
        "rotary/py.typed",
        "rotary/embedding.py",
        "zeta/nn.py",
        about.replace("METADATA", "licenses/LICENSE"),
    } <= names
    assert "zeta/__init__.py" not in names
    assert {n.split("/")[0] for n in names} == {"rotary", "zeta", about.split("/")[0]}
    assert {n for n in names if n.endswith(".py")} == {
        p.relative_to(source / "src").as_posix() for p in (source / "src").rglob("*.py")
    }
    assert [r for r in metadata.get_all("Requires-Dist", []) if "extra ==" not in r] == ["torch>=2.6"]
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "rotary = rotary.cli:main" in commands
    assert wheel.name.split("-")[2:4] == ["py3", "none"]


SAME_CLASS = """
import rotary, zeta.nn
from zeta.nn import RotaryEmbedding
assert RotaryEmbedding is rotary.RotaryEmbedding
freqs, scale = RotaryEmbedding(dim=64, use_xpos=True)(10)
print(rotary.__file__, freqs.shape == scale.shape == (10, 64))
"""


def test_a_wheel_serves_the_documented_path_and_the_command(environment: Environment, wheel: Path):
    environment.install(wheel)
    where, works = environment.run(environment.python, "-c", SAME_CLASS).split()
    assert Path(where).is_relative_to(environment.packages)
    assert works == "True"
    printed = environment.run(environment.place / "bin" / "rotary", "info")
    (state,) = (line for line in printed.splitlines() if line.startswith("native "))
    assert ("available" in state) == (library.unavailable() is None)


def test_an_editable_checkout_serves_the_documented_path_without_a_compiler(environment: Environment, source: Path):
    environment.install("--editable", source, **NO_COMPILER)
    where, works = environment.run(environment.python, "-c", SAME_CLASS).split()
    assert Path(where).is_relative_to(source)
    assert works == "True"
    printed = environment.run(environment.python, "-m", "rotary", "info")
    (state,) = (line for line in printed.splitlines() if line.startswith("native "))
    assert "/nonexistent/c++" in state and "available" not in state


@pytest.mark.parametrize("ours_first", [True, False])
@pytest.mark.parametrize("editable", [False, True])
def test_upstream_wins_untouched(
    environment: Environment, wheel: Path, source: Path, upstream: Path, ours_first: bool, editable: bool
):
    def install_ours() -> None:
        environment.install(*(["--editable", source] if editable else [wheel]), **NO_COMPILER)

    if ours_first:
        install_ours()
    environment.install(upstream)
    if not ours_first:
        install_ours()
    with zipfile.ZipFile(upstream) as archive:
        theirs = {n: archive.read(n) for n in archive.namelist() if n.endswith(".py")}
    assert {n: environment.packages.joinpath(n).read_bytes() for n in theirs} == theirs
    script = "import zeta, zeta.nn; print(zeta.UPSTREAM, zeta.nn.__file__)"
    wins, where = environment.run(environment.python, "-c", script).split()
    assert wins == "True"
    assert Path(where) == environment.packages / "zeta" / "nn" / "__init__.py"
    pip("uninstall", "--yes", "rotary", python=environment.python)
    assert {n: environment.packages.joinpath(n).read_bytes() for n in theirs} == theirs
    assert set(environment.zeta()) == {str(environment.packages / n) for n in theirs}
    environment.run(environment.python, "-c", "import zeta.nn; zeta.nn.RotaryEmbedding()")
