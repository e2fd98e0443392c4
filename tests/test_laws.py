"""The laws of a rotation, over random modules, positions and tensors, in float64. tests/support/truth.py judges the numbers."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rotary import RotaryEmbedding, apply_rotary, pairing
from rotary.scaling import NTK, Linear, Resonance, YaRN

EXAMPLES = settings(max_examples=60, deadline=None)
CLOSE = {"rtol": 0.0, "atol": 1e-12}
FAR = st.integers(-(2**30), 2**30)
MODULES = st.builds(
    RotaryEmbedding,
    st.sampled_from([2, 6, 16, 64]),
    base=st.sampled_from([1e4, 5e5]),
    interpolation_factor=st.sampled_from([1.0, 3.0]),
    scaling=st.sampled_from([None, Linear(4.0), YaRN(8.0, 2048, attention_factor=1.0), Resonance()]),
    interleaved=st.booleans(),
) | st.builds(RotaryEmbedding, st.just(8), scaling=st.just(NTK(4.0)), interleaved=st.booleans())
SEEDS = st.integers(0, 2**31)


def some(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@EXAMPLES
@given(rope=MODULES, seed=SEEDS, at=FAR)
def test_norm_and_inverse(rope: RotaryEmbedding, seed: int, at: int):
    x = some(seed, 3, 5, rope.dim + 2)
    y = rope.rotate(x, offset=at)
    torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1), **CLOSE)
    cos, sin = rope.cos_sin(torch.arange(at, at + 5), torch.float64)
    back = apply_rotary(y, cos, sin, interleaved=rope.interleaved, conjugate=True)
    torch.testing.assert_close(back, x, **CLOSE)
    assert torch.equal(y[..., rope.dim :], x[..., rope.dim :])


@EXAMPLES
@given(rope=MODULES, seed=SEEDS, at=st.integers(-(2**20), 2**20), shift=FAR)
def test_scores_see_distances_alone(rope: RotaryEmbedding, seed: int, at: int, shift: int):
    q, k = some(seed, 2, 4, rope.dim), some(seed + 1, 2, 4, rope.dim)

    def scores(offset: int) -> Tensor:
        rotated_q, rotated_k = rope.rotate(q, k, offset=offset)
        return rotated_q @ rotated_k.mT

    # A position divided by three is rounded to the nearest fixed-point fraction.
    tolerance = 1e-10 if rope.interpolation_factor == 1.0 else 1e-9
    torch.testing.assert_close(scores(at), scores(at + shift), rtol=0, atol=tolerance)


@EXAMPLES
@given(rope=MODULES, seed=SEEDS, a=FAR, b=FAR)
def test_composition(rope: RotaryEmbedding, seed: int, a: int, b: int):
    x = some(seed, 1, rope.dim)
    twice = rope.rotate(rope.rotate(x, offset=a), offset=b)
    torch.testing.assert_close(twice, rope.rotate(x, offset=a + b), rtol=0, atol=1e-11)
    assert torch.equal(rope.rotate(x, offset=0), x)


@EXAMPLES
@given(rope=MODULES, seed=SEEDS, at=FAR, factor=st.floats(-8, 8))
def test_linearity(rope: RotaryEmbedding, seed: int, at: int, factor: float):
    x, y = some(seed, 3, rope.dim), some(seed + 1, 3, rope.dim)
    together = rope.rotate(x * factor + y, offset=at)
    torch.testing.assert_close(
        together, rope.rotate(x, offset=at) * factor + rope.rotate(y, offset=at), rtol=0, atol=1e-12
    )


@EXAMPLES
@given(dim=st.sampled_from([2, 6, 16, 64]), seed=SEEDS, at=FAR)
def test_pairings_are_one_rotation_in_another_order(dim: int, seed: int, at: int):
    x = some(seed, 3, dim)
    half, interleaved = RotaryEmbedding(dim), RotaryEmbedding(dim, interleaved=True)
    moved = pairing.half_to_interleaved(x)
    assert torch.equal(pairing.interleaved_to_half(interleaved.rotate(moved, offset=at)), half.rotate(x, offset=at))


@EXAMPLES
@given(
    rope=MODULES,
    seed=SEEDS,
    starts=st.lists(FAR, min_size=1, max_size=4),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
)
def test_every_way_to_the_same_positions_has_the_same_bits(
    rope: RotaryEmbedding, seed: int, starts: list[int], lengths: list[int]
):
    """Batch = rows, prefill = decode, packed = each alone, a permutation of tokens = of results, any strides."""
    n, rows = 5, len(starts)
    x = some(seed, rows, 2, n, rope.dim)
    whole = rope.rotate(x, offset=torch.tensor(starts))
    for i, start in enumerate(starts):
        assert torch.equal(whole[i], rope.rotate(x[i], offset=start))
        for token in range(n):
            assert torch.equal(
                whole[i, :, token : token + 1], rope.rotate(x[i, :, token : token + 1], offset=start + token)
            )
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    positions = torch.tensor(starts)[:, None] + torch.arange(n)
    assert torch.equal(rope.rotate(x[:, :, order], positions=positions[:, order]), whole[:, :, order])
    strided = x.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(rope.rotate(strided, offset=torch.tensor(starts)), whole)
    assert torch.equal(rope.rotate(x.transpose(1, 2), offset=torch.tensor(starts), seq_dim=1).transpose(1, 2), whole)

    ends = torch.tensor([0, *lengths]).cumsum(0)
    packed = some(seed + 1, int(ends[-1]), 2, rope.dim)
    together = rope.rotate(packed, cu_seqlens=ends, seq_dim=0)
    for a, b in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        assert torch.equal(together[a:b], rope.rotate(packed[a:b], seq_dim=0))
