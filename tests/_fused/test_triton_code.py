"""What the fused GPU kernels are compiled to: a row is read once, nothing spills, nothing goes through shared memory."""

from __future__ import annotations

import os

import pytest
import torch

pytest.importorskip("triton", minversion="3.3")  # whose compiler takes what these tests hand it
from benchmarks.gpu import code

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing")


@pytest.mark.parametrize(
    ("turned", "interleaved", "backward", "accesses"),
    [
        # Two heads of two halves, both halves of the weight and of the table's two rows: 128 bits each are a half row of eight threads.
        (128, False, False, {"LDG.128": 2 * 2 + 2 + 4, "STG.128": 2 * 2}),
        (128, True, False, {"LDG.128": 2 * 2 + 2 + 4, "STG.128": 2 * 2}),
        # Four rows of x, of g and of the tables, and the weight; four rows of the gradient, and two accesses to each half of the sums.
        (128, False, True, {"LDG.128": 4 * (2 + 2 + 4) + 2, "STG.128": 4 * 2 + 4}),
        (64, False, True, {"LDG.64": 4 * (4 + 4) + 4, "LDG.128": 4 * 2, "STG.64": 4 * 4, "STG.128": 4}),
    ],
)
def test_triton_each_row_is_read_once(turned: int, interleaved: bool, backward: bool, accesses: dict[str, int]):
    made = code.compiled_fused(torch.bfloat16, (4096, 128, turned), interleaved=interleaved, chip=90, backward=backward)
    result = code.read(made)
    assert dict(result.accesses) == accesses
    assert result.stack == result.shared == result.barriers == 0
