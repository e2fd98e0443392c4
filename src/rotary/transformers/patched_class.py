"""A class like a module's own with some methods replaced: what a patched module is an instance of.

A bound method in the `__dict__` of a module stays bound to that module in every shallow copy of it, so that `copy.copy` and the
replicas of DataParallel would run the original's weights. A class binds methods to whatever they are called on, and leaves
`__dict__` alone. torch.nn.utils.parametrize and FSDP change the class of a module in the same way.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn


def patched_class(kind: type[nn.Module], methods: Mapping[str, Any], handle: Any = None) -> type[nn.Module]:
    """A subclass of kind under its name, with these functions and staticmethods. Copies are patched, pickles are of kind itself.

    handle: of the patch, which handle_in() reads.

    TypeError where kind does not allow a subclass.
    """
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    copies = {name: made for name, made in _COPIES.items() if getattr(kind, name, None) is None}
    metaclass: Any = type(kind)
    made = metaclass(kind.__name__, (kind,), {**names, **copies, "__reduce_ex__": _reduce, **methods})
    made.__rotary__ = kind, tuple(methods)
    made.__rotary_handle__ = handle
    return made


def release(made: type[nn.Module]) -> None:
    """Take the replaced methods out of a patched class: what is left of its instances, copies, runs the original ones."""
    kind, methods = _rotary(made)
    for name in methods:
        delattr(made, name)
    made.__rotary__ = kind, ()  # pyright: ignore[reportAttributeAccessIssue]


def handle_in(kind: type) -> Any:
    """The handle of the patch that made this class, None for another class."""
    return getattr(kind, "__rotary_handle__", None) if has_replaced_methods(kind) else None


def original_class(made: type[nn.Module]) -> type[nn.Module]:
    """The class that a patched one stands for."""
    return _rotary(made)[0]


def has_replaced_methods(kind: type) -> bool:
    return bool(getattr(kind, "__rotary__", (kind, ()))[1])


def _rotary(made: Any) -> tuple[Any, tuple[str, ...]]:
    """The class that a patched one stands for, and the names of the methods replaced in it."""
    return made.__rotary__


def _reduce(self: Any, protocol: Any) -> Any:
    """What pickle stores: an instance of the original class."""
    kind, _ = _rotary(type(self))
    # Protocols 0 and 1 name the class among the arguments; pickle holds that of later ones against the object's own class.
    rebuild, arguments, *rest = kind.__reduce_ex__(self, min(protocol, 1))
    return (rebuild, tuple(kind if argument is type(self) else argument for argument in arguments), *rest)


def _copy(self: Any) -> Any:
    return _rebuilt(self, {}, deep=False)


def _deepcopy(self: Any, memo: dict[int, Any]) -> Any:
    return _rebuilt(self, memo, deep=True)


def _rebuilt(self: Any, memo: dict[int, Any], *, deep: bool) -> Any:
    """A copy of the patched class, as copy.copy and copy.deepcopy make it of classes that say nothing else."""
    rebuild, arguments, state, *_ = _rotary(type(self))[0].__reduce_ex__(self, 4)
    made = rebuild(*arguments)
    memo[id(self)] = made
    made.__setstate__(copy.deepcopy(state, memo) if deep else state)
    return made


_COPIES = {"__copy__": _copy, "__deepcopy__": _deepcopy}
