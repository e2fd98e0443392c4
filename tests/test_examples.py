"""The examples other than the quickstart run and exit with status 0."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from support import warm

pytest.importorskip("transformers")
EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("patch.py", ["tokens agree", "removed: as before", "exact angles"]),
        ("convert.py", ["interleaved  is interleaved", "back         is half", "there and back: the same bits"]),
        ("multimodal.py", ["exact angles of coordinates", "multimodal: all 5 checks passed"]),
        ("train.py --steps 20", ["train: every loss agrees within 1e-05"]),
        ("decode.py --quick", ["tokens/s after 16", "decode: tokens agree"]),
        ("streaming.py --quick", ["recomputed", "streaming: moved sinks are raw keys rotated afresh"]),
    ],
)
def test_it_runs(script: str, words: list[str]):
    name, *options = script.split()
    run = warm.run(EXAMPLES / name, *options, after=warm.TRANSFORMERS)
    assert run.returncode == 0, run.stdout + run.stderr
    assert [word for word in words if word not in run.stdout] == []


def test_vision_runs_and_draws(tmp_path: Path):
    for needed in ("sklearn", "rich", "matplotlib"):
        pytest.importorskip(needed)
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    run = warm.run(EXAMPLES / "vision.py", "--quick", "--out", tmp_path, env=alone)
    assert run.returncode == 0, run.stdout + run.stderr
    words = ("learned absolute", "axial, placed", "RoPE-Mixed", "too short to learn")
    assert [word for word in words if word not in run.stdout] == []
    picture = (tmp_path / "vision.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 50_000


def test_make_examples_runs_every_example_and_the_page_says_what_each_needs():
    """The quickstart is `make run`; a script without an exit status of its own is part of another."""
    scripts = {
        path.name
        for path in EXAMPLES.glob("*.py")
        if "sys.exit(" in path.read_text(encoding="utf-8") or "convert" in path.name
    }
    makefile = (EXAMPLES.parent / "Makefile").read_text(encoding="utf-8")
    target = makefile.partition("\nexamples: ")[2].partition("\n\n")[0]
    assert set(re.findall(r"\w+\.py", target)) == scripts - {"quickstart.py"}
    # a script that says how it wants to be run fails under plain python
    by_torchrun = re.findall(r"torchrun [^\n]*?(\w+\.py)", target)
    assert by_torchrun == [name for name in sorted(scripts) if "run me by torchrun" in (EXAMPLES / name).read_text()]
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\]\((\w+\.py)\)", page)) == scripts
    assert "$(call EXTRA,examples)" in makefile
