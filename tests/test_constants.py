"""Tensors made from Python numbers: made once per device, in plain torch, and never part of a copy."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from rotary import _constants
from rotary._constants import Constants
from rotary._torch import plain_torch, tracing, transforming

CPU = torch.device("cpu")


def test_made_once_per_device_and_never_part_of_a_copy():
    numbers = Constants((1, 2, 3), torch.int64)
    made = numbers.on(CPU)
    assert made.tolist() == [1, 2, 3]
    assert numbers.on(CPU) is made
    assert copy.deepcopy(numbers) is numbers is copy.copy(numbers)
    again = pickle.loads(pickle.dumps(numbers))
    assert again == numbers and again.on(CPU) is not made
    assert numbers != Constants((1, 2, 4), torch.int64) and numbers != Constants((1, 2, 3), torch.int32)
    assert numbers.on(torch.device("meta")).is_meta


def test_nothing_made_while_tracing_is_kept():
    numbers = Constants((1.0, 2.0), torch.float32)
    with FakeTensorMode():
        assert tracing()
        assert isinstance(numbers.on(CPU), FakeTensor)
    assert not tracing()
    assert type(numbers.on(CPU)) is torch.Tensor
    other = Constants((1.0, 2.0), torch.float32)

    def inside(x: torch.Tensor) -> torch.Tensor:
        assert transforming() and tracing()
        return x * other.on(CPU)

    torch.func.vmap(inside)(torch.ones(3, 2))
    assert other._tensors == {}


def test_ordinary_tensors_whatever_surrounds():
    numbers = Constants((1.0, 2.0), torch.float32)
    with torch.inference_mode(), torch.device("meta"):
        made = numbers.on(CPU)
    assert not made.is_inference() and made.device == CPU
    with FakeTensorMode(), torch.device("meta"), torch.inference_mode(), plain_torch():
        x = torch.ones(2)
        assert type(x) is torch.Tensor and x.device == CPU and not x.is_inference() and x.sum().item() == 2.0


def test_a_device_without_float64_gets_float32_and_nothing_else_changes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_constants, "has_float64", lambda device: False)
    for given, expected in ((torch.float64, torch.float32), (torch.int64, torch.int64), (torch.float32, torch.float32)):
        assert Constants((1, 2), given).on(CPU).dtype == expected
    monkeypatch.undo()
    assert Constants((1, 2), torch.float64).on(CPU).dtype == torch.float64
