"""The border: what is accepted as which argument. What module methods do with it is in test_embedding.py."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from rotary import RotaryEmbedding, arguments


def test_numbers():
    for value in (1, 2.5, Fraction(3, 2)):
        assert arguments.number("base", value) == float(value)
    for value in (True, "1", None, torch.tensor(1.0), 1j):
        with pytest.raises(TypeError, match="base must be a real number"):
            arguments.number("base", value)
    assert arguments.number("interpolation_factor", 1, at_least=1.0) == 1.0


def test_indices():
    numpy = pytest.importorskip("numpy")
    assert arguments.length("seq_len", numpy.int32(7)) == 7
    assert arguments.even_dim(torch.tensor(8)) == 8
    for value in (True, 1.0, "1", torch.tensor(True)):
        if isinstance(value, torch.Tensor):
            continue
        with pytest.raises(TypeError, match="must be an integer"):
            arguments.length("seq_len", value)


def test_schemes():
    def scheme(inv_freq, **options):
        return inv_freq, 1.0

    scheme.window = None
    assert arguments.schemes(None) == ()
    assert arguments.schemes(scheme) == (scheme,)
    assert arguments.schemes([scheme, scheme]) == (scheme, scheme)
    for wrong in ("yarn", {"rope_type": "yarn"}, int, lambda x: x, [scheme, 4]):
        with pytest.raises(TypeError, match="rotary.scaling"):
            arguments.schemes(wrong)


def test_known_range():
    assert arguments.known_range(torch.tensor([[3, -4], [9, 0]])) == (-4, 9)
    assert arguments.known_range(torch.empty(0, dtype=torch.int64)) is None
    assert arguments.known_range(torch.zeros(3, dtype=torch.int64, device="meta")) is None


def test_positions_from_every_way_of_giving_them():
    k = torch.zeros(2, 5, 4, 8)  # batch, seq, heads, channels

    def made(**given):
        return arguments.positions(k, 1, 5, given.get("offset", 0), given.get("positions"), given.get("cu_seqlens"))

    positions, known = made(offset=7)
    assert positions.tolist() == [7, 8, 9, 10, 11] and known == (7, 11)
    positions, known = made(offset=torch.tensor([1, 2]))
    assert positions.shape == (2, 5) and known is None
    assert made(offset=torch.tensor(3))[0].tolist() == [3, 4, 5, 6, 7]
    assert made(positions=torch.arange(5)[None])[0].shape == (5,)
    assert made(cu_seqlens=torch.tensor([0, 2, 5]))[0].tolist() == [0, 1, 0, 1, 2]
    for wrong in ([0, 1], 3.0, "here"):
        with pytest.raises(TypeError, match="positions must be an integer tensor"):
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
        arguments.check_rows_of_length(length, torch.zeros(shape, dtype=torch.int64))

    arguments.check_rows_of_length(9, torch.zeros(2, 3, 5))
    for rows, shape in ((None, (2, 3, 5)), (2, (5,)), (2, (2, 5)), (2, (1, 5)), (1, (1, 5))):
        fits(rows, *shape)
    for rows, shape in ((2, (3, 5)), (2, (2, 1, 5)), (2, (1, 2, 5)), (3, (2, 5))):
        with pytest.raises(ValueError, match=r"\(seq,\) or \(batch, seq\) is needed"):
            fits(rows, *shape)


def test_one_row_is_not_taken_for_a_whole_batch():
    """One offset in a (1,) tensor and a batch of two: nobody knows which row was meant; of one row, or without a batch, all is clear."""
    one = torch.tensor([4])
    for x in (torch.zeros(2, 5, 8), torch.zeros(2, 3, 5, 8)):
        with pytest.raises(ValueError, match="offset has 1 row, x with shape .* has a batch of 2"):
            arguments.positions(x, x.ndim - 2, 5, one, None, None)
    for x in (torch.zeros(1, 5, 8), torch.zeros(5, 8), torch.zeros(1, 3, 5, 8)):
        assert arguments.positions(x, x.ndim - 2, 5, one, None, None)[0].tolist() == [4, 5, 6, 7, 8]


def test_lengths_that_do_not_agree_are_named():
    k = torch.zeros(2, 5, 8)
    with pytest.raises(
        ValueError, match=r"positions has 4 entries along the sequence, .*\(2, 5, 8\) has 5 along dimension 1"
    ):
        arguments.positions(k, 1, 5, 0, torch.zeros(2, 4, dtype=torch.int64), None)
    with pytest.raises(ValueError, match=r"positions has 6 entries along the sequence, .* has 5 along dimension 1"):
        arguments.positions(k, 1, 5, 0, torch.zeros(6, dtype=torch.int64), None)


@pytest.mark.parametrize("offset", [-3, 3, torch.tensor(0)])
def test_an_offset_beside_positions_is_refused_whatever_its_sign(offset: object):
    with pytest.raises((TypeError, ValueError), match="offset"):
        arguments.positions(torch.zeros(2, 5, 8), 1, 5, offset, torch.arange(5), None)


@pytest.mark.parametrize("dim", [2**16 + 2, 2**31, 2**40])
def test_F35_a_dim_that_is_no_head_fills_no_memory(dim: int):
    """Found by fuzzing: a head_dim of 2^39 in a config made half a trillion planes, and the process was killed."""
    with pytest.raises(ValueError, match="is it the size of one head"):
        arguments.even_dim(dim)
    with pytest.raises(ValueError, match="is it the size of one head"):
        RotaryEmbedding.from_config(
            {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 1, "head_dim": dim, "rope_theta": 1e4}
        )
    assert arguments.even_dim(2**16) == 2**16


def test_a_number_out_of_range_is_told_the_range():
    with pytest.raises(ValueError, match="base must be a finite number > 0, got -1"):
        arguments.number("base", -1)
    with pytest.raises(ValueError, match=r"factor must be a finite number >= 1\.0, got 0\.5"):
        arguments.number("factor", 0.5, at_least=1.0)
