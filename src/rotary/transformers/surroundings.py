"""Contexts in which a model's functions are called: in defaults() new tensors are float32 and on one device; restored() puts back what is
changed in the process, unchanged() what is changed in a module."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._torch import plain_torch


class _Part(NamedTuple):
    read: Callable[[], Any]
    write: Callable[[Any], None]


def _numpy() -> Any:
    """numpy.random if numpy has been imported, else None: its state cannot have changed then."""
    return getattr(sys.modules.get("numpy"), "random", None)


def _numpy_state() -> str | tuple[Any, ...]:
    module = _numpy()
    if module is None:
        return ""
    name, keys, *numbers = module.get_state()
    return name, tuple(keys.tolist()), *numbers


def _set_numpy_state(state: Any) -> None:
    module = _numpy()
    if module is not None and state:
        module.set_state(state)


def _set_grad_mode(on: bool) -> None:
    torch.set_grad_enabled(on)


def _set_device(name: str) -> None:
    torch.set_default_device(None if name == "cpu" else name)


_PARTS = {
    "the random state of torch": _Part(torch.get_rng_state, torch.set_rng_state),
    "the random state of Python": _Part(random.getstate, random.setstate),
    "the random state of numpy": _Part(_numpy_state, _set_numpy_state),
    "grad mode": _Part(torch.is_grad_enabled, _set_grad_mode),
    "the default dtype": _Part(torch.get_default_dtype, torch.set_default_dtype),
    "the default device": _Part(lambda: str(torch.get_default_device()), _set_device),
}


@contextmanager
def defaults(device: torch.device | str) -> Generator[None, None, None]:
    """New tensors are float32 and on that device where the code inside names neither, whatever the defaults of the process are.

    >>> with torch.device("meta"), defaults("cpu"):
    ...     print(torch.zeros(1).device)
    cpu
    """
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(dtype)


@contextmanager
def restored(function: Callable[..., Any] | None = None) -> Generator[list[str], None, None]:
    """Makes plain float32 CPU tensors in its block, whatever is on around it, and restores random states and defaults that are changed
    there. The list that it yields has, after the block, the names of these.

    function: what is called there; of a method that is bound to a module, what it writes into the module is restored, too.

    >>> with restored() as changed:
    ...     _ = torch.rand(1), torch.set_grad_enabled(True)
    >>> changed, torch.is_grad_enabled()
    (['the random state of torch', 'grad mode'], True)
    """
    changed: list[str] = []
    owner = getattr(function, "__self__", None)
    with unchanged(owner) if isinstance(owner, nn.Module) else nullcontext(), plain_torch(), defaults("cpu"):
        before = {name: part.read() for name, part in _PARTS.items()}
        try:
            yield changed
        finally:
            for name, part in _PARTS.items():
                now = part.read()
                same = torch.equal(now, before[name]) if isinstance(now, Tensor) else now == before[name]
                if not same:
                    part.write(before[name])
                    changed.append(name)


@contextmanager
def unchanged(module: nn.Module) -> Generator[None, None, None]:
    """Restores what its block changes in a module's attributes and buffers: methods are called there, and some write into their module."""
    attributes = dict(vars(module))
    inner = [(value, copy.copy(value)) for value in attributes.values() if isinstance(value, (dict, set))]
    tensors = [
        t for t in (*attributes.values(), *module.buffers(recurse=False)) if isinstance(t, Tensor) and not t.is_meta
    ]
    values = [t.detach().clone() for t in tensors]
    try:
        yield
    finally:
        for name in vars(module).keys() - attributes.keys():
            del vars(module)[name]
        vars(module).update(attributes)
        for value, before in inner:
            value.clear()
            value.update(before)
        for tensor, before in zip(tensors, values, strict=True):
            if not torch.equal(tensor, before):
                tensor.copy_(before)
