"""Keys that are rotated already, moved: equal to fresh ones within roundings that are counted. The judge is float64 and mpmath.

u = eps / 2, half a unit in the last place of 1. The error of a channel is counted in u x the norm of its plane, which a rotation keeps.
"""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rotary import RotaryEmbedding, apply_rotary
from rotary.scaling import NTK, DynamicNTK, LongRoPE, YaRN
from support import truth
from support.shown import frequencies

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
FRESH = {torch.float64: 20.0, torch.float32: 5.0, torch.float16: 2.01, torch.bfloat16: 2.01}
"""|moved - fresh| in u: two roundings in half precisions; the figures measured in the others."""
TWICE = {torch.float64: 30.0, torch.float32: 8.0, torch.float16: 3.02, torch.bfloat16: 3.02}
DIM, HEAD = 8, 10
WINDOW = 4096
SCHEMES = {
    "plain": None,
    "ntk": NTK(4.0),
    "yarn": YaRN(8.0, 2048),
    "longrope": LongRoPE([1.0, 1.0, 1.0, 1.0], [1.5, 2.0, 4.0, 8.0], WINDOW, factor=8.0),
    "dynamic": DynamicNTK(2.0, WINDOW),
}


def raw(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def exact(x: Tensor, rope: RotaryEmbedding, positions: list[int], length: int | None = None) -> Tensor:
    """x (seq, head) rotated afresh in exact arithmetic, as float64."""
    inv_freq, factor = frequencies(rope, length)
    rows = []
    for row, p in zip(x.tolist(), positions, strict=True):
        pairs = [truth.cos_sin(p, f) for f in inv_freq.tolist()]
        if rope.use_xpos:
            scales = truth.xpos_scale(-p, rope.dim, rope.scale_base)
            pairs = [(c * s, d * s) for (c, d), s in zip(pairs, scales, strict=True)]
        pairs = [(c * factor, d * factor) for c, d in pairs]
        rows.append([float(v) for v in truth.rotated(row, pairs, rope.interleaved)])
    return torch.tensor(rows, dtype=torch.float64)


def roundings(got: Tensor, wanted: Tensor, rope: RotaryEmbedding, dtype: torch.dtype | None = None) -> float:
    """The largest error of a channel that turns, in u x the norm of its plane."""
    u = torch.finfo(dtype or got.dtype).eps / 2
    error, norm = (got.double() - wanted.double())[..., : rope.dim].abs(), wanted.double()[..., : rope.dim].pow(2)
    half = rope.dim // 2
    if rope.interleaved:
        norm = norm.unflatten(-1, (half, 2)).sum(-1).repeat_interleave(2, -1).sqrt()
    else:
        norm = norm.unflatten(-1, (2, half)).sum(-2).repeat(*[1] * (norm.ndim - 1), 2).sqrt()
    return float((error / (u * norm)).max())


MODULES = st.builds(
    RotaryEmbedding,
    st.just(DIM),
    base=st.sampled_from([1e4, 5e5]),
    scaling=st.sampled_from([*SCHEMES.values()]),
    interleaved=st.just(False),
)
LENGTHS = st.sampled_from([100, WINDOW, WINDOW + 1, 9000])
AT = st.lists(st.integers(-(2**31), 2**31 - 1), min_size=3, max_size=3)


@settings(max_examples=120, deadline=None)
@given(
    old=MODULES,
    new=st.none() | MODULES,
    dtype=st.sampled_from(DTYPES),
    interleaved=st.booleans(),
    before=AT,
    after=AT,
    lengths=st.tuples(LENGTHS, LENGTHS),
    seed=st.integers(0, 2**31),
)
def test_moved_keys_are_fresh_ones_there_and_back_again(
    old: RotaryEmbedding,
    new: RotaryEmbedding | None,
    dtype: torch.dtype,
    interleaved: bool,
    before: list[int],
    after: list[int],
    lengths: tuple[int, int],
    seed: int,
):
    old = old.replace(interleaved=interleaved)
    other = old if new is None else new.replace(interleaved=interleaved)
    x = raw(3, HEAD, dtype=dtype, seed=seed)
    p, q = torch.tensor(before), torch.tensor(after)
    key = old.rotate(x, positions=p, length=lengths[0])
    moved = old.rerotate(key, p, q, new=other, old_length=lengths[0], new_length=lengths[1])
    assert moved.dtype == dtype
    assert roundings(moved, exact(x.double(), other, after, lengths[1]), old) <= FRESH[dtype]
    assert torch.equal(moved[:, DIM:], x[:, DIM:])
    back = other.rerotate(moved, q, p, new=old, old_length=lengths[1], new_length=lengths[0])
    assert roundings(back, key, old) <= TWICE[dtype]


@settings(max_examples=60, deadline=None)
@given(
    rope=MODULES,
    dtype=st.sampled_from(DTYPES),
    stops=st.lists(AT, min_size=3, max_size=3),
    lengths=st.tuples(LENGTHS, LENGTHS, LENGTHS),
    seed=st.integers(0, 2**31),
)
def test_two_moves_are_one(
    rope: RotaryEmbedding, dtype: torch.dtype, stops: list[list[int]], lengths: tuple[int, int, int], seed: int
):
    p, q, r = (torch.tensor(at) for at in stops)
    a, b, c = lengths
    key = rope.rotate(raw(3, HEAD, dtype=dtype, seed=seed), positions=p, length=a)
    twice = rope.rerotate(rope.rerotate(key, p, q, old_length=a, new_length=b), q, r, old_length=b, new_length=c)
    once = rope.rerotate(key, p, r, old_length=a, new_length=c)
    assert roundings(twice, once, rope) <= TWICE[dtype]


@settings(max_examples=60, deadline=None)
@given(
    scale_bases=st.tuples(st.sampled_from([None, 64, 512]), st.sampled_from([None, 64, 512])),
    dtype=st.sampled_from(DTYPES),
    at=st.lists(st.integers(-150, 150), min_size=6, max_size=6),
    seed=st.integers(0, 2**31),
)
def test_xpos_moves_by_a_ratio_of_scales(
    scale_bases: tuple[int | None, int | None], dtype: torch.dtype, at: list[int], seed: int
):
    old, new = (RotaryEmbedding(DIM, use_xpos=base is not None, scale_base=base or 512) for base in scale_bases)
    x = raw(3, HEAD, dtype=dtype, seed=seed)
    p, q = torch.tensor(at[:3]), torch.tensor(at[3:])
    moved = old.rerotate(old.rotate(x, positions=p, role="key"), p, q, new=new)
    assert roundings(moved, exact(x.double(), new, at[3:]), old) <= FRESH[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_rows_that_do_not_move_keep_their_bits(dtype: torch.dtype, interleaved: bool, scheme: str):
    rope = RotaryEmbedding(DIM, scaling=SCHEMES[scheme], interleaved=interleaved)
    same = {"old_length": 5000, "new_length": 5000}
    key = rope.rotate(raw(2, 3, 5, HEAD, dtype=dtype), offset=90, length=5000)
    p = torch.arange(90, 95)
    q = p + torch.tensor([0, 3, 0, -90, 0])
    moved = rope.rerotate(key, p, q, **same)
    assert torch.equal(moved[:, :, [0, 2, 4]], key[:, :, [0, 2, 4]])
    assert not torch.equal(moved[:, :, 1], key[:, :, 1])
    assert torch.equal(rope.rerotate(key, 90, 90, **same), key)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_spelling_gives_the_same_bits(dtype: torch.dtype):
    rope = RotaryEmbedding(DIM, base=500_000)
    key = rope.rotate(raw(2, 3, 6, HEAD, dtype=dtype), offset=7)
    wanted = rope.rerotate(key, 7, -3)
    p = torch.arange(7, 13, dtype=torch.int32)
    assert torch.equal(rope.rerotate(key, p, p - 10), wanted)
    assert torch.equal(rope.rerotate(key, p.expand(2, 6), (p - 10)[None]), wanted)
    assert torch.equal(rope.rerotate(key.transpose(1, 2), 7, -3, seq_dim=1).transpose(1, 2), wanted)
    assert torch.equal(rope.rerotate(key, 7, -3, new=RotaryEmbedding(DIM, base=500_000)), wanted)
    table = rope.rerotation(7, -3, torch.float64 if dtype == torch.float64 else torch.float32, rows=6)
    assert torch.equal(apply_rotary(key, *table), wanted)
    given, address = key.clone(), key.data_ptr()
    assert rope.rerotate(given, 7, -3, inplace=True) is given
    assert torch.equal(given, wanted) and key.data_ptr() == address
    for t in range(6):
        assert torch.equal(rope.rerotate(key[:, :, t : t + 1], 7 + t, t - 3), wanted[:, :, t : t + 1])
    strided = raw(2, 6, 3, 2 * HEAD, dtype=dtype)[..., :HEAD].transpose(1, 2).copy_(key)
    assert torch.equal(rope.rerotate(strided, 7, -3), wanted)


def test_rows_of_a_batch_move_by_themselves():
    rope = RotaryEmbedding(DIM, scaling=SCHEMES["dynamic"])
    old, new = torch.tensor([5000, 100]), torch.tensor([9000, 4097])
    key = rope.rotate(raw(2, 3, 6, HEAD), length=old)
    shifts = torch.tensor([[40], [-7]])
    moved = rope.rerotate(key, 0, torch.arange(6) + shifts, old_length=old, new_length=new)
    for row in range(2):
        lengths = {"old_length": int(old[row]), "new_length": int(new[row])}
        one = rope.rerotate(key[row : row + 1], 0, int(shifts[row]), **lengths)
        assert torch.equal(moved[row : row + 1], one)


def test_gradients_are_those_of_the_rotation():
    for old, new in (
        (RotaryEmbedding(4), RotaryEmbedding(4, scaling=YaRN(8.0, 64))),
        (RotaryEmbedding(4, use_xpos=True), RotaryEmbedding(4, interleaved=False)),
    ):
        key = raw(2, 3, 6).requires_grad_()

        def move(k: Tensor, old: RotaryEmbedding = old, new: RotaryEmbedding = new) -> Tensor:
            return old.rerotate(k, 3, torch.tensor([9, 2, 3]), new=new)

        assert torch.autograd.gradcheck(move, key) and torch.autograd.gradgradcheck(move, key)
        (fresh,) = torch.autograd.grad(move(key).pow(2).sum(), key)
        middle = key * 1.0
        (in_place,) = torch.autograd.grad(
            old.rerotate(middle, 3, torch.tensor([9, 2, 3]), new=new, inplace=True).pow(2).sum(), key
        )
        torch.testing.assert_close(fresh, in_place, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="leaf|clone"):
        RotaryEmbedding(4).rerotate(raw(3, 6).requires_grad_(), 0, 1, inplace=True)


def test_compiled_and_exported():
    torch._dynamo.reset()
    rope, new = RotaryEmbedding(DIM), RotaryEmbedding(DIM, scaling=YaRN(8.0, 2048))
    key, p, q = raw(1, 2, 5, HEAD, dtype=torch.float32), torch.arange(5), torch.tensor([9, -4, 2**31 - 1, 0, 4])
    for other in (None, new):

        def move(k: Tensor, p: Tensor, q: Tensor, other: RotaryEmbedding | None = other) -> Tensor:
            return rope.rerotate(k, p, q, new=other)

        compiled = torch.compile(move, fullgraph=True, backend="eager")
        assert torch.equal(compiled(key, p, q), move(key, p, q))
    vmapped = torch.vmap(lambda k: rope.rerotate(k, 3, 99))(key)
    torch.testing.assert_close(vmapped, rope.rerotate(key, 3, 99), rtol=0, atol=1e-6)


def test_meta_and_empty():
    rope = RotaryEmbedding(DIM)
    away = torch.empty(2, 3, 5, HEAD, device="meta")
    assert rope.rerotate(away, 0, 7).shape == away.shape
    assert rope.rerotate(away, 0, torch.arange(5, device="meta")).device.type == "meta"
    for new in (None, RotaryEmbedding(DIM, base=500_000)):
        assert rope.rerotate(raw(2, 0, HEAD), 4, 9, new=new).shape == (2, 0, HEAD)
        assert rope.rerotation(4, 9, rows=0, new=new)[0].shape == (0, DIM // 2)
    key, other = raw(2, 5, HEAD), XPOS.replace(base=500_000)
    for new in (None, other):
        expected = XPOS.rerotate(key, 4, 9, new=new)
        with torch.device("meta"):  # the default of new tensors, which keys in memory do not follow
            assert torch.equal(XPOS.rerotate(key, 4, 9, new=new), expected)


# --- the trap, and what others do --------------------------------------------------------------------------------------------------


def test_F52_tables_of_a_difference_apply_an_attention_factor_twice():
    """Tables of a difference are right for unrotated keys; of rotated ones, which have the factor, they make 1.1386 times as much."""
    rope = RotaryEmbedding(64, scaling=YaRN(4.0, 32768))
    x = raw(1, 100, 64)
    key = rope.rotate(x)
    trapped = apply_rotary(key, *rope.cos_sin(torch.full((100,), 10), torch.float64))
    assert float(trapped.norm() / key.norm()) == pytest.approx(rope.attention_factor, rel=1e-12)
    assert rope.attention_factor == pytest.approx(1.1386, abs=1e-4)
    moved = rope.rerotate(key, 0, 10)
    torch.testing.assert_close(moved, rope.rotate(x, offset=10), rtol=0, atol=1e-13)
    assert "rerotate" in (RotaryEmbedding.cos_sin.__doc__ or "")


def test_F55_keys_made_by_float32_angles_are_undone_as_they_were_made():
    rough, fine = RotaryEmbedding(64, angles="float32"), RotaryEmbedding(64)
    x = raw(1, 300, 64, dtype=torch.float32)
    made = rough.rotate(x, offset=100_000)
    afresh = rough.rotate(x, offset=0)
    assert (rough.rerotate(made, 100_000, 0) - afresh).abs().max() <= 2e-6
    assert (rough.rerotate(made, 100_000, 0, new=fine) - fine.rotate(x)).abs().max() <= 2e-6
    assert (fine.rerotate(made, 100_000, 0) - fine.rotate(x)).abs().max() > 1e-3  # taken for exact
    p = torch.arange(300)
    delta = p - (p + 100_000)
    float32_delta = apply_rotary(
        made, (delta[:, None].float() * fine.inv_freq).cos(), (delta[:, None].float() * fine.inv_freq).sin()
    )
    assert (float32_delta - afresh).abs().max() > 1e-3  # kvpress: delta.float() * inv_freq


def test_F53_keys_turned_again_and_again_drift_and_once_from_the_origin_they_do_not():
    """vLLM's RFC 57672 and llama.cpp 4097: a step at a time, slow planes are rounded back to where they were."""
    rope = RotaryEmbedding(128, base=500_000)
    x = raw(1, 64, 128)
    origin = rope.rotate(x.bfloat16(), offset=8000)
    drifting = origin
    for step in range(200):
        drifting = rope.rerotate(drifting, 8000 - step, 7999 - step)
    wanted = rope.rotate(x, offset=7800)

    def error(k: Tensor) -> float:
        return float((k.double() - wanted).norm() / wanted.norm())

    assert error(drifting) > 0.03
    assert error(rope.rerotate(origin, 8000, 7800)) < 0.004


def test_F54_the_switch_of_longrope_keeps_the_keys():
    """transformers drops the cache there, and prefills again; first-layer keys need not be."""
    rope = RotaryEmbedding(DIM, scaling=SCHEMES["longrope"])
    x = raw(1, 4, 200, HEAD, dtype=torch.bfloat16)
    cached = rope.rotate(x, offset=3897, length=WINDOW)
    moved = rope.rerotate(cached, 3897, 3897, old_length=WINDOW, new_length=WINDOW + 1)
    fresh = rope.rotate(x.double(), offset=3897, length=WINDOW + 1)
    assert roundings(moved, fresh, rope) <= FRESH[torch.bfloat16]
    assert roundings(cached, fresh, rope) > 100  # left as they were


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("head", [DIM, HEAD])
def test_F56_scaling_and_partial_rotary_are_served(scheme: str, head: int):
    """LMCache refuses both."""
    rope = RotaryEmbedding(DIM, scaling=SCHEMES[scheme])
    x = raw(2, 50, head)
    moved = rope.rerotate(rope.rotate(x, length=9000), 0, 777, old_length=9000, new_length=9000)
    torch.testing.assert_close(moved, rope.rotate(x, offset=777, length=9000), rtol=0, atol=1e-13)


def test_F56_positions_of_several_coordinates_are_served():
    """llama.cpp 19928 refuses M-RoPE."""
    rope = RotaryEmbedding(DIM, axes=(0, 1, 2, 2))
    x = raw(1, 2, 6, HEAD)
    text = torch.arange(100, 106)[:, None].expand(-1, 3)
    image = torch.stack((torch.full((6,), 100), torch.arange(6) // 3 + 100, torch.arange(6) % 3 + 100), -1)
    for before, after in ((image, image - 90), (text, image), (image, 3)):
        wanted = rope.rotate(x, offset=3) if isinstance(after, int) else rope.rotate(x, positions=after)
        moved = rope.rerotate(rope.rotate(x, positions=before), before, after)
        torch.testing.assert_close(moved, wanted, rtol=0, atol=1e-14)


# --- bad input ---------------------------------------------------------------------------------------------------------------------


ROPE = RotaryEmbedding(DIM)
XPOS = RotaryEmbedding(DIM, use_xpos=True)
LONG = RotaryEmbedding(DIM, scaling=SCHEMES["longrope"])
KEY = raw(2, 3, 5, HEAD, dtype=torch.float32)
FIVE = torch.arange(5)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda k: ROPE.rerotate(k.to(torch.int8), 0, 1), TypeError, "int8.*dequantise, move, quantise"),
        (
            lambda k: ROPE.rerotate(k.to(torch.float8_e4m3fn), 0, 1),
            TypeError,
            "float8_e4m3fn.*dequantise, move, quantise",
        ),
        (lambda k: ROPE.rerotate(k.bool(), 0, 1), TypeError, "floating point"),
        (lambda k: ROPE.rerotate([1.0], 0, 1), TypeError, "k must be a tensor"),
        (lambda k: ROPE.rerotate(k, 0, 1, new="yarn"), TypeError, "new must be a RotaryEmbedding.*'yarn'"),
        (lambda k: ROPE.rerotate(k, 0, 1, new=RotaryEmbedding(4)), ValueError, "rotated in 8 channels.*rotates 4"),
        (
            lambda k: ROPE.rerotate(k, 0, 1, new=RotaryEmbedding(DIM, interleaved=True)),
            ValueError,
            "half-paired.*rotary.convert",
        ),
        (lambda k: RotaryEmbedding(64).rerotate(k, 0, 1), ValueError, "64 exceeds head_dim 10"),
        (lambda k: LONG.rerotate(k, 0, 1, new_length=9), ValueError, "LongRoPE depends.*pass old_length="),
        (lambda k: ROPE.rerotate(k, 0, 1, new=LONG), ValueError, "LongRoPE depends.*pass new_length="),
        (lambda k: LONG.rerotate(k, 0, 1, old_length=-1, new_length=9), ValueError, "old_length must be >= 0"),
        (
            lambda k: LONG.rerotate(k, 0, 1, old_length=torch.tensor([4, 5, 6]), new_length=9),
            ValueError,
            "batch 3.*has 2",
        ),
        (
            lambda k: LONG.rerotate(k, 0, 1, old_length=torch.tensor([[4]]), new_length=9),
            ValueError,
            "old_length must be",
        ),
        (lambda k: ROPE.rerotate(k, 0.5, 1), TypeError, "old_positions must be an int.*0.5"),
        (lambda k: ROPE.rerotate(k, [0, 1, 2, 3, 4], 1), TypeError, "old_positions must be an int.*list"),
        (lambda k: ROPE.rerotate(k, 0, FIVE.float()), TypeError, "new_positions must be an int or an integer tensor"),
        (lambda k: ROPE.rerotate(k, 0, FIVE[:3]), ValueError, "new_positions has 3 entries.*has 5"),
        (lambda k: ROPE.rerotate(k, torch.tensor(3), 0), ValueError, "old_positions must be an int, the position"),
        (lambda k: ROPE.rerotate(k, 0, FIVE.expand(3, 5)), ValueError, "batch 3.*has 2"),
        (
            lambda k: ROPE.rerotate(k, 0, FIVE.expand(2, 5), seq_dim=0),
            ValueError,
            "has 5 entries.*has 2|seq_dim other than 0",
        ),
        (lambda k: ROPE.rerotate(k, 0, FIVE[:, None].expand(5, 2)), ValueError, "new_positions has 2 entries"),
        (lambda k: ROPE.rerotate(k, 0, FIVE.to("meta")), ValueError, "new_positions on meta, k on cpu"),
        (lambda k: ROPE.rerotate(k, 0, 2**62), ValueError, "2.62"),
        (lambda k: ROPE.rerotate(k, 0, FIVE + 2**62), ValueError, "2.62"),
        (lambda k: ROPE.rerotate(k, 0, 1, seq_dim=-1), ValueError, "seq_dim"),
        (lambda k: ROPE.rerotate(k, 0, 1, role="value"), ValueError, "role"),
        (lambda k: XPOS.rerotate(k.half(), 0, 10_000), ValueError, "scales keys by up to.*float16"),
        (lambda k: XPOS.rerotate(k, 0, FIVE + 10**6), ValueError, "scales keys by up to.*float32"),
        (
            lambda k: RotaryEmbedding.from_inv_freq([1.0] * 4, attention_factor=1e-6).rerotate(
                k.half(), 0, 1, new=ROPE
            ),
            ValueError,
            "scales keys by up to.*float16",
        ),
        (lambda k: ROPE.rerotate(k[:1].expand(2, 3, 5, HEAD), 0, 1, inplace=True), RuntimeError, "overlaps itself"),
        (lambda k: RotaryEmbedding(DIM, axes=(0, 0, 1, 1)).rerotate(k, FIVE, 1), ValueError, "coordinates"),
        (lambda k: ROPE.rerotation(0, 1), TypeError, "rows="),
        (lambda k: ROPE.rerotation(FIVE, 1, rows=6), ValueError, "rows is 6.*5"),
        (lambda k: ROPE.rerotation(FIVE, FIVE[:4]), ValueError, "4 entries.*5"),
        (lambda k: ROPE.rerotation(FIVE.expand(2, 5), FIVE.expand(3, 5)), ValueError, "2 and 3 rows"),
        (lambda k: ROPE.rerotation(FIVE, 0, torch.int64), TypeError, "dtype"),
    ],
)
@pytest.mark.parametrize("inplace", [False, True])
def test_what_cannot_be_honoured_is_refused_before_anything_is_written(
    call, error, words, inplace: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(RotaryEmbedding, "rerotate", functools.partialmethod(RotaryEmbedding.rerotate, inplace=inplace))
    before = KEY.clone()
    with pytest.raises(error, match=words):
        call(KEY)
    assert torch.equal(KEY, before)


def test_positions_for_each_row_need_a_batch_at_dimension_0():
    rope = RotaryEmbedding(8)
    k = torch.randn(5, 3, 8)
    with pytest.raises(ValueError, match="seq_dim other than 0"):
        rope.rerotate(k, torch.arange(5).expand(3, 5), 0, seq_dim=0)
    assert torch.equal(rope.rerotate(k, torch.arange(5).expand(1, 5), 9, seq_dim=0), rope.rerotate(k, 0, 9, seq_dim=0))
    assert rope.rerotate(k.mT.contiguous().mT, torch.arange(3).expand(5, 3), 9, seq_dim=1).shape == k.shape
