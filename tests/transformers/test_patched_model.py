"""handle_of and unpatch: which patch a model is under; a deep copy of a patched model is patched, and freed, on its own."""

from __future__ import annotations

import copy
import functools
import gc
import types
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rotary.transformers import Handle, handle_of, patch, unpatch
from support.attention import rotate


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k = rotate(self.weight * x, self.weight * x, cos, sin)
        return q + k


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Attention(), Attention()])

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, cos, sin)
        return x


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    angle = torch.rand(1, 5, 4).repeat(1, 1, 2)
    return torch.randn(1, 5, 8), angle.cos(), angle.sin()


def serves(handle: Handle, model: nn.Module) -> bool:
    before = handle.calls
    model(*inputs())
    return handle.calls > before


def test_the_handle_of_a_model_and_of_its_parts():
    model = Model()
    assert handle_of(model) is None
    handle = patch(model)
    assert handle_of(model) is handle and handle_of(model.layers[1]) is handle
    assert repr(handle) == "<Handle of Model, active: 2 replaced, 0 left>"
    handle.remove()
    assert handle_of(model) is None and repr(handle) == "<Handle of Model, removed: 2 replaced, 0 left>"
    del model
    gc.collect()
    assert repr(handle) == "<Handle of a deleted model, removed: 2 replaced, 0 left>"


def test_unpatch_is_remove():
    model = Model()
    handle = patch(model)
    unpatch(model)
    assert not handle.active and type(model.layers[0]) is Attention
    with pytest.raises(ValueError, match="Model is not patched"):
        unpatch(model)
    assert patch(model).active


def test_a_deep_copy_is_patched_on_its_own():
    model = Model()
    first = patch(model)
    copied = copy.deepcopy(model)
    assert handle_of(copied) is first and serves(first, copied)
    second = patch(copied)
    assert handle_of(copied) is second and handle_of(model) is first
    assert serves(second, copied) and not serves(second, model)
    assert serves(first, model) and not serves(first, copied)
    first.remove()
    assert serves(second, copied) and not serves(first, model)
    x = inputs()
    expected = model(*x)
    torch.testing.assert_close(copied(*x), expected, rtol=0, atol=1e-6)
    second.remove()
    assert torch.equal(copied(*x), expected) and type(copied.layers[0]) is Attention


def test_unpatching_a_copy_leaves_the_original_patched():
    model = Model()
    handle = patch(model)
    copied = copy.deepcopy(model)
    unpatch(copied)
    assert handle.active and serves(handle, model) and not serves(handle, copied)
    assert handle_of(copied) is None and type(copied.layers[0]) is Attention


def test_the_model_itself_and_its_shallow_copy_are_not_patched_twice():
    model = Model()
    patch(model)
    for one in (model, copy.copy(model), model.layers[0]):
        with pytest.raises(ValueError, match="is patched already"):
            patch(one)


@pytest.mark.parametrize("wrapped", [False, True])
def test_methods_on_instances_come_back_on_a_copy(wrapped: bool):
    """A class that allows no subclass is patched on the instance; a hook of accelerate keeps the original there."""

    class Closed(Attention):
        def __init_subclass__(cls, **_: Any) -> None:
            raise TypeError("no subclass")

    module = Closed()
    if wrapped:
        module._old_forward = module.forward
        module.forward = types.MethodType(lambda self, *args: self._old_forward(*args), module)
    x = inputs()
    expected = module(*x)
    handle = patch(module)
    copied = copy.deepcopy(module)
    with torch.no_grad():
        copied.weight.mul_(2)
    assert serves(handle, module) and handle_of(copied) is handle
    other = patch(copied)
    assert serves(other, copied) and not serves(other, module) and not serves(handle, copied)
    other.remove()
    torch.testing.assert_close(copied(*x), 2 * expected, rtol=0, atol=1e-6)
    assert serves(handle, module) and not serves(handle, copied)
    handle.remove()
    torch.testing.assert_close(module(*x), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(copied(*x), 2 * expected, rtol=0, atol=1e-6)


def test_a_copy_of_a_patched_model_that_was_wrapped_afterwards_is_patched_on_its_own():
    """As accelerate wraps: the patched method is kept beside a partial that carries its marks."""
    module = Attention()
    handle = patch(module)
    kept: Any = module
    kept._old_forward = module.forward
    wrapper = functools.partial(lambda self, *args: 2 * self._old_forward(*args), module)
    kept.forward = functools.update_wrapper(wrapper, module.forward)
    x = inputs()
    expected = module(*x)
    copied = copy.deepcopy(module)
    other = patch(copied)
    assert serves(other, copied) and not serves(handle, copied) and serves(handle, module)
    torch.testing.assert_close(copied(*x), expected, rtol=0, atol=1e-6)
    unpatch(copied)
    assert not serves(other, copied) and handle.active
    torch.testing.assert_close(copied(*x), expected, rtol=0, atol=1e-6)
