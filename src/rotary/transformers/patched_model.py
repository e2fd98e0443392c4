"""The patch of a model: handle_of() returns its handle, unpatch() undoes it, also for a copy of a patched model alone."""

from __future__ import annotations

import functools
import types
from typing import Any

from torch import nn

from .. import _checks
from .handle import Handle
from .patched_class import handle_in, has_replaced_methods, original_class
from .rebind import is_patched


def handle_of(model: nn.Module) -> Handle | None:
    """The active handle of the patch of a model, or of a part of one; None without a patch. TypeError for what is no module.

    A copy of a patched model has the handle of the original, until it is patched itself.

    >>> handle_of(nn.Linear(2, 2)) is None
    True
    """
    for part in _checks.module("model", model).modules():
        handle = _handle(part)
        if handle is not None:
            return handle
    return None


def unpatch(model: nn.Module) -> None:
    """Undo the patch of a model: handle.remove() for the model that was patched; for a copy of it, on the copy alone.

    ValueError for a model without a patch, TypeError for what is no module.
    """
    handle = handle_of(model)
    if handle is None:
        raise ValueError(
            f"{type(model).__name__} is not patched: patch() returns a handle, whose remove() may have been called"
        )
    if not release_copy(model):
        handle.remove()


def release_copy(model: nn.Module) -> bool:
    """Restore in the modules of a copy the methods that the original had before it was patched. Returns False and does nothing where one
    of them was patched itself, or none is patched."""
    patched = [(module, handle) for module in model.modules() if (handle := _handle(module)) is not None]
    if not patched or any(handle.owns(module) for module, handle in patched):
        return False
    for module, handle in patched:
        for name, former in list(handle.bindings(module)):
            if former is None:
                del module.__dict__[name]
            else:  # bound to the original; the copy gets its own
                function: Any = getattr(former, "__func__", None)
                module.__dict__[name] = former if function is None else types.MethodType(function, module)
        if has_replaced_methods(type(module)):
            module.__class__ = original_class(type(module))
        _release_wrapped(module)
    return True


def _release_wrapped(module: nn.Module) -> None:
    """Restore methods that a wrapper (a hook of accelerate) keeps on the instance, where they are patched ones."""
    for key, value in list(module.__dict__.items()):
        if isinstance(value, types.MethodType) and is_patched(value):
            original = getattr(type(module), value.__func__.__name__, None)
            if original is not None and not is_patched(original):
                module.__dict__[key] = types.MethodType(original, module)
        elif isinstance(value, functools.partial) and is_patched(value):
            value.__dict__.pop("__rotary__")  # functools.update_wrapper copies the mark of what it wraps


def _handle(module: nn.Module) -> Handle | None:
    """The active handle of a module's patched methods, None without any."""
    handle: Any = handle_in(type(module))
    for value in module.__dict__.values():
        function = getattr(value, "__func__", None) if isinstance(value, types.MethodType) else value
        if handle is None and isinstance(function, types.FunctionType):
            handle = function.__dict__.get("__rotary_handle__")
    return handle if isinstance(handle, Handle) and handle.active else None
