"""Patcher: finds the rotations that the methods of a module call, or are, and replaces them on that module."""

from __future__ import annotations

import inspect
import types
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from . import fused_norms
from .handle import Handle
from .probe import DIM, HEADS, WRITES, probe
from .rebind import behind_super, called_functions, is_patched, is_replaceable, places, rebind, wrap_method
from .spec import RotationSpec
from .wrapper import Replacement


class Patcher:
    """Replaces rotations module by module, and counts in `replaced` and the report of the handle what it did.

    Modules of one class share their methods: each function is probed once, and each method rebuilt once.
    """

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.replaced: Counter[tuple[str, str, str, RotationSpec | str]] = Counter()
        self.recognised: bool = False
        """Whether some function is a rotation, though it may have to stay as it is."""
        self.callers: list[fused_norms.Caller] = []
        self._called: dict[Any, dict[str, Callable[..., Any]]] = {}
        self._specs: dict[Any, RotationSpec | str] = {}
        self._replacements: dict[Any, Replacement] = {}
        self._rebuilt: dict[Any, Any] = {}
        self._searched: set[type[nn.Module]] = set()

    def replace_calls(self, module: nn.Module, name: str, method: Any, static: bool) -> None:
        """Rebind a method so that the rotation functions it calls are replaced."""
        if method not in self._called:
            self._called[method] = called_functions(method)
        replacements: dict[str, Replacement] = {}
        owner, left = type(module).__name__, self.handle.report().left
        where = places(module, name, method)
        for global_name, function in self._called[method].items():
            if not _may_take_tables(function):
                continue
            spec = self._spec(function, function)
            self.recognised = self.recognised or isinstance(spec, RotationSpec) or spec == WRITES
            if isinstance(spec, RotationSpec) and not where:
                left[owner, global_name] = f"{name} is overridden on the instance, by code that is not searched"
            elif isinstance(spec, RotationSpec) and is_replaceable(method, global_name):
                replacements[global_name] = self._replacement(function, function, spec)
                _try_sizes(replacements[global_name], module)
                self.replaced[owner, name, global_name, spec] += 1
            elif isinstance(spec, RotationSpec):
                left[owner, global_name] = f"{name} uses this name for an attribute or an import, too"
            elif spec == WRITES or named_as_rotation(global_name) or _takes_cos_and_sin(function):
                left[owner, global_name] = spec
        if replacements:
            tensors = {
                function: replacement.spec.tensors
                for function, replacement in replacements.items()
                if replacement.takes_norms()
            }
            self.callers.append(fused_norms.Caller(module, name, tensors))
            if method not in self._rebuilt:
                self._rebuilt[method] = rebind(method, replacements)
            function = self._rebuilt[method]
            for place in where:
                if place in module.__dict__:
                    self.handle.bind(module, place, function if static else types.MethodType(function, module))
                else:
                    self.handle.replace(module, place, function, static=static)

    def report_super(self, module: nn.Module) -> None:
        """Enter into the report the rotations in methods that this module reaches through super()."""
        owner = type(module).__name__
        if type(module) in self._searched:
            return
        self._searched.add(type(module))
        for name, method, base in behind_super(type(module)):
            for global_name, function in called_functions(method).items():
                if _may_take_tables(function) and isinstance(self._spec(function, function), RotationSpec):
                    self.recognised = True
                    reason = f"{owner}.{name} reaches it through {base}.{name}, and names are replaced in a class's own methods alone"
                    self.handle.report().left.setdefault((owner, global_name), reason)

    def replace_method(self, module: nn.Module, name: str, method: Any, static: bool) -> None:
        """Replace a method that is a rotation itself. For methods that are named as one: probing calls a method, and other methods may
        change their module."""
        if name in module.__dict__:
            return  # overridden on the instance, or rebound above
        bound = getattr(module, name)
        if is_patched(bound) or not 2 <= len(_required(bound)) <= 4:
            return
        sizes = _sizes(module)
        key = (method, *sorted(sizes))
        spec = self._spec(key, bound, sizes)
        if isinstance(spec, RotationSpec):
            replacement = self._replacement(key, bound, spec, sorted({heads for heads, _ in sizes}))
            if key not in self._rebuilt:
                self._rebuilt[key] = wrap_method(method, replacement, static=static)
            self.handle.replace(module, name, self._rebuilt[key], static=static)
            self.replaced[type(module).__name__, name, "itself", spec] += 1
        else:
            self.handle.report().left[type(module).__name__, name] = spec

    def _spec(
        self, key: Any, function: Callable[..., Any], sizes: Sequence[tuple[int, int]] = ((HEADS, DIM),)
    ) -> RotationSpec | str:
        if key not in self._specs:
            self._specs[key] = probe(function, sizes)
        return self._specs[key]

    def _replacement(
        self, key: Any, function: Callable[..., Any], spec: RotationSpec, heads: Sequence[int] = (HEADS,)
    ) -> Replacement:
        if key not in self._replacements:
            handle = self.handle
            self._replacements[key] = Replacement(function, spec, lambda: handle.active, heads)
            handle.replacements.append(self._replacements[key])
        return self._replacements[key]


def _try_sizes(replacement: Replacement, module: nn.Module) -> None:
    """Try the sizes that the module's attributes suggest, since under torch.compile no size can be tried: heads of which all, half or a
    quarter of the channels rotate."""
    numbers = {name: value for name, value in vars(module).items() if type(value) is int and 1 < value <= 1024}
    dims = {value for name, value in numbers.items() if "head" in name or "dim" in name or "rot" in name}
    for dim in sorted(dims)[:16]:
        for part in (1, 2, 4):
            if dim % (2 * part) == 0:
                replacement.fits(dim, dim // part)
                replacement.fits(dim, dim // part // 2)  # tables of half width


def _sizes(module: nn.Module) -> list[tuple[int, int]]:
    """(heads, head_dim) to probe a method with: the default, then pairs of the module's integer attributes."""
    numbers = sorted({value for value in vars(module).values() if type(value) is int and 1 < value <= 1024})
    pairs = [(heads, dim) for heads in numbers for dim in numbers if dim % 4 == 0 and heads != dim]
    return [(HEADS, DIM), *pairs[:64]]


def _may_take_tables(function: Callable[..., Any]) -> bool:
    """Whether a function may be a rotation, so that it is probed: probing calls it, and a logger, a collective or a cache update must
    not be called. It has parameters named cos and sin; or three or four required ones, and either a name that promises a rotation or a
    word in its parameters or code that code for rotations has. "rotate" alone promises none: log files rotate, too."""
    if _takes_cos_and_sin(function):
        return True
    code = getattr(inspect.unwrap(function), "__code__", None)
    names = [*inspect.signature(function).parameters, *(code.co_names + code.co_varnames if code is not None else ())]
    words = ("cos", "sin", "rot", "rope", "freq", "angle", "complex")
    worded = named_as_rotation(function.__name__) or any(word in name.lower() for name in names for word in words)
    return len(_required(function)) in (3, 4) and worded


def _takes_cos_and_sin(function: Callable[..., Any]) -> bool:
    return {"cos", "sin"} <= inspect.signature(function).parameters.keys()


def _required(function: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]


def named_as_rotation(name: str) -> bool:
    """Whether a name promises a rotation: then the report has the reason why the function was left. Recognition does not depend on it."""
    return any(part in name.lower() for part in ("rotary", "rope", "rot_"))
