"""Which kernel rotates: chosen by device, by use_backend(), and refused with the reason."""

from __future__ import annotations

import contextlib
import threading

import pytest
import torch

import rotary
from rotary import RotaryEmbedding, use_backend
from rotary._rotation import backends
from support.step_by_step import step_by_step


class Recorder:
    """A kernel that serves or declines as set, and counts its calls."""

    def __init__(self, unavailable: str | None = None, refusal: str | None = None) -> None:
        self.reason, self.refusal, self.calls = unavailable, refusal, 0

    def unavailable(self) -> str | None:
        return self.reason

    def rotate(self, xs, outs, tables, **how) -> str | None:
        self.calls += 1
        return self.refusal or backends.kernel("eager").rotate(xs, outs, tables, **how)


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch):
    """Puts a kernel in the place of the CPU's; no call goes past it."""

    def put(kernel: Recorder) -> Recorder:
        monkeypatch.setitem(backends._kernels, "native", kernel)
        return kernel

    with step_by_step():
        yield put


ROPE, X = RotaryEmbedding(8), torch.randn(2, 3, 8)


def test_names_and_reasons(cpu):
    cpu(Recorder("no compiler was found"))
    states = rotary.backends()
    assert list(states) == ["eager", "native", "triton"]
    assert states["eager"] == "available" and states["native"] == "no compiler was found"
    assert rotary.backends is backends.backends


def test_the_device_chooses(cpu):
    kernel = cpu(Recorder())
    expected = ROPE.rotate(X)
    assert kernel.calls == 1
    with use_backend("eager"):
        assert torch.equal(ROPE.rotate(X), expected)
    assert kernel.calls == 1


def test_what_the_choice_of_the_device_does_not_serve_goes_to_eager(cpu):
    kernel = cpu(Recorder(refusal="odd strides"))
    assert torch.equal(ROPE.rotate(X), RotaryEmbedding(8).rotate(X))
    assert kernel.calls == 2
    absent = cpu(Recorder(unavailable="not built"))
    ROPE.rotate(X)
    assert absent.calls == 0


def test_an_explicit_choice_never_falls_back(cpu):
    cpu(Recorder(unavailable="not built"))
    with pytest.raises(RuntimeError, match="'native' is unavailable: not built"), use_backend("native"):
        pass
    cpu(Recorder(refusal="odd strides"))
    with use_backend("native"), pytest.raises(RuntimeError, match="odd strides"):
        ROPE.rotate(X)
    with pytest.raises(ValueError, match="'tpu'; known: eager, native, triton"), use_backend("tpu"):
        pass
    assert backends.chosen() is None


def test_the_choice_is_of_one_context(cpu):
    kernel, seen = cpu(Recorder()), []
    with use_backend("eager"):
        thread = threading.Thread(target=lambda: seen.append(backends.chosen()))
        thread.start()
        thread.join()
        with use_backend("native"):
            assert backends.chosen() == "native"
        assert backends.chosen() == "eager"
    assert seen == [None] and kernel.calls == 0


def test_backward_runs_where_forward_did(cpu):
    kernel = cpu(Recorder())
    x = X.clone().requires_grad_()
    with use_backend("eager"):
        y = ROPE.rotate(x)
    y.sum().backward()
    assert kernel.calls == 0
    ROPE.rotate(x).sum().backward()
    assert kernel.calls == 2


def test_a_gpu_for_which_triton_cannot_build_its_driver_is_off_with_the_reason(monkeypatch: pytest.MonkeyPatch):
    """As in a container without a C compiler, where it would otherwise be found out by the first rotation."""
    pytest.importorskip("triton", minversion="3.3")
    from rotary._rotation import triton as launcher
    from rotary._triton import devices

    if torch.cuda.is_available() or devices.interpreting():
        pytest.skip("Triton has a driver")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    assert str(launcher.unavailable.__wrapped__()).startswith("triton does not load: ")


def test_the_former_name_of_the_native_backend_works_and_is_deprecated(cpu):
    kernel = cpu(Recorder())
    former = contextlib.ExitStack()
    with pytest.warns(DeprecationWarning, match="'cpu' is now 'native'"):
        former.enter_context(use_backend("cpu"))
    with former:
        assert backends.chosen() == "native"
        ROPE.rotate(X)
    assert kernel.calls == 1
