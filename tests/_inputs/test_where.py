"""Positions, lengths and rows of a call, in whichever way they are given. What module methods do with them is in test_embedding.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rotary import RotaryEmbedding
from rotary._inputs.where import check_rows_of_length, positions_of
from rotary.scaling import DynamicNTK


def test_positions_from_every_way_of_giving_them():
    k = torch.zeros(2, 5, 4, 8)  # batch, seq, heads, channels

    def made(**given):
        return positions_of(k, 1, 5, given.get("offset", 0), given.get("positions"), given.get("cu_seqlens"), False)

    positions, known = made(offset=7)
    assert positions.tolist() == [7, 8, 9, 10, 11] and known == (7, 11)
    positions, known = made(offset=torch.tensor([1, 2]))
    assert positions.shape == (2, 5) and known == (1, 6)
    assert made(offset=torch.tensor(3))[0].tolist() == [3, 4, 5, 6, 7]
    assert made(positions=torch.arange(5)[None])[0].shape == (5,)
    assert made(cu_seqlens=torch.tensor([0, 2, 5]))[0].tolist() == [0, 1, 0, 1, 2]
    for wrong in ([0, 1], 3.0, "here"):
        with pytest.raises(TypeError, match="positions must be a tensor"):
            made(positions=wrong)
        with pytest.raises(TypeError, match="cu_seqlens must be an integer tensor"):
            made(cu_seqlens=wrong)
    with pytest.raises(ValueError, match=r"\(1, 1, 5\)"):
        made(positions=torch.zeros(1, 1, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"offset must be an int, 0-d or \(batch,\)"):
        made(offset=torch.zeros(2, 1, dtype=torch.int64))


def test_rows_of_a_length_go_with_rows_of_positions():
    def fits(rows: int | None, *shape: int) -> None:
        length = torch.tensor(9) if rows is None else torch.full((rows,), 9)
        check_rows_of_length(length, torch.zeros(shape, dtype=torch.int64))

    check_rows_of_length(9, torch.zeros(2, 3, 5))
    for rows, shape in ((None, (2, 3, 5)), (2, (5,)), (2, (2, 5)), (2, (1, 5)), (1, (1, 5))):
        fits(rows, *shape)
    for rows, shape in ((2, (3, 5)), (2, (2, 1, 5)), (2, (1, 2, 5)), (3, (2, 5))):
        with pytest.raises(ValueError, match=r"\(seq,\) or \(batch, seq\) is needed"):
            fits(rows, *shape)


def test_one_row_is_not_taken_for_a_whole_batch():
    """One offset in a (1,) tensor and a batch of two: it is unclear which row is meant. With one row, or without a batch, it is clear."""
    one = torch.tensor([4])
    for x in (torch.zeros(2, 5, 8), torch.zeros(2, 3, 5, 8)):
        with pytest.raises(ValueError, match="offset has 1 row, x with shape .* has a batch of 2"):
            positions_of(x, x.ndim - 2, 5, one, None, None, False)
    for x in (torch.zeros(1, 5, 8), torch.zeros(5, 8), torch.zeros(1, 3, 5, 8)):
        assert positions_of(x, x.ndim - 2, 5, one, None, None, False)[0].tolist() == [4, 5, 6, 7, 8]


def test_lengths_that_do_not_agree_are_named():
    k = torch.zeros(2, 5, 8)
    with pytest.raises(
        ValueError, match=r"positions has 4 entries along the sequence, .*\(2, 5, 8\) has 5 along dimension 1"
    ):
        positions_of(k, 1, 5, 0, torch.zeros(2, 4, dtype=torch.int64), None, False)
    with pytest.raises(ValueError, match=r"positions has 6 entries along the sequence, .* has 5 along dimension 1"):
        positions_of(k, 1, 5, 0, torch.zeros(6, dtype=torch.int64), None, False)


@pytest.mark.parametrize("offset", [False, 0.0, None, "0", np.array([0, 0])])
def test_an_offset_beside_positions_is_checked_as_one_alone(offset: object):
    for positions in (None, torch.arange(5)):
        with pytest.raises(TypeError, match="offset must be an integer, got"):
            positions_of(torch.zeros(2, 5, 8), 1, 5, offset, positions, None, False)
    assert positions_of(torch.zeros(2, 5, 8), 1, 5, np.int64(0), torch.arange(5), None, False)[0].tolist() == [
        0,
        1,
        2,
        3,
        4,
    ]


@pytest.mark.parametrize(
    "how", [{"positions": torch.arange(3)}, {"offset": torch.arange(3)}, {"length": torch.arange(3)}]
)
def test_an_error_names_the_tensor_whose_positions_they_are(how: dict[str, torch.Tensor]):
    rope, q, k = RotaryEmbedding(8), torch.zeros(2, 1, 4, 8), torch.zeros(2, 1, 5, 8)
    with pytest.raises(ValueError, match=r"[ (]k (has|with) shape \(2, 1, 5, 8\)"):
        rope.rotate(q, k, **how)
    with pytest.raises(ValueError, match=r"[ (]q (has|with) shape \(2, 1, 4, 8\)"):
        rope.rotate(q, **how)


@pytest.mark.parametrize("offset", [-3, 3, torch.tensor(0)])
def test_an_offset_beside_positions_is_refused_whatever_its_sign(offset: object):
    with pytest.raises((TypeError, ValueError), match="offset"):
        positions_of(torch.zeros(2, 5, 8), 1, 5, offset, torch.arange(5), None, False)


@pytest.mark.parametrize("needs_grad", [False, True])
@pytest.mark.parametrize("wrong", [2**63 - 1, [0, 2**63 - 1], [2**63, 0], 2**64 - 1])
def test_an_offset_in_a_tensor_is_bounded_as_an_int_is(wrong: int | list[int], needs_grad: bool):
    """Positions past 2^63 - 1 were taken at the other end of int64."""
    rope, x = RotaryEmbedding(8), torch.randn(2, 1, 2, 8, requires_grad=needs_grad)
    small = max(wrong if isinstance(wrong, list) else [wrong]) < 2**63
    offset = torch.tensor(wrong, dtype=torch.int64 if small else torch.uint64)
    with pytest.raises(
        ValueError, match="got offset of .* beyond 2.63 - 2 for 2" if small else "offset must be below 2"
    ):
        rope.rotate(x, offset=offset)
    documents = x.detach()[0, 0], torch.tensor([0, 1, 2])
    for far in (offset, 2**63 - 1):
        with pytest.raises(ValueError, match="int64|below"):
            rope.rotate(documents[0], cu_seqlens=documents[1], offset=far)
    last = torch.tensor([2**63 - 2, 5])
    assert torch.equal(rope.rotate(x, offset=last)[0], rope.rotate(x[:1], offset=2**63 - 2)[0])
    unsigned = torch.tensor([7, 5], dtype=torch.uint64)
    assert torch.equal(rope.rotate(x, offset=unsigned), rope.rotate(x, offset=torch.tensor([7, 5])))


@pytest.mark.parametrize(
    "wrong", [torch.tensor(-5), torch.tensor([9, -5]), torch.tensor(2**64 - 1, dtype=torch.uint64)]
)
def test_a_length_in_a_tensor_is_checked_as_an_int_is(wrong: torch.Tensor):
    """Whether a scheme reads it or not."""
    k, unsigned = torch.randn(2, 1, 4, 8), torch.tensor([9, 20], dtype=torch.uint64)
    for rope in (RotaryEmbedding(8), RotaryEmbedding(8, scaling=DynamicNTK(2.0, 4))):
        for call in (
            lambda length, rope=rope: rope.rotate(k, length=length),
            lambda length, rope=rope: torch.stack(rope.cos_sin(torch.arange(4), length=length)),
            lambda length, rope=rope: rope.rerotate(k, 0, 5, old_length=length, new_length=9),
        ):
            with pytest.raises(ValueError, match=r"length must be (>= 0, got Tensor int64|below 2\^63)"):
                call(wrong)
            assert torch.equal(call(unsigned), call(unsigned.to(torch.int64)))
