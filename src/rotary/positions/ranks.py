"""Which tokens each of several processes has: indices into the sequence, by which tokens, labels, masks and positions are cut alike.

    contiguous   0 0 0 0 1 1 1 1      one run of tokens for each process
    zigzag       0 0 1 1 1 1 0 0      two chunks each, of 2 x world: the r-th from the front and the r-th from the back
    striped      0 1 0 1 0 1 0 1      dealt out one by one, or block by block

With causal attention later tokens are more work, which zigzag shares evenly.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from .. import _checks
from .._torch import tracing
from .counted import check_cumulative, check_lengths, document_of

Order = Literal["zigzag", "contiguous", "striped"]


def of_rank(
    n: int,
    rank: int,
    world: int,
    *,
    order: Order = "zigzag",
    block: int | None = None,
    cu_seqlens: Tensor | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Indices (n / world,) int64 of the tokens that process `rank` of `world` has under context parallelism. Processes do not communicate.

    Everything that has a row per token is cut by them: tokens[:, index], labels[:, index], positions of any kind. Without documents
    they are the positions themselves: rope.rotate(q, k, positions=index); with documents, packed(cu_seqlens, n, tokens=index).

    n: tokens in all, including padding.
    order: for h = n / (2 world) and i = 0 .. n / world - 1 the local row,
        "zigzag":      rank h + i where i < h, else (2 world - 1 - rank) h + i - h. Llama 3 (arXiv:2407.21783, section 3.3.2), Megatron-LM's
                       and Transformer Engine's dual chunk, torch's head-tail, zigzag of ring-flash-attention
        "contiguous":  rank n / world + i: Ulysses (arXiv:2309.14509), and a DTensor's Shard
        "striped":     ((i // block) world + rank) block + i % block: Striped Attention (arXiv:2311.09431) for blocks of 1; for blocks of
                       chunk / world the order of DeepSpeed's FPDT (arXiv:2408.16978)
    block: of "striped", 1 by default.
    cu_seqlens: (documents + 1,) int32 or int64, cumulative lengths 0 .. n, padding included (cu_seqlens_padded): each document is cut so
        by itself, and a process has its parts of all documents, one after the other. On a device its values are not read.
    device: of the result; with cu_seqlens its device.

    TypeError for numbers that are not integers; ValueError for a rank outside the world, and where n, or on the CPU a document, is no
    multiple of world (twice world for "zigzag", block x world for "striped"), naming the padded length.

    >>> of_rank(8, 0, 2), of_rank(8, 1, 2)
    (tensor([0, 1, 6, 7]), tensor([2, 3, 4, 5]))
    >>> of_rank(8, 1, 2, order="striped", block=2)
    tensor([2, 3, 6, 7])
    >>> of_rank(12, 0, 2, cu_seqlens=torch.tensor([0, 4, 12]))
    tensor([ 0,  3,  4,  5, 10, 11])
    """
    n, world, rank = _checks.length("n", n), _checks.index("world", world), _checks.index("rank", rank)
    if world < 1 or not 0 <= rank < world:
        raise ValueError(
            f"rank must be one of 0 .. world - 1, got rank {_checks.describe(rank)} of world {_checks.describe(world)}"
        )
    order = _checks.one_of("order", order, ("zigzag", "contiguous", "striped"))
    block, device = _block(block, order), _checks.device("device", device)
    parts = {"zigzag": 2, "contiguous": 1, "striped": block}[order] * world
    if n % parts:
        raise ValueError(
            f"{n} tokens cannot be cut evenly among {world} processes in order {order!r}: pad them to {_padded(n, parts)}, a multiple of "
            f"{parts}"
        )
    if cu_seqlens is None:
        rows = torch.arange(n // world, dtype=torch.int64, device=device)
        return _dealt(rows, n // world, rank, world, order, block)
    check_cumulative(cu_seqlens)
    if device is not None and device.type != cu_seqlens.device.type:
        raise ValueError(f"cu_seqlens on {cu_seqlens.device}, device {device}: move cu_seqlens first")
    if not tracing() and cu_seqlens.device.type == "cpu":
        check_lengths(cu_seqlens, n)
        _check_documents(cu_seqlens, parts, order)
    rows = torch.arange(n // world, dtype=torch.int64, device=cu_seqlens.device)
    if cu_seqlens.shape[0] == 1:
        return _dealt(rows, n // world, rank, world, order, block)
    starts = cu_seqlens.to(torch.int64)
    local = starts // world
    document = document_of(local, rows)
    lengths = (local[1:] - local[:-1])[document]
    return starts[document] + _dealt(rows - local[document], lengths, rank, world, order, block)


def _dealt(i: Tensor, count: int | Tensor, rank: int, world: int, order: str, block: int) -> Tensor:
    """The index of the token in local row i, where each process has `count` rows of the sequence or document."""
    if order == "contiguous":
        return i + count * rank
    if order == "striped":
        return (i // block * world + rank) * block + i % block
    half = count // 2
    return i + torch.where(i < half, half * rank, half * (2 * world - 2 - rank))


def _block(block: Any, order: str) -> int:
    if block is None:
        return 1
    if order != "striped":
        raise ValueError(
            f"block {_checks.describe(block)} goes with order='striped', got order {order!r}; leave block out"
        )
    return _checks.count("block", block)


def _padded(n: int, parts: int) -> int:
    return -(-n // parts) * parts


def _check_documents(cu_seqlens: Tensor, parts: int, order: str) -> None:
    lengths = cu_seqlens.diff().tolist()
    odd = [i for i, length in enumerate(lengths) if length % parts]
    if odd:
        first = odd[0]
        raise ValueError(
            f"in order {order!r} each document must be a multiple of {parts} tokens long, and {len(odd)} of {len(lengths)} are not: "
            f"document {first} has {lengths[first]}, to be padded to {_padded(lengths[first], parts)}; cu_seqlens_padded is meant, the "
            f"cumulative lengths with padding"
        )
