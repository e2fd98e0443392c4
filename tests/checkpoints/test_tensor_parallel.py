"""The axis along which tensor-parallel files divide a tensor."""

from __future__ import annotations

import pytest
import torch

from rotary.checkpoints.tensor_parallel import axis_of

CONFIG = {"hidden_size": 8}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.float64, torch.float16])
def test_copies_with_nan_are_copies(dtype: torch.dtype):
    values = torch.tensor([1.0, float("nan"), -0.0]).to(dtype)
    assert axis_of("norm.weight", [values, values.clone()], CONFIG) is None
    for other in (torch.tensor([float("nan"), 1.0, -0.0]).to(dtype), torch.ones(3).to(dtype)):
        with pytest.raises(ValueError, match=r"norm.weight differs between the files"):
            axis_of("norm.weight", [values, values.clone(), other], CONFIG)


def test_integers_flags_and_single_numbers_are_copies_too():
    for tensor in (torch.arange(3), torch.tensor([True, False]), torch.tensor(2.0), torch.empty(0)):
        assert axis_of("rope.freqs", [tensor, tensor.clone()], CONFIG) is None


def test_a_bias_follows_its_projection():
    """Those of projections back are added once, after the sum over the ranks: each has a copy."""
    bias = torch.randn(8)
    assert axis_of("layers.0.attention.wq.bias", [bias, torch.randn(8)], CONFIG) == 0
    assert axis_of("layers.0.attention.wo.bias", [bias, bias.clone()], CONFIG) is None
    with pytest.raises(ValueError, match=r"wo\.bias differs between the files, which should have copies of it"):
        axis_of("layers.0.attention.wo.bias", [bias, torch.randn(8)], CONFIG)


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match=r"wo.weight \(8,\) cannot be joined: it should be a matrix; is the file"):
        axis_of("layers.0.attention.wo.weight", [torch.randn(8)] * 2, CONFIG)
    with pytest.raises(ValueError, match=r"wq.weight cannot be joined: dim \(hidden_size\) is missing in the config"):
        axis_of("layers.0.attention.wq.weight", [torch.randn(8, 8)] * 2, {})
