"""The CPU kernel: a C++ loop in torch's own thread pool."""

from __future__ import annotations

from typing import Any


def unavailable() -> str | None:
    return "not there yet"


def norm_rotate(*_: Any, **__: Any) -> str | None:
    return unavailable()


def norm_rotate_backward(*_: Any, **__: Any) -> str | None:
    return unavailable()


def rotate_and_store(*_: Any, **__: Any) -> str | None:
    return unavailable()
