"""patch(tables="exact"): cos and sin from exact angles of the model's own frequencies, where its rotary modules allow it."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rotary.transformers import patch
from zoo.functions import rotate_half


class Rotary(nn.Module):
    """cos and sin (batch, seq, 8) as transformers computes them."""

    def __init__(self, base: float = 1e4, attention_scaling: float = 1.0, rope_type: str = "default") -> None:
        super().__init__()
        self.attention_scaling, self.rope_type = attention_scaling, rope_type
        self.register_buffer("inv_freq", base ** (-torch.arange(4) / 4), persistent=False)

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        angles = position_ids[..., None].float() * self.inv_freq
        angles = torch.cat((angles, angles), -1)
        return (angles.cos() * self.attention_scaling).to(x.dtype), (angles.sin() * self.attention_scaling).to(x.dtype)


class Interleaved(Rotary):
    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        angles = (position_ids[..., None].float() * self.inv_freq).repeat_interleave(2, -1)
        return angles.cos(), angles.sin()


class Attention(nn.Module):
    def __init__(self, rotary: nn.Module) -> None:
        super().__init__()
        self.rotary = rotary

    def forward(self, q: Tensor, position_ids: Tensor) -> Tensor:
        cos, sin = self.rotary(q, position_ids)
        return rotate_half(q, cos, sin)


def test_far_positions():
    """At a million tokens float32 angles are off by 3e-2; exact tables are those of the module's own frequencies in float64."""
    model, positions = Attention(Rotary(attention_scaling=1.25)), torch.arange(1_000_000, 1_000_011)[None]
    x = torch.zeros(1, 11, 8)
    original = model.rotary(x, positions)
    with patch(model, tables="exact") as handle:
        assert "1 x Rotary.forward: cos and sin, exact angles" in str(handle.report())
        angles = positions[..., None].double() * model.rotary.inv_freq.double()
        for table, float32, exact in zip(
            model.rotary(x, positions), original, (angles.cos(), angles.sin()), strict=True
        ):
            assert (table.double() - 1.25 * torch.cat((exact, exact), -1)).abs().max() < 1.25 * 6e-8
            assert table.dtype == float32.dtype and table.shape == float32.shape
            assert (table - float32).abs().max() > 1e-3
        assert all(t.dtype == torch.bfloat16 for t in model.rotary(x.bfloat16(), positions))
    assert torch.equal(model.rotary(x, positions)[0], original[0])


def test_frequencies_that_change_are_read_again():
    model, positions, x = Attention(Rotary()), torch.arange(5)[None], torch.zeros(1, 5, 8)
    with patch(model, tables="exact"):
        model.rotary(x, positions)
        model.rotary.inv_freq.mul_(0.5)
        angles = positions[..., None] * model.rotary.inv_freq
        torch.testing.assert_close(model.rotary(x, positions)[0][..., :4], angles.cos(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("rotary", "reason"),
    [
        (Rotary(rope_type="dynamic"), "depend on the length (rope_type 'dynamic')"),
        (Interleaved(), "not cos and sin of position * inv_freq repeated in both halves"),
        (Rotary(base=float("nan")), "on the meta device or not finite"),
    ],
)
def test_modules_that_do_not_qualify_are_left_with_a_reason(rotary: nn.Module, reason: str):
    with patch(Attention(rotary), tables="exact") as handle:
        assert reason in str(handle.report())
        assert "replaced     1 x Attention.forward" in str(handle.report())
        assert "forward" not in vars(rotary)


def test_a_module_with_another_signature_is_left(monkeypatch: pytest.MonkeyPatch):
    def forward(self: Any, length: int) -> None:
        raise NotImplementedError

    monkeypatch.setattr(Interleaved, "forward", forward)
    with patch(Attention(Interleaved()), tables="exact") as handle:
        assert "calling forward(x, position_ids) raised TypeError" in str(handle.report())


def test_the_former_name_of_the_argument():
    with pytest.warns(
        DeprecationWarning, match=r"patch\(angles=\) is now patch\(tables=\); the old name goes in 0.3"
    ) as caught:
        handle = patch(Attention(Rotary()), angles="exact")
    assert caught[0].filename == __file__
    assert "exact angles" in str(handle.report())
    with pytest.raises(TypeError, match="not both"):
        patch(Attention(Rotary()), tables="model", angles="exact")
    with (
        pytest.warns(DeprecationWarning, match="tables="),
        pytest.raises(ValueError, match="angles must be one of 'model', 'exact', got str 'no'"),
    ):
        patch(Attention(Rotary()), angles="no")  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        patch(Attention(Rotary()), tables="model").remove()


def test_the_tables_of_a_model_of_transformers():
    """At a million tokens, in Llama and in a Llama whose frequencies depend on the length."""
    transformers = pytest.importorskip("transformers")
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 4, "vocab_size": 99}
    dynamic = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    plain, scaled = (
        transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, num_hidden_layers=1, **options)).eval()
        for options in ({}, {"rope_parameters": dynamic})
    )
    positions = torch.arange(1_000_000, 1_000_011)[None].expand(2, -1)
    with torch.no_grad():
        float32 = plain.model.rotary_emb(torch.zeros(1), positions)[0]
    with patch(plain, tables="exact") as handle:
        assert any("exact angles" in line for line in str(handle.report()).splitlines())
        cos, sin = plain.model.rotary_emb(torch.zeros(1), positions)
        angles = positions[..., None].double() * plain.model.rotary_emb.inv_freq.double()
        for table, exact in ((cos, angles.cos()), (sin, angles.sin())):
            assert (table.double() - torch.cat((exact, exact), -1)).abs().max() < 4e-8
        assert cos.dtype == float32.dtype and cos.shape == float32.shape and (cos - float32).abs().max() > 1e-3
    with torch.no_grad():
        assert torch.equal(plain.model.rotary_emb(torch.zeros(1), positions)[0], float32)
    with patch(scaled, tables="exact") as handle:
        assert "depend on the length" in str(handle.report())
        assert "replaced     1 x LlamaAttention.forward" in str(handle.report())
