"""patch(model): each method that calls a rotation is rebound, on that instance, to its own code with one name replaced.

The library's functions, classes and other models stay as they are. The private name stands in the globals of the module that the
method comes from, because a method's globals must stay the live ones: copies go stale, and compiled code reads them.
"""

from __future__ import annotations

import inspect
import itertools
import types
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from .probe import Body, probe
from .replace import Replacement

Angles = Literal["model", "exact"]
_numbers = itertools.count()


@dataclass(frozen=True)
class Report:
    """What a patch did. replaced: (class, method, function, body) -> instances. left: (class, function) -> reason."""

    replaced: dict[tuple[str, str, str, Body | str], int] = field(default_factory=dict)
    left: dict[tuple[str, str], str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [
            f"replaced  {count:4} x {owner}.{method}: {function}, {_words(body)}"
            for (owner, method, function, body), count in self.replaced.items()
        ]
        lines += [f"left      {owner}: {function}, because {reason}" for (owner, function), reason in self.left.items()]
        return "\n".join(lines)


def _words(body: Body | str) -> str:
    if isinstance(body, str):
        return body
    said = ["interleaved" if body.interleaved else "half", f"tables {body.widths}"]
    said += [name for name in ("conjugate", "sin_first", "partial", "promotes", "to_half") if getattr(body, name)]
    return ", ".join(said)


class Handle:
    """A patch on one model. A context manager: leaving removes it.

    active: whether replacements stand in; remove() switches it off first, so that it holds even where somebody wrapped a method since.
    """

    def __init__(self) -> None:
        self.active = True
        self.replacements: list[Replacement] = []
        self._report = Report()
        self._methods: list[tuple[nn.Module, str, Any]] = []

    def report(self) -> Report:
        """What was replaced, and what was left and why."""
        return self._report

    @property
    def calls(self) -> int:
        """How many times the kernels rotated in place of the model's functions."""
        return sum(replacement.calls for replacement in self.replacements)

    def remove(self) -> None:
        """Restore everything. Wrappers that somebody put around a patched method since stay where they are, and see the original."""
        self.active = False
        for module, name, ours in self._methods:
            if module.__dict__.get(name) is ours:
                del module.__dict__[name]
        self._methods.clear()

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()


def patch(model: nn.Module, *, angles: Angles = "model") -> Handle:
    """Run the rotations inside a model on our kernels, in training too; nothing else changes.

    model: any module whose methods rotate by a function of queries, keys, cos and sin, as all of transformers' do. It takes the
        model's own cos and sin: the same function, computed in float32 and rounded once.
    angles: "exact" also replaces the tables, by exact ones of each rotary module's own inv_freq, where that module is of the
        known kind: forward(x, position_ids) -> (cos, sin), the halves alike.

    A deep copy stays patched, by the same handle; pickles and save_pretrained carry no patch. ValueError where nothing in the model
    rotates in a way that is known (the reasons are in the message), or where it is patched already.

    >>> class Attention(nn.Module):
    ...     def forward(self, q, k, cos, sin):
    ...         return rotate(q, k, cos, sin)
    >>> def rotate(q, k, cos, sin):
    ...     half = q.shape[-1] // 2
    ...     turn = lambda x: x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin
    ...     return turn(q), turn(k)
    >>> with patch(Attention()) as handle:
    ...     print(handle.report())
    replaced     1 x Attention.forward: rotate, half, tables cat, promotes
    """
    if angles not in ("model", "exact"):
        raise ValueError(f"angles must be 'model' or 'exact', got {angles!r}")
    handle = Handle()
    bodies: dict[Any, Body | str] = {}
    standing: dict[Any, Replacement] = {}
    rebound: dict[Any, Any] = {}
    replaced: Counter[tuple[str, str, str, Body | str]] = Counter()
    for module in model.modules():
        owner = type(module).__name__
        for name, method in _methods(type(module)):
            if _is_ours(module.__dict__.get(name)):
                handle.remove()
                raise ValueError(f"{owner}.{name} is patched already; remove that handle first")
            known: dict[str, Replacement] = {}
            for global_name, function in _called(method):
                if function not in bodies:
                    bodies[function] = probe(function)
                body = bodies[function]
                if isinstance(body, Body):
                    if function not in standing:
                        standing[function] = Replacement(function, body, lambda: handle.active)
                    known[global_name] = standing[function]
                    replaced[owner, name, global_name, body] += 1
                elif _looks_it(global_name):
                    handle._report.left[owner, global_name] = body
            if known:
                if method not in rebound:
                    rebound[method] = _rebound(method, known)
                bound = types.MethodType(rebound[method], module)
                module.__dict__[name] = bound
                handle._methods.append((module, name, bound))
    handle.replacements.extend(standing.values())
    if angles == "exact":
        from . import exact

        exact.patch(model, handle, replaced)
    handle._report.replaced.update(replaced)
    if not replaced:
        handle.remove()
        reasons = "; ".join(f"{function}: {reason}" for (_, function), reason in handle._report.left.items())
        raise ValueError(
            f"nothing in {type(model).__name__} rotates in a way that is known{': ' + reasons if reasons else ''}"
        )
    return handle


def _rebound(method: Any, replacements: dict[str, Replacement]) -> Any:
    """The method with these globals read under private names, which stand as long as anybody, a deep copy say, holds the method."""
    names = {name: f"__rotary_{name}_{next(_numbers)}" for name in replacements}
    made = _renamed(method, names)
    namespace = inspect.unwrap(method).__globals__
    for name, key in names.items():
        namespace[key] = replacements[name]
        weakref.finalize(made, namespace.pop, key, None)
    return made


def _methods(kind: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The methods that a model's own classes define, nearest first; torch's own are not looked into."""
    seen: set[str] = set()
    for base in kind.__mro__:
        if base is nn.Module or base.__module__.startswith("torch."):
            return
        for name, value in vars(base).items():
            if name not in seen and isinstance(value, types.FunctionType):
                seen.add(name)
                yield name, value


def _called(method: Callable[..., Any]) -> list[tuple[str, Callable[..., Any]]]:
    """Names that a method's own code reads from its globals, and the functions that they are."""
    found: dict[str, Callable[..., Any]] = {}
    for function in _layers(method):
        for name in _names(function.__code__):
            value = function.__globals__.get(name)
            if isinstance(value, nn.Module):  # the kernels package turns functions into shared modules
                value = getattr(value, "func", None) or getattr(type(value), "func", None)
            if isinstance(value, types.FunctionType) and len(inspect.signature(value).parameters) >= 3:
                found[name] = value
    return [(name, function) for name, function in found.items() if _takes_tables(function)]


def _layers(function: Any) -> Iterator[types.FunctionType]:
    """A function and the functions that its decorators wrap."""
    while isinstance(function, types.FunctionType):
        yield function
        function = getattr(function, "__wrapped__", None)


def _names(code: types.CodeType) -> set[str]:
    inner = (_names(c) for c in code.co_consts if isinstance(c, types.CodeType))
    return set(code.co_names).union(*inner)


def _takes_tables(function: Callable[..., Any]) -> bool:
    """Worth probing: three or four arguments without a default, or named as tables are. What it does is for the probe to find."""
    parameters = inspect.signature(function).parameters
    required = [p for p in parameters.values() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    return len(required) in (3, 4) or {"cos", "sin"} <= parameters.keys()


def _looks_it(name: str) -> bool:
    """Whether people will ask why it was left. It decides about the report alone."""
    return any(part in name.lower() for part in ("rotary", "rope", "rot_"))


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


def _is_ours(method: Any) -> bool:
    return isinstance(method, types.MethodType) and getattr(method.__func__, "__rotary__", False)


assert torch  # the doctest's name
