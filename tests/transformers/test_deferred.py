"""A norm that waits: views keep it waiting, anything else computes it once, by the model's own module, with its gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rotary.transformers.deferred import Deferred, Origin, norm_and_rotate
from rotary.transformers.norms import NormSpec, computed

SPEC = NormSpec(eps=1e-6, weight="weight")
X = torch.randn(2, 5, 3, 8)


class Counted:
    """A norm, and how often it was computed."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return 10.0 * x


@pytest.fixture
def norm() -> Counted:
    return Counted()


def waiting(norm: Counted, x: Tensor = X) -> Deferred:
    return Deferred.of(Origin(x, SPEC, None, norm))


VIEWS: dict[str, Callable[[Any], Any]] = {
    "transpose": lambda t: t.transpose(1, 2),
    "transpose by name": lambda t: t.transpose(dim0=-3, dim1=-2),
    "permute": lambda t: t.permute(0, 2, 1, 3),
    "permute of a tuple": lambda t: t.permute((2, 0, 1, -1)),
    "view": lambda t: t.view(10, 3, 8),
    "reshape": lambda t: t.reshape(2, 15, -1),
    "unsqueeze": lambda t: t.unsqueeze(0),
    "flatten": lambda t: t.flatten(0, 1),
    "unflatten": lambda t: t.unflatten(1, (5, 1)),
    "contiguous": lambda t: t.transpose(1, 2).contiguous(),
    "several": lambda t: t.transpose(1, 2).reshape(6, 5, 8).unsqueeze(1),
}
OTHERS: dict[str, Callable[[Any], Any]] = {
    "transpose of the channels": lambda t: t.transpose(2, 3),
    "permute of the channels": lambda t: t.permute(0, 1, 3, 2),
    "view that joins heads": lambda t: t.view(2, 5, 24),
    "flatten that joins heads": lambda t: t.flatten(2),
    "index": lambda t: t[..., 1:],
    "arithmetic": lambda t: t + 1.0,
    "from the right": lambda t: 1.0 - t,
    "function": lambda t: torch.cat((t, t), -1),
    "matmul": lambda t: t @ t.transpose(-1, -2),
    "cast": lambda t: t.double(),
    "in place on another": lambda t: torch.zeros(2, 5, 3, 8).copy_(t),
    "nested arguments": lambda t: torch.stack([t, X]),
    "number": lambda t: t.sum().item() * torch.ones(1),
    "list": lambda t: torch.tensor(t.tolist()),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_views_wait_and_see_what_they_would_have_seen(view: Any, norm: Counted):
    y = view(waiting(norm))
    assert type(y) is Deferred and norm.calls == 0
    assert y.shape == view(X).shape and torch.equal(y.raw, view(X)) and y.dtype == X.dtype and y.ndim == view(X).ndim
    assert norm.calls == 0
    assert torch.equal(y.result(), 10.0 * view(X)) and type(y.result()) is Tensor


@pytest.mark.parametrize("use", OTHERS.values(), ids=OTHERS.keys())
def test_anything_else_computes_the_norm_once(use: Any, norm: Counted):
    t = waiting(norm)
    y = use(t)
    wanted = use(10.0 * X)
    assert type(y) is Tensor and torch.equal(y, wanted)
    assert torch.equal(use(t), wanted) and norm.calls == 1


def test_the_gradient_of_a_norm_that_was_needed_after_all():
    x = X.clone().requires_grad_()
    t = waiting(Counted(), x)
    assert t.requires_grad
    with torch.no_grad():
        made = t.result()
    (found,) = torch.autograd.grad(made.sum(), x)
    assert torch.equal(found, torch.full_like(x, 10.0))


def test_a_view_that_memory_does_not_allow_is_taken_of_the_norm(norm: Counted):
    """x cannot be viewed so, and its norm, which is contiguous, can."""
    t = Deferred.of(Origin(X.transpose(1, 2), SPEC, None, lambda x: norm(x).contiguous()))
    y = t.view(6, 5, 8)
    assert torch.equal(y, 10.0 * X.transpose(1, 2).reshape(6, 5, 8)) and norm.calls == 1


@pytest.mark.parametrize(
    "spec",
    [
        NormSpec(eps=0.1, weight="weight"),
        NormSpec(eps=0.1, weight="weight", rounding="model"),
        NormSpec(eps=0.1, weight="weight", weight_offset=1.0),
        NormSpec(eps=0.1, weight=None),
    ],
    ids=str,
)
@pytest.mark.parametrize("interleaved", [False, True])
def test_one_pass_computes_the_norm_of_the_spec_with_its_rounding(spec: NormSpec, interleaved: bool):
    """A quarter turn exchanges the channels of a pair, and rounds nothing."""
    q, k = torch.randn(2, 2, 5, 3, 64).bfloat16()
    weights = tuple(None if spec.weight is None else torch.rand(64).bfloat16() for _ in range(2))
    table = torch.zeros(5, 32), torch.ones(5, 32)
    found = norm_and_rotate((q, k), weights, (table, table), spec, 1, interleaved)
    assert found is not None
    for x, weight, y in zip((q, k), weights, found, strict=True):
        normed = computed(spec, x, weight)
        a, b = (normed[..., ::2], normed[..., 1::2]) if interleaved else normed.chunk(2, -1)
        turned = torch.stack((-b, a), -1).flatten(-2) if interleaved else torch.cat((-b, a), -1)
        assert float((y != turned).float().mean()) <= 0.02, (
            "sums in another order; the other rounding changes 0.1 and more"
        )


def test_tensors_that_rotary_does_not_take_are_left():
    table = torch.ones(5, 4), torch.zeros(5, 4)
    assert norm_and_rotate((X,), (None,), (table,), SPEC, 1, False) is not None
    for x, seq_dim in ((X, 2), (X[..., :6], 1), (X.int(), 1)):
        assert norm_and_rotate((x,), (None,), (table,), SPEC, seq_dim, False) is None
