"""The examples beside the quickstart run, and end well."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")
EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("patch.py", ["tokens agree", "removed: as before", "exact angles"]),
        ("convert.py", ["interleaved  is interleaved", "back         is half", "there and back: the same bits"]),
        ("train.py", ["train: every loss agrees within 1e-05"]),
    ],
)
def test_it_runs(script: str, words: list[str]):
    run = subprocess.run((sys.executable, EXAMPLES / script), capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert [word for word in words if word not in run.stdout] == []
