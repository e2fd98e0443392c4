"""Handle, what patch(model) returns: it undoes the patch, and has the Report of what was replaced."""

from __future__ import annotations

import types
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from .patched_class import patched_class, release
from .spec import RotationSpec
from .wrapper import Replacement

_ABSENT = object()


@dataclass(frozen=True)
class Report:
    """What a patch replaced, and what it left.

    replaced: (class, method, function, spec) -> number of modules. left: (class, function) -> the reason why it was not replaced.
    """

    replaced: dict[tuple[str, str, str, RotationSpec | str], int] = field(default_factory=dict)
    left: dict[tuple[str, str], str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [
            f"replaced  {count:4} x {owner}.{method}: {function}, {spec}"
            for (owner, method, function, spec), count in self.replaced.items()
        ]
        lines += [f"left      {owner}: {function}, because {reason}" for (owner, function), reason in self.left.items()]
        return "\n".join(lines)


class Handle:
    """A patch on one model, and a context manager: leaving it removes the patch.

    active: whether replaced methods use this library. remove() clears it first: a patched method may be reachable after it, through a
        wrapper around it or a deep copy of the model, and then runs the original code.
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        self.active: bool = True
        self._model = None if model is None else weakref.ref(model)
        self.replacements: list[Replacement] = []
        self._report = Report()
        self._bound: list[tuple[nn.Module, str, Any, Any]] = []
        self._classes: dict[tuple[type, tuple[tuple[str, int], ...]], type[nn.Module]] = {}
        self._methods: dict[int, tuple[nn.Module, type[nn.Module], dict[str, Any]]] = {}

    def report(self) -> Report:
        """What was replaced, and what was not and why."""
        return self._report

    @property
    def model(self) -> nn.Module:
        """The model that was patched. ValueError where the patch was removed or the model deleted."""
        model = None if self._model is None else self._model()
        if model is None or not self.active:
            raise ValueError("this patch was removed, or its model was deleted: patch the model, and use that handle")
        return model

    @property
    def calls(self) -> int:
        """How many calls of the model's rotation functions this library's kernels have served."""
        return sum(replacement.calls for replacement in self.replacements)

    @property
    def fused(self) -> int:
        """How many of these calls computed the norms of queries and keys too (patch(fuse="norms"))."""
        return sum(replacement.fused for replacement in self.replacements)

    def replace(self, module: nn.Module, name: str, function: Any, *, static: bool = False) -> None:
        """Make function the method of that name on this module and its copies, until remove()."""
        _, original, methods = self._methods.get(id(module), (module, type(module), dict[str, Any]()))
        methods = {**methods, name: staticmethod(function) if static else function}
        key = original, tuple((name, id(method)) for name, method in methods.items())
        try:
            if key not in self._classes:
                self._classes[key] = patched_class(original, methods, self)
            module.__class__ = self._classes[key]
        except (
            TypeError
        ):  # a class that allows no subclass, or whose instances allow no other class (__slots__, C layouts)
            self.bind(module, name, function if static else types.MethodType(function, module))
        else:
            self._methods[id(module)] = module, original, methods

    def bind(self, module: nn.Module, name: str, method: Any) -> None:
        """Set module.name to method on this instance alone, until remove(), which puts back what was there."""
        self._bound.append((module, name, method, module.__dict__.get(name, _ABSENT)))
        module.__dict__[name] = method
        function: Any = getattr(method, "__func__", method)
        if isinstance(function, types.FunctionType):
            function.__dict__["__rotary_handle__"] = self

    def owns(self, module: nn.Module) -> bool:
        """Whether this handle patched that very module, and not one that it is a copy of."""
        patched = self._methods.get(id(module))
        return (patched is not None and patched[0] is module) or any(bound is module for bound, *_ in self._bound)

    def bindings(self, module: nn.Module) -> Iterator[tuple[str, Any]]:
        """(name, the former attribute or None) of each method that bind() set on the module of which this one is a copy."""
        for _, name, method, former in self._bound:
            own = module.__dict__.get(name)
            if own is not None and getattr(own, "__func__", own) is getattr(method, "__func__", method):
                yield name, None if former is _ABSENT else former

    def remove(self) -> None:
        """Restore every method. A wrapper that other code has put around a patched method stays, and calls the original code."""
        self.active = False
        for module, name, method, former in reversed(self._bound):
            if module.__dict__.get(name) is method:
                if former is _ABSENT:
                    del module.__dict__[name]
                else:
                    module.__dict__[name] = former
        for module, original, _ in self._methods.values():
            if (
                type(module) in self._classes.values()
            ):  # else other code (FSDP, parametrize) has given it a subclass of the patched one
                module.__class__ = original
        for patched in self._classes.values():
            release(patched)
        self._classes.clear()
        self._bound.clear()
        self._methods.clear()

    def __repr__(self) -> str:
        model = None if self._model is None else self._model()
        of = "a deleted model" if model is None else type(model).__name__
        state = "active" if self.active else "removed"
        return (
            f"<Handle of {of}, {state}: {sum(self._report.replaced.values())} replaced, {len(self._report.left)} left>"
        )

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()
