"""The functions with ready tables: their results compared with another formula, and their errors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rotary import RotaryEmbedding, apply_rotary, apply_rotary_pos_emb, apply_rotary_qk, operators


def by_complex_numbers(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """Another formula, in complex128: x (..., seq, head_dim)."""
    planes = cos.shape[-1]
    x, turn = x.double(), torch.complex(cos.double(), sin.double())
    a, b = (
        (x[..., 0 : 2 * planes : 2], x[..., 1 : 2 * planes : 2])
        if interleaved
        else x[..., : 2 * planes].split(planes, -1)
    )
    z = torch.complex(a, b) * turn
    y = torch.view_as_real(z).flatten(-2) if interleaved else torch.cat((z.real, z.imag), -1)
    return torch.cat((y, x[..., 2 * planes :]), -1)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("batch", [None, 1, 3])
@pytest.mark.parametrize("width", [8, 12])
def test_any_table_is_multiplied_as_a_complex_number(interleaved: bool, batch: int | None, width: int):
    draw = torch.Generator().manual_seed(0)
    q, k = torch.randn(3, 4, 5, width, generator=draw), torch.randn(3, 2, 5, width, generator=draw)
    shape = (5, 4) if batch is None else (batch, 5, 4)
    cos, sin, key_cos, key_sin = (torch.randn(shape, generator=draw) for _ in range(4))
    spread = (lambda t: t) if batch is None else (lambda t: t[:, None])
    y, z = apply_rotary_qk(q, k, cos, sin, key_cos=key_cos, key_sin=key_sin, interleaved=interleaved)
    torch.testing.assert_close(
        y.double(), by_complex_numbers(q, spread(cos), spread(sin), interleaved), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(
        z.double(), by_complex_numbers(k, spread(key_cos), spread(key_sin), interleaved), atol=1e-6, rtol=0
    )
    assert torch.equal(y, apply_rotary(q, cos, sin, interleaved=interleaved))
    swapped = apply_rotary(q.transpose(1, 2), cos, sin, interleaved=interleaved, seq_dim=1)
    assert torch.equal(swapped.transpose(1, 2), y)


def test_tables_are_used_as_they_are_given():
    x = torch.randn(5, 8, dtype=torch.float64)
    cos, sin = torch.rand(2, 5, 4)
    assert torch.equal(apply_rotary(x, cos, sin), apply_rotary(x, cos.double(), sin.double()))
    assert torch.equal(
        apply_rotary(x.float(), cos.bfloat16(), sin.bfloat16()),
        apply_rotary(x.float(), cos.bfloat16().float(), sin.bfloat16().float()),
    )


def test_queries_shorter_than_keys_take_the_last_rows():
    q, k = torch.randn(2, 4, 9, 8), torch.randn(2, 4, 9, 8)
    cos, sin = RotaryEmbedding(8).cos_sin(9)
    whole = apply_rotary_qk(q, k, cos, sin)
    part = apply_rotary_qk(q[:, :, -2:], k, cos, sin)
    assert torch.equal(part[0], whole[0][:, :, -2:]) and torch.equal(part[1], whole[1])


def test_what_does_not_fit_is_refused():
    x, k = torch.randn(2, 4, 5, 8), torch.randn(2, 1, 5, 8)
    cos, sin = torch.rand(2, 5, 4)
    value_errors = {
        "rotary dim 12 exceeds head_dim 8 of x with shape \\(2, 4, 5, 8\\)": lambda: apply_rotary(
            x, torch.rand(5, 6), torch.rand(5, 6)
        ),
        "5 rows.*has 4 along dimension 1": lambda: apply_rotary(x, cos, sin, seq_dim=1),
        "both have shape": lambda: apply_rotary(x, cos, sin[:3]),
        "batch 3": lambda: apply_rotary(x, cos.expand(3, 5, 4), sin.expand(3, 5, 4)),
        "seq_dim other than 0": lambda: apply_rotary(
            x[:, 0, 0], cos[:2].expand(3, 2, 4), sin[:2].expand(3, 2, 4), seq_dim=0
        ),
        "seq_dim -1": lambda: apply_rotary(x, cos, sin, seq_dim=-1),
        "seq_dim": lambda: apply_rotary(x[0, 0, 0], cos, sin),
        "cos on meta": lambda: apply_rotary(x, cos.to("meta"), sin),
        "q is longer than k": lambda: apply_rotary_qk(x, k[:, :, :3], cos[:3], sin[:3]),
        "rotary dim 8 exceeds head_dim 6 of q": lambda: apply_rotary_qk(x[..., :6], k, cos, sin),
    }
    for message, call in value_errors.items():
        with pytest.raises(ValueError, match=message):
            call()
    type_errors = {
        "must be floating point.*int64": lambda: apply_rotary(x.long(), cos, sin),
        "cos and sin must be floating point": lambda: apply_rotary(x, cos.long(), sin),
        "both or neither": lambda: apply_rotary_qk(x, k, cos, sin, key_cos=cos),
        "one by one": lambda: apply_rotary_qk(x, k.half(), cos, sin),
    }
    for message, call in type_errors.items():
        with pytest.raises(TypeError, match=message):
            call()


def test_tables_of_another_layout_are_refused():
    x, (cos, sin) = torch.randn(2, 4, 5, 8), torch.rand(2, 5, 4)
    for name in ("cos", "sin"):
        sparse = {"cos": cos, "sin": sin, name: cos.to_sparse()}
        for function in (apply_rotary, operators.apply_rotary):
            with pytest.raises(TypeError, match=rf"call {name}\.to_dense\(\) first"):
                function(x, **sparse)
        with pytest.raises(TypeError, match=rf"call {name}\.to_dense\(\) first"):
            apply_rotary_qk(x, x, **sparse)


def test_freqs_and_scale_of_another_layout_or_device_are_refused():
    t, (freqs, _) = torch.randn(2, 5, 8), RotaryEmbedding(8)(5)
    for name, how in (("freqs", (freqs.to_sparse(),)), ("scale", (freqs, torch.ones(5, 8).to_sparse()))):
        with pytest.raises(TypeError, match=rf"call {name}\.to_dense\(\) first"):
            apply_rotary_pos_emb(t, *how)
    for scale in (torch.ones(5, 8, device="meta"), torch.ones((), device="meta")):
        with pytest.raises(ValueError, match="scale on meta, t on cpu"):
            apply_rotary_pos_emb(t, freqs, scale)
    away = apply_rotary_pos_emb(
        t.to("meta"), freqs.to("meta"), torch.tensor(2.0)
    )  # a 0-d CPU tensor goes with every device
    assert away.shape == t.shape


# --- the companion of forward() -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head_dim", [2, 4, 6, 64, 80, 96, 128])
def test_companion_rotates_at_every_head_dim(head_dim: int):
    freqs, scale = RotaryEmbedding(head_dim)(7)
    t = torch.randn(2, 3, 7, head_dim)
    half = freqs[:, : head_dim // 2]
    truly = by_complex_numbers(t, half.double().cos(), half.double().sin(), interleaved=False)
    y = apply_rotary_pos_emb(t, freqs, scale)
    torch.testing.assert_close(y.double(), truly, atol=1e-6, rtol=0)
    torch.testing.assert_close(y.norm(dim=-1), t.norm(dim=-1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_companion_keeps_dtype_tail_and_last_rows(dtype: torch.dtype):
    freqs, scale = RotaryEmbedding(8, use_xpos=True)(10)
    t = torch.randn(2, 10, 12, dtype=dtype)
    y = apply_rotary_pos_emb(t, freqs, scale)
    assert y.dtype == dtype and torch.equal(y[..., 8:], t[..., 8:])
    assert torch.equal(apply_rotary_pos_emb(t[:, -3:], freqs, scale), y[:, -3:])
    doubled = apply_rotary_pos_emb(t.double(), freqs, 2.0)[..., :8]
    torch.testing.assert_close(doubled, 2 * apply_rotary_pos_emb(t.double(), freqs)[..., :8])
    assert torch.equal(apply_rotary_pos_emb(t, freqs, torch.tensor(1.0)), apply_rotary_pos_emb(t, freqs))


def test_companion_is_differentiable_in_everything():
    freqs, scale = (part.double().requires_grad_() for part in RotaryEmbedding(4, use_xpos=True)(3))
    t = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(apply_rotary_pos_emb, (t, freqs, scale))


def test_companion_refuses():
    freqs, scale = RotaryEmbedding(8, use_xpos=True)(4)
    t = torch.randn(2, 4, 8)
    for call in (
        lambda: apply_rotary_pos_emb(t[..., :6], freqs),
        lambda: apply_rotary_pos_emb(torch.randn(2, 5, 8), freqs),
        lambda: apply_rotary_pos_emb(t, freqs[None]),
        lambda: apply_rotary_pos_emb(t, freqs[:, :7]),
        lambda: apply_rotary_pos_emb(t, freqs, scale[:2]),
        lambda: apply_rotary_pos_emb(t, freqs.to("meta")),
    ):
        with pytest.raises(ValueError, match="freqs|scale|exceeds"):
            call()
    with pytest.raises(TypeError, match="int64"):
        apply_rotary_pos_emb(t.long(), freqs)


def test_shorter_queries_with_the_sequence_first():
    """Four dimensions, the sequence at 0: there a difference of q and k is one of length, not of batch."""
    q, k, (cos, sin) = torch.randn(2, 3, 4, 8), torch.randn(5, 3, 4, 8), RotaryEmbedding(8).cos_sin(5)
    q_rotated, k_rotated = apply_rotary_qk(q, k, cos, sin, seq_dim=0)
    assert torch.equal(q_rotated, apply_rotary(q, cos[3:], sin[3:], seq_dim=0))
    assert torch.equal(k_rotated, apply_rotary(k, cos, sin, seq_dim=0))


def test_queries_narrower_than_the_tables_are_named():
    cos, sin = RotaryEmbedding(8).cos_sin(9)
    with pytest.raises(ValueError, match=r"rotary dim 8 exceeds head_dim 6 of q with shape \(1, 9, 6\)"):
        apply_rotary_qk(torch.randn(1, 9, 6), torch.randn(1, 9, 8), cos, sin)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cos_and_sin_in_the_place_of_freqs_and_scale_are_refused(dtype: torch.dtype):
    """apply_rotary_pos_emb(q, cos, sin) of other libraries was served, with the cosines taken for angles."""
    cos, sin = (torch.cat((t, t), -1).to(dtype) for t in RotaryEmbedding(8).cos_sin(6))
    with pytest.raises(ValueError, match=r"are cosines and sines.*from_full_width\(cos, sin\)"):
        apply_rotary_pos_emb(torch.randn(2, 3, 6, 8), cos, sin)
    for n, factor in ((1, 1.0), (2, 1.0), (6, 1.0), (6, 1000.0), (600, 1.0)):
        freqs, scale = RotaryEmbedding(8, use_xpos=True, interpolation_factor=factor)(n)
        for first in (0, n - 1):
            x = torch.randn(2, 3, n - first, 8)
            assert apply_rotary_pos_emb(x, freqs[first:], scale[first:]).shape == x.shape


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_the_companion_takes_no_radians_in_half_precision(dtype: torch.dtype):
    t, (freqs, scale) = torch.randn(2, 6, 8), RotaryEmbedding(8)(6)
    for factor in (1.0, scale, scale.expand_as(freqs)):
        with pytest.raises(TypeError, match=f"freqs must be float32 or float64, got {dtype}"):
            apply_rotary_pos_emb(t, freqs.to(dtype), factor)
    for factor in (scale.to(torch.complex64), scale.expand_as(freqs) * 1j, scale > 0):
        with pytest.raises(TypeError, match="scale must be real numbers, got torch"):
            apply_rotary_pos_emb(t, freqs, factor)


@pytest.mark.parametrize(
    ("arguments", "keywords"),
    [
        (("q", "k", "cos", "sin"), {}),
        (("q", "k", "cos", "sin", 1), {}),
        (("q", "k"), {"cos": "cos", "sin": "sin"}),
        (("q",), {"unsqueeze_dim": 1}),
    ],
)
def test_apply_rotary_pos_emb_of_q_and_k_says_which_function_that_is(
    arguments: tuple[object, ...], keywords: dict[str, object]
):
    with pytest.raises(TypeError, match=r"is apply_rotary_qk\(q, k, \*rotary.tables.from_full_width\(cos, sin\)\)"):
        apply_rotary_pos_emb(*arguments, **keywords)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"if that is k, or cos of a batch, call apply_rotary_qk"):
        apply_rotary_pos_emb(torch.randn(1, 2, 5, 8), torch.randn(1, 2, 5, 8), torch.randn(5, 8))
