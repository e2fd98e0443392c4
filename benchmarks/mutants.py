"""Mutation testing: break the library in one small place at a time; some test must fail. Uses cosmic-ray.

    python benchmarks/mutants.py [--each 60] [FILE ...]        exit status 0 where at least 95 % of the sample were killed

A sample per file, drawn with a fixed seed, is run against the tests of that file alone, in a copy of the checkout: the tests that a
reader would look for. Survivors are printed with their change.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

from mutants_alike import reason

ROOT = Path(__file__).parents[1]
TESTS = {  # file -> what is run against its mutants
    "angles.py": "tests/test_angles.py",
    "spectrum.py": "tests/test_spectrum.py tests/test_embedding.py tests/scaling/test_parts.py tests/scaling/test_scheme.py",
    "xpos.py": "tests/test_xpos.py tests/test_embedding.py",
    "operators.py": "tests/test_operators.py",
    "functional.py": "tests/test_functional.py tests/test_failures.py",
    "positions.py": "tests/test_positions.py tests/test_embedding.py",
    "arguments.py": "tests/test_arguments.py tests/test_embedding.py tests/test_spectrum.py",
    "tables.py": "tests/test_embedding.py tests/test_xpos.py",
    "inplace.py": "tests/test_inplace.py",
    "pairing.py": "tests/test_pairing.py",
    "kernels/eager.py": "tests/kernels/test_eager.py tests/kernels/test_contract.py",
    "scaling/parts.py": "tests/scaling",
    "scaling/stretch.py": "tests/scaling",
    "scaling/longrope.py": "tests/scaling",
    "scaling/planes.py": "tests/scaling",
    "scaling/temperature.py": "tests/scaling",
    "scaling/scheme.py": "tests/scaling",
    "choice.py": "tests/test_choice.py",
    "dispatch.py": "tests/test_dispatch.py",
    "legacy.py": "tests/test_legacy.py",
    "constants.py": "tests/test_constants.py",
    "mirrors.py": "tests/test_state.py tests/test_legacy.py",
    "embedding.py": "tests/test_embedding.py tests/test_state.py tests/test_legacy.py tests/test_failures.py",
    "testing.py": "tests/test_testing.py",
    "config/build.py": "tests/config",
    "config/read.py": "tests/config",
    "config/parameters.py": "tests/config",
    "config/source.py": "tests/config",
    "config/beside.py": "tests/config",
    "checkpoints/files.py": "tests/checkpoints",
    "checkpoints/layout.py": "tests/checkpoints",
    "checkpoints/convert.py": "tests/checkpoints",
    "checkpoints/verify.py": "tests/checkpoints",
    "checkpoints/detect.py": "tests/checkpoints/test_detect.py",
    "transformers/body.py": "tests/transformers/test_probe.py tests/transformers/test_replace.py",
    "transformers/probe.py": "tests/transformers/test_probe.py tests/transformers/test_replace.py",
    "transformers/replace.py": "tests/transformers/test_replace.py tests/transformers/test_patch.py",
    "transformers/rebind.py": "tests/transformers/test_patch.py",
    "transformers/patch.py": "tests/transformers/test_patch.py",
}
CONFIG = """[cosmic-ray]
module-path = "src/rotary/{file}"
timeout = 120.0
excluded-modules = []
test-command = "{python} -m pytest -x -q {tests}"
[cosmic-ray.distributor]
name = "local"
"""
Survivor = tuple[str, str]


def mutate(file: str, each: int, folder: Path) -> tuple[int, list[Survivor]]:
    """(mutants run, survivors) of one file, in a copy of the checkout under folder; those known to change no answer left out."""
    copy = folder / "checkout"
    if not copy.exists():
        copy.mkdir()
        for name in ("src", "tests", "benchmarks", "docs", "examples"):
            shutil.copytree(ROOT / name, copy / name)
        for name in ("pyproject.toml", "README.md"):
            shutil.copy(ROOT / name, copy / name)
    stem = file.replace("/", "-")
    config, session = folder / f"{stem}.toml", folder / f"{stem}.sqlite"
    config.write_text(CONFIG.format(file=file, python=sys.executable, tests=TESTS[file]))
    environment = os.environ | {"PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1"}

    def cosmic_ray(*arguments: str) -> None:
        command = (sys.executable, "-m", "cosmic_ray.cli", *arguments)
        subprocess.run(command, cwd=copy, env=environment, check=True, stdout=subprocess.DEVNULL)

    cosmic_ray("init", str(config), str(session))
    keep(session, each, annotations((copy / "src" / "rotary" / file).read_text()))
    cosmic_ray("exec", str(config), str(session))
    with sqlite3.connect(session) as found:
        outcomes = found.execute("select test_outcome, diff from work_results").fetchall()
    survivors = [(file, diff or "") for outcome, diff in outcomes if "SURVIVED" in str(outcome).upper()]
    told = [survivor for survivor in survivors if reason(*survivor) is None]
    return len(outcomes) - len(survivors) + len(told), told


Range = tuple[tuple[int, int], tuple[int, int]]


def annotations(source: str) -> list[Range]:
    """((line, column), (line, column)) of every type annotation, which no program ever evaluates."""
    found: list[Range] = []
    for node in ast.walk(ast.parse(source)):
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if isinstance(part, ast.expr):
                end = (part.end_lineno or part.lineno, part.end_col_offset or part.col_offset)
                found.append(((part.lineno, part.col_offset), end))
    return found


def keep(session: Path, each: int, never: list[Range]) -> None:
    """Leave a sample of the mutants, the same each time, and none at a place that is never run."""
    with sqlite3.connect(session) as found:
        jobs = sorted(row[0] for row in found.execute("select job_id from mutation_specs"))
        order = {job: i for i, job in enumerate(jobs)}
        specs = found.execute(
            "select job_id, module_path, operator_name, occurrence, start_pos_row, start_pos_col from mutation_specs"
        )
        lines = sorted(specs.fetchall(), key=lambda row: (str(row[1:]), order[row[0]]))
        lines = [row for row in lines if not any(start <= (row[4], row[5]) <= end for start, end in never)]
        kept = {row[0] for row in random.Random(20).sample(lines, min(each, len(lines)))}
        gone = [(job,) for job in jobs if job not in kept]
        found.executemany("delete from mutation_specs where job_id = ?", gone)
        found.executemany("delete from work_items where job_id = ?", gone)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=60, help="mutants of each file")
    parser.add_argument("files", nargs="*", default=list(TESTS), metavar="FILE")
    options = parser.parse_args()
    run, survivors = 0, list[Survivor]()
    with tempfile.TemporaryDirectory() as folder:
        for file in options.files:
            count, left = mutate(file, options.each, Path(folder))
            run, survivors = run + count, survivors + left
            print(f"{file:24} {count - len(left)} of {count} killed", flush=True)
            for _, diff in left:
                print(
                    "\n".join(
                        f"    {line}"
                        for line in diff.splitlines()
                        if re.match(r"[-+@]", line) and line[:3] not in ("---", "+++")
                    )
                )
    killed = run - len(survivors)
    print(f"{killed} of {run} killed, {killed / max(run, 1):.1%}")
    return int(not run or killed < 0.95 * run)


if __name__ == "__main__":
    sys.exit(main())
