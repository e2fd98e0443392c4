"""patch(model): run the rotations inside one model on this library's kernels, until handle.remove().

Each method that calls a rotation function is rebound on that module instance. Library functions, classes and other models are unchanged.
"""

from __future__ import annotations

import inspect
import types
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from torch import nn

from . import exact_tables, fused_norms
from .check import check_frequencies
from .findings import Finding
from .handle import Handle
from .patched_class import has_replaced_methods
from .patched_model import release_copy
from .probe import DIM, HEADS, WRITES, probe
from .rebind import called_functions, is_patched, is_replaceable, methods, places, rebind, wrap_method
from .spec import RotationSpec
from .wrapper import Replacement

TableSource = Literal["model", "exact"]
Trust = Literal["config", "module"]


def patch(
    model: nn.Module,
    *,
    tables: TableSource | None = None,
    trust: Trust = "config",
    fuse: Literal["norms"] | None = None,
    angles: TableSource | None = None,
) -> Handle:
    """Run the rotations inside a model on this library's kernels, in training too; nothing else changes.

    model: any module whose methods rotate by a function of queries, keys, cos and sin, as those of transformers do. The result is
        the same function of the model's own cos and sin, computed in float32 and rounded once.
    tables: "model" (the default) keeps the model's own cos and sin. "exact" also replaces them by exact ones, computed from the
        inv_freq of each rotary module whose forward(x, position_ids) gives cos and sin of position * inv_freq repeated in both halves,
        or of several coordinates, as the towers of Qwen-VL have them.
    trust: "config" (the default) compares the frequencies that rotary modules hold with the config of the model: a warning names those
        that are no numbers or disagree, as after a cast or a load that left them unset, and their tables stay the model's own. "module"
        takes frequencies as they are. `check` compares more, and says what it compared.
    fuse: "norms" computes RMSNorms of queries and keys per head together with the rotation behind them, in one pass, with a gradient
        (rotary.fused). The report names them, and why others stay: those over whole projections, LayerNorms, norms whose result goes
        elsewhere too, or that have hooks when they are called. Under torch.compile and autocast the norms are the model's own.
    angles: the former name of tables, deprecated; it goes in 0.3.

    Copies of the model, deep and shallow, and replicas of DataParallel stay patched and share the handle; a deep copy may be patched
    itself, and has a handle of its own then. Pickles and save_pretrained contain no patch. A patched module is of a subclass under
    the name of its class, until remove().

    A function that writes into its arguments, a call with an optional argument away from its default, and a method that is overridden
    on the instance run as they are; where that leaves nothing to replace, a warning says so.

    ValueError if no rotation in the model is recognised (the message has the reasons), or if the model is patched already; TypeError
    if both tables and angles are given.

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
    source = _table_source(tables, angles)
    if trust not in ("config", "module"):
        raise ValueError(f"trust must be 'config' or 'module', got {trust!r}")
    if fuse not in (None, "norms"):
        raise ValueError(f"fuse must be 'norms' or None, got {fuse!r}")
    wrong = check_frequencies(model) if trust == "config" else {}
    release_copy(model)
    handle = Handle(model)
    patcher = _Patcher(handle)
    for module in model.modules():
        if has_replaced_methods(type(module)) or any(map(is_patched, module.__dict__.values())):
            handle.remove()
            raise ValueError(f"{type(module).__name__} is patched already; remove that handle first")
        for name, method, static in methods(type(module)):
            patcher.replace_calls(module, name, method, static)
            if _named_as_rotation(name):
                patcher.replace_method(module, name, method, static)
    if fuse == "norms":
        fused_norms.defer_norms(model, handle, patcher.rotating, patcher.replaced)
    if source == "exact":
        exact_tables.replace_tables(model, handle, patcher.replaced, wrong)
    report = handle.report()
    report.replaced.update(patcher.replaced)
    if not patcher.replaced and patcher.recognised:
        warnings.warn(f"nothing in {type(model).__name__} was replaced:\n{report}", stacklevel=2)
    elif not patcher.replaced:
        handle.remove()
        reasons = "; ".join(f"{function}: {reason}" for (_, function), reason in report.left.items())
        raise ValueError(
            f"nothing in {type(model).__name__} rotates in a recognised way{': ' + reasons if reasons else ''}"
        )
    _warn_of(wrong)
    return handle


def _warn_of(wrong: Mapping[int, Finding]) -> None:
    """Warn of frequencies that disagree with their config: once for all modules of one class with one fault."""
    texts = dict.fromkeys(f"{finding.owner}: {finding.kind}: {finding.text}" for finding in wrong.values())
    if texts:
        warnings.warn(f"frequencies that are not those of the config: {'; '.join(texts)}", stacklevel=3)


def _table_source(tables: TableSource | None, angles: TableSource | None) -> TableSource:
    name, source = "tables", tables
    if angles is not None:
        if tables is not None:
            raise TypeError("patch() takes tables= or its former name angles=, not both")
        warnings.warn(
            "patch(angles=) is now patch(tables=); the old name goes in 0.3", DeprecationWarning, stacklevel=3
        )
        name, source = "angles", angles
    if source not in (None, "model", "exact"):
        raise ValueError(f"{name} must be 'model' or 'exact', got {source!r}")
    return source or "model"


class _Patcher:
    """Replaces rotations module by module. Modules of one class share their methods, so each function is probed and each method
    rebuilt only once."""

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.replaced: Counter[tuple[str, str, str, RotationSpec | str]] = Counter()
        self.recognised: bool = False
        """Whether some function is a rotation, though it may have to stay as it is."""
        self.rotating: list[fused_norms.Rotating] = []
        self._called: dict[Any, dict[str, Callable[..., Any]]] = {}
        self._specs: dict[Any, RotationSpec | str] = {}
        self._replacements: dict[Any, Replacement] = {}
        self._rebuilt: dict[Any, Any] = {}

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
                left[owner, global_name] = f"{name} is overridden on the instance, by code that is not looked into"
            elif isinstance(spec, RotationSpec) and is_replaceable(method, global_name):
                replacements[global_name] = self._replacement(function, function, spec)
                _try_sizes(replacements[global_name], module)
                self.replaced[owner, name, global_name, spec] += 1
            elif isinstance(spec, RotationSpec):
                left[owner, global_name] = f"{name} uses this name for an attribute or an import, too"
            elif spec == WRITES or _named_as_rotation(global_name):
                left[owner, global_name] = spec
        if replacements:
            tensors = {
                function: replacement.spec.tensors
                for function, replacement in replacements.items()
                if replacement.takes_norms()
            }
            self.rotating.append(fused_norms.Rotating(module, name, tensors))
            if method not in self._rebuilt:
                self._rebuilt[method] = rebind(method, replacements)
            function = self._rebuilt[method]
            for place in where:
                if place in module.__dict__:
                    self.handle.bind(module, place, function if static else types.MethodType(function, module))
                else:
                    self.handle.replace(module, place, function, static=static)

    def replace_method(self, module: nn.Module, name: str, method: Any, static: bool) -> None:
        """Replace a method that is a rotation itself. Probing calls it, and a method may change its module, so only methods that
        are named as rotations are probed."""
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
            self.handle.replace(module, name, self._rebuilt[key])
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
    """Find out now what a module says about its heads, since torch.compile cannot: whole, half and a quarter of them rotate."""
    named = {name: value for name, value in vars(module).items() if type(value) is int and 1 < value <= 1024}
    dims = {value for name, value in named.items() if "head" in name or "dim" in name or "rot" in name}
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
    """Whether a function is probed, which calls it: parameters named cos and sin, or three or four required ones and, somewhere in its
    name, parameters or code, a word that every code for rotations has. Loggers, collectives and cache updates are not called."""
    parameters = inspect.signature(function).parameters
    if {"cos", "sin"} <= parameters.keys():
        return True
    code = getattr(inspect.unwrap(function), "__code__", None)
    names = [function.__name__, *parameters, *(code.co_names + code.co_varnames if code is not None else ())]
    words = ("cos", "sin", "rot", "rope", "freq", "angle", "complex")
    return len(_required(function)) in (3, 4) and any(word in name.lower() for name in names for word in words)


def _required(function: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]


def _named_as_rotation(name: str) -> bool:
    """Whether the report should say why a function was left. The name has no influence on what a function is recognised as."""
    return any(part in name.lower() for part in ("rotary", "rope", "rot_"))
