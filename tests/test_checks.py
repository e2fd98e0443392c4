"""Checks of single values: what is accepted as which argument, and in which words the rest is refused."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from rotary import RotaryEmbedding, _checks


def test_numbers():
    for value in (1, 2.5, Fraction(3, 2)):
        assert _checks.number("base", value) == float(value)
    for value in (True, "1", None, torch.tensor(1.0), 1j):
        with pytest.raises(TypeError, match="base must be a real number"):
            _checks.number("base", value)
    assert _checks.number("interpolation_factor", 1, at_least=1.0) == 1.0


def test_indices():
    numpy = pytest.importorskip("numpy")
    assert _checks.length("seq_len", numpy.int32(7)) == 7
    assert _checks.even_dim(torch.tensor(8)) == 8
    for value in (True, 1.0, "1", torch.tensor(True)):
        if isinstance(value, torch.Tensor):
            continue
        with pytest.raises(TypeError, match="must be an integer"):
            _checks.length("seq_len", value)


@pytest.mark.parametrize("dim", [2**16 + 2, 2**31, 2**40])
def test_F35_a_dim_that_is_no_head_fills_no_memory(dim: int):
    """Found by fuzzing: a head_dim of 2^39 in a config made half a trillion planes, and the process was killed."""
    with pytest.raises(ValueError, match="is it the size of one head"):
        _checks.even_dim(dim)
    with pytest.raises(ValueError, match="is it the size of one head"):
        RotaryEmbedding.from_config(
            {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 1, "head_dim": dim, "rope_theta": 1e4}
        )
    assert _checks.even_dim(2**16) == 2**16


def test_a_number_out_of_range_is_told_the_range():
    with pytest.raises(ValueError, match="base must be a finite number > 0, got -1"):
        _checks.number("base", -1)
    with pytest.raises(ValueError, match=r"factor must be a finite number >= 1\.0, got 0\.5"):
        _checks.number("factor", 0.5, at_least=1.0)


def test_an_integer_that_python_does_not_print():
    """str(10**5000) is a ValueError of Python's own, without a name."""
    huge = 10**5000
    assert _checks.describe(huge) == "int of 16610 bits" and _checks.describe(True) == "bool True"
    assert _checks.describe([huge]) == "list of 1" and _checks.describe({"a": huge}) == "dict of 1"
    for value, words in ((huge, "dim must be at most 65,536 channels"), (-huge, "dim must be a positive even integer")):
        with pytest.raises(ValueError, match=f"{words}, got an integer of 16610 bits"):
            RotaryEmbedding(value)
    for check in (_checks.length, _checks.count, _checks.position):
        with pytest.raises(ValueError, match="n must .* got an integer of 16610 bits"):
            check("n", -huge)
