"""patch(tables="exact"): cos and sin from exact angles of the model's own frequencies, where its rotary modules allow it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

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
        DeprecationWarning, match=r"patch\(angles=\) is now patch\(tables=\); the old name goes in 0.4"
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


class Float32(Rotary):
    """Tables in float32 whatever x is, as OLMo's and ERNIE 4.5's."""

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(x.float(), position_ids)


class Rows(Rotary):
    """Rows and columns in turn: positions (tokens, 2)."""

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        angles = torch.stack([position_ids[..., j % 2] * self.inv_freq[j] for j in range(4)], -1)
        angles = torch.cat((angles, angles), -1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("rotary", [Rotary, Float32, Rows])
def test_tables_have_the_dtype_that_the_module_gives(rotary: type[Rotary], dtype: torch.dtype):
    model, x = Attention(rotary()), torch.zeros(1, 5, 8, dtype=dtype)
    positions = torch.zeros(5, 2, dtype=torch.int64) if rotary is Rows else torch.arange(5)[None]
    expected = [table.dtype for table in model.rotary(x, positions)]
    with patch(model, tables="exact") as handle:
        assert "exact angles" in str(handle.report())
        assert [table.dtype for table in model.rotary(x, positions)] == expected
        traced = torch.func.vmap(lambda row: model.rotary(row, positions))(x)
        assert [table.dtype for table in traced] == expected


class Optional(Rotary):
    def forward(self, hidden: Tensor, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Positions are counted where none are given."""
        return super().forward(hidden, torch.arange(hidden.shape[1])[None] if positions is None else positions)


CALLS: dict[str, Callable[[Any, Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "by position": lambda rotary, x, at: rotary(x, at),
    "one by name": lambda rotary, x, at: rotary(x, positions=at),
    "both by name": lambda rotary, x, at: rotary(positions=at, hidden=x),
    "without": lambda rotary, x, at: rotary(x),
    "None": lambda rotary, x, at: rotary(x, None),
    "None by name": lambda rotary, x, at: rotary(x, positions=None),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_call_of_the_original_is_taken(name: str):
    model, x, positions = Attention(Optional()), torch.zeros(1, 5, 8), torch.arange(1_000_000, 1_000_005)[None]
    with patch(model, tables="exact"):
        cos, _ = CALLS[name](model.rotary, x, positions)
        at = torch.arange(5)[None] if "out" in name or "None" in name else positions
        exact = (at[..., None].double() * model.rotary.inv_freq.double()).cos()
        assert (cos[..., :4].double() - exact).abs().max() < 1e-7
        assert model.rotary.forward.__doc__ == Optional.forward.__doc__
        with pytest.raises(TypeError, match="unexpected keyword argument 'at'"):
            model.rotary(x, at=positions)


@pytest.mark.parametrize(
    "cast", [lambda m: m.bfloat16(), lambda m: m.half(), lambda m: m.double(), lambda m: m.to("meta")]
)
def test_a_model_that_is_cast_or_emptied_after_the_patch(cast: Callable[[nn.Module], Any]):
    """Exact cosines of rounded frequencies would be wrong: the module computes its tables itself."""
    model, copied = Attention(Rotary()), Attention(Rotary())
    with patch(model, tables="exact"):
        model(torch.zeros(1, 2, 5, 8), torch.arange(5)[None])
        cast(model)
        cast(copied)
        device = model.rotary.inv_freq.device
        x, positions = torch.zeros(1, 2, 5, 8, device=device), torch.arange(5, device=device)[None]
        for table, own in zip(model.rotary(x, positions), copied.rotary(x, positions), strict=True):
            assert table.dtype == own.dtype and table.device == own.device
            assert device.type == "meta" or torch.allclose(table, own, rtol=0, atol=1e-6)


def test_the_first_call_asks_the_module_for_nothing():
    class Counted(Rotary):
        calls = 0

        def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
            Counted.calls += 1
            return super().forward(x, position_ids)

    model = Attention(Counted())
    with patch(model, tables="exact"):
        Counted.calls = 0
        model(torch.zeros(1, 2, 5, 8), torch.arange(5)[None])
    assert Counted.calls == 0


# --- programs that are traced --------------------------------------------------------------------------------------------------------


def compiled(model: nn.Module, arguments: tuple[Tensor, Tensor]) -> Tensor:
    return torch.compile(model, backend="eager", fullgraph=True)(*arguments)


def exported(model: nn.Module, arguments: tuple[Tensor, Tensor]) -> Tensor:
    q, positions = arguments
    tokens = positions.shape.index(11)
    shorter = q[:, :, :7].contiguous(), positions.narrow(tokens, 0, 7).contiguous()
    seq = torch.export.Dim("seq", min=5, max=4096)
    return torch.export.export(model, shorter, dynamic_shapes=({2: seq}, {tokens: seq})).module()(*arguments)


def recorded(model: nn.Module, arguments: tuple[Tensor, Tensor]) -> Tensor:
    buffers = dict(model.named_buffers())

    def call(buffers: dict[str, Tensor], *arguments: Tensor) -> Tensor:
        return torch.func.functional_call(model, buffers, arguments)

    return make_fx(call, tracing_mode="symbolic")(buffers, *arguments)(buffers, *arguments)


def batched(model: nn.Module, arguments: tuple[Tensor, Tensor]) -> Tensor:
    return torch.func.vmap(lambda q: model(q, arguments[1]))(arguments[0][None])[0]


def scripted(model: nn.Module, arguments: tuple[Tensor, Tensor]) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(model, arguments, check_trace=False)(*arguments)


@pytest.mark.parametrize("program", [compiled, exported, recorded, batched, scripted])
@pytest.mark.parametrize("rotary", [Rotary, Rows])
def test_a_traced_program_has_the_tables_of_eager_mode(program: Callable[..., Tensor], rotary: type[Rotary]):
    """In every bit, and far out, where the module's own tables are wrong; also after its frequencies changed."""
    torch.manual_seed(0)
    model = Attention(rotary(attention_scaling=1.25 if rotary is Rotary else 1.0))
    positions = (
        torch.randint(900_000, 1_000_000, (11, 2)) if rotary is Rows else torch.arange(1_000_000, 1_000_011)[None]
    )
    arguments = torch.randn(1, 2, 11, 8), positions
    own = model(*arguments)
    with patch(model, tables="exact"):
        model.rotary.inv_freq.mul_(0.75)
        changed = model(*arguments)
        assert torch.equal(program(model, arguments), changed)
        model.rotary.inv_freq.div_(0.75)
        exact = model(*arguments)
        assert torch.equal(program(model, arguments), exact)
        assert (exact - own).abs().max() > 1e-3 < (changed - exact).abs().max()


def test_a_compiled_model_follows_its_frequencies():
    """The compiled program is not made again where the buffer changes, so it may not contain numbers of the old one."""
    model, arguments = Attention(Rotary()), (torch.randn(1, 2, 11, 8), torch.arange(1_000_000, 1_000_011)[None])
    with patch(model, tables="exact"):
        program = torch.compile(model, backend="eager", fullgraph=True)
        for _ in range(2):
            assert torch.equal(program(*arguments), model(*arguments))
            model.rotary.inv_freq.mul_(0.5)


def test_float64_frequencies_in_a_traced_program():
    model, arguments = Attention(Rotary()), (torch.randn(1, 2, 11, 8), torch.arange(1_000_000, 1_000_011)[None])
    model.rotary.inv_freq = model.rotary.inv_freq.double() / 3
    with patch(model, tables="exact"):
        torch.testing.assert_close(batched(model, arguments), model(*arguments), rtol=0, atol=1e-6)


def test_fake_tensors_have_the_shapes_of_tables():
    model, arguments = Attention(Rotary()), (torch.zeros(1, 2, 5, 8), torch.arange(5)[None])
    with patch(model, tables="exact"), FakeTensorMode(allow_non_fake_inputs=True):
        assert model(*arguments).shape == (1, 2, 5, 8)


def test_a_deep_copy_has_its_own_frequencies_in_a_traced_program():
    model, arguments = Attention(Rotary()), (torch.randn(1, 2, 11, 8), torch.arange(11)[None])
    with patch(model, tables="exact"):
        other = copy.deepcopy(model)
        other.rotary.inv_freq.mul_(0.5)
        assert torch.equal(batched(other, arguments), other(*arguments))
        assert not torch.equal(other(*arguments), model(*arguments))
