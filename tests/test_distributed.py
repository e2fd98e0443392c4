"""Two processes over gloo: data parallel and sharded training around our module, and distributed tensors rotated."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from rotary import RotaryEmbedding

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch was built without distributed")
STEPS = 3


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.rope = RotaryEmbedding(16)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (2, 16)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        q, k = self.rope.rotate(q, k)
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2))


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Attention(), Attention())


def data() -> Tensor:
    return torch.randn(STEPS, 4, 6, 32, generator=torch.Generator().manual_seed(1))


def train(trained: nn.Module, batches: Tensor) -> None:
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    for x in batches:
        optimizer.zero_grad()
        trained(x).square().mean().backward()
        optimizer.step()


def weights(trained: nn.Module) -> Tensor:
    parts: list[Tensor] = []
    for parameter in trained.parameters():
        whole: Any = parameter.detach()
        parts.append((whole.full_tensor() if hasattr(whole, "full_tensor") else whole).flatten())
    return torch.cat(parts)


def job(rank: int, folder: str, expected: Tensor) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    _train_both_ways(rank, expected)
    _rotate_shards(rank)
    dist.barrier()
    os._exit(0)  # all was well; gloo's threads do not always survive an orderly end (seen once: terminate, SIGABRT)


def _train_both_ways(rank: int, expected: Tensor) -> None:
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    mine = data()[:, 2 * rank : 2 * rank + 2]  # means of halves average to the mean of the whole
    parallel = DistributedDataParallel(model())
    train(parallel, mine)
    torch.testing.assert_close(weights(parallel), expected, rtol=0, atol=1e-6)

    mesh = dist.init_device_mesh("cpu", (2,))
    sharded = model()
    for layer in sharded:
        fully_shard(layer, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    train(sharded, mine)
    torch.testing.assert_close(weights(sharded), expected, rtol=0, atol=1e-6)


def _rotate_shards(rank: int) -> None:
    """Heads and batch sharded, positions not: each process rotates its own part."""
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = dist.init_device_mesh("cpu", (2,))
    rope = RotaryEmbedding(16)
    x = torch.randn(4, 2, 6, 16, generator=torch.Generator().manual_seed(2))
    for dimension in (0, 1):
        local = distribute_tensor(x, mesh, [Shard(dimension)]).to_local()
        assert torch.equal(rope.rotate(local), rope.rotate(x).chunk(2, dimension)[rank])
    from rotary import apply_rotary

    cos, sin = rope.cos_sin(6)
    spread, *tables = (
        distribute_tensor(t, mesh, [p]) for t, p in ((x, Shard(1)), (cos, _replicate()), (sin, _replicate()))
    )
    torch.testing.assert_close(apply_rotary(spread, *tables).full_tensor(), rope.rotate(x), rtol=0, atol=1e-6)


def _replicate() -> Any:
    from torch.distributed.tensor import Replicate

    return Replicate()


def test_two_processes_train_as_one(tmp_path: Path):
    alone = model()
    train(alone, data())
    torch.multiprocessing.spawn(job, args=(str(tmp_path), weights(alone)), nprocs=2)
