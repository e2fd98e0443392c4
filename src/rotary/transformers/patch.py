"""patch(model): the rotations inside one model on our kernels, and one call to undo it.

Each method that calls a rotation is rebound on that instance; the library's functions, classes and other models stay as they are.
"""

from __future__ import annotations

import inspect
import types
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from .body import Body
from .probe import DIM, HEADS, probe
from .rebind import around, called, is_ours, methods, rebound
from .replace import Replacement

Angles = Literal["model", "exact"]


@dataclass(frozen=True)
class Report:
    """What a patch did. replaced: (class, method, function, body) -> instances. left: (class, function) -> reason."""

    replaced: dict[tuple[str, str, str, Body | str], int] = field(default_factory=dict)
    left: dict[tuple[str, str], str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [
            f"replaced  {count:4} x {owner}.{method}: {function}, {body}"
            for (owner, method, function, body), count in self.replaced.items()
        ]
        lines += [f"left      {owner}: {function}, because {reason}" for (owner, function), reason in self.left.items()]
        return "\n".join(lines)


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

    >>> import torch
    >>> class Attention(torch.nn.Module):
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
    patcher = _Patcher(handle)
    for module in model.modules():
        for name, method, static in methods(type(module)):
            if is_ours(module.__dict__.get(name)):
                handle.remove()
                raise ValueError(f"{type(module).__name__}.{name} is patched already; remove that handle first")
            patcher.functions(module, name, method, static)
            if _looks_it(name):
                patcher.method(module, name, method, static)
    replaced = patcher.replaced
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


class _Patcher:
    """What is known so far while a model is walked through: each function is probed once."""

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.replaced: Counter[tuple[str, str, str, Body | str]] = Counter()
        self._bodies: dict[Any, Body | str] = {}
        self._standing: dict[Any, Replacement] = {}
        self._rebound: dict[Any, Any] = {}

    def functions(self, module: nn.Module, name: str, method: Any, static: bool) -> None:
        """Rebind a method over the rotations that its code calls."""
        known: dict[str, Replacement] = {}
        for global_name, function in called(method).items():
            if not _takes_tables(function):
                continue
            body = self._body(function, function)
            if isinstance(body, Body):
                known[global_name] = self._stand_in(function, function, body)
                self.replaced[type(module).__name__, name, global_name, body] += 1
            elif _looks_it(global_name):
                self.handle._report.left[type(module).__name__, global_name] = body
        if known:
            if method not in self._rebound:
                self._rebound[method] = rebound(method, known)
            self._bind(module, name, self._rebound[method], static)

    def method(self, module: nn.Module, name: str, method: Any, static: bool) -> None:
        """Bind a stand-in for a method that is a rotation itself. Only one whose name says so is ever called: methods may change things."""
        bound = getattr(module, name)
        key = (method, *sorted(_sizes(module)))
        if is_ours(bound) or not 2 <= len(_required(bound)) <= 4:
            return
        body = self._body(key, bound, _sizes(module))
        if isinstance(body, Body):
            replacement = self._stand_in(key, bound, body)
            if key not in self._rebound:
                self._rebound[key] = around(method, replacement, static=static)
            self._bind(module, name, self._rebound[key], False)
            self.replaced[type(module).__name__, name, "itself", body] += 1
        else:
            self.handle._report.left[type(module).__name__, name] = body

    def _body(self, key: Any, function: Callable[..., Any], sizes: Any = ((HEADS, DIM),)) -> Body | str:
        if key not in self._bodies:
            self._bodies[key] = probe(function, sizes)
        return self._bodies[key]

    def _stand_in(self, key: Any, function: Callable[..., Any], body: Body) -> Replacement:
        if key not in self._standing:
            handle = self.handle
            self._standing[key] = Replacement(function, body, lambda: handle.active)
            handle.replacements.append(self._standing[key])
        return self._standing[key]

    def _bind(self, module: nn.Module, name: str, function: Any, static: bool) -> None:
        bound = function if static else types.MethodType(function, module)
        module.__dict__[name] = bound
        self.handle._methods.append((module, name, bound))


def _sizes(module: nn.Module) -> list[tuple[int, int]]:
    """(heads, head_dim) that a module's numbers allow, and those of a function that takes any."""
    numbers = sorted({v for v in vars(module).values() if type(v) is int and 1 < v <= 1024})
    fit = [(h, d) for h in numbers for d in numbers if d % 4 == 0 and h != d]
    return [(HEADS, DIM), *fit[:64]]


def _takes_tables(function: Callable[..., Any]) -> bool:
    """Worth probing: three or four arguments without a default, or named as tables are. What it does is for the probe to find."""
    return len(_required(function)) in (3, 4) or {"cos", "sin"} <= inspect.signature(function).parameters.keys()


def _required(function: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]


def _looks_it(name: str) -> bool:
    """Whether people will ask why it was left. It decides about the report alone."""
    return any(part in name.lower() for part in ("rotary", "rope", "rot_"))
