"""What bits cannot say of the eager kernel: how far from the exact rotation it is; and that its two spellings agree."""

from __future__ import annotations

import pytest
import torch

from _rotation.test_contract import DRAW, DTYPES, SHAPES, TABLES, special, within_bound, works
from rotary._rotation import eager
from rotary._rotation.autograd import How


@pytest.mark.parametrize("interleaved", [False, True], ids=["half", "interleaved"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_two_roundings_away_from_the_exact_rotation_and_one_to_the_dtype(dtype: torch.dtype, interleaved: bool):
    DRAW.manual_seed(0)
    for conjugate in (False, True):
        how: How = {"seq_dim": 2, "interleaved": interleaved, "conjugate": conjugate}
        for work in works(((2, 3, 40, 16),), 14, dtype, how):
            y, (x,) = work.outs[0].clone(), (work.xs[0].clone(),)
            eager.rotate((x,), (y,), work.tables, **how)
            assert within_bound(x, y, work.tables[0], how).all()
            off = y.clone()
            off[..., :14] *= 1 + 8 * torch.finfo(dtype).eps
            assert not within_bound(x, off, work.tables[0], how)[..., :14].all()  # the judge can say no


@pytest.mark.parametrize("shape", SHAPES)
def test_the_formula_has_the_bits_of_the_kernel(shape: str):
    DRAW.manual_seed(1)
    shapes, seq_dim = SHAPES[shape]
    for number, tables in enumerate(TABLES):
        if seq_dim == 0 and tables in ("per row", "expanded"):
            continue
        how: How = {"seq_dim": seq_dim, "interleaved": bool(number & 1), "conjugate": bool(number & 2)}
        for dtype in DTYPES:
            for work in works(shapes, shapes[0][-1] // 4 * 2, dtype, how, tables=tables, make=special):
                for x, table in zip(work.xs, work.tables, strict=True):
                    y, expected = eager.formula(x, *table, **how), torch.empty_like(x)
                    eager.rotate((x,), (expected,), (table,), **how)
                    torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)


def test_available():
    assert eager.unavailable() is None
