"""Tables as other libraries make them, turned into ours; judged by complex numbers in float64, and by the libraries that are here."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rotary import RotaryEmbedding, apply_rotary, tables

SEQ, PLANES = 7, 4
ANGLES = torch.outer(torch.arange(SEQ, dtype=torch.float64), 10.0 ** -torch.arange(PLANES, dtype=torch.float64))


def doubled(t: Tensor, how: str) -> Tensor:
    return torch.cat((t, t), -1) if how == "halves" else t.repeat_interleave(2, -1) if how == "neighbours" else t


@pytest.mark.parametrize("how", ["halves", "neighbours"])
@pytest.mark.parametrize(
    ("shape", "seq_dim"),
    [((SEQ,), 0), ((1, SEQ), -2), ((1, 1, SEQ), -2), ((1, SEQ, 1), 1), ((SEQ, 1, 1), 0), ((SEQ, 1), 0)],
)
def test_the_layouts_of_the_field(how: str, shape: tuple[int, ...], seq_dim: int):
    table = doubled(ANGLES, how).view(*shape, 2 * PLANES)
    cos, sin = tables.from_full_width(table.cos(), table.sin(), doubled=how, seq_dim=seq_dim)
    assert torch.equal(cos, ANGLES.cos()) and torch.equal(sin, ANGLES.sin())
    cos, sin = tables.from_radians(table, doubled=how, seq_dim=seq_dim, dtype=torch.float64)
    assert torch.equal(cos, ANGLES.cos()) and torch.equal(sin, ANGLES.sin())


@pytest.mark.parametrize(("shape", "seq_dim"), [((2, SEQ), -2), ((2, 1, SEQ), -2), ((2, SEQ, 1), 1)])
def test_a_batch_keeps_its_rows(shape: tuple[int, ...], seq_dim: int):
    both = torch.stack((ANGLES, ANGLES + 1))
    cos, sin = tables.from_radians(doubled(both, "halves").view(*shape, -1), seq_dim=seq_dim, dtype=torch.float64)
    assert torch.equal(cos, both.cos()) and torch.equal(sin, both.sin())
    cos, sin = tables.from_complex(torch.polar(torch.ones_like(both), both).view(*shape, -1), seq_dim=seq_dim)
    assert torch.allclose(cos, both.cos(), rtol=0, atol=1e-15) and torch.allclose(sin, both.sin(), rtol=0, atol=1e-15)


def test_a_batch_that_decodes_one_token_is_no_sequence():
    """(batch, 1, 1, dim) and (seq, 1, 1, dim) have one shape: seq_dim tells them apart."""
    table = torch.rand(3, 1, 1, PLANES)
    assert tables.from_radians(table, doubled="no")[0].shape == (3, 1, PLANES)
    assert tables.from_radians(table, doubled="no", seq_dim=0)[0].shape == (3, PLANES)


def test_freqs_cis_as_meta_makes_them():
    """The recipe of Meta's code, and its rotation, against ours with the tables taken from it."""
    freqs_cis = torch.polar(torch.ones_like(ANGLES), ANGLES).to(torch.complex64)
    x = torch.randn(2, SEQ, 3, 2 * PLANES)
    theirs = torch.view_as_real(
        torch.view_as_complex(x.unflatten(-1, (-1, 2))) * freqs_cis.view(1, SEQ, 1, PLANES)
    ).flatten(-2)
    for given in (freqs_cis, freqs_cis.view(1, SEQ, 1, PLANES)):
        cos, sin = tables.from_complex(given, seq_dim=0 if given.ndim == 2 else 1)
        assert torch.allclose(apply_rotary(x, cos, sin, seq_dim=1, interleaved=True), theirs, rtol=0, atol=1e-6)


def test_a_freqs_cis_that_a_cast_made_real_is_refused():
    with pytest.warns(UserWarning, match="discards the imaginary part"):
        real = torch.polar(torch.ones(3, 2), torch.rand(3, 2)).to(torch.bfloat16)
    with pytest.raises(TypeError, match=r"freqs_cis must be complex, got Tensor bfloat16 \(3, 2\).*lost its sines"):
        tables.from_complex(real)


@pytest.mark.parametrize("ids", [None, torch.tensor([5, 0, 5]), torch.tensor([[1, 2], [0, 6]], dtype=torch.int32)])
def test_a_joined_cache(ids: Tensor | None):
    cache = torch.cat((ANGLES.cos(), ANGLES.sin()), -1)
    cos, sin = tables.from_joined(cache, ids)
    rows = ANGLES if ids is None else ANGLES[ids.long()]
    assert torch.equal(cos, rows.cos()) and torch.equal(sin, rows.sin())


def test_gradients_reach_the_tables_they_come_from():
    angles = ANGLES.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda t: tables.from_radians(doubled(t, "halves"), dtype=torch.float64), (angles,))
    table = torch.rand(SEQ, PLANES, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, SEQ, 2 * PLANES, dtype=torch.float64)

    def through(cos: Tensor) -> Tensor:
        return apply_rotary(x, *tables.from_full_width(doubled(cos, "halves"), doubled(cos, "halves")))

    assert torch.autograd.gradcheck(through, (table,))
    joined = torch.rand(SEQ, 2 * PLANES, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([3, 3, 0])
    assert torch.autograd.gradcheck(lambda cache: tables.from_joined(cache, ids), (joined,))


def test_tables_of_transformers_give_its_bits():
    transformers = pytest.importorskip("transformers")
    from transformers.models.llama import modeling_llama as llama

    config = transformers.LlamaConfig(hidden_size=64, num_attention_heads=4)
    q = torch.randn(2, 4, SEQ, 16)
    cos, sin = llama.LlamaRotaryEmbedding(config)(q, torch.arange(SEQ).expand(2, -1))
    theirs, _ = llama.apply_rotary_pos_emb(q, q, cos, sin)
    assert torch.equal(apply_rotary(q, *tables.from_full_width(cos, sin)), theirs)


def test_freqs_of_rotary_embedding_torch():
    peer = pytest.importorskip("rotary_embedding_torch").RotaryEmbedding(dim=2 * PLANES)
    x = torch.randn(2, 3, SEQ, 2 * PLANES)
    cos, sin = tables.from_radians(peer(torch.arange(SEQ).float()).detach(), doubled="neighbours")
    assert torch.allclose(
        apply_rotary(x, cos, sin, interleaved=True), peer.rotate_queries_or_keys(x), rtol=0, atol=1e-6
    )


def test_the_results_are_what_the_module_makes():
    cos, sin = RotaryEmbedding(16).cos_sin(9)
    again = tables.from_full_width(torch.cat((cos, cos), -1), torch.cat((sin, sin), -1))
    assert torch.equal(again[0], cos) and torch.equal(again[1], sin)


FULL = doubled(ANGLES.cos(), "halves")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: tables.from_full_width(FULL, doubled(ANGLES.sin(), "neighbours")),
            ValueError,
            "the halves of sin .* pass doubled='neighbours'",
        ),
        (
            lambda: tables.from_full_width(FULL, FULL, doubled="neighbours"),
            ValueError,
            "the neighbours of cos .* pass doubled='halves'",
        ),
        (
            lambda: tables.from_full_width(ANGLES.cos(), ANGLES.sin()),
            ValueError,
            r"cos with shape \(7, 4\) are not equal; no columns",
        ),
        (lambda: tables.from_full_width(FULL, FULL[:3]), ValueError, r"one shape, got \(7, 8\) and \(3, 8\)"),
        (lambda: tables.from_full_width(FULL, 3), TypeError, "sin must be a floating tensor, got int 3"),
        (lambda: tables.from_full_width(FULL, FULL, doubled="twice"), ValueError, "doubled must be one of"),
        (lambda: tables.from_radians(FULL[:, :3]), ValueError, "3 columns, an odd number"),
        (lambda: tables.from_radians(FULL.bfloat16()), TypeError, "float32 or float64 tensor, got Tensor bfloat16"),
        (
            lambda: tables.from_radians(torch.ones(2, 3, 5, 4)),
            ValueError,
            "varies along dimension 1 .* is seq_dim right",
        ),
        (lambda: tables.from_radians(torch.ones(4)), ValueError, r"shape \(4,\)"),
        (lambda: tables.from_joined(torch.ones(3, 5)), ValueError, r"\(rows, dim\), dim even, got \(3, 5\)"),
        (lambda: tables.from_joined(FULL, torch.tensor([7])), ValueError, r"within 0 \.\. 6.* got 7 to 7"),
        (lambda: tables.from_joined(FULL, torch.tensor([-1, 3])), ValueError, "got -1 to 3"),
        (lambda: tables.from_joined(FULL, torch.tensor([1.0])), TypeError, "ids must be an integer tensor"),
        (lambda: tables.from_joined(FULL, torch.ones(1, 1, 1, dtype=torch.int64)), ValueError, r"got \(1, 1, 1\)"),
    ],
)
def test_what_does_not_fit_is_named(call: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("how", ["halves", "neighbours"])
def test_NaN_in_both_columns_of_a_plane_is_no_question_of_the_layout(how: Any):
    angles = ANGLES.clone()
    angles[2, 1] = torch.nan
    full = doubled(angles, how)
    cos, _ = tables.from_full_width(full.cos(), full.sin(), doubled=how)
    assert torch.equal(cos.isnan(), angles.isnan()) and torch.equal(cos.nan_to_num(), angles.cos().nan_to_num())
    full[2, 1] = 0.0
    with pytest.raises(ValueError, match="are not equal; no columns of it are doubled"):
        tables.from_radians(full, doubled=how)


def test_values_are_not_read_while_a_compiler_traces():
    compiled = torch.compile(lambda t: tables.from_radians(t), backend="eager", fullgraph=True)
    full = doubled(ANGLES, "halves")
    assert torch.equal(compiled(full)[0], tables.from_radians(full)[0])
