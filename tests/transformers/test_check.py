"""check(model): faults that real models had, each named for what it is, and no alarm where there is none.

The frequencies that faults are made of come from formulas written out here, not from the library.
"""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rotary import RotaryEmbedding
from rotary.transformers import Finding, check, patch
from rotary.transformers.check import check_frequencies
from rotary.transformers.likeness import half_precision_of, unwritten
from zoo.functions import rotate_half

transformers = pytest.importorskip("transformers")

DIM, HEADS = 32, 4
SIZES: dict[str, Any] = {
    "hidden_size": DIM * HEADS,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": HEADS,
    "vocab_size": 99,
    "max_position_embeddings": 4096,
}


def llama(**rope: Any) -> Any:
    """A small Llama of transformers, base 500,000 unless rope says otherwise."""
    rope = {"rope_type": "default", "rope_theta": 5e5, **rope}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, rope_parameters=rope)).eval()


def plain(base: float, dim: int = DIM, planes: int = DIM // 2) -> Tensor:
    """The first planes of base^(-2j / dim), float32."""
    return torch.tensor([base ** (-2 * j / dim) for j in range(planes)], dtype=torch.float64).float()


def only(model: nn.Module, config: Any = None) -> Finding:
    """The one finding of a model; the module is not changed by the check."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    findings = check(model, config)
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, before[name], rtol=0, atol=0, equal_nan=True)
    assert len(findings.problems) + len(findings.agreeing) + len(findings.unchecked) == 1
    return (*findings.problems, *findings.agreeing, *findings.unchecked)[0]


def with_frequencies(inv_freq: Tensor, **rope: Any) -> Any:
    model = llama(**rope)
    model.model.rotary_emb.inv_freq = inv_freq
    model.model.rotary_emb.original_inv_freq = inv_freq.clone()
    return model


def test_a_sound_model_agrees():
    found = only(llama())
    assert (found.kind, found.path, found.owner) == ("agrees", "model.rotary_emb", "LlamaRotaryEmbedding")
    assert found.text == "base 500,000"


# --- uninitialised -------------------------------------------------------------------------------------------------------------


def test_meta_and_to_empty_leave_frequencies_unset():
    """transformers #45902, torchtitan #4783. Here unwritten memory holds NaN, see conftest."""
    with torch.device("meta"):
        model = llama()
    assert only(model).kind == "unchecked"
    found = only(model.to_empty(device="cpu"))
    assert found.kind == "uninitialised" and "not finite" in found.text


@pytest.mark.parametrize(
    "memory",
    [
        torch.zeros(16),
        torch.full((16,), 6.93e-18),
        torch.full((16,), 4.6e-41),
        torch.linspace(-1, 1, 16),
        torch.rand(16, generator=torch.Generator().manual_seed(1)),
        torch.randint(-(2**31), 2**31, (16,), generator=torch.Generator().manual_seed(2)).int().view(torch.float32),
    ],
    ids=("zeros", "first=6.93e-18", "denormal", "negative", "random", "bits"),
)
def test_other_memory_that_nobody_wrote(memory: Tensor):
    assert only(with_frequencies(memory)).kind == "uninitialised"


def test_a_vision_tower_holds_the_frequencies_of_its_config():
    config = transformers.PixtralVisionConfig(hidden_size=64, num_attention_heads=4, num_hidden_layers=1, image_size=32)
    model = transformers.PixtralVisionModel(config)
    found = only(model)
    assert found.kind == "agrees" and "base 10,000" in found.text
    model.config.rope_parameters["rope_theta"] = 500.0
    assert only(model).kind == "base"
    model.patch_positional_embedding.inv_freq.zero_()
    assert only(model).kind == "uninitialised"


# --- rounded -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_cast_of_the_whole_model(dtype: torch.dtype):
    found = only(llama().to(dtype))
    assert found.kind == "rounded" and f"cast to {str(dtype)[6:]}" in found.text


def test_a_cast_there_and_back_is_known_by_its_numbers():
    model = llama().bfloat16().float()
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    found = only(model)
    error = (plain(5e5).bfloat16().double() / plain(5e5).double() - 1).abs().max()
    assert found.kind == "rounded" and f"off by up to {float(error):.1e}" in found.text


def test_a_cast_of_another_base_is_both():
    found = only(with_frequencies(plain(1e4).bfloat16().float()))
    assert found.text == "base 10,000; the config has 500,000; and cast to bfloat16"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_cast_of_a_table_of_positions(dtype: torch.dtype):
    sizes = {"n_embd": 128, "n_head": 4, "n_layer": 1, "rotary_dim": 16, "vocab_size": 99, "n_positions": 32}
    model = transformers.GPTJModel(transformers.GPTJConfig(**sizes))
    assert only(model).kind == "agrees"
    for there in (model.to(dtype), model.float()):
        found = only(there)
        assert (found.kind, found.text) == ("rounded", f"its cos and sin were rounded to {str(dtype)[6:]}")


def test_half_precision_and_unwritten_know_what_is_neither():
    assert half_precision_of(plain(5e5).double()) is None and half_precision_of(plain(16.0, 8, 4).double()) is None
    assert unwritten(plain(5e5).double()) is None


# --- another base, scheme, factor, width ---------------------------------------------------------------------------------------


def test_a_config_that_was_edited_after_loading():
    model = llama(rope_theta=1e4)
    model.config.rope_parameters["rope_theta"] = 5e5
    found = only(model)
    assert (found.kind, found.text) == ("base", "base 10,000; the config has 500,000")


def test_a_config_that_was_exchanged_after_loading():
    model = llama(rope_theta=1e4)
    model.model.config = transformers.LlamaConfig(
        **SIZES, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 8.0}
    )
    assert only(model).text == "no scheme; the config has Linear(factor=8)"


def test_an_old_key_beside_the_new_ones_contradicts_them():
    model = llama()
    model.config.rope_theta = 1e6
    assert only(model).kind == "contradiction"


class Fused(nn.Module):
    """A rotary module of a wrapper, which takes queries and keys, with a base of its own (llm-awq #311)."""

    def __init__(self, dim: int, base: float = 10000.0) -> None:
        super().__init__()
        self.register_buffer("inv_freq", plain(base, dim), persistent=False)

    def forward(self, query: Tensor, key: Tensor, positions: Tensor) -> None:
        raise NotImplementedError


def test_a_base_that_a_wrapper_wrote_down():
    model = llama()
    model.model.layers[0].self_attn.rotary_emb = Fused(DIM)
    own, fused = check(model).agreeing, check(model).problems
    assert [f.owner for f in own] == ["LlamaRotaryEmbedding"]
    assert [(f.owner, f.kind, f.text) for f in fused] == [("Fused", "base", "base 10,000; the config has 500,000")]
    model.model.layers[0].self_attn.rotary_emb = Fused(DIM, 5e5)
    assert "not compared" in str(check(model)) and not check(model).problems


def test_a_table_of_a_wrapper():
    """cos and sin side by side, as fused kernels keep them, without an inv_freq."""

    class Cached(nn.Module):
        def __init__(self, base: float) -> None:
            super().__init__()
            angles = torch.arange(64)[:, None] * plain(base)
            self.register_buffer("cos_sin_cache", torch.cat((angles.cos(), angles.sin()), -1))

    model = llama()
    model.model.rotary_emb = Cached(5e5)
    assert only(model).kind == "agrees"
    model.model.rotary_emb = Cached(1e4)
    assert only(model).text == "base 10,000; the config has 500,000"


YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 16.0, "original_max_position_embeddings": 256}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512,
}


def test_an_attention_factor_that_was_lost():
    model = llama(**YARN)
    assert only(model).kind == "agrees"
    model.model.rotary_emb.attention_scaling = 1.0
    found = only(model)
    assert found.kind == "attention factor"
    assert found.text == f"cos and sin are multiplied by 1; the config has {0.1 * math.log(16) + 1:.6g}"


def test_a_scheme_that_was_lost_changed_or_added():
    assert only(with_frequencies(plain(1e4), **YARN)).text.startswith("no scheme; the config has YaRN(factor=16")
    four = llama(**{**LLAMA3, "factor": 4.0}).model.rotary_emb.inv_freq
    assert only(with_frequencies(four, **LLAMA3)).text.startswith("Llama3(factor=4, ")
    assert only(with_frequencies(plain(5e5) / 3)).text == "Linear(factor=3); the config has no scheme"
    found = only(with_frequencies(plain(1e4 * 8 ** (DIM / (DIM - 2))), rope_theta=1e4))
    assert found.kind == "base" and found.text.endswith("the config has 10,000, of which NTK by 8 makes this")
    other = llama(**{**LLAMA3, "rope_theta": 1e4}).model.rotary_emb.inv_freq
    assert only(with_frequencies(other, **LLAMA3)).text == "base 10,000; the config has 500,000"


def test_frequencies_of_no_known_kind_are_described():
    odd = plain(5e5)
    odd[8:] /= 1.7
    assert "0-7 kept, 8-15 interpolated" in only(with_frequencies(odd)).text
    odd[1::2] *= 0.9
    found = only(with_frequencies(odd))
    assert found.kind == "scheme" and "no base and scheme that is known here" in found.text


def test_partial_rotary_over_the_wrong_width():
    """pie #603: the frequencies of a quarter of the head computed over the whole head; and a whole head that turns."""
    neox = transformers.GPTNeoXModel(transformers.GPTNeoXConfig(**SIZES, rotary_pct=0.25))
    assert only(neox).kind == "agrees"
    neox.rotary_emb.inv_freq = plain(1e4, DIM, DIM // 8)
    found = only(neox)
    assert found.kind == "width" and "the first 4 of a rotation of all 32 channels" in found.text
    neox.rotary_emb.inv_freq = plain(1e4)
    assert only(neox).text == "32 channels turn; the config has 8 of 32"


def test_cos_and_sin_that_are_not_those_of_the_frequencies(monkeypatch: pytest.MonkeyPatch):
    model = llama()
    own = type(model.model.rotary_emb).forward
    monkeypatch.setattr(type(model.model.rotary_emb), "forward", lambda self, x, ids: own(self, x, 2 * ids))
    found = only(model)
    assert found.kind == "tables" and "its cos and sin are not those of its inv_freq" in found.text


LONGROPE = {
    "rope_type": "longrope",
    "factor": 16.0,
    "original_max_position_embeddings": 256,
    "short_factor": [1.0 + j / 9 for j in range(16)],
    "long_factor": [2.0 + j for j in range(16)],
}


# --- no alarm ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rope", "tokens"),
    [
        ({"rope_type": "dynamic", "factor": 2.0}, "9,000"),
        (LONGROPE, "257"),
    ],
    ids=("dynamic", "longrope"),
)
def test_frequencies_that_the_modules_own_forward_changed(rope: dict[str, Any], tokens: str):
    model = llama(**rope)
    module = model.model.rotary_emb
    assert only(model).kind == "agrees"
    before = module.inv_freq.clone()
    module(torch.zeros(1), torch.arange(9000)[None])
    assert not torch.equal(module.inv_freq, before)
    found = only(model)
    assert found.kind == "agrees" and f"at a length of {tokens} tokens" in found.text
    module.inv_freq.mul_(1.01)
    assert only(model).kind in ("scheme", "base")


def test_an_attention_factor_that_is_held_and_not_used():
    """Phi-3.5-MoE has one for each list of factors, and its code leaves the one that LongRoPE gives aside."""
    rope = {**LONGROPE, "rope_theta": 1e4, "short_mscale": 1.25, "long_mscale": 1.5}
    config = transformers.PhimoeConfig(**SIZES, num_key_value_heads=2, num_local_experts=2, rope_parameters=rope)
    model = transformers.PhimoeModel(config)
    assert model.rotary_emb.attention_scaling not in (1.25, 1.5)
    assert only(model).kind == "agrees" and check_frequencies(model) == {}


FAMILIES = ("gemma3", "deepseek_v2", "qwen2_vl", "ernie4_5_vl_moe", "gptj", "wav2vec2_bert", "phimoe", "minimax_m3_vl")


@pytest.mark.parametrize("family", FAMILIES)
def test_families(family: str):
    """Layers of two types, complex tables, M-RoPE, its planes in another order, static tables, tables of all positions, and mscale.
    `python -m tools.check_families` walks all of them."""
    from tools.check_families import findings_of

    findings = findings_of(family)
    assert findings is not None and "not compared" not in str(findings)
    if (
        family == "minimax_m3_vl"
    ):  # its tables are as wide as the head, though the config has a rotary_dim (docs/configs.md)
        assert [f.kind for f in findings.problems] == ["width"]
    else:
        assert findings.agreeing and not findings.problems and not findings.unchecked, str(findings)


def test_a_frozen_table_of_positions():
    config = transformers.RoFormerConfig(**SIZES, embedding_size=DIM * HEADS)
    assert only(transformers.RoFormerModel(config)).text == "base 10,000"


def test_positions_that_are_added_to_embeddings_are_no_rotation():
    sizes = {
        "d_model": 32,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
    }
    model = transformers.WhisperModel(
        transformers.WhisperConfig(vocab_size=60000, encoder_layers=1, decoder_layers=1, **sizes)
    )
    assert only(model).text.startswith("no rotary module was found")


def test_tables_of_other_shapes():
    """torchtune's (positions, planes, 2), Meta's complex one as an attribute, and a pair of (1, 1, positions, dim)."""
    angles = torch.arange(9)[:, None] * plain(5e5)
    halves = torch.cat((angles, angles), -1)[None, None]
    config = {"model_type": "llama", "head_dim": DIM, "rope_theta": 5e5}
    for tables in (
        {"cache": torch.stack((angles.cos(), angles.sin()), -1)},
        {"freqs_cis": torch.polar(torch.ones_like(angles), angles)},
        {"sin_cached": halves.sin(), "cos_cached": halves.cos()},
    ):
        model = Fused(DIM)
        del model.inv_freq
        for name, table in tables.items():
            setattr(model, name, table)
        assert only(model, config).kind == "agrees", list(tables)
        assert only(model, {**config, "rope_theta": 1e4}).kind == "base", list(tables)


def test_a_module_of_this_library():
    config = {"model_type": "llama", "head_dim": DIM, "rope_theta": 5e5}
    assert only(RotaryEmbedding(DIM, base=5e5), config).text == "base 500,000"
    assert only(RotaryEmbedding(DIM), config).text == "base 10,000; the config has 500,000"


# --- whose config --------------------------------------------------------------------------------------------------------------


def test_a_config_that_is_given(tmp_path: Path):
    model = llama()
    config = {"model_type": "llama", "head_dim": DIM, "rope_theta": 5e5}
    assert only(model, config).kind == "agrees"
    (tmp_path / "config.json").write_text(json.dumps({**config, "rope_theta": 1e4}))
    assert only(model, tmp_path).text == "base 500,000; the config has 10,000"
    with pytest.raises(ValueError, match="no config at"):
        check(model, tmp_path / "nothing")


def test_a_given_config_of_a_composite_model():
    text = {"model_type": "llama", "head_dim": DIM, "rope_theta": 1e4}
    model = nn.Module()
    model.config = transformers.LlavaConfig(text_config=llama().config)
    model.language_model = llama()
    model.language_model.model.config = model.config.text_config
    assert only(model).kind == "agrees"
    assert only(model, {"model_type": "llava", "text_config": text}).text == "base 500,000; the config has 10,000"


def test_a_module_without_a_config_and_a_config_without_rotation():
    assert only(Fused(DIM)).text == "no module around it has a config; pass config="
    assert only(llama(), {"model_type": "gpt2"}).kind == "not in the config"
    assert only(nn.Linear(2, 2)).text.startswith("no rotary module was found")


# --- what it says --------------------------------------------------------------------------------------------------------------


def test_text_and_json():
    model = llama()
    model.model.layers.extend([model.model.layers[0]])
    model.one, model.two = Fused(DIM), Fused(DIM)
    findings = check(model)
    assert str(findings).splitlines() == [
        "PROBLEM    Fused (one) and 1 more: base: base 10,000; the config has 500,000",
        "agrees     LlamaRotaryEmbedding (model.rotary_emb): base 500,000",
    ]
    document = json.loads(findings.as_json())
    assert document["model"] == "LlamaForCausalLM" and document["unchecked"] == []
    assert [f["path"] for f in document["problems"]] == ["one", "two"]
    assert document["agreeing"][0]["kind"] == "agrees" and set(document["agreeing"][0]) == set(Finding._fields)


# --- patch ---------------------------------------------------------------------------------------------------------------------


def test_patch_warns_of_frequencies_that_disagree():
    with pytest.warns(UserWarning, match="LlamaRotaryEmbedding: base: base 10,000; the config has 500,000") as caught:
        patch(with_frequencies(plain(1e4))).remove()
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        patch(llama()).remove()
        patch(with_frequencies(plain(1e4)), trust="module").remove()
    with pytest.raises(ValueError, match="trust must be one of 'config', 'module', got str 'me'"):
        patch(llama(), trust="me")  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:frequencies that are not")
@pytest.mark.parametrize(("wrong", "reason"), [(plain(1e4), "base: base 10,000"), (torch.zeros(16), "uninitialised: ")])
def test_exact_tables_are_not_made_of_frequencies_that_disagree(wrong: Tensor, reason: str):
    model = with_frequencies(wrong)
    with pytest.warns(UserWarning, match="stay the model's own"):
        handle = patch(model, tables="exact")
    assert reason in handle.report().left["LlamaRotaryEmbedding", "forward"]
    assert "exact angles" not in str(handle.report())
    handle.remove()
    with patch(model, tables="exact", trust="module") as handle:
        assert "exact angles" in str(handle.report())


def test_exact_tables_of_a_model_without_a_config():
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rotary = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(llama().config)
            del self.rotary.config

        def forward(self, q: Tensor, ids: Tensor) -> Tensor:
            cos, sin = self.rotary(q, ids)
            return rotate_half(q, cos, sin)

    with patch(Attention(), tables="exact") as handle:
        assert "exact angles" in str(handle.report())
