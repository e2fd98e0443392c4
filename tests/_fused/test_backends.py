"""Which kernel of norm, rotation and write runs, and the error where a named one does not serve."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from rotary._fused import backends, eager, native, triton

UNAVAILABLE, DECLINES, SERVES = "unavailable", "declines", "serves"


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return []


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, ran: list[str]) -> Callable[..., Callable[[Any], str | None]]:
    """Replaces the kernels by ones that serve or decline, and calls one."""

    def put(**kernels: str) -> Callable[[Any], str | None]:
        installed = {
            name: SimpleNamespace(name=name, state=state, unavailable=lambda s=state: s if s == UNAVAILABLE else None)
            for name, state in kernels.items()
        }
        monkeypatch.setattr(backends, "_kernels", installed)

        def call(kernel: Any) -> str | None:
            ran.append(kernel.name)
            return None if kernel.state == SERVES else f"{kernel.name} {kernel.state}"

        return call

    return put


@pytest.mark.parametrize(
    ("device", "states", "tried"),
    [
        ("cpu", {"native": SERVES}, ["native"]),
        ("cpu", {"native": DECLINES}, ["native", "eager"]),
        ("cpu", {"native": UNAVAILABLE}, ["eager"]),
        ("cuda", {"triton": SERVES}, ["triton"]),
        ("cuda", {"triton": DECLINES}, ["triton", "eager"]),
        ("cuda", {"triton": UNAVAILABLE}, ["eager"]),
        ("mps", {}, ["eager"]),
    ],
)
def test_the_best_kernel_that_serves(device: str, states: dict[str, str], tried: list[str], install: Any, ran: Any):
    call = install(**{"native": SERVES, "triton": SERVES, "eager": SERVES, **states})
    backends.run(None, device, call)
    assert ran == tried


def test_a_chosen_kernel_serves_or_says_why_not(install: Any, ran: list[str]):
    call = install(native=DECLINES, triton=SERVES, eager=SERVES)
    backends.run("triton", "cpu", call)
    assert ran == ["triton"]
    with pytest.raises(RuntimeError, match=r"^backend 'native' does not serve these tensors: native declines$"):
        backends.run("native", "cpu", call)
    assert ran == ["triton", "native"]


def test_kernels_by_name():
    for _ in "ab":
        assert backends.kernel("eager") is eager and backends.kernel("native") is native
        assert backends.kernel("triton") is triton
