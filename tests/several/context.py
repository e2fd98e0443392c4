"""Context parallelism: plain parts of a sequence at the positions of their tokens, in every order, and torch's own ways of cutting it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from rotary import RotaryEmbedding
from rotary.positions import of_rank, packed
from rotary.scaling import DynamicNTK
from several.matrix import HEADS, some

N, DIM = 48, 16
CU = torch.tensor([0, 8, 24, 24, 48])


def shards_of_every_order(rank: int, world: int, folder: Path) -> None:
    """Rows of one process, bit for bit, whatever the order; with documents; under a scheme that depends on the length."""
    del folder
    q, k = some(2, HEADS, N, DIM), some(2, 2, N, DIM, seed=1)
    orders: list[dict[str, Any]] = [
        {"order": "zigzag"},
        {"order": "contiguous"},
        {"order": "striped"},
        {"order": "striped", "block": 3},
    ]
    for rope in (RotaryEmbedding(DIM), RotaryEmbedding(DIM, scaling=DynamicNTK(4.0, 16), interleaved=True)):
        for how, documents in itertools.product(orders, (None, CU)):
            if documents is not None and how.get("block"):
                continue  # documents of 8 are no multiple of blocks
            index = of_rank(N, rank, world, cu_seqlens=documents, **how)
            positions = index if documents is None else packed(documents, N, tokens=index)
            one = rope.rotate(q, k, positions=torch.arange(N) if documents is None else packed(CU, N), length=N)
            found = rope.rotate(q[:, :, index], k[:, :, index], positions=positions, length=N)
            for a, b in zip(found, one, strict=True):
                assert torch.equal(a, b[:, :, index]), (how, documents)
    held: list[Any] = [None] * world
    dist.all_gather_object(held, of_rank(N, rank, world).tolist())
    assert sorted(itertools.chain(*held)) == list(range(N))


def by_torch(rank: int, world: int, folder: Path) -> None:
    """torch's context_parallel cuts positions and tables beside tokens, as buffers: rotate() by them gives its own rows."""
    del rank, folder
    from torch.distributed.tensor.experimental import context_parallel

    mesh = init_device_mesh("cpu", (world,))
    rope, x = RotaryEmbedding(DIM), some(2, HEADS, N, DIM)
    one = rope.rotate(x)
    expected, positions = one.clone(), torch.arange(N)
    rows = torch.arange(N).expand(2, N).contiguous()
    cos, sin = rope.cos_sin(N)
    from rotary import apply_rotary

    with context_parallel(mesh, buffers=[x, expected, positions, rows, cos, sin], buffer_seq_dims=[2, 2, 0, 1, 0, 0]):
        assert x.shape[2] == N // world
        for found in (rope.rotate(x, positions=positions), rope.rotate(x, positions=rows), apply_rotary(x, cos, sin)):
            assert torch.equal(found, expected)
