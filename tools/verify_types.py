"""Checks that every public name of the installed package has a type, by pyright.

    python -m tools.verify_types        15 seconds; writes nothing

Installs the package, without its native library, into a temporary environment and asks `pyright --verifytypes` there. A name is public
where no part of its dotted path begins with an underscore; what torch and other packages leave unknown does not count. Prints each public
name without a whole type with its file and line, and a count. Exit status 1 where there is one.
"""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

from tools.wheel import NO_COMPILER, ROOT, Failed, copy_sources, run


def installed(place: Path) -> Path:
    """The folder with the programs of an environment in which rotary is installed, before the packages of this one."""
    copy_sources(place / "source")
    venv.create(place / "venv", with_pip=False, symlinks=True)
    (packages,) = place.glob("venv/lib/python*/site-packages")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps", "--no-index")
    run(*pip, "--disable-pip-version-check", "--target", packages, place / "source", CXX=NO_COMPILER["CXX"])
    (packages / "behind.pth").write_text("\n".join(site.getsitepackages()))
    return place / "venv" / "bin"


def report(place: Path) -> dict[str, Any]:
    """pyright's report on the package installed there; pyright asks the first `python` of PATH where packages are."""
    programs = installed(place)
    path = os.pathsep.join([str(programs), os.environ.get("PATH", "")])
    command = (sys.executable, "-m", "pyright", "--verifytypes", "rotary", "--ignoreexternal", "--outputjson")
    done = subprocess.run(command, capture_output=True, text=True, cwd=place, env=os.environ | {"PATH": path})
    try:
        report = json.loads(done.stdout)
    except json.JSONDecodeError:
        raise Failed(f"pyright says no JSON: {done.stdout.strip()} {done.stderr.strip()}") from None
    if not report["typeCompleteness"]["symbols"]:
        raise Failed(f"pyright finds no names: {report['generalDiagnostics']}")
    return report["typeCompleteness"]


def public(symbol: dict[str, Any]) -> bool:
    return symbol["isExported"] and not any(part.startswith("_") for part in symbol["name"].split("."))


def complaints(symbol: dict[str, Any], packages: Path) -> list[str]:
    """Lines about a public name without a whole type; none of a class that lacks it only because an attribute of it does."""
    lines: list[str] = []
    for diagnostic in symbol["diagnostics"]:
        path = ROOT / "src" / Path(diagnostic["file"]).relative_to(packages)
        line = diagnostic["range"]["start"]["line"] + 1
        message = " ".join(diagnostic["message"].split())
        lines.append(f"{path.relative_to(ROOT)}:{line}: {symbol['name']}: {message}")
    return lines


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        try:
            listing = report(Path(folder))
        except Failed as error:
            print(f"verify_types: {error}")
            return 1
    packages = Path(listing["packageRootDirectory"]).parent
    names = [symbol for symbol in listing["symbols"] if public(symbol)]
    partial = [symbol for symbol in names if not symbol["isTypeKnown"]]
    for symbol in partial:
        print(*complaints(symbol, packages) or [f"{symbol['name']}: a part of it has no whole type"], sep="\n")
    whole = len(names) - len(partial)
    print(f"verify_types: {whole} of {len(names)} public names have whole types, {100 * whole / len(names):.1f} %")
    return 1 if partial else 0


if __name__ == "__main__":
    sys.exit(main())
