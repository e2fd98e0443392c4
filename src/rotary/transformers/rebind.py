"""A method bound anew on one instance: its own code, with the names of some globals replaced by private ones.

The private names stand in the globals of the module that the method comes from, because a method's globals must stay the live ones:
copies go stale, and compiled code reads them.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from .replace import Replacement

_numbers = itertools.count()


def rebound(method: Any, standing: dict[str, Any]) -> Any:
    """The method with these globals read under private names, which stand as long as anybody, a deep copy say, holds the method."""
    names = {name: f"__rotary_{name}_{next(_numbers)}" for name in standing}
    made = _renamed(method, names)
    namespace = inspect.unwrap(method).__globals__
    for name, key in names.items():
        namespace[key] = standing[name]
        weakref.finalize(made, namespace.pop, key, None)
    return made


def around(method: Any, replacement: Replacement, *, static: bool) -> Any:
    """A method that answers with what the replacement makes of its arguments, and asks the original where that is None."""

    @functools.wraps(method)
    def stand_in(self: Any, *args: Any, **kwargs: Any) -> Any:
        y = replacement.rotated(args, kwargs)
        if y is not None:
            return y
        return method(*args, **kwargs) if static else method(self, *args, **kwargs)

    stand_in.__rotary__ = True  # type: ignore[attr-defined]
    return stand_in


def is_ours(method: Any) -> bool:
    return getattr(getattr(method, "__func__", method), "__rotary__", False)


def methods(kind: type) -> Iterator[tuple[str, Callable[..., Any], bool]]:
    """(name, function, whether static) of the methods that a model's own classes define, nearest first; torch's are not looked into."""
    seen: set[str] = set()
    for base in kind.__mro__:
        if base is nn.Module or base.__module__.startswith("torch."):
            return
        for name, value in vars(base).items():
            static = isinstance(value, staticmethod)
            function = value.__func__ if static else value
            if name not in seen and isinstance(function, types.FunctionType):
                seen.add(name)
                yield name, function, static


def called(method: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """Names that a method's own code reads from its globals, and the functions that they are."""
    found: dict[str, Callable[..., Any]] = {}
    for function in _layers(method):
        for name in _names(function.__code__):
            value = function.__globals__.get(name)
            if isinstance(value, nn.Module):  # the kernels package turns functions into shared modules
                value = getattr(value, "func", None) or getattr(type(value), "func", None)
            if isinstance(value, types.FunctionType):
                found[name] = value
    return found


def _layers(function: Any) -> Iterator[types.FunctionType]:
    """A function and the functions that its decorators wrap."""
    while isinstance(function, types.FunctionType):
        yield function
        function = getattr(function, "__wrapped__", None)


def _names(code: types.CodeType) -> set[str]:
    inner = (_names(c) for c in code.co_consts if isinstance(c, types.CodeType))
    return set(code.co_names).union(*inner)


def _renamed(function: Any, names: dict[str, str]) -> Any:
    """The function with these globals read under other names, in its own code, in nested code and in what it wraps."""
    if not isinstance(function, types.FunctionType):
        return function
    wrapped = getattr(function, "__wrapped__", None)
    inner = _renamed(wrapped, names) if wrapped is not None else None
    cells = function.__closure__
    if wrapped is not None and cells is not None:
        cells = tuple(types.CellType(inner) if _holds(cell, wrapped) else cell for cell in cells)
    made = types.FunctionType(
        _recoded(function.__code__, names), function.__globals__, function.__name__, function.__defaults__, cells
    )
    made.__kwdefaults__ = function.__kwdefaults__
    made.__dict__.update(function.__dict__)
    made.__doc__, made.__module__, made.__qualname__ = function.__doc__, function.__module__, function.__qualname__
    made.__annotations__ = function.__annotations__
    if wrapped is not None:
        made.__wrapped__ = inner  # type: ignore[attr-defined]
    made.__rotary__ = True  # type: ignore[attr-defined]
    return made


def _holds(cell: Any, value: Any) -> bool:
    try:
        return cell.cell_contents is value
    except ValueError:
        return False


def _recoded(code: types.CodeType, names: dict[str, str]) -> types.CodeType:
    constants = tuple(_recoded(c, names) if isinstance(c, types.CodeType) else c for c in code.co_consts)
    return code.replace(co_names=tuple(names.get(name, name) for name in code.co_names), co_consts=constants)
