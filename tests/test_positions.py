"""Positions of text: counted, packed, padded."""

from __future__ import annotations

import pytest
import torch

from rotary.positions import chunk, context_shift, grid, multimodal, of_rank, packed, padded, prefixed, sequence, tree

LAST = 2**63 - 1


def test_sequence():
    assert sequence(3).tolist() == [0, 1, 2]
    assert sequence(3, -1).tolist() == [-1, 0, 1]
    assert sequence(0, 5).tolist() == []
    assert sequence(2, torch.tensor(7, dtype=torch.int32)).tolist() == [7, 8]
    per_row = sequence(2, torch.tensor([5, -5], dtype=torch.int8))
    assert per_row.tolist() == [[5, 6], [-5, -4]]
    assert {t.dtype for t in (sequence(3), per_row)} == {torch.int64}


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_packed(dtype: torch.dtype):
    cu = torch.tensor([0, 3, 3, 4, 9], dtype=dtype)
    assert packed(cu, 9).tolist() == [0, 1, 2, 0, 0, 1, 2, 3, 4]
    assert packed(cu, 9, offset=10).tolist() == [10, 11, 12, 10, 10, 11, 12, 13, 14]
    assert packed(cu, 9, offset=torch.tensor([1, 7, -1, 100])).tolist() == [1, 2, 3, -1, 100, 101, 102, 103, 104]
    assert packed(cu, 9, offset=torch.tensor(2)).tolist()[0] == 2
    assert packed(torch.tensor([0], dtype=dtype), 0).tolist() == []
    assert packed(torch.tensor([0, 0], dtype=dtype), 0).tolist() == []
    assert packed(cu, 9).dtype == torch.int64


def test_packed_refuses():
    for wrong in ([0, 4], [1, 5], [0, 4, 3, 5]):
        with pytest.raises(ValueError, match="start at 0, be non-decreasing and end at 5"):
            packed(torch.tensor(wrong), 5)
    with pytest.raises(TypeError, match="int16"):
        packed(torch.tensor([0, 5], dtype=torch.int16), 5)
    for shape in ((2, 2), (0,)):
        with pytest.raises(ValueError, match="documents"):
            packed(torch.zeros(shape, dtype=torch.int64), 5)
    with pytest.raises(ValueError, match="1 documents"):
        packed(torch.tensor([0, 5]), 5, offset=torch.tensor([1, 2]))


def test_packed_reads_no_value_where_it_would_wait():
    out = packed(torch.tensor([0, 3, 4], device="meta"), 5)
    assert out.shape == (5,) and out.is_meta


def test_padded():
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0], [0, 0, 0, 0]])
    expected = [[0, 0, 0, 1], [0, 1, 2, 2], [0, 0, 0, 0]]
    for dtype in (torch.int64, torch.bool, torch.uint8):
        assert padded(mask.to(dtype)).tolist() == expected
    with pytest.raises(TypeError, match="float32"):
        padded(mask.float())
    with pytest.raises(ValueError, match=r"\(4,\)"):
        padded(mask[0])


def test_the_last_position_of_int64_is_served_and_the_next_is_refused():
    assert sequence(1, LAST).tolist() == sequence(2, LAST - 1).tolist()[1:] == [LAST]
    assert grid(1, 2, start=(LAST, LAST - 1)).tolist() == [[LAST, LAST - 1], [LAST, LAST]]
    assert multimodal(1, start=LAST)[0].tolist() == multimodal((1, 1, 1), start=LAST)[0].tolist() == [[LAST] * 3]
    assert packed(torch.tensor([0, 1, 2]), 2, offset=LAST).tolist() == [LAST, LAST]
    assert [t.tolist() for t in chunk(2, LAST - 1)] == [[0, 1], [LAST - 1, LAST]]
    assert sequence(0, LAST).shape == (0,) and packed(torch.tensor([0]), 0, offset=LAST).shape == (0,)
    for name, beyond in (
        ("offset", lambda: sequence(2, LAST)),
        ("offset", lambda: packed(torch.tensor([0, 2, 2]), 2, offset=LAST)),
        ("offset", lambda: tree(LAST, torch.tensor([0, 0]))),
        ("start", lambda: chunk(2, LAST)),
        ("old", lambda: chunk(2, 0, old=LAST)),
        ("start", lambda: grid(1, 2, start=LAST)),
        ("start", lambda: multimodal(2, start=LAST)),
        ("start", lambda: multimodal((1, 1, 2), start=LAST)),
    ):
        with pytest.raises(ValueError, match=f"positions must fit int64, got {name} {LAST} for 2 tokens"):
            beyond()


def test_more_tokens_are_discarded_than_fit_int64():
    assert torch.equal(*context_shift(8, 2, LAST))


def test_tensors_that_are_not_dense_are_refused():
    two = torch.tensor([[0, 1], [1, 1]]).to_sparse()
    with pytest.raises(TypeError, match="mask must be a dense tensor"):
        padded(two)
    with pytest.raises(TypeError, match="positions must be a dense tensor"):
        prefixed(two, 1)
    for call in (lambda cu: packed(cu, 4), lambda cu: of_rank(4, 0, 2, cu_seqlens=cu)):
        with pytest.raises(TypeError, match="cu_seqlens must be a dense tensor"):
            call(torch.tensor([0, 4]).to_sparse())
    with pytest.raises(TypeError, match="positions must be an integer tensor, got torch.bool"):
        prefixed(torch.ones(2, 2, dtype=torch.bool), 1)
