"""Tables with a column per channel, cut to a column per pair."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rotary.transformers import patch
from rotary.transformers.halves import compared_for_free, cos_sin, equal_halves
from rotary.transformers.spec import RotationSpec, Widths
from support.attention import Attention

COS, SIN = torch.randn(2, 5, 4)
FULL = {
    "cat": lambda t: torch.cat((t, t), -1),
    "repeat": lambda t: t.repeat_interleave(2, -1),
    "first": lambda t: torch.cat((t, torch.full_like(t, torch.nan)), -1),  # the second half is not read
    "half": lambda t: t,
}


@pytest.mark.parametrize("widths", FULL)
@pytest.mark.parametrize("sin_first", [False, True])
def test_a_column_per_pair_whose_columns_are_adjacent(widths: Widths, sin_first: bool):
    spec = RotationSpec(widths=widths, sin_first=sin_first)
    tables = [FULL[widths](t) for t in ((SIN, COS) if sin_first else (COS, SIN))]
    assert cos_sin(tables, spec) == (tables[sin_first], tables[not sin_first])
    found = equal_halves(tables, spec)
    assert found is not None and torch.equal(found[0], COS) and torch.equal(found[1], SIN)
    assert all(t.stride(-1) == 1 for t in found), "the kernels read adjacent columns"


@pytest.mark.parametrize("widths", ["cat", "repeat"])
@pytest.mark.parametrize("changed", [0, 1])
def test_channels_of_a_pair_that_differ_have_no_column_per_pair(widths: Widths, changed: int):
    tables = [FULL[widths](t) for t in (COS, SIN)]
    tables[changed][2, 3] += 1.0
    assert equal_halves(tables, RotationSpec(widths=widths)) is None


@pytest.mark.parametrize("learned", ["every channel", "every pair"])
def test_each_column_of_a_learned_table_gets_its_own_gradient(learned: str):
    model, weights = Attention(), torch.randn(2, 1, 2, 5, 8)
    q, k = torch.randn(2, 1, 2, 5, 8)
    angle = torch.rand(1, 5, 4).repeat(1, 1, 2 if learned == "every channel" else 1)
    cos, sin = (t.requires_grad_() for t in (angle.cos(), angle.sin()))

    def gradients() -> tuple[Tensor, ...]:
        wide = (cos, sin) if learned == "every channel" else [torch.cat((t, t), -1) for t in (cos, sin)]
        ys = model(q, k, *wide)
        return torch.autograd.grad(sum((y * w).sum() for y, w in zip(ys, weights, strict=True)), (cos, sin))

    expected = gradients()
    with patch(model):
        torch.testing.assert_close(gradients(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("widths", FULL)
def test_a_comparison_on_a_device_is_not_free(widths: Widths):
    """It waits for the device; the GPU kernel reads both columns of a pair instead."""
    spec = RotationSpec(widths=widths)
    here, there = COS, COS.to("meta")
    assert compared_for_free([here, here], spec)
    for tables in ([there, there], [here, there]):
        assert compared_for_free(tables, spec) == (widths in ("first", "half"))
