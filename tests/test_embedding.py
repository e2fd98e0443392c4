"""RotaryEmbedding: the page, the tables, the rotation. What survives casts and copies is in test_state.py."""

from __future__ import annotations

import mpmath
import pytest
import torch
from torch import Tensor

from rotary import RotaryEmbedding, apply_rotary_pos_emb, scaling
from rotary.scaling import Linear, YaRN
from support import truth

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
HARD = (0, 1, -1, 7, 1000, 2**24 + 1, -(2**31), 2**31 - 1)


def heads(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def expected(x: Tensor, rope: RotaryEmbedding, positions: list[int], role: str = "query") -> Tensor:
    """x (seq, head_dim) rotated in exact arithmetic, as float64."""
    rows = []
    for row, p in zip(x.tolist(), positions, strict=True):
        pairs = [truth.cos_sin(p, f, rope.interpolation_factor) for f in rope.inv_freq.tolist()]
        if rope.use_xpos:
            scale = truth.xpos_scale(p if role == "query" else -p, rope.dim, rope.scale_base)
            pairs = [(c * s, d * s) for (c, d), s in zip(pairs, scale, strict=True)]
        rows.append([float(v) for v in truth.rotated(row, pairs, rope.interleaved)])
    return torch.tensor(rows, dtype=torch.float64)


# --- the page ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"base": 500000}, {"interpolation_factor": 3.7}, {"base_rescale_factor": 8.0}, {"use_xpos": True}]
)
def test_forward_is_the_documented_pair(options: dict):
    rope = RotaryEmbedding(16, **options)
    freqs, scale = rope(50, "cpu")
    assert freqs.shape == (50, 16) and freqs.dtype == torch.float32
    divisor = mpmath.mpf(options.get("interpolation_factor", 1.0))
    for p in (0, 1, 17, 49):
        for j in range(16):
            exact = p / divisor * mpmath.mpf(rope.inv_freq[j % 8].item())
            assert abs(freqs[p, j].item() - exact) <= abs(exact) * mpmath.mpf(2) ** -23.9
    if rope.use_xpos:
        assert scale.shape == (50, 16) and scale.dtype == torch.float32
        for p in (0, 1, 24, 25, 49):
            for j, exact in enumerate(truth.xpos_scale(p - 25, 16, 512) * 2):
                assert abs(scale[p, j].item() - exact) <= exact * mpmath.mpf(2) ** -23.9
    else:
        assert scale.ndim == 0 and scale.item() == 1.0


@pytest.mark.parametrize(("base", "factor"), [(10000, 1.0), (500000, 1.0), (10000, 8.0), (1e6, 0.5)])
def test_inv_freq_is_the_formula_rounded_once(base: float, factor: float):
    rope = RotaryEmbedding(128, base=base, base_rescale_factor=factor)
    for shown, exact in zip(rope.inv_freq.tolist(), truth.inv_freq(128, base, factor), strict=True):
        assert abs(shown - exact) <= exact * mpmath.mpf(2) ** -24 * (1 + mpmath.mpf(2) ** -20)


def test_positional_and_attributes():
    rope = RotaryEmbedding(64, True, 1024, 2.0, 20000, 1.5)
    shown = (rope.dim, rope.use_xpos, rope.scale_base, rope.interpolation_factor, rope.base, rope.base_rescale_factor)
    assert shown == (64, True, 1024, 2.0, 20000, 1.5)
    assert dict(rope.named_buffers()).keys() == {"inv_freq", "scale"}
    assert rope.inv_freq.shape == rope.scale.shape == (32,)
    assert RotaryEmbedding(64).scale is None
    assert "64" in repr(rope) and "use_xpos=True" in repr(rope) and "base=20000" in repr(rope)


def test_sequence_lengths():
    rope = RotaryEmbedding(8, use_xpos=True)

    class Nine:
        def __index__(self) -> int:
            return 9

    assert rope(Nine())[0].shape == (9, 8)
    assert [part.shape for part in rope(0)] == [(0, 8), (0, 8)]
    for wrong in (4.5, True, "4", None, torch.tensor(4.0)):
        with pytest.raises(TypeError, match="seq_len"):
            rope(wrong)
    with pytest.raises(ValueError, match="-3"):
        rope(-3)


def test_device_may_be_a_string_a_device_or_omitted():
    rope = RotaryEmbedding(8, use_xpos=True)
    for device in ("cpu", torch.device("cpu"), None):
        assert all(part.device.type == "cpu" for part in rope(3, device))
    assert all(part.device.type == "meta" for part in rope(3, "meta"))
    away = RotaryEmbedding(8, use_xpos=True, device="meta")
    assert away.inv_freq.device.type == "meta"
    assert torch.equal(away(3, "cpu")[0], rope(3)[0])


def test_dim_2_works_while_the_factor_is_1():
    assert RotaryEmbedding(2).inv_freq.tolist() == [1.0]
    with pytest.raises(ValueError, match="dim >= 4"):
        RotaryEmbedding(2, base_rescale_factor=2.0)


def test_forward_and_its_companion_rotate():
    rope = RotaryEmbedding(64, use_xpos=True)
    q, k = heads(2, 4, 20, 64), heads(2, 4, 20, 64, seed=1)
    freqs, scale = rope(20)
    full = apply_rotary_pos_emb(q, freqs, scale) @ apply_rotary_pos_emb(k, freqs, 1 / scale).mT
    ours_q, ours_k = rope.rotate(q, k)
    torch.testing.assert_close(full, ours_q @ ours_k.mT, atol=2e-4, rtol=1e-4)  # scores share no centre, only distances


# --- tables --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("role", ["query", "key"])
def test_tables_with_xpos_are_right_to_half_a_unit_of_the_amplitudes_binade(dtype: torch.dtype, role: str):
    rope = RotaryEmbedding(16, use_xpos=True)
    positions = [0, 1, 5, 700, 4000, -4000]
    cos, sin = rope.cos_sin(torch.tensor(positions), dtype, role=role)
    for i, p in enumerate(positions):
        scale = truth.xpos_scale(p if role == "query" else -p, 16, 512)
        for j, f in enumerate(rope.inv_freq.tolist()):
            for got, exact in zip((cos[i, j], sin[i, j]), truth.cos_sin(p, f), strict=True):
                binade = mpmath.mpf(2) ** max(0, mpmath.ceil(mpmath.log(scale[j], 2)))
                bound = 0.52 * mpmath.mpf(2) ** -24 * binade if dtype == torch.float32 else binade * 1e-13
                assert abs(got.item() - exact * scale[j]) <= bound


def test_tables_for_n_mean_zero_to_n_minus_1():
    rope = RotaryEmbedding(32)
    for ours, same in zip(rope.cos_sin(7), rope.cos_sin(torch.arange(7)), strict=True):
        assert ours.shape == (7, 16) and torch.equal(ours, same)
    cos, _ = rope.cos_sin(torch.zeros(2, 3, 4, dtype=torch.int32), torch.bfloat16)
    assert cos.shape == (2, 3, 4, 16) and cos.dtype == torch.bfloat16


def test_tables_refuse():
    rope, xpos = RotaryEmbedding(32), RotaryEmbedding(32, use_xpos=True)
    for positions in (
        torch.arange(3.0).half(),
        torch.arange(3.0).bfloat16(),
        torch.ones(3, dtype=torch.bool),
        torch.ones(3, dtype=torch.complex64),
        2.5,
        True,
    ):
        with pytest.raises(TypeError, match=r"integer"):
            rope.cos_sin(positions)
    with pytest.raises(TypeError, match="role"):
        xpos.cos_sin(3)
    with pytest.raises(ValueError, match="value"):
        xpos.cos_sin(3, role="value")
    with pytest.raises(TypeError, match="dtype"):
        rope.cos_sin(3, torch.int64)


# --- rotation ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("use_xpos", [False, True])
def test_rotation_is_the_exact_one(interleaved: bool, use_xpos: bool):
    rope = RotaryEmbedding(8, use_xpos=use_xpos, interleaved=interleaved)
    positions = [0, 1, -1, 7, 1000, -1000] if use_xpos else list(HARD)
    x = heads(1, len(positions), 12, dtype=torch.float64).clamp(-1, 1)
    for role in ("query", "key"):
        y = rope.rotate(x, positions=torch.tensor(positions), role=role)
        truly = expected(x[0], rope, positions, role)
        assert (y[0] - truly).abs().max() <= 1e-13 * (1 if not use_xpos else 16)
    assert torch.equal(y[..., 8:], x[..., 8:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype: torch.dtype):
    rope = RotaryEmbedding(64)
    positions = torch.tensor([3, 100, 70_000, 1_000_003])
    x = heads(4, 64, dtype=dtype)
    exact = expected(x.double(), rope, positions.tolist())
    y = rope.rotate(x, positions=positions)
    a, b = x.double().abs().chunk(2, -1)
    slack = 4 * 2.0**-24 * torch.cat((a + b, a + b), -1)
    ulp = torch.finfo(dtype).eps * torch.exp2(exact.abs().clamp(min=torch.finfo(dtype).smallest_normal).log2().floor())
    assert y.dtype == dtype
    assert ((y.double() - exact).abs() <= 0.5 * ulp + slack).all()
    assert torch.equal(y, rope.rotate(x.float(), positions=positions).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, {"use_xpos": True}, {"interleaved": True}, {"dim": 48}, {"angles": "float32"}])
def test_prefill_is_decode(dtype: torch.dtype, options: dict):
    rope = RotaryEmbedding(**{"dim": 64, **options})
    q, k = heads(3, 4, 40, 64, dtype=dtype), heads(3, 2, 40, 64, dtype=dtype, seed=1)
    whole = rope.rotate(q, k)
    for t in range(40):
        now = slice(t, t + 1)
        for one, part in zip(rope.rotate(q[:, :, now], k[:, :, now], offset=t), whole, strict=True):
            assert torch.equal(one, part[:, :, now])
    cached, _ = rope.rotate(q[:, :, -5:], k)
    assert torch.equal(cached, whole[0][:, :, -5:])


@pytest.mark.parametrize("use_xpos", [False, True])
def test_prefill_is_decode_with_left_padding_and_offsets_per_row(use_xpos: bool):
    rope = RotaryEmbedding(32, use_xpos=use_xpos)
    pads = torch.tensor([0, 3, 7])
    q, k = heads(3, 2, 12, 32), heads(3, 2, 12, 32, seed=1)
    whole = rope.rotate(q, k, offset=-pads)
    same = rope.rotate(q, k, positions=torch.arange(12) - pads[:, None])
    for t in range(12):
        now = slice(t, t + 1)
        step = rope.rotate(q[:, :, now], k[:, :, now], offset=t - pads)
        for x, y, z in zip(step, whole, same, strict=True):
            assert torch.equal(x, y[:, :, now]) and torch.equal(y, z)
    for row, pad in enumerate(pads.tolist()):
        alone = rope.rotate(q[row : row + 1, :, pad:], k[row : row + 1, :, pad:])
        assert torch.equal(alone[0], whole[0][row : row + 1, :, pad:])


def test_packed_is_per_document():
    rope = RotaryEmbedding(32)
    lengths, starts = [3, 0, 1, 8], torch.tensor([0, 100, 7, -2])
    cu = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    q, k = heads(12, 4, 32), heads(12, 2, 32, seed=1)
    whole = rope.rotate(q, k, cu_seqlens=cu, offset=starts, seq_dim=0)
    plain = rope.rotate(q, k, cu_seqlens=cu, seq_dim=0)
    for d in range(4):
        part = slice(int(cu[d]), int(cu[d + 1]))
        for got, alone in zip(whole, rope.rotate(q[part], k[part], offset=int(starts[d]), seq_dim=0), strict=True):
            assert torch.equal(got[part], alone)
        for got, alone in zip(plain, rope.rotate(q[part], k[part], seq_dim=0), strict=True):
            assert torch.equal(got[part], alone)


def test_layouts_agree():
    rope = RotaryEmbedding(32)
    q, k = heads(2, 4, 9, 32), heads(2, 1, 9, 32, seed=1)
    ref = rope.rotate(q, k, offset=5)
    bshd = rope.rotate(q.transpose(1, 2), k.transpose(1, 2), offset=5, seq_dim=1)
    assert all(torch.equal(x.transpose(1, 2), y) for x, y in zip(bshd, ref, strict=True))
    thd = rope.rotate(q[0].transpose(0, 1), k[0].transpose(0, 1), offset=5, seq_dim=0)
    assert all(torch.equal(x.transpose(0, 1), y[0]) for x, y in zip(thd, ref, strict=True))
    bsd = rope.rotate(q[:, 0], k[:, 0], offset=5)
    assert all(torch.equal(x, y[:, 0]) for x, y in zip(bsd, ref, strict=True))
    assert torch.equal(rope.rotate(q[0, 0], offset=5), ref[0][0, 0])
    assert torch.equal(rope.rotate(q[None], offset=5), ref[0][None])


@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_and_dtype_are_those_of_empty_like(dtype: torch.dtype):
    rope = RotaryEmbedding(16)
    base = heads(2, 6, 3, 5, 20, dtype=dtype)
    for x in (
        base[0],
        base[:, :, 1].transpose(1, 2),
        base[..., 2:18][1],
        base[0].permute(2, 1, 0, 3),
        base[0, :1].expand(4, 3, 5, 20),
    ):
        y = rope.rotate(x)
        assert y.dtype == dtype and y.stride() == torch.empty_like(x).stride()
        assert torch.equal(y, rope.rotate(x.contiguous()))


def test_empty_and_single():
    rope = RotaryEmbedding(8)
    q = torch.empty(2, 3, 0, 8, requires_grad=True)
    rope.rotate(q).sum().backward()
    assert q.grad is not None and q.grad.shape == q.shape
    assert rope.rotate(torch.empty(0, 3, 4, 8)).shape == (0, 3, 4, 8)
    assert rope.rotate(torch.empty(4, 8), cu_seqlens=torch.tensor([0, 4])).shape == (4, 8)
    assert rope.rotate(heads(1, 1, 1, 8)).shape == (1, 1, 1, 8)


def test_rotate_refuses():
    rope, xpos = RotaryEmbedding(16), RotaryEmbedding(16, use_xpos=True)
    q, k = heads(2, 4, 6, 16), heads(2, 2, 6, 16)
    value_errors = {
        "exceeds head_dim 8": lambda: rope.rotate(q[..., :8]),
        "positions has 1 entries": lambda: rope.rotate(q, positions=torch.tensor([3])),
        "positions batch 3 does not match q batch 2": lambda: rope.rotate(
            q, positions=torch.zeros(3, 6, dtype=torch.int64)
        ),
        "offset batch 3": lambda: rope.rotate(q, offset=torch.zeros(3, dtype=torch.int64)),
        "offset has 1 row": lambda: rope.rotate(q, offset=torch.zeros(1, dtype=torch.int64)),
        "q is longer than k": lambda: rope.rotate(q, k[:, :, :3]),
        "seq_dim 3": lambda: rope.rotate(q, seq_dim=3),
        "differ in more than": lambda: rope.rotate(q, k[:1]),
        "must start at 0": lambda: rope.rotate(q, cu_seqlens=torch.tensor([0, 4, 5])),
        "equally long": lambda: rope.rotate(q[:, :, :3], k, cu_seqlens=torch.tensor([0, 6])),
        "offset has shape": lambda: rope.rotate(q, cu_seqlens=torch.tensor([0, 6]), offset=torch.tensor([1, 2])),
        "larger scale_base": lambda: xpos.rotate(q.half(), k.half(), offset=4000),
        "on meta": lambda: rope.rotate(q, positions=torch.zeros(6, dtype=torch.int64, device="meta")),
        "needs seq_dim other than 0": lambda: rope.rotate(
            q[:, 0], positions=torch.zeros(2, 2, dtype=torch.int64), seq_dim=0
        ),
    }
    for message, call in value_errors.items():
        with pytest.raises(ValueError, match=message):
            call()
    type_errors = {
        "not both": lambda: rope.rotate(q, positions=torch.arange(6), offset=1),
        "positions or cu_seqlens": lambda: rope.rotate(q, positions=torch.arange(6), cu_seqlens=torch.tensor([0, 6])),
        "role": lambda: xpos.rotate(q),
        "role= is for one tensor alone": lambda: xpos.rotate(q, k, role="key"),
        "int64": lambda: rope.rotate(q.long()),
        "complex64": lambda: rope.rotate(q.to(torch.complex64)),
        "offset must be an integer": lambda: rope.rotate(q, offset=1.5),
        "bfloat16": lambda: rope.rotate(q, positions=torch.arange(6).bfloat16()),
        "float64": lambda: rope.rotate(q, k.double()),
        "cu_seqlens must be int32 or int64": lambda: rope.rotate(q, cu_seqlens=torch.tensor([0, 6], dtype=torch.int16)),
    }
    for message, call in type_errors.items():
        with pytest.raises(TypeError, match=message):
            call()


def test_constructor_refuses():
    for dim in (9, 0, -2):
        with pytest.raises(ValueError, match=f"positive even integer, got {dim}"):
            RotaryEmbedding(dim)
    for wrong in (
        {"dim": 8.0},
        {"dim": True},
        {"use_xpos": "no"},
        {"base": "10000"},
        {"scaling": "yarn"},
        {"interleaved": 1},
    ):
        with pytest.raises(TypeError):
            RotaryEmbedding(**{"dim": 8, **wrong})
    nan, inf = float("nan"), float("inf")
    for name in ("base", "scale_base", "base_rescale_factor", "interpolation_factor"):
        for value in (0, -10.0, nan, inf):
            with pytest.raises(ValueError, match=f"{name} must be a finite number.*got {value}"):
                RotaryEmbedding(8, **{name: value})
    with pytest.raises(ValueError, match="interpolation_factor.*0.5"):
        RotaryEmbedding(8, interpolation_factor=0.5)
    with pytest.raises(ValueError, match="angles"):
        RotaryEmbedding(8, angles="float16")
    with pytest.warns(UserWarning, match="base 1"):
        RotaryEmbedding(8, base=1)


# --- frequencies given -----------------------------------------------------------------------------------------------------------


def test_from_inv_freq():
    rope = RotaryEmbedding(32, interleaved=True)
    same = RotaryEmbedding.from_inv_freq(rope.inv_freq, interleaved=True)
    x = heads(2, 7, 40)
    assert torch.equal(same.rotate(x, offset=99), rope.rotate(x, offset=99))
    louder = RotaryEmbedding.from_inv_freq(rope.inv_freq, attention_factor=2.0)
    for twice, once in zip(louder.cos_sin(9), rope.cos_sin(9), strict=True):
        assert torch.equal(twice, 2 * once)
    assert louder(3)[1].item() == 2.0
    frequencies = torch.tensor([1.0, 0.5])
    module = RotaryEmbedding.from_inv_freq(frequencies)
    frequencies.zero_()
    assert module.inv_freq.tolist() == [1.0, 0.5] and "given" in repr(module)


def test_from_inv_freq_refuses():
    for wrong in (
        torch.ones(2, 2),
        torch.tensor([float("nan")]),
        torch.ones(0),
        torch.ones(3, device="meta"),
        torch.ones(3, requires_grad=True),
    ):
        with pytest.raises(ValueError, match="inv_freq"):
            RotaryEmbedding.from_inv_freq(wrong)
    with pytest.raises(TypeError, match="int64"):
        RotaryEmbedding.from_inv_freq(torch.arange(3))


# --- the arithmetic of transformers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dim", "base"), [(64, 10000.0), (128, 500000.0), (80, 1e6)])
def test_float32_angles_are_those_of_transformers(dim: int, base: float):
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    from transformers import LlamaConfig

    config = LlamaConfig(
        hidden_size=dim,
        num_attention_heads=1,
        head_dim=dim,
        rope_parameters={"rope_type": "default", "rope_theta": base},
    )
    theirs = llama.LlamaRotaryEmbedding(config)
    ours = RotaryEmbedding(dim, base=base, angles="float32")
    assert torch.equal(ours.inv_freq, theirs.inv_freq)
    for positions in (torch.arange(300), torch.tensor([0, 5, 70_001, 2**24 + 1, 131_071, 1_000_000])):
        cos, sin = theirs(torch.zeros(1, dtype=torch.float32), positions[None])
        our_cos, our_sin = ours.cos_sin(positions)
        assert torch.equal(cos[0], torch.cat((our_cos, our_cos), -1)) and torch.equal(
            sin[0], torch.cat((our_sin, our_sin), -1)
        )


# --- schemes that depend on the length: the hook, with a scheme of the test's own ----------------------------------------------------


class Halving:
    """Frequencies divided by length / 16 beyond 16 tokens."""

    window = 16

    def __call__(self, inv_freq: Tensor, *, base: float, dim: int, length: int | Tensor | None = None):
        if length is None:
            return inv_freq, 1.0
        ratio = (torch.as_tensor(length).to(torch.float64) / 16).clamp(min=1.0)
        return inv_freq / ratio[..., None], 1.0 + ratio / 8

    def __repr__(self) -> str:
        return "Halving()"


def test_length_per_call_and_per_row():
    rope = RotaryEmbedding(16, scaling=Halving())
    q = heads(3, 2, 20, 16)
    with pytest.raises(
        ValueError, match=r"beyond the trained window of 16 tokens, and Halving\(\) depends on.*length="
    ):
        RotaryEmbedding(16, scaling=(Linear(2.0), Halving())).rotate(q)
    with pytest.raises(ValueError, match="position 19 lies beyond the trained window of 16.*length="):
        rope.rotate(q)
    rows = torch.tensor([16, 32, 64])
    whole = rope.rotate(q, length=rows)
    for i, n in enumerate(rows.tolist()):
        assert torch.equal(rope.rotate(q[i : i + 1], length=n), whole[i : i + 1])
        given = RotaryEmbedding.from_inv_freq(
            RotaryEmbedding(16).inv_freq.double() / max(1, n / 16), attention_factor=1 + max(1, n / 16) / 8
        )
        torch.testing.assert_close(given.rotate(q[i : i + 1]), whole[i : i + 1], atol=1e-5, rtol=1e-5)
    assert torch.equal(rope.rotate(q[:, :, :9]), RotaryEmbedding(16).rotate(q[:, :, :9]))  # nothing was remembered
    static = RotaryEmbedding(16)
    assert torch.equal(static.rotate(q, length=4096), static.rotate(q))
    assert torch.equal(rope(32)[0], RotaryEmbedding(16, interpolation_factor=2.0)(32)[0])
    with pytest.raises(ValueError, match="length batch 2"):
        rope.rotate(q, length=torch.tensor([16, 32]))


def test_it_says_what_it_was_made_of_and_nothing_that_goes_without_saying():
    assert "attention_factor" not in repr(RotaryEmbedding(8))
    assert "attention_factor=1.13863" in repr(RotaryEmbedding(8, scaling=YaRN(4.0, 4096)))
    assert "attention_factor=0.5" in repr(RotaryEmbedding(8, scaling=YaRN(4.0, 4096, attention_factor=0.5)))


def test_a_module_called_with_tensors_names_rotate_in_one_line():
    """The first thing that every user of torch types; the error showed 172 lines of numbers."""
    rope, q = RotaryEmbedding(64), torch.randn(2, 8, 10, 64)
    for call in (lambda: rope(q, q), lambda: rope(q), lambda: rope(torch.tensor(3.0))):
        with pytest.raises(TypeError, match=r"documented pair \(freqs, scale\).* call rope.rotate\(q, k\)") as caught:
            call()
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 200
    with pytest.raises(TypeError, match=r"float32 \(2, 8, 10, 64\)"):
        rope(q, q)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: RotaryEmbedding(x), r"dim must be an integer, got Tensor float32 \(3, 500\)"),
        (lambda x: RotaryEmbedding(8, base=x), r"base must be a real number, got Tensor float32 \(3, 500\)"),
        (lambda x: RotaryEmbedding(8, scaling=x), r"rotary.scaling or a tuple of them, got Tensor float32 \(3, 500\)"),
        (lambda x: RotaryEmbedding(8, interleaved=x), r"True or False, got Tensor float32 \(3, 500\)"),
        (lambda x: RotaryEmbedding(8, angles=x), r"'exact', 'float32', got Tensor float32 \(3, 500\)"),
        (lambda x: RotaryEmbedding(8).cos_sin(3, x), r"torch.dtype, got Tensor float32 \(3, 500\)"),
        (lambda x: RotaryEmbedding(8).rotate([x]), r"q must be a tensor .*, got list of 1"),
        (lambda x: RotaryEmbedding(8).rotate(None), r"q must be a tensor .*, got None"),
        (lambda x: RotaryEmbedding(8).rotate(torch.zeros(3, 8), offset=x), r"offset must be an integer tensor"),
    ],
)
def test_messages_describe_a_tensor_and_never_print_it(call, words: str):
    with pytest.raises((TypeError, ValueError), match=words) as caught:
        call(torch.randn(3, 500))
    assert len(str(caught.value)) < 300


def test_a_config_may_be_named_and_an_existing_path_comes_first(tmp_path, monkeypatch):
    assert RotaryEmbedding.from_config("llama-3.1-8b").scaling == (scaling.Llama3(8.0, 8192),)
    (tmp_path / "llama-3.1-8b").mkdir()
    (tmp_path / "llama-3.1-8b" / "config.json").write_text('{"model_type": "llama", "head_dim": 16, "rope_theta": 7.0}')
    monkeypatch.chdir(tmp_path)
    assert RotaryEmbedding.from_config("llama-3.1-8b").base == 7.0
    with pytest.raises(ValueError, match=r"no config at 'llama-9'.*llama-3.1-8b"):
        RotaryEmbedding.from_config("llama-9")


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ("yarn", r"scaling=YaRN\(4.0, original_max_position_embeddings=32768\)"),
        ({"rope_type": "yarn", "factor": 4.0}, r"RotaryEmbedding.from_config\(config\)"),
        (scaling.YaRN, "give an instance"),
    ],
)
def test_a_scaling_that_is_no_scheme_is_refused_with_the_remedy(given, remedy: str):
    with pytest.raises(TypeError, match=remedy):
        RotaryEmbedding(64, scaling=given)


def test_a_subclass_may_take_arguments_of_its_own():
    class Mine(RotaryEmbedding):
        def __init__(self, heads: int) -> None:
            super().__init__(64)
            self.heads = heads

    assert Mine(4).heads == 4
    assert Mine.from_inv_freq([1.0, 0.5]).dim == 4


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotate_conjugate_undoes_a_rotation(interleaved: bool):
    rope, x = RotaryEmbedding(16, interleaved=interleaved), torch.randn(2, 3, 9, 16, dtype=torch.float64)
    y = rope.rotate(x, offset=5)
    assert torch.allclose(rope.rotate(y, offset=5, conjugate=True), x, rtol=0, atol=1e-14)
    q, k = rope.rotate(y, y.clone(), offset=5, conjugate=True)
    assert torch.equal(q, k) and torch.allclose(q, x, rtol=0, atol=1e-14)
