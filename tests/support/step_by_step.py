"""Calls of ordinary tensors made to go the way of all others, to compare the two."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rotary._rotation import call

NAMES = ("rotate", "rotate_at", "tables_at")


@contextmanager
def step_by_step() -> Iterator[None]:
    """No call goes whole into C."""
    kept = {name: getattr(call, name) for name in NAMES}
    for name in NAMES:
        setattr(call, name, call.declined)
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(call, name, function)


@contextmanager
def counted() -> Iterator[list[str]]:
    """The names of the functions that served a call, in order."""
    if isinstance(call.rotate_at, type(call.declined)):  # not loaded yet
        call.load()
    kept, served = {name: getattr(call, name) for name in NAMES}, []

    def counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            answer = function(*arguments)
            if answer is not None:
                served.append(name)
            return answer

        return run

    for name, function in kept.items():
        setattr(call, name, counting(name, function))
    try:
        yield served
    finally:
        for name, function in kept.items():
            setattr(call, name, function)


def outcome(run: Callable[[], Any]) -> tuple[Any, ...]:
    """What a call returns, as everything that can be asked of its tensors, or the error that it raises."""
    try:
        answer = run()
    except (TypeError, ValueError, RuntimeError, IndexError, OverflowError, AttributeError) as error:
        return type(error).__name__, str(error)
    return tuple(map(about, answer)) if isinstance(answer, tuple) else (about(answer),)


def about(x: Tensor) -> tuple[Any, ...]:
    """The bits of a tensor, and what it is."""
    memory = x.untyped_storage()
    return (
        type(x),
        x.dtype,
        x.device,
        tuple(x.shape),
        x.stride(),
        x.storage_offset(),
        memory.nbytes(),
        memory.resizable(),
        x.requires_grad,
        x.is_inference(),
        x.is_leaf,
        type(x.grad_fn).__name__,
        x.is_neg(),
        torch.empty(x.numel(), dtype=x.dtype).copy_(x.detach().reshape(-1)).view(torch.uint8).numpy().tobytes(),
    )
