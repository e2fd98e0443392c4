"""patched_class(): a subclass of a module's class with some methods replaced, of which a patched module becomes an instance.

Why not a bound method in the `__dict__` of the module: it stays bound to that module in every shallow copy, so that `copy.copy` and the
replicas of DataParallel would run with the original's weights. A method of a class is bound to the instance that it is called on.
torch.nn.utils.parametrize and FSDP change the class of a module in the same way.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn


def patched_class(base: type[nn.Module], methods: Mapping[str, Any], handle: Any = None) -> type[nn.Module]:
    """A subclass with the name of its base, and with these functions and staticmethods. Copies of its instances are patched, pickles are of
    the base.

    base: the module's class. handle: of the patch, which handle_in() returns.

    TypeError where the base does not allow a subclass.
    """
    names = {"__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
    copying = {name: method for name, method in _COPYING.items() if getattr(base, name, None) is None}
    metaclass: Any = type(base)
    own = {**names, **copying, "__reduce_ex__": _reduce, "__rotary__": (base, tuple(methods)), **methods}
    # object's __init_subclass__ is no Python function: the usual class has no other.
    registers = hasattr(base.__init_subclass__, "__func__")
    patched = metaclass(base.__name__, (_Quiet, base) if registers else (base,), own)
    patched.__rotary_handle__ = handle
    return patched


class _Quiet(nn.Module):
    """Keeps the __init_subclass__ of a base from running for a patched class: it may register its subclasses by name."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if "__rotary__" not in cls.__dict__:
            super().__init_subclass__(**kwargs)


def release(patched: type[nn.Module]) -> None:
    """Remove the replaced methods from a patched class, so that remaining instances of it, copies of models, run the original ones."""
    base, methods = _rotary(patched)
    for name in methods:
        delattr(patched, name)
    patched.__rotary__ = base, ()  # pyright: ignore[reportAttributeAccessIssue]


def handle_in(module_class: type) -> Any:
    """The handle of the patch that made this class, None for another class."""
    return getattr(module_class, "__rotary_handle__", None) if has_replaced_methods(module_class) else None


def original_class(patched: type[nn.Module]) -> type[nn.Module]:
    """The base of a patched class."""
    return _rotary(patched)[0]


def has_replaced_methods(module_class: type) -> bool:
    """Whether this is a patched class that was not released."""
    return bool(getattr(module_class, "__rotary__", (module_class, ()))[1])


def _rotary(patched: Any) -> tuple[Any, tuple[str, ...]]:
    """The base of a patched class, and the names of the methods replaced in it."""
    return patched.__rotary__


def _reduce(self: Any, protocol: Any) -> Any:
    """The reduction for pickle: an instance of the base."""
    base, _ = _rotary(type(self))
    # Protocols 0 and 1 have the class among the arguments, where it can be replaced; for protocol 2 and later pickle checks that it is
    # the object's own class.
    rebuild, arguments, *state = base.__reduce_ex__(self, min(protocol, 1))
    return (rebuild, tuple(base if argument is type(self) else argument for argument in arguments), *state)


def _copy(self: Any) -> Any:
    return _rebuilt(self, {}, deep=False)


def _deepcopy(self: Any, memo: dict[int, Any]) -> Any:
    return _rebuilt(self, memo, deep=True)


def _rebuilt(self: Any, memo: dict[int, Any], *, deep: bool) -> Any:
    """A copy that is an instance of the patched class, made as copy.copy and copy.deepcopy make it without __copy__ and __deepcopy__; these
    would use __reduce_ex__, which gives the base."""
    rebuild, arguments, state, *_ = _rotary(type(self))[0].__reduce_ex__(self, 4)
    duplicate = rebuild(*arguments)
    memo[id(self)] = duplicate
    duplicate.__setstate__(copy.deepcopy(state, memo) if deep else state)
    return duplicate


_COPYING = {"__copy__": _copy, "__deepcopy__": _deepcopy}
