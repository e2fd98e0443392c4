"""patch(model, fuse="norms"): norms of queries and keys that wait for the rotation behind them, and are computed with it in one pass.

A norm of an attention module waits if its result reaches a replaced rotation and nothing else (flow.py), and if it is an RMSNorm over
the channels of a head (norms.py). Then its forward answers with a Deferred. It computes as before under torch.compile and autocast, with
a hook or a forward of its own on the instance, and for tensors and weights that are not plain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._torch import has_hooks, tracing
from .deferred import Deferred, Origin
from .flow import uses
from .handle import Handle
from .norms import NormSpec, recognise
from .rebind import mark_as_patched, methods

_PLAIN = (Tensor, nn.Parameter)


class Rotating(NamedTuple):
    """A method of a module that calls rotations which were replaced: by their global names, how many tensors each takes."""

    module: nn.Module
    method: str
    rotations: Mapping[str, int]


def defer_norms(model: nn.Module, handle: Handle, rotating: list[Rotating], replaced: Counter[Any]) -> None:
    """Make the norms wait that may; the report says which, and why the others do not."""
    left = handle.report().left
    parents = Counter(id(child) for module in model.modules() for child in module.children())
    specs: dict[Any, NormSpec | str] = {}
    for module, reasons in _by_module(rotating):
        owner = type(module).__name__
        for name, reason in reasons.items():
            norm = getattr(module, name)
            if "norm" not in f"{name} {type(norm).__name__}".lower():
                continue
            if reason is None:
                reason = _not_its_own(norm, parents) or _whole(module, norm)
            if reason is not None:
                left[owner, name] = reason
                continue
            key = type(norm), *sorted((n, v) for n, v in vars(norm).items() if isinstance(v, float)), _width(norm)
            spec = specs.setdefault(key, "") or recognise(norm)
            specs[key] = spec
            if isinstance(spec, str):
                left[owner, name] = spec
                continue
            handle.replace(norm, "forward", _waiting(type(norm).forward, spec, handle))
            replaced[owner, name, "with the rotation", str(spec)] += 1


def _by_module(rotating: list[Rotating]) -> Iterator[tuple[nn.Module, dict[str, str | None]]]:
    """Each module once, with its children that methods with rotations call, and why they may not wait."""
    by_id: dict[int, list[Rotating]] = {}
    for one in rotating:
        by_id.setdefault(id(one.module), []).append(one)
    for several in by_id.values():
        module = several[0].module
        children = frozenset(name for name, _ in module.named_children())
        reasons: dict[str, str | None] = {}
        rotations = {one.method: one.rotations for one in several}
        for name, method, _ in methods(type(module)):
            for norm, reason in uses(method, module, children, rotations.get(name, {})).items():
                reasons[norm] = reasons.get(norm) or reason
        yield module, reasons


def _not_its_own(norm: nn.Module, parents: Counter[int]) -> str | None:
    if parents[id(norm)] > 1:
        return "several modules share it"
    if "forward" in norm.__dict__:
        return "its forward is overridden on the instance"
    return None


def _whole(module: nn.Module, norm: nn.Module) -> str | None:
    """The reason where a norm runs over another width than that of a head, as far as the module says what that is."""
    width, head_dim = _width(norm), getattr(module, "head_dim", None)
    if width is None or not isinstance(head_dim, int) or width == head_dim:
        return None
    return f"it runs over {width} channels, a whole projection, and not over the {head_dim} of a head"


def _width(norm: nn.Module) -> int | None:
    """How many channels a norm has, by its weight."""
    return next((p.shape[-1] for p in norm.parameters(recurse=False) if p.ndim == 1), None)


def _waiting(original: Callable[..., Any], spec: NormSpec, handle: Handle) -> Any:
    """A forward that answers with a Deferred where the norm can wait, and otherwise computes as before."""

    def forward(self: nn.Module, x: Any, *args: Any, **kwargs: Any) -> Any:
        weight = None if spec.weight is None else self._parameters.get(spec.weight)
        if args or kwargs or not handle.active or not _can_wait(self, x, spec, weight):
            return original(self, x, *args, **kwargs)
        return Deferred.of(Origin(x, spec, weight, lambda y: original(self, y)))

    return mark_as_patched(forward)


def _can_wait(module: nn.Module, x: Any, spec: NormSpec, weight: Tensor | None) -> bool:
    if torch.compiler.is_compiling() or tracing() or has_hooks(module) or "forward" in module.__dict__:
        return False
    if type(x) not in _PLAIN or not x.is_floating_point() or torch.is_autocast_enabled(x.device.type):
        return False
    if spec.weight is None:
        return True
    return (
        type(weight) in _PLAIN
        and weight.dtype == x.dtype
        and weight.device == x.device
        and weight.shape == x.shape[-1:]
    )
