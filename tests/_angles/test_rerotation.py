"""Tables that move keys, judged by mpmath: angles at both places, subtracted in exact arithmetic."""

from __future__ import annotations

import mpmath
import pytest
import torch
from torch import Tensor

from rotary import RotaryEmbedding
from rotary.scaling import NTK, DynamicNTK, Linear, Llama3, LongRoPE, YaRN
from support import truth
from support.shown import frequencies

DIM = 12
PLANES = DIM // 2
PLAIN = RotaryEmbedding(DIM)
FAR = RotaryEmbedding(DIM, base=500_000)
YARN = RotaryEmbedding(DIM, scaling=YaRN(8.0, 2048))
LLAMA = RotaryEmbedding(DIM, base=500_000, scaling=Llama3(8.0, 8192))
LINEAR = RotaryEmbedding(DIM, scaling=(Linear(4.0), NTK(2.0)))
LONG = RotaryEmbedding(
    DIM, scaling=LongRoPE([1.0] * PLANES, [1.5, 2, 4, 8, 16, 32], 4096, short_mscale=1.1, long_mscale=1.3)
)
DYNAMIC = RotaryEmbedding(DIM, scaling=DynamicNTK(2.0, 4096))
OLD = (0, 5, 4095, 1_000_003, 2**31 - 1, -(2**31))
NEW = (7, 5, 0, -17, -(2**31), 2**31 - 1)


def exact(
    old: RotaryEmbedding,
    new: RotaryEmbedding,
    before: tuple[int, ...] = OLD,
    after: tuple[int, ...] = NEW,
    lengths: tuple[int | None, int | None] = (None, None),
) -> list[list[tuple[mpmath.mpf, mpmath.mpf]]]:
    """(b / a) (cos, sin) of the difference of angles, for frequencies as float32 shows them."""
    old_inv_freq, old_factor = frequencies(old, lengths[0])
    new_inv_freq, new_factor = frequencies(new, lengths[1])
    ratio = mpmath.mpf(new_factor) / mpmath.mpf(old_factor)
    rows = []
    for p, q in zip(before, after, strict=True):
        row = []
        for x, y in zip(old_inv_freq.tolist(), new_inv_freq.tolist(), strict=True):
            (c, s), (d, t) = truth.cos_sin(p, x), truth.cos_sin(q, y)
            row.append((ratio * (d * c + t * s), ratio * (t * c - d * s)))
        rows.append(row)
    return rows


def worst(tables: tuple[Tensor, Tensor], expected: list[list[tuple[mpmath.mpf, mpmath.mpf]]]) -> float:
    """The largest error of cos and sin (rows, planes)."""
    largest = 0.0
    for cos, sin, row in zip(*(table.tolist() for table in tables), expected, strict=True):
        for c, s, (exact_cos, exact_sin) in zip(cos, sin, row, strict=True):
            largest = max(largest, float(abs(c - exact_cos)), float(abs(s - exact_sin)))
    return largest


@pytest.mark.parametrize(
    ("old", "new", "lengths"),
    [
        (PLAIN, PLAIN, (None, None)),
        (FAR, PLAIN, (None, None)),
        (PLAIN, YARN, (None, None)),
        (YARN, YARN, (None, None)),
        (YARN, LLAMA, (None, None)),
        (LINEAR, FAR, (None, None)),
        (LONG, LONG, (4096, 4097)),
        (LONG, LONG, (4096, 4096)),
        (LONG, LONG, (5000, 4096)),
        (DYNAMIC, DYNAMIC, (5000, 8000)),
        (DYNAMIC, LONG, (5000, 8000)),
        (PLAIN, DYNAMIC, (None, 8000)),
    ],
    ids=str,
)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 3.1e-8), (torch.float64, 5e-16)])
def test_tables_are_those_of_exact_arithmetic(
    old: RotaryEmbedding,
    new: RotaryEmbedding,
    lengths: tuple[int | None, int | None],
    dtype: torch.dtype,
    bound: float,
):
    tables = old.rerotation(
        torch.tensor(OLD), torch.tensor(NEW), dtype, new=new, old_length=lengths[0], new_length=lengths[1]
    )
    assert tables[0].dtype == dtype and tables[0].shape == (len(OLD), PLANES)
    assert worst(tables, exact(old, new, lengths=lengths)) <= bound * (
        1 if new is old and lengths[0] == lengths[1] else 2
    )


def test_a_shift_is_exact_for_frequencies_far_beyond_float64():
    """Angles of 2^31 tokens and their negatives leave nothing in float32, and 2e-7 in float64; integers keep all of it."""
    for before, after in ((2**31 - 1, -(2**31)), (2**60, 2**60 + 1), (-(2**61), 2**61)):
        tables = FAR.rerotation(before, after, rows=1)
        assert worst(tables, exact(FAR, FAR, (before,), (after,))) <= 3.1e-8


@pytest.mark.parametrize("old_base", [32, 512])
@pytest.mark.parametrize("new_base", [32, 512, None])
@pytest.mark.parametrize("role", ["key", "query"])
def test_scales_of_xpos_enter_as_a_ratio(old_base: int, new_base: int | None, role: str):
    """Both scales leave float64 at these positions, and their ratio is 1 and a bit."""
    old = RotaryEmbedding(DIM, use_xpos=True, scale_base=old_base)
    new = RotaryEmbedding(DIM, use_xpos=new_base is not None, scale_base=new_base or 512)
    before, after = (40, -20), (44, -30)
    if new_base == old_base:
        before, after = (10**9, -(10**9)), (10**9 + 4, 10 - 10**9)
    cos, sin = old.rerotation(torch.tensor(before), torch.tensor(after), torch.float64, new=new, role=role)
    sign = 1 if role == "query" else -1
    plain = exact(old, new, before, after)
    for i, (p, q) in enumerate(zip(before, after, strict=True)):
        for j, zeta in enumerate(truth.zeta(DIM)):
            power = mpmath.mpf(-p) / old_base + (mpmath.mpf(q) / new_base if new_base else 0)
            scale = zeta ** (sign * power)
            for table, one in zip((cos, sin), plain[i][j], strict=True):
                assert abs(table[i, j].item() - scale * one) <= 2e-15 * max(scale, 1)


def test_angles_made_in_float32_are_undone_as_they_were_made():
    """Their error at 100,000 is 3e-3: a difference that takes them for exact leaves all of it."""
    rough = RotaryEmbedding(DIM, angles="float32")
    at = torch.tensor([3, 1000, 99_999, 1_000_003, -70_000])
    cos, sin = rough.rerotation(at, torch.zeros_like(at), torch.float64)
    for i, p in enumerate(at.tolist()):
        for j in range(PLANES):
            made = torch.tensor(float(p)) * rough.inv_freq[j]  # as transformers: both and the product in float32
            angle = mpmath.mpf(made.item())
            assert abs(cos[i, j].item() - mpmath.cos(angle)) <= 5e-16
            assert abs(sin[i, j].item() + mpmath.sin(angle)) <= 5e-16
    assert (cos - PLAIN.rerotation(at, torch.zeros_like(at), torch.float64)[0]).abs().max() > 1e-3


def test_rows_that_do_not_move_are_ones_and_zeros():
    at = torch.tensor([0, 7, 2**31 - 1, -5])
    for rope, new in ((PLAIN, None), (RotaryEmbedding(DIM, angles="float32"), None), (YARN, None)):
        cos, sin = rope.rerotation(at, at, new=new)
        assert (cos == 1).all() and (sin == 0).all()
    cos, sin = LONG.rerotation(at, at, old_length=100, new_length=4096)  # short both, told by other lengths
    assert (cos == 1).all() and (sin == 0).all()


def test_a_uniform_shift_is_one_row_of_memory():
    for rope in (PLAIN, YARN, RotaryEmbedding(DIM, use_xpos=True)):
        whole = rope.rerotation(torch.arange(1000), torch.arange(1000) - 100)
        counted = rope.rerotation(0, -100, rows=1000)
        assert whole[0].shape == (1000, PLANES) and whole[0].stride(0) == 0
        assert all(torch.equal(a, b) for a, b in zip(whole, counted, strict=True))
        mixed = rope.rerotation(torch.tensor([0, 5]), torch.tensor([-100, 5]))
        assert mixed[0].stride(0) == PLANES
        assert all(
            torch.equal(a[0], b[0]) for a, b in zip(whole, mixed, strict=True)
        )  # a row does not depend on others
    per_row = PLAIN.rerotation(torch.arange(50), torch.arange(50) + torch.tensor([[3], [-8]]))
    assert per_row[0].shape == (2, 50, PLANES) and per_row[0].stride(1) == 0


def test_rows_of_a_batch_have_their_own_lengths():
    before, after = torch.tensor([5000, 4000]), torch.tensor([5100, 9000])
    both = DYNAMIC.rerotation(torch.arange(30), torch.arange(30) + 2, old_length=before, new_length=after)
    assert both[0].shape == (2, 30, PLANES)
    for row in range(2):
        one = DYNAMIC.rerotation(
            torch.arange(30), torch.arange(30) + 2, old_length=int(before[row]), new_length=int(after[row])
        )
        assert all(torch.equal(a[row], b) for a, b in zip(both, one, strict=True))


def test_coordinates_move_each_by_itself():
    rope = RotaryEmbedding(DIM, axes=(0, 1, 1, 0, 1, 0))
    before = torch.tensor([[3, 2**31 - 1], [4, -9], [7, 7]])
    after = torch.tensor([[-(2**31), 5], [4, -9], [8, 7]])
    cos, sin = rope.rerotation(before, after)
    for plane, axis in enumerate(rope.axes):
        one = PLAIN.rerotation(before[:, axis], after[:, axis])
        assert torch.equal(cos[:, plane], one[0][:, plane]) and torch.equal(sin[:, plane], one[1][:, plane])
    text = rope.rerotation(before, 0)  # counts on along every coordinate
    same = rope.rerotation(before, torch.arange(3)[:, None].expand(-1, 2))
    assert all(torch.equal(a, b) for a, b in zip(text, same, strict=True))
    flat = PLAIN.rerotation(torch.arange(3), after, new=rope)
    assert flat[0].shape == (3, PLANES)


def test_long_tables_in_blocks_have_the_bits_of_short_ones():
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.randint(-(2**31), 2**31, (40_000,), generator=generator) for _ in range(2))
    for new in (None, YARN):
        whole = PLAIN.rerotation(p, q, new=new)
        part = PLAIN.rerotation(p[-50:], q[-50:], new=new)
        assert all(torch.equal(a[-50:], b) for a, b in zip(whole, part, strict=True))
