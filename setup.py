"""Builds the native CPU library, by src/rotary/_native/build.py, as part of a setuptools build.

Everything else about the package is in pyproject.toml. An isolated build needs nothing but setuptools, so build.py is loaded from its
file: importing rotary would need torch.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

FOLDER = Path("src/rotary/_native")
NAME = "rotary._native.librotary"

spec = importlib.util.spec_from_file_location("rotary_native_build", FOLDER / "build.py")
assert spec is not None and spec.loader is not None
native = importlib.util.module_from_spec(spec)
spec.loader.exec_module(native)


class BuildLibrary(build_ext):
    """A shared library under a name of its own, not a Python extension module; never fails an install."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"

    def built(self) -> list[Path]:
        """Where the library, or the report that there is none, lies among the files of the build."""
        library = Path(self.build_lib) / self.get_ext_filename(NAME)
        return [library, library.with_name(native.REPORT)]

    def build_extension(self, ext: Extension) -> None:
        library, report = self.built()
        library.parent.mkdir(parents=True, exist_ok=True)
        library.unlink(missing_ok=True)
        report.unlink(missing_ok=True)
        reason = native.build(library)
        if reason is not None:
            report.write_text(reason + "\n")
            lost = "some of its" if library.exists() else "its"
            self.warn(f"rotary works at less than its full speed, without {lost} native CPU kernels: {reason}")

    def copy_extensions_to_source(self) -> None:
        """For `pip install -e`: what was built to the place beside its source. Never written over: a process may have it mapped."""
        for built in self.built():
            place = FOLDER.joinpath(built.name)
            place.unlink(missing_ok=True)
            if built.exists():
                shutil.copy2(built, place)

    def get_outputs(self) -> list[str]:
        return [str(path) for path in self.built() if path.exists()]

    def get_output_mapping(self) -> dict[str, str]:
        return {path: str(FOLDER.joinpath(Path(path).name)) for path in self.get_outputs()} if self.inplace else {}


class Wheel(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        _, _, system = super().get_tag()
        return "py3", "none", system


setup(
    ext_modules=[
        Extension(NAME, sources=sorted(map(str, FOLDER.glob("*.cpp"))), depends=sorted(map(str, FOLDER.glob("*.h"))))
    ],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": Wheel},
)
