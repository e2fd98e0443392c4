"""The main example: `examples/quickstart.py` runs, prints its results, draws, and fails if one of its checks fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_it_runs_on_the_text_and_ends_with_a_verdict(tmp_path: Path) -> None:
    command = (sys.executable, EXAMPLES / "quickstart.py", "--out", tmp_path, "--rounds", "1")
    alone = os.environ | {"OMP_NUM_THREADS": "1"}  # a decoding step is small: threads would only wait for each other
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=alone)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.rstrip().endswith("quickstart: all 3 checks passed")
    assert "rotated keys, prefill = decode: equal in every bit" in run.stdout
    picture = (tmp_path / "quickstart.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 50_000


def test_a_failed_check_is_a_failed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import quickstart

    text = tmp_path / "text.txt"
    text.write_text("A short text.\n\nIt is enough here.\n")
    monkeypatch.setattr(quickstart, "TEXT", text)
    monkeypatch.setattr(quickstart, "errors", lambda rope, position: (3.2e-8, 1e-2))
    monkeypatch.setattr(quickstart, "speed", lambda dtype, rounds: (1.0, 1.0))
    monkeypatch.setattr(quickstart, "draw", lambda text, path: "none")
    assert quickstart.main(["--out", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "FAILED: error at 1,000,000 is at most 3.1e-8" in printed
    assert printed.rstrip().endswith("quickstart: FAILED")
