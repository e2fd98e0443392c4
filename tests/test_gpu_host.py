"""benchmarks/gpu_host.py runs where there is no GPU: Triton's own launcher takes our arguments, by the long way and by the short one."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu_host.py"


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
@pytest.mark.skipif(torch.cuda.is_available(), reason="has a driver that does something")
def test_launches_of_each_call():
    done = subprocess.run([sys.executable, SCRIPT, "2"], capture_output=True, text=True, check=True)
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert {name: int(launches) for name, launches, *_ in rows[2:] if "rotary" in name} == {
        "rotary, tables ready": 1,
        "rotary, tables ready, in place": 1,
        "rotary, tables": 1,
        "rotary, rotate(offset=7)": 2,
    }
