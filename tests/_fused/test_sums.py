"""The order of addition, judged by numpy, one addition after the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rotary._fused import sums


def halved(row: list[np.float32]) -> np.float32:
    """The second half is added to the first until one number is left."""
    size = 16
    while size < len(row):
        size *= 2
    row = [*row, *[np.float32(0)] * (size - len(row))]
    while len(row) > 1:
        half = len(row) // 2
        row = [a + b for a, b in zip(row[:half], row[half:], strict=True)]
    return row[0]


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("size", [0, 1, 2, 7, 15, 16, 17, 31, 32, 33, 80, 128, 300])
def test_by_halves(size: int):
    t = random(3, size)
    expected = np.array([halved(list(row)) for row in t], np.float32)
    assert np.array_equal(sums.by_halves(torch.from_numpy(t)).numpy(), expected[:, None])
    assert np.array_equal(sums.by_halves(torch.from_numpy(t), 1).numpy(), expected[:, None])
    assert np.array_equal(sums.by_halves(torch.from_numpy(t.T.copy()), 0).numpy(), expected[None])


@pytest.mark.parametrize("seq", [0, 1, 9, 22, 40])
@pytest.mark.parametrize("seq_dim", [0, 1, 2])
def test_over_rows(seq: int, seq_dim: int):
    """Rows in the order (batch, seq, heads), 64 one after the other; these sums by halves."""
    axes = {0: (0, 1, 2), 1: (0, 1, 2), 2: (0, 2, 1)}[seq_dim]  # of (batch, seq, heads), or (seq, batch, heads)
    t = random(*((seq, 2, 3) if seq_dim == 0 else (2, seq, 3)), 5)
    rows = t.reshape(-1, 5)
    chunks = [rows[i : i + 64] for i in range(0, len(rows), 64)]
    added = []
    for chunk in chunks:
        total = np.zeros(5, np.float32)
        for row in chunk:
            total = total + row
        added.append(total)
    expected = np.array([halved([total[i] for total in added]) for i in range(5)], np.float32)
    result = sums.over_rows(torch.from_numpy(t).permute(*axes, 3), seq_dim)
    assert result.shape == (5,) and np.array_equal(result.numpy(), expected)
