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
from .flow import Source, Uses, uses
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
    parents = Counter(id(child) for module in model.modules() for child in module.children())
    known: dict[Any, NormSpec | str] = {}
    for module, found in _by_module(rotating):
        owner = type(module).__name__
        specs = {
            name: _judged(module, name, reason, parents, known)
            for name, reason in found.reasons.items()
            if "norm" in f"{name} {type(getattr(module, name)).__name__}".lower()
        }
        _only_together(specs, found.together)
        for name, spec in specs.items():
            if isinstance(spec, str):
                handle.report().left[owner, name] = spec
                continue
            norm = getattr(module, name)
            handle.replace(norm, "forward", _waiting(type(norm).forward, spec, handle))
            replaced[owner, name, "with the rotation", str(spec)] += 1


def _by_module(rotating: list[Rotating]) -> Iterator[tuple[nn.Module, Uses]]:
    """Each module once, with the norms among its children that its methods call."""
    by_id: dict[int, list[Rotating]] = {}
    for one in rotating:
        by_id.setdefault(id(one.module), []).append(one)
    for several in by_id.values():
        module = several[0].module
        children = frozenset(name for name, _ in module.named_children())
        reasons: dict[str, str | None] = {}
        together: list[tuple[Source, ...]] = []
        rotations = {one.method: one.rotations for one in several}
        for name, method, _ in methods(type(module)):
            found = uses(method, module, children, rotations.get(name, {}))
            together += found.together
            for norm, reason in found.reasons.items():
                reasons[norm] = reasons.get(norm) or reason
        yield module, Uses(reasons, together)


def _judged(
    module: nn.Module, name: str, reason: str | None, parents: Counter[int], known: dict[Any, NormSpec | str]
) -> NormSpec | str:
    """The spec of a norm that may wait, or the reason why it may not. known: what norms like it were found to be."""
    norm = getattr(module, name)
    reason = reason or _not_its_own(norm, parents) or _whole(module, norm)
    if reason is not None:
        return reason
    numbers = sorted((key, value) for key, value in vars(norm).items() if isinstance(value, float))
    key = type(norm), *numbers, _width(norm)
    if key not in known:
        known[key] = recognise(norm)
    return known[key]


def _only_together(specs: dict[str, NormSpec | str], together: list[tuple[Source, ...]]) -> None:
    """One pass takes all tensors of a rotation: a norm waits only where every tensor beside its own comes from norms that wait."""
    changed = True
    while changed:
        changed = False
        for call in together:
            if all(source and not any(isinstance(specs.get(norm, ""), str) for norm in source) for source in call):
                continue
            for norm in frozenset[str]().union(*call):
                if not isinstance(specs.get(norm, ""), str):
                    specs[norm] = "the other tensor of its rotation comes without a norm that can wait"
                    changed = True


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
        weight = None if spec.weight is None else getattr(self, spec.weight, None)
        if args or kwargs or not handle.active or not _can_wait(self, x, spec, weight):
            return original(self, x, *args, **kwargs)
        return Deferred.of(Origin(x, spec, weight, lambda y: original(self, y)))

    return mark_as_patched(forward)


def _can_wait(module: nn.Module, x: Any, spec: NormSpec, weight: Tensor | None) -> bool:
    if torch.compiler.is_compiling() or tracing() or has_hooks(module) or "forward" in module.__dict__:
        return False
    if type(x) not in _PLAIN or x.device.type != "cpu" or not x.is_floating_point() or torch.is_autocast_enabled("cpu"):
        return False
    if spec.weight is None:
        return True
    if weight is None or type(weight) not in _PLAIN:
        return False
    return weight.dtype == x.dtype and weight.device == x.device and weight.shape == x.shape[-1:]
