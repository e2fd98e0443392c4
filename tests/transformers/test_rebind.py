"""Rebinding: a copy of a method that calls another function in place of a global one, and what is left alone because it cannot."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rotary.transformers import patch
from rotary.transformers.rebind import called_functions, is_patched, is_replaceable, rebind
from zoo.functions import rotate_half
from zoo.functions import rotate_half as in_another_module


def rotate(x: int) -> tuple[str, int]:
    return "original", x


def other(x: int) -> tuple[str, int]:
    return "replacement", x


def plain(x: int) -> Any:
    return rotate(x)


def nested(x: int) -> Any:
    def outer() -> Any:
        return (lambda: rotate(x))()

    return outer()


def comprehension(x: int) -> Any:
    results = [rotate(i) for i in (x,)]
    return results[0]


def generator(x: int) -> Any:
    return next(rotate(i) for i in (x,))


def class_body(x: int) -> Any:
    class Body:
        y = rotate(x)

    return Body.y


def handler(x: int) -> Any:
    try:
        raise ValueError
    except ValueError:
        return rotate(x)


def keywords(x: int, *, scale: int = 1) -> Any:
    return rotate(scale * x)


def closure() -> Callable[[int], Any]:
    offset = 0

    def inner(x: int) -> Any:
        return rotate(offset + x)

    return inner


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize(
    "function", [plain, nested, comprehension, generator, class_body, handler, keywords, closure()]
)
def test_a_copy_calls_the_replacement_and_the_original_stays(function: Any, warm: bool):
    """warm: after the interpreter has specialised the code for the global it reads."""
    calls = 500 if warm else 1
    assert {function(1) for _ in range(calls)} == {("original", 1)}
    assert called_functions(function)["rotate"] is rotate and is_replaceable(function, "rotate")
    copy = rebind(function, {"rotate": other})
    assert is_patched(copy) and not is_patched(function)
    assert {copy(1) for _ in range(calls)} == {("replacement", 1)}
    assert function(1) == ("original", 1)


def private_names() -> list[str]:
    gc.collect()
    return [name for name in globals() if name.startswith("__rotary_rotate_")]


def test_private_globals_live_as_long_as_a_copy():
    before = len(private_names())
    copy = rebind(plain, {"rotate": other})
    assert len(private_names()) == before + 1
    del copy
    assert len(private_names()) == before


class Ambiguous:
    """Methods whose code uses the name of the global function for something else."""

    def attribute(self, x: int) -> Any:
        return self.rotate(x)  # type: ignore[attr-defined]

    def both(self, x: int) -> Any:
        return rotate(x), self.rotate(x)  # type: ignore[attr-defined]

    def in_nested_code(self, x: int) -> Any:
        return rotate(x), lambda: self.rotate(x)  # type: ignore[attr-defined]

    def imported(self, x: int) -> Any:
        from zoo.functions import rotate  # type: ignore[attr-defined]

        return rotate(x)


@pytest.mark.parametrize("name", ["attribute", "both", "in_nested_code", "imported"])
def test_names_that_the_code_also_uses_for_something_else_are_not_replaced(name: str):
    method = getattr(Ambiguous, name)
    assert not is_replaceable(method, "rotate")
    assert ("rotate" in called_functions(method)) == (name in ("both", "in_nested_code"))


class SameName(nn.Module):
    """A method that is named like the global function it calls, and called by a method that names both."""

    def rotate_half(self, q: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return rotate_half(q, cos, sin)

    def forward(self, q: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return self.rotate_half(q, cos, sin)


class BothNames(SameName):
    def forward(self, q: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return self.rotate_half(q, cos, sin) + rotate_half(q, cos, sin)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    cos, sin = (torch.cat((t, t), -1) for t in torch.randn(2, 5, 4))
    return torch.randn(2, 5, 8), cos, sin


@pytest.mark.parametrize("kind", [SameName, BothNames])
def test_a_method_with_the_name_of_the_function_it_calls(kind: type[nn.Module]):
    model, arguments = kind(), inputs()
    expected = model(*arguments)
    with patch(model) as handle:
        torch.testing.assert_close(model(*arguments), expected, rtol=0, atol=1e-6)
        assert handle.calls == 1
        reported = "forward uses this name for an attribute or an import, too" in str(handle.report())
        assert reported == (kind is BothNames)
    assert torch.equal(model(*arguments), expected)


def doubled(method: Any) -> Any:
    """A decorator whose closure holds the method and another value."""
    factor = 2.0

    @functools.wraps(method)
    def inner(*args: object, **kwargs: object) -> Any:
        return factor * method(*args, **kwargs)

    return inner


class Decorated(nn.Module):
    @doubled
    def forward(self, q: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return rotate_half(q, cos, sin)


def test_a_decorated_method_is_rebound_inside_its_decorators():
    model, arguments = Decorated(), inputs()
    expected = model(*arguments)
    with patch(model) as handle:
        torch.testing.assert_close(model(*arguments), expected, rtol=0, atol=1e-6)
        assert handle.calls == 1
    assert torch.equal(model(*arguments), expected) and handle.calls == 1


def test_a_decorator_from_another_module_is_left_alone():
    """Private globals are set in the method's module alone; code of another module would not find them."""
    namespace: dict[str, Any] = {"functools": functools, "rotate": in_another_module}
    code = """
def decorator(method):
    @functools.wraps(method)
    def inner(*args):
        assert rotate is not None
        return method(*args)
    return inner
"""
    exec(code, namespace)
    method = namespace["decorator"](plain)
    assert rebind(method, {"rotate": other})(1) == ("replacement", 1)
    assert called_functions(method)["rotate"] is rotate
