"""benchmarks/gpu/host.py runs without a GPU: Triton's own launcher takes our arguments, through its public call and directly."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
import torch

from support import warm

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
@pytest.mark.skipif(torch.cuda.is_available(), reason="has a driver that does something")
def test_launches_of_each_call():
    done = warm.run("-m", "benchmarks.gpu.host", "2", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert {name: int(launches) for name, launches, *_ in rows[2:] if "rotary" in name} == {
        "rotary, tables ready": 1,
        "rotary, tables ready, in place": 1,
        "rotary, tables": 1,
        "rotary, rotate(offset=7)": 2,
    }
