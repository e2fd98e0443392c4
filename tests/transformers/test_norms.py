"""What a norm module computes, recognised by calling it: the forms of models, and what only looks like one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rotary.transformers.norms import NormSpec, computed, recognise


class Norm(nn.Module):
    """One of the forms, chosen by its name."""

    def __init__(self, form: str, dim: int = 24, eps: float = 1e-5) -> None:
        super().__init__()
        self.form, self.variance_epsilon = form, eps
        self.weight = (
            nn.Parameter(torch.zeros(dim) if form == "gemma" else torch.ones(dim)) if "bare" not in form else None
        )
        self.bias = nn.Parameter(torch.zeros(dim)) if form == "bias" else None

    def forward(self, x: Tensor) -> Any:
        h = x.float()
        if self.form == "layer":
            h = h - h.mean(-1, keepdim=True)
        power = h.abs().mean(-1, keepdim=True).square() if self.form == "absolute" else h.pow(2).mean(-1, keepdim=True)
        eps = 0.03 if self.form == "other eps" else self.variance_epsilon
        h = h / (power.sqrt() + eps) if self.form == "outside" else h * torch.rsqrt(power + eps)
        if self.form == "dropout":
            h = nn.functional.dropout(h, 0.5)
        if self.weight is None:
            return h if self.form == "bare float" else h.type_as(x)
        if self.form == "twice":
            return self.weight * h.to(x.dtype)
        if self.form == "gemma":
            return (h * (1.0 + self.weight.float())).type_as(x)
        if self.form == "half":
            return (h.to(x.dtype) * self.weight).to(torch.float16).to(x.dtype)
        y = (h * self.weight.float()).type_as(x)
        return y if self.bias is None else y + self.bias


@pytest.mark.parametrize(
    ("form", "spec"),
    [
        ("once", NormSpec(eps=1e-5, weight="weight")),
        ("twice", NormSpec(eps=1e-5, weight="weight", rounding="model")),
        ("gemma", NormSpec(eps=1e-5, weight="weight", weight_offset=1.0)),
        ("bare", NormSpec(eps=1e-5, weight=None)),
    ],
)
@pytest.mark.parametrize("dim", [6, 24, 128])
def test_every_form_with_its_rounding(form: str, spec: NormSpec, dim: int):
    norm = Norm(form, dim)
    before = torch.get_rng_state()
    assert recognise(norm) == spec
    assert torch.equal(torch.get_rng_state(), before)
    assert norm.weight is None or set(norm.weight.tolist()) <= {0.0, 1.0}, "the probe works on a copy"
    x = torch.randn(3, dim if "bare" not in form else 16)
    torch.testing.assert_close(computed(spec, x, norm.weight), norm(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("form", ["layer", "absolute", "outside", "other eps", "dropout", "bare float", "half", "bias"])
def test_what_is_no_such_norm_is_named(form: str):
    assert isinstance(recognise(Norm(form)), str)


def test_modules_of_torch():
    assert isinstance(recognise(nn.LayerNorm(16)), str)
    assert isinstance(recognise(nn.Linear(4, 4)), str)
    assert isinstance(recognise(nn.Sequential(Norm("once"))), str)
