"""Positions, lengths and rows of a call, in whichever way they are given. What module methods do with them is in test_embedding.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rotary import RotaryEmbedding
from rotary._inputs.where import check_rows_of_length, positions_of


def test_positions_from_every_way_of_giving_them():
    k = torch.zeros(2, 5, 4, 8)  # batch, seq, heads, channels

    def made(**given):
        return positions_of(k, 1, 5, given.get("offset", 0), given.get("positions"), given.get("cu_seqlens"), False)

    positions, known = made(offset=7)
    assert positions.tolist() == [7, 8, 9, 10, 11] and known == (7, 11)
    positions, known = made(offset=torch.tensor([1, 2]))
    assert positions.shape == (2, 5) and known is None
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
