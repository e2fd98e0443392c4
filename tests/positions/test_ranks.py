"""Which tokens a process holds: the orders of other libraries, each written here from its description."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rotary.positions import of_rank, packed

LENGTHS = (48, 96, 240)
DOCUMENTS = ([16, 32, 48], [48], [16, 16, 0, 64], [96, 16])
WORLDS = (1, 2, 4)


def cumulative(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *itertools.accumulate(lengths)])


# --- orders of one sequence ---------------------------------------------------------------------------------------------------


def megatron(n: int, rank: int, world: int) -> Tensor:
    """Megatron-LM, core/models/common/embeddings/rope_utils.py: view as (2 world, chunk), select rows rank and 2 world - 1 - rank."""
    chunks = torch.arange(n).view(2 * world, -1)
    return chunks.index_select(0, torch.tensor([rank, 2 * world - 1 - rank])).flatten()


def transformer_engine(n: int, rank: int, world: int) -> Tensor:
    """The positions of its fused kernel, fused_rope.cu: s + rank cur / 2 in the first half of cur = n / world rows, in the second
    s + cur world - (rank + 1) cur / 2 - cur / 2."""
    cur = n // world
    found = []
    for s in range(cur):
        if s < cur // 2:
            found.append(s + rank * cur // 2)
        else:
            found.append(s + cur * world - (rank + 1) * cur // 2 - cur // 2)
    return torch.tensor(found)


def ring_zigzag(n: int, rank: int, world: int) -> Tensor:
    """ring-flash-attention: 2 world chunks, the rank-th and the rank-th from the end, concatenated."""
    chunks = torch.arange(n).chunk(2 * world)
    return torch.cat((chunks[rank], chunks[2 * world - rank - 1]))


def ring_stripe(n: int, rank: int, world: int) -> Tensor:
    """ring-flash-attention's stripe: (n / world, world), transposed, the rank-th row."""
    return torch.arange(n).reshape(n // world, world).transpose(0, 1)[rank]


def fpdt(n: int, rank: int, world: int, chunk: int) -> Tensor:
    """DeepSpeed's FPDT: the sequence in chunks, each of them cut evenly among the processes."""
    return torch.cat([part.chunk(world)[rank] for part in torch.arange(n).split(chunk)])


@pytest.mark.parametrize("theirs", [megatron, transformer_engine, ring_zigzag])
def test_zigzag(theirs: Callable[..., Tensor]):
    for n, world in itertools.product(LENGTHS, WORLDS):
        for rank in range(world):
            assert torch.equal(of_rank(n, rank, world), theirs(n, rank, world)), (n, rank, world)


def test_zigzag_of_torch():
    module = pytest.importorskip("torch.distributed.tensor.experimental._context_parallel._load_balancer")
    for n, world in itertools.product(LENGTHS, WORLDS):
        order = module._HeadTailLoadBalancer(n, world, "cpu")._generate_indices().flatten()
        for rank in range(world):
            assert torch.equal(of_rank(n, rank, world), order.chunk(world)[rank].long())


def test_striped_and_contiguous():
    for n, world in itertools.product(LENGTHS, WORLDS):
        for rank in range(world):
            assert torch.equal(of_rank(n, rank, world, order="striped"), ring_stripe(n, rank, world))
            assert torch.equal(of_rank(n, rank, world, order="contiguous"), torch.arange(n).chunk(world)[rank])
            for chunk in (12, 24):
                found = of_rank(n, rank, world, order="striped", block=chunk // world)
                assert torch.equal(found, fpdt(n, rank, world, chunk))
            assert torch.equal(
                of_rank(n, rank, world, order="striped", block=n // world), torch.arange(n).chunk(world)[rank]
            )


# --- documents ------------------------------------------------------------------------------------------------------------------


def thd(cu: list[int], rank: int, world: int) -> Tensor:
    """Transformer Engine's index of a token on the device, context_parallel.cu: with cu / world as the local lengths, token t lies in
    document d, at j = t - cu[d] / world of length = cu[d + 1] / world - cu[d] / world; its source is cu[d] + j plus length / 2 times
    rank in the first half of the length, and times 2 (world - 1) - rank in the second."""
    local, found = [c // world for c in cu], []
    for t in range(cu[-1] // world):
        d = max(i for i in range(len(cu) - 1) if local[i] <= t)
        length, j = local[d + 1] - local[d], t - local[d]
        shift = rank if j < length // 2 else 2 * (world - 1) - rank
        found.append(cu[d] + j + length // 2 * shift)
    return torch.tensor(found)


def ring_varlen(cu: list[int], rank: int, world: int) -> Tensor:
    """ring-flash-attention's varlen zigzag: each document zigzag by itself, one after the other."""
    return torch.cat([a + ring_zigzag(b - a, rank, world) for a, b in itertools.pairwise(cu) if b > a])


@pytest.mark.parametrize("theirs", [thd, ring_varlen])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_documents(theirs: Callable[..., Tensor], dtype: torch.dtype):
    for lengths, world in itertools.product(DOCUMENTS, WORLDS):
        cu = cumulative(lengths).to(dtype)
        for rank in range(world):
            index = of_rank(int(cu[-1]), rank, world, cu_seqlens=cu)
            assert torch.equal(index, theirs(cu.tolist(), rank, world)), (lengths, rank, world)
            assert torch.equal(packed(cu, int(cu[-1]), tokens=index), packed(cu, int(cu[-1]))[index])


def test_documents_in_other_orders():
    cu = cumulative([8, 16])
    assert of_rank(24, 1, 2, order="contiguous", cu_seqlens=cu).tolist() == [4, 5, 6, 7, *range(16, 24)]
    assert of_rank(24, 1, 2, order="striped", cu_seqlens=cu).tolist() == list(range(1, 24, 2))


def test_torch_holds_other_tokens_per_document_than_it_draws():
    """Documents of 4, 8 and 4 on 2 processes: the drawing in the docstring of torch's balancer is this; what it computes is not, since it
    goes through documents first. Attention is right in either case, where positions are cut by the index of the tokens."""
    drawn = [0, 3, 4, 5, 10, 11, 12, 15]
    assert of_rank(16, 0, 2, cu_seqlens=cumulative([4, 8, 4])).tolist() == drawn
    module = pytest.importorskip("torch.distributed.tensor.experimental._context_parallel._load_balancer")
    theirs = module._PerDocumentHeadTailLoadBalancer([[4, 8, 4]], 2, "cpu")._generate_indices().flatten()
    assert theirs.chunk(2)[0].tolist() == [0, 3, 1, 2, 4, 5, 10, 11] != drawn


def test_a_stream_cut_evenly_takes_positions_from_its_documents():
    """ring-flash-attention in the style of Llama 3: a packed stream, contiguous; the second process begins inside a document."""
    cu, index = cumulative([4, 20]), of_rank(24, 1, 2, order="contiguous")
    assert packed(cu, 24, tokens=index).tolist() == list(range(8, 20))


@given(
    st.integers(1, 6),
    st.lists(st.integers(0, 5), min_size=1, max_size=5),
    st.sampled_from(["zigzag", "contiguous", "striped"]),
)
def test_F68_every_token_is_held_once(world: int, sizes: list[int], order: Any):
    lengths = [2 * world * size for size in sizes]
    cu, n = cumulative(lengths), sum(lengths)
    for documents in (None, cu):
        held = [of_rank(n, rank, world, order=order, cu_seqlens=documents) for rank in range(world)]
        assert sorted(torch.cat(held).tolist()) == list(range(n))
        assert {t.dtype for t in held} == {torch.int64} and {len(t) for t in held} == {n // world}


def test_it_refuses():
    for n, how, padded in ((10, {}, 12), (7, {"order": "contiguous"}, 8), (10, {"order": "striped", "block": 3}, 12)):
        with pytest.raises(ValueError, match=f"pad them to {padded}"):
            of_rank(n, 0, 2, **how)
    with pytest.raises(
        ValueError, match=r"2 of 3 are not: document 1 has 6, to be padded to 8; cu_seqlens_padded is meant"
    ):
        of_rank(16, 0, 2, cu_seqlens=torch.tensor([0, 4, 10, 16]))
    with pytest.raises(ValueError, match="start at 0"):
        of_rank(16, 0, 2, cu_seqlens=torch.tensor([0, 4]))
    with pytest.raises(TypeError, match="int16"):
        of_rank(16, 0, 2, cu_seqlens=torch.tensor([0, 16], dtype=torch.int16))
    for rank, world in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match="rank must be one of"):
            of_rank(8, rank, world)
    with pytest.raises(TypeError, match="n must be an integer"):
        of_rank(8.0, 0, 2)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="order must be one of 'zigzag'"):
        of_rank(8, 0, 2, order="ptrr")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="goes with order='striped'"):
        of_rank(8, 0, 2, block=2)
    with pytest.raises(ValueError, match="block must be at least 1"):
        of_rank(8, 0, 2, order="striped", block=0)
    with pytest.raises(ValueError, match="move cu_seqlens first"):
        of_rank(8, 0, 2, cu_seqlens=torch.tensor([0, 8]), device="meta")


def test_no_value_is_read_on_a_device():
    cu = torch.tensor([0, 3, 4], device="meta")  # lengths that would be refused on the CPU
    assert of_rank(8, 0, 2, cu_seqlens=cu).is_meta and packed(cu, 8, tokens=of_rank(8, 0, 2, cu_seqlens=cu)).is_meta
    assert of_rank(8, 0, 2, device="meta").shape == (4,)
    assert of_rank(0, 0, 2).tolist() == of_rank(0, 1, 2, cu_seqlens=torch.tensor([0])).tolist() == []


def test_packed_at_tokens():
    cu = cumulative([3, 0, 5])
    tokens = torch.tensor([[7, 0], [3, 2]])
    assert packed(cu, 8, tokens=tokens).tolist() == [[4, 0], [0, 2]]
    assert packed(cu, 8, tokens=tokens, offset=torch.tensor([10, 20, 30])).tolist() == [[34, 10], [30, 12]]
    assert packed(cu, 8, tokens=tokens.to(torch.uint8), offset=5).tolist() == [[9, 5], [5, 7]]
    for wrong in ([8], [-1]):
        with pytest.raises(ValueError, match="within 0 .. 7"):
            packed(cu, 8, tokens=torch.tensor(wrong))
    with pytest.raises(TypeError, match="tokens must be an integer tensor"):
        packed(cu, 8, tokens=torch.tensor([1.0]))
    with pytest.raises(TypeError, match="tokens must be an integer tensor"):
        packed(cu, 8, tokens=[1])  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="tokens on meta"):
        packed(cu, 8, tokens=torch.empty(2, dtype=torch.int64, device="meta"))
