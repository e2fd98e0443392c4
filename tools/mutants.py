"""Do the tests fail when the library is changed in one small place (a mutant)? `make mutants` installs what it needs, cosmic-ray.

    python -m tools.mutants [--each 60] [FILE ...]        hours for all files; writes nothing

FILE is a path below src/rotary, by default each file of TESTS. Of each file a sample of mutants, drawn with a fixed seed, is run in a
copy of the checkout against the tests that TESTS names for it. Mutants that no test noticed are printed with their change. The exit
status is 0 where at least 95 % of the sample were killed.
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

from tools.mutants_alike import reason

ROOT = Path(__file__).parents[1]
TESTS = {  # file -> what is run against its mutants
    "_angles/turns.py": "tests/_angles/test_turns.py",
    "_angles/frequencies.py": "tests/_angles/test_frequencies.py tests/test_embedding.py tests/scaling/test_by_parts.py "
    "tests/scaling/test_scheme.py",
    "_angles/xpos.py": "tests/_angles/test_xpos.py tests/test_embedding.py",
    "_angles/cos_sin.py": "tests/_angles/test_xpos.py tests/test_embedding.py",
    "_angles/integers.py": "tests/_angles/test_integers.py tests/test_positions.py tests/test_embedding.py",
    "_inputs/calls.py": "tests/_inputs tests/test_functional.py tests/test_embedding.py tests/test_failures.py",
    "_inputs/shapes.py": "tests/test_functional.py tests/test_embedding.py tests/test_failures.py",
    "_inputs/where.py": "tests/_inputs/test_where.py tests/test_embedding.py tests/test_failures.py",
    "_checks.py": "tests/test_checks.py tests/test_embedding.py tests/_angles/test_frequencies.py",
    "_buffers.py": "tests/test_state.py tests/test_buffers.py tests/test_borders.py",
    "_constants.py": "tests/test_constants.py",
    "_torch.py": "tests/test_torch.py",
    "_rotation/eager.py": "tests/_rotation/test_eager.py tests/_rotation/test_contract.py",
    "_rotation/backends.py": "tests/_rotation/test_backends.py",
    "_rotation/autograd.py": "tests/_rotation/test_autograd.py",
    "_rotation/overlap.py": "tests/_rotation/test_overlap.py",
    "embedding.py": "tests/test_embedding.py tests/test_state.py tests/test_buffers.py tests/test_failures.py",
    "functional.py": "tests/test_functional.py tests/test_failures.py",
    "operators.py": "tests/test_operators.py",
    "_operators/rotation.py": "tests/test_operators.py",
    "positions/counted.py": "tests/test_positions.py tests/test_embedding.py",
    "positions/grids.py": "tests/test_axes.py",
    "positions/multimodal.py": "tests/test_axes.py",
    "positions/moves.py": "tests/positions",
    "positions/ranks.py": "tests/positions/test_ranks.py",
    "_subclasses/parts.py": "tests/test_distributed.py",
    "_subclasses/placed.py": "tests/test_distributed.py",
    "_embedding/dtensors.py": "tests/test_distributed.py",
    "_inputs/parts.py": "tests/test_distributed.py",
    "_rotation/shards.py": "tests/test_distributed.py",
    "fused.py": "tests/test_fused.py",
    "_operators/norm.py": "tests/_operators/test_norm.py tests/test_fused.py",
    "_operators/norm_gradient.py": "tests/_operators/test_norm.py tests/test_fused.py",
    "_operators/store.py": "tests/_operators/test_store.py tests/test_fused.py",
    "_inputs/fused.py": "tests/_inputs/test_fused.py tests/test_fused.py",
    "_fused/autograd.py": "tests/_fused/test_autograd.py tests/test_fused.py",
    "_fused/storing.py": "tests/_fused/test_storing.py tests/test_fused.py",
    "_fused/backends.py": "tests/_fused/test_backends.py tests/test_fused.py",
    "_fused/eager.py": "tests/_fused/test_native.py tests/_fused/test_autograd.py tests/test_fused.py "
    "tests/_fused/test_contract.py",
    "_fused/native.py": "tests/_fused/test_native.py tests/_fused/test_contract.py",
    "_fused/sums.py": "tests/_fused/test_sums.py",
    "_fused/work.py": "tests/_fused/test_work.py",
    "axes.py": "tests/test_axes.py",
    "_embedding/builders.py": "tests/test_axes.py tests/test_embedding.py",
    "_embedding/rerotate.py": "tests/_embedding/test_rerotate.py",
    "_angles/rerotation.py": "tests/_embedding/test_rerotate.py",
    "_inputs/moved.py": "tests/_embedding/test_rerotate.py",
    "_native/library.py": "tests/_native/test_library.py tests/_rotation/test_native.py",
    "pairing.py": "tests/test_pairing.py",
    "testing.py": "tests/test_testing.py",
    "scaling/by_parts.py": "tests/scaling",
    "scaling/interpolation.py": "tests/scaling",
    "scaling/longrope.py": "tests/scaling",
    "scaling/per_plane.py": "tests/scaling",
    "scaling/temperature.py": "tests/scaling",
    "scaling/scheme.py": "tests/scaling",
    "config/schemes.py": "tests/config",
    "config/read.py": "tests/config",
    "config/normalize.py": "tests/config",
    "config/load.py": "tests/config",
    "config/extras.py": "tests/config",
    "checkpoints/safetensors.py": "tests/checkpoints",
    "checkpoints/shards.py": "tests/checkpoints/test_shards.py",
    "checkpoints/signature.py": "tests/checkpoints/test_signature.py",
    "checkpoints/tensor_parallel.py": "tests/checkpoints/test_tensor_parallel.py tests/checkpoints/test_torch.py",
    "checkpoints/layout.py": "tests/checkpoints",
    "checkpoints/files.py": "tests/checkpoints/test_files.py tests/checkpoints/test_convert.py",
    "checkpoints/target.py": "tests/checkpoints/test_target.py tests/checkpoints/test_convert.py",
    "checkpoints/convert.py": "tests/checkpoints",
    "checkpoints/verify.py": "tests/checkpoints",
    "checkpoints/detect.py": "tests/checkpoints/test_detect.py",
    "transformers/spec.py": "tests/transformers/test_probe.py tests/transformers/test_wrapper.py",
    "transformers/probe.py": "tests/transformers/test_probe.py tests/transformers/test_wrapper.py",
    "transformers/wrapper.py": "tests/transformers/test_wrapper.py tests/transformers/test_patch.py",
    "transformers/rotations.py": "tests/transformers/test_wrapper.py tests/transformers/test_patch.py",
    "transformers/rebind.py": "tests/transformers/test_patch.py",
    "transformers/patched_class.py": "tests/transformers/test_patched_class.py",
    "transformers/coordinates.py": "tests/transformers/test_coordinates.py",
    "transformers/surroundings.py": "tests/transformers/test_probe.py",
    "transformers/patch.py": "tests/transformers/test_patch.py",
    "transformers/patcher.py": "tests/transformers/test_patch.py",
    "transformers/flow.py": "tests/transformers/test_flow.py",
    "transformers/expressions.py": "tests/transformers/test_flow.py",
    "transformers/views.py": "tests/transformers/test_deferred.py",
    "transformers/norms.py": "tests/transformers/test_norms.py",
    "transformers/deferred.py": "tests/transformers/test_deferred.py tests/transformers/test_fused_norms.py",
    "transformers/fused_norms.py": "tests/transformers/test_fused_norms.py",
    "transformers/halves.py": "tests/transformers/test_halves.py tests/transformers/test_wrapper.py",
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
        for name in ("src", "tests", "benchmarks", "tools", "docs", "examples"):
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

    cosmic_ray("baseline", str(config))  # tests that fail without a change would count every mutant as killed
    cosmic_ray("init", str(config), str(session))
    keep(session, each, annotated((copy / "src" / "rotary" / file).read_text()))
    cosmic_ray("exec", str(config), str(session))
    with sqlite3.connect(session) as database:
        outcomes = database.execute("select test_outcome, diff from work_results").fetchall()
    survivors = [(file, diff or "") for outcome, diff in outcomes if "SURVIVED" in str(outcome).upper()]
    told = [survivor for survivor in survivors if reason(*survivor) is None]
    return len(outcomes) - len(survivors) + len(told), told


Range = tuple[tuple[int, int], tuple[int, int]]


def annotated(source: str) -> list[Range]:
    """((line, column), (line, column)) of every type annotation, which no program ever evaluates."""
    ranges: list[Range] = []
    for node in ast.walk(ast.parse(source)):
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if isinstance(part, ast.expr):
                end = (part.end_lineno or part.lineno, part.end_col_offset or part.col_offset)
                ranges.append(((part.lineno, part.col_offset), end))
    return ranges


def keep(session: Path, each: int, never: list[Range]) -> None:
    """Leave a sample of the mutants, the same each time, and none at a place that is never run."""
    with sqlite3.connect(session) as database:
        jobs = sorted(row[0] for row in database.execute("select job_id from mutation_specs"))
        order = {job: i for i, job in enumerate(jobs)}
        specs = database.execute(
            "select job_id, module_path, operator_name, occurrence, start_pos_row, start_pos_col from mutation_specs"
        )
        lines = sorted(specs.fetchall(), key=lambda row: (str(row[1:]), order[row[0]]))
        lines = [row for row in lines if not any(start <= (row[4], row[5]) <= end for start, end in never)]
        kept = {row[0] for row in random.Random(20).sample(lines, min(each, len(lines)))}
        gone = [(job,) for job in jobs if job not in kept]
        database.executemany("delete from mutation_specs where job_id = ?", gone)
        database.executemany("delete from work_items where job_id = ?", gone)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=60, help="mutants of each file")
    parser.add_argument("files", nargs="*", default=list(TESTS), metavar="FILE")
    options = parser.parse_args()
    named = [f"src/rotary/{file}" for file in TESTS] + " ".join(TESTS.values()).split()
    if gone := [path for path in named if not (ROOT / path).exists()]:
        parser.error(
            f"TESTS names files that are not there: {', '.join(gone)}"
        )  # pytest would fail, and count as a kill
    if unknown := [file for file in options.files if file not in TESTS]:
        parser.error(f"not in TESTS: {', '.join(unknown)}")
    run, survivors = 0, list[Survivor]()
    with tempfile.TemporaryDirectory() as folder:
        for file in options.files:
            count, left = mutate(file, options.each, Path(folder))
            run, survivors = run + count, survivors + left
            print(f"{file:28} {count - len(left)} of {count} killed", flush=True)
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
