"""What the GPU kernel is compiled to for chips that are not here: nothing spills, and memory is moved 128 bits at a time."""

from __future__ import annotations

import os
import re

import pytest
import torch

pytest.importorskip("triton", minversion="3.3")  # whose compiler takes what these tests hand it
from benchmarks.gpu import code

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing")


@pytest.mark.parametrize("chip", [80, 90, 100])
@pytest.mark.parametrize("interleaved", [False, True], ids=["half", "interleaved"])
def test_no_spills_and_wide_accesses(chip: int, interleaved: bool):
    compiled = code.compiled(torch.bfloat16, (4096, 128, 128), interleaved=interleaved, chip=chip)
    result = code.read(compiled)
    assert result.stack == 0 and not any(name.startswith(("LDL", "STL")) for name in result.accesses)
    assert result.fused == 0
    moved = {name: n for name, n in result.accesses.items() if name.startswith(("LDG", "STG"))}
    assert moved and set(moved) == {"LDG.128", "STG.128"}


@pytest.mark.parametrize("interleaved", [False, True], ids=["half", "interleaved"])
def test_every_load_comes_before_every_store(interleaved: bool):
    sass = code.compiled(torch.bfloat16, (4096, 128, 128), interleaved=interleaved, chip=90).asm["sass"]
    accesses = re.findall(r"\b(LDG|STG)\b", sass)
    assert accesses == sorted(accesses) and len(set(accesses)) == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", ["80, 32 of them turned", "256, 64 of them turned", "512, 64 of them turned", "512"])
def test_long_tails_and_heads_neither_spill_nor_narrow_the_accesses(shape: str, dtype: torch.dtype):
    for interleaved in (False, True):
        result = code.read(code.compiled(dtype, code.SHAPES[shape], interleaved=interleaved, chip=90))
        moved = {name for name in result.accesses if name.startswith(("LDG", "STG"))}
        assert result.stack == 0 and result.fused == 0 and moved == {"LDG.128", "STG.128"}


def test_in_place_is_the_same_code():
    shape = (4096, 128, 128)
    fresh, inside = (
        code.read(code.compiled(torch.bfloat16, shape, interleaved=False, chip=90, in_place=in_place))
        for in_place in (False, True)
    )
    assert fresh == inside
