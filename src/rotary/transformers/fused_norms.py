"""patch(model, fuse="norms"): norms of queries and keys are deferred to the rotation behind them, and computed with it in one pass.

A norm of an attention module is deferred if its result reaches a replaced rotation and nothing else (flow.py), and if it is an RMSNorm
over the channels of a head (norms.py). Its forward then returns a Deferred. It computes as before under torch.compile and autocast, where
the instance has a hook or a forward of its own, and for tensor subclasses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._torch import has_hooks, tracing
from .deferred import Deferred, Origin
from .expressions import NormNames
from .flow import Uses, uses
from .handle import Handle
from .norms import NormSpec, recognise
from .rebind import mark_as_patched, methods

_PLAIN = (Tensor, nn.Parameter)


class Caller(NamedTuple):
    """A method of a module that calls replaced rotations. rotations: their global names -> how many tensors each takes first."""

    module: nn.Module
    method: str
    rotations: Mapping[str, int]


def defer_norms(model: nn.Module, handle: Handle, callers: list[Caller], replaced: Counter[Any]) -> None:
    """Defer the norms that may be; the report names them, and the others with the reason."""
    parents = Counter(id(child) for module in model.modules() for child in module.children())
    cache: dict[Any, NormSpec | str] = {}
    for module, norm_uses in _uses_by_module(callers):
        owner = type(module).__name__
        specs = {
            name: _spec_or_reason(module, name, reason, parents, cache)
            for name, reason in norm_uses.reasons.items()
            if "norm" in f"{name} {type(getattr(module, name)).__name__}".lower()
        }
        _keep_whole_calls(specs, norm_uses.rotated)
        for name, spec in specs.items():
            if isinstance(spec, str):
                handle.report().left[owner, name] = spec
                continue
            norm = getattr(module, name)
            handle.replace(norm, "forward", _deferring(type(norm).forward, spec, handle))
            replaced[owner, name, "with the rotation", str(spec)] += 1


def _uses_by_module(callers: list[Caller]) -> Iterator[tuple[nn.Module, Uses]]:
    """Each module once, with what all its methods do with the results of its children."""
    by_id: dict[int, list[Caller]] = {}
    for caller in callers:
        by_id.setdefault(id(caller.module), []).append(caller)
    for of_module in by_id.values():
        module = of_module[0].module
        children = frozenset(name for name, _ in module.named_children())
        reasons: dict[str, str | None] = {}
        rotated: list[tuple[NormNames, ...]] = []
        rotations = {caller.method: caller.rotations for caller in of_module}
        for name, method, _ in methods(type(module)):
            in_method = uses(method, module, children, rotations.get(name, {}))
            rotated += in_method.rotated
            for norm, reason in in_method.reasons.items():
                reasons[norm] = reasons.get(norm) or reason
        yield module, Uses(reasons, rotated)


def _spec_or_reason(
    module: nn.Module, name: str, reason: str | None, parents: Counter[int], cache: dict[Any, NormSpec | str]
) -> NormSpec | str:
    """The spec of a norm that may be deferred, or the reason why it may not.

    reason: that of its uses. parents: how many modules have each module as a child, by id. cache: class, numbers and width of a norm ->
    its spec, since recognising it calls it.
    """
    norm = getattr(module, name)
    reason = reason or _not_its_own(norm, parents) or _wider_than_head(module, norm)
    if reason is not None:
        return reason
    numbers = sorted((key, value) for key, value in vars(norm).items() if isinstance(value, float))
    key = type(norm), *numbers, _width(norm)
    if key not in cache:
        cache[key] = recognise(norm)
    return cache[key]


def _keep_whole_calls(specs: dict[str, NormSpec | str], rotated: list[tuple[NormNames, ...]]) -> None:
    """Put a reason in the place of each spec whose norm shares a rotation with a tensor that no deferred norm makes.

    One pass normalises and rotates all tensors of a call, or none. Taking one norm out may break another call that it is part of, so
    this is repeated until nothing changes.
    """
    changed = True
    while changed:
        changed = False
        for tensors in rotated:
            if all(names and not any(isinstance(specs.get(norm, ""), str) for norm in names) for names in tensors):
                continue
            for norm in frozenset[str]().union(*tensors):
                if not isinstance(specs.get(norm, ""), str):
                    specs[norm] = "the other tensor of its rotation comes without a norm that can be deferred"
                    changed = True


def _not_its_own(norm: nn.Module, parents: Counter[int]) -> str | None:
    if parents[id(norm)] > 1:
        return "several modules share it"
    if "forward" in norm.__dict__:
        return "its forward is overridden on the instance"
    return None


def _wider_than_head(module: nn.Module, norm: nn.Module) -> str | None:
    """The reason why a norm is not one over a head: its weight is wider than the module's head_dim, where it has both."""
    width, head_dim = _width(norm), getattr(module, "head_dim", None)
    if width is None or not isinstance(head_dim, int) or width == head_dim:
        return None
    return f"it runs over {width} channels, a whole projection, and not over the {head_dim} of a head"


def _width(norm: nn.Module) -> int | None:
    """Channels of the norm's weight, None without one."""
    return next((p.shape[-1] for p in norm.parameters(recurse=False) if p.ndim == 1), None)


def _deferring(original: Callable[..., Any], spec: NormSpec, handle: Handle) -> Any:
    """A forward that returns a Deferred where this call can be deferred, and otherwise computes as before."""

    def forward(self: nn.Module, x: Any, *args: Any, **kwargs: Any) -> Any:
        weight = None if spec.weight is None else getattr(self, spec.weight, None)
        if args or kwargs or not handle.active or not _can_defer(self, x, spec, weight):
            return original(self, x, *args, **kwargs)
        return Deferred.of(Origin(x, spec, weight, lambda y: original(self, y)))

    return mark_as_patched(forward)


def _can_defer(module: nn.Module, x: Any, spec: NormSpec, weight: Tensor | None) -> bool:
    """Whether the fused pass computes what this call of the module would: eagerly, on a CPU, from plain tensors of one dtype."""
    if torch.compiler.is_compiling() or tracing() or has_hooks(module) or "forward" in module.__dict__:
        return False
    if type(x) not in _PLAIN or x.device.type != "cpu" or not x.is_floating_point() or torch.is_autocast_enabled("cpu"):
        return False
    if spec.weight is None:
        return True
    if weight is None or type(weight) not in _PLAIN:
        return False
    return weight.dtype == x.dtype and weight.device == x.device and weight.shape == x.shape[-1:]
