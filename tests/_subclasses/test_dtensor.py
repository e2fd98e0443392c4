"""The private names of DTensor, as a torch without them would have it; several processes: tests/several/behaviour.py."""

from __future__ import annotations

import pytest
import torch

from rotary._subclasses import dtensor

placement_types = pytest.importorskip("torch.distributed.tensor.placement_types")


def test_a_strided_shard_is_that_of_torch():
    shard = dtensor.strided_shard(1, 2)
    assert isinstance(shard, placement_types._StridedShard) and (shard.dim, shard.split_factor) == (1, 2)


def test_without_torchs_strided_shard_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(placement_types, "_StridedShard")
    with pytest.raises(
        RuntimeError, match="this version of torch cannot place a table .* redistribute the gradient first"
    ):
        dtensor.strided_shard(1, 2)


def test_an_attribute_that_torch_does_not_have_is_none():
    assert dtensor.private_attribute(torch.zeros(2), "_no_such_name") is None
    assert dtensor.ordered(torch.zeros(2))
