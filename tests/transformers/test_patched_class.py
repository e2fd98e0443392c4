"""A patched module is of a class under the name of its own: copies of every kind run their own weights, pickles know nothing of it."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rotary.transformers import patch
from rotary.transformers.patched_class import has_replaced_methods, patched_class, release
from support.attention import rotate


class Attention(nn.Module):
    """Projects and rotates: what it returns tells whose weights it ran with."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))
        self.shared: list[int] = []

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k = rotate(self.weight * x, self.weight * x, cos, sin)
        return q + k


class WithCopies(Attention):
    """Has a copy of its own, as modules with shared state do."""

    def __copy__(self) -> Attention:
        made = type(self)()
        made.__dict__.update(self.__dict__)
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> Attention:
        made = type(self)()
        made.load_state_dict(self.state_dict())
        return made


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    angle = torch.rand(1, 5, 4).repeat(1, 1, 2)
    return torch.randn(1, 5, 8), angle.cos(), angle.sin()


def replica(module: nn.Module) -> Any:
    """What torch.nn.parallel.replicate makes of a module before it sets the parameters of another device."""
    made: Any = module._replicate_for_data_parallel()
    made._parameters = dict(module._parameters)
    return made


@pytest.mark.parametrize("kind", [Attention, WithCopies])
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, replica])
def test_a_copy_runs_its_own_weights(kind: type[nn.Module], copied: Any):
    model, arguments = kind(), inputs()
    expected = model(*arguments).detach()
    with patch(model) as handle:
        twin = copied(model)
        twin._parameters = {"weight": nn.Parameter(torch.full((8,), 2.0))}
        before = handle.calls
        torch.testing.assert_close(twin(*arguments), 2 * expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(model(*arguments), expected, rtol=0, atol=1e-6)
        assert handle.calls == before + 2 and isinstance(twin, kind) and type(twin).__name__ == kind.__name__
    assert type(model) is kind
    torch.testing.assert_close(twin(*arguments), 2 * expected, rtol=0, atol=1e-6)
    assert handle.calls == before + 2


def test_a_shallow_copy_shares_what_a_deep_one_does_not():
    model = Attention()
    model.shared = [1]
    with patch(model):
        shallow, deep = copy.copy(model), copy.deepcopy(model)
        assert shallow.weight is model.weight and shallow.shared is model.shared
        assert deep.weight is not model.weight and deep.shared == [1] and deep.shared is not model.shared


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_of_the_class_itself(protocol: int):
    model = Attention()
    with patch(model):
        data = pickle.dumps(model, protocol)
        assert b"rotary.transformers" not in data and type(pickle.loads(data)) is Attention


def test_nothing_is_set_on_the_instance():
    model = Attention()
    before = dict(model.__dict__)
    with patch(model):
        assert model.__dict__ == before
    assert model.__dict__ == before and type(model) is Attention


def test_a_class_that_was_put_around_it_since_is_left():
    """torch.nn.utils.parametrize does so: what is below runs the original code, and its own removal still works."""
    model, arguments = Attention(), inputs()
    expected = model(*arguments)
    handle = patch(model)
    nn.utils.parametrize.register_parametrization(model, "weight", nn.Identity())
    handle.remove()
    torch.testing.assert_close(model(*arguments), expected, rtol=0, atol=1e-6)
    nn.utils.parametrize.remove_parametrizations(model, "weight")
    assert not has_replaced_methods(type(model))
    torch.testing.assert_close(model(*arguments), expected, rtol=0, atol=1e-6)


def test_a_class_without_subclasses_is_bound_on_the_instance():
    class NoSubclass(type):
        def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> Any:
            if any(isinstance(base, NoSubclass) for base in bases):
                raise TypeError("no subclasses")
            return super().__new__(cls, name, bases, namespace)

    class Final(Attention, metaclass=NoSubclass):
        pass

    model, arguments = Final(), inputs()
    expected = model(*arguments)
    with patch(model) as handle:
        torch.testing.assert_close(model(*arguments), expected, rtol=0, atol=1e-6)
        assert handle.calls == 1 and type(model) is Final
    assert "forward" not in model.__dict__


def test_a_base_that_registers_its_subclasses_does_not_see_the_patched_class():
    registry: dict[str, type] = {}

    class Registered(Attention):
        def __init_subclass__(cls, **kwargs: Any) -> None:
            super().__init_subclass__(**kwargs)
            if cls.__name__ in registry:
                raise ValueError(f"{cls.__name__} is registered already")
            registry[cls.__name__] = cls

    class One(Registered):
        pass

    model, arguments = One(), inputs()
    expected = model(*arguments)
    with patch(model) as handle:
        torch.testing.assert_close(model(*arguments), expected, rtol=0, atol=1e-6)
        assert handle.calls == 1 and registry == {"One": One}
        type("Two", (type(model),), {})  # as FSDP makes one: a subclass like any other
    assert type(model) is One and set(registry) == {"One", "Two"}


def test_release_leaves_the_original_methods():
    made = patched_class(Attention, {"forward": lambda self: 3})
    one: Any = made()
    assert one.forward() == 3 and has_replaced_methods(made)
    release(made)
    assert one.forward.__func__ is Attention.forward and not has_replaced_methods(made)
