"""What a model's functions are called in: plain float32 tensors, whatever defaults and modes the process has."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from rotary.transformers import RotationSpec, check, patch, probe
from rotary.transformers.surroundings import defaults, restored
from zoo.functions import rotate_half


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    yield
    torch.set_default_dtype(before)


@contextlib.contextmanager
def default_device() -> Iterator[None]:
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


SURROUNDINGS: dict[str, Callable[[], Any]] = {
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "float16": lambda: default_dtype(torch.float16),
    "float64": lambda: default_dtype(torch.float64),
    "default device": default_device,
    "device context": lambda: torch.device("meta"),
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "fake tensors": FakeTensorMode,
}


def usual(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    return rotate_half(q, cos, sin), rotate_half(k, cos, sin)


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(8)), 1e-6

    def forward(self, x: Tensor) -> Tensor:
        h = x.float()
        return self.weight * (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class Rotary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 1e4 ** (-torch.arange(4) / 4), persistent=False)

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        angles = position_ids[..., None].float() * self.inv_freq
        angles = torch.cat((angles, angles), -1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rotary, self.q_norm, self.k_norm = Rotary(), Norm(), Norm()

    def forward(self, q: Tensor, k: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = self.rotary(q, position_ids)
        return usual(self.q_norm(q), self.k_norm(k), cos, sin)


CONFIG = {"model_type": "llama", "head_dim": 8, "rope_theta": 1e4}


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_a_function_is_recognised_as_without_them(name: str):
    with SURROUNDINGS[name]():
        spec = probe(usual)
    assert spec == RotationSpec(promotes=True)


@pytest.mark.parametrize("name", [n for n in SURROUNDINGS if n != "fake tensors"])
def test_a_model_is_patched_and_checked_as_without_them(name: str):
    """Exact tables, deferred norms and the frequencies; then the dtype that the function gives for bfloat16 queries and float32 tables."""
    q, k = torch.randn(2, 1, 2, 11, 8)
    positions = torch.arange(11)[None]
    for options, lines in (({}, 1), ({"tables": "exact"}, 2), ({"fuse": "norms"}, 3)):
        model = Attention()
        expected = model(q, k, positions)
        with SURROUNDINGS[name]():
            handle = patch(model, **options)
            assert check(model, CONFIG)
        assert str(handle.report()).count("replaced ") == lines and not handle.report().left
        with SURROUNDINGS[name]() if name.startswith(("bf", "fl")) else contextlib.nullcontext():
            for y, truth in zip(model(q, k, positions), expected, strict=True):
                torch.testing.assert_close(y, truth, rtol=0, atol=1e-5)
        handle.remove()


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_new_tensors_are_plain_float32_ones_on_the_cpu(name: str):
    with SURROUNDINGS[name]():
        with restored() as changed:
            x = torch.ones(2)
            assert type(x) is Tensor and x.dtype == torch.float32 and x.device.type == "cpu" and not x.is_inference()
            assert (x[:, None] @ x[None]).dtype == torch.float32
        assert not changed


def test_defaults_are_put_back_after_an_error():
    for dtype in (torch.float64, torch.float32):
        with default_dtype(dtype), contextlib.suppress(ZeroDivisionError), defaults("meta"):
            assert torch.ones(1).is_meta and torch.ones(1).dtype == torch.float32
            raise ZeroDivisionError
        assert torch.get_default_dtype() == torch.float32 and torch.ones(1).device.type == "cpu"
