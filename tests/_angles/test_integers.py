"""Which positions are known to the host, and what is refused because of it. Values of tables are judged in test_turns.py."""

from __future__ import annotations

import torch

from rotary._angles.integers import range_of


def test_known_range():
    assert range_of(torch.tensor([[3, -4], [9, 0]]), False) == (-4, 9)
    assert range_of(torch.empty(0, dtype=torch.int64), False) is None
    assert range_of(torch.zeros(3, dtype=torch.int64, device="meta"), False) is None
    assert range_of(torch.tensor([1]), True) is None
