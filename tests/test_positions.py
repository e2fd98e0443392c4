"""Positions of text: counted, packed, padded."""

from __future__ import annotations

import pytest
import torch

from rotary.positions import packed, padded, sequence


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
