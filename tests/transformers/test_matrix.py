"""Matrices of rotations, written down by hand, and what is read from them."""

from __future__ import annotations

import pytest
import torch

from rotary.transformers import RotationSpec
from rotary.transformers.matrix import interpret

C, D, S, T = 1.25, 1.5, 1.75, 1.875  # cos and sin of two pairs, as a probe would choose them
COS, SIN = torch.tensor([C, D]), torch.tensor([S, T])
HALF = [[C, 0, -S, 0], [0, D, 0, -T], [S, 0, C, 0], [0, T, 0, D]]
INTERLEAVED = [[C, -S, 0, 0], [S, C, 0, 0], [0, 0, D, -T], [0, 0, T, D]]


def test_pairing_direction_and_order_of_tables():
    assert interpret(torch.tensor(HALF), COS, SIN) == RotationSpec(widths="half")
    assert interpret(torch.tensor(INTERLEAVED), COS, SIN) == RotationSpec(widths="half", interleaved=True)
    assert interpret(torch.tensor(HALF).mT, COS, SIN) == RotationSpec(widths="half", conjugate=True)
    assert interpret(torch.tensor(HALF), SIN, COS) == RotationSpec(widths="half", sin_first=True)
    half_output = [INTERLEAVED[i] for i in (0, 2, 1, 3)]
    assert interpret(torch.tensor(half_output), COS, SIN) == RotationSpec(widths="half", interleaved=True, to_half=True)


def test_table_layouts():
    other, wide = torch.tensor([9.0, 8.0]), {"cat": (C, D, 1.1, 1.2), "repeat": (C, 1.1, D, 1.2)}
    second = {"cat": (S, T, 1.3, 1.4), "repeat": (S, 1.3, T, 1.4)}
    matrix = torch.tensor([[C, 0, -S, 0], [0, D, 0, -T], [1.3, 0, 1.1, 0], [0, 1.4, 0, 1.2]])
    for widths in ("cat", "repeat"):
        first, last = torch.tensor(wide[widths]), torch.tensor(second[widths])
        assert interpret(matrix, first, last) == RotationSpec(widths=widths)  # type: ignore[arg-type]
    assert interpret(torch.tensor(HALF), torch.cat((COS, other)), torch.cat((SIN, other + 3))) == RotationSpec(
        widths="first"
    )


def test_channels_that_pass_through():
    eye = torch.eye(2)
    leading, trailing = torch.block_diag(torch.tensor(HALF), eye), torch.block_diag(eye, torch.tensor(HALF))
    assert interpret(leading, COS, SIN) == RotationSpec(widths="half", partial="leading")
    assert interpret(trailing, COS, SIN) == RotationSpec(widths="half", partial="trailing")


@pytest.mark.parametrize(
    ("matrix", "reason"),
    [
        (torch.eye(4), "does not rotate pairs"),
        (torch.tensor(HALF).roll(1, 0), "unsupported order"),
        (torch.block_diag(torch.eye(1), torch.tensor(HALF), torch.eye(1)), "does not rotate pairs"),
        (torch.block_diag(torch.tensor(HALF), torch.eye(2).flip(0)), "does not rotate pairs"),
        (torch.tensor([HALF[i] for i in (0, 2, 1, 3)]), "half-paired and its output interleaved"),
        (torch.tensor(HALF) * 3, "does not rotate pairs"),
    ],
)
def test_matrices_of_no_supported_rotation(matrix: torch.Tensor, reason: str):
    result = interpret(matrix, COS, SIN)
    assert isinstance(result, str) and reason in result, result
