"""What a dialect has and the selected scheme does not read is refused; what its programs write whatever the scheme is read."""

from __future__ import annotations

from typing import Any

import pytest

from rotary.config import Arguments, read
from rotary.scaling import NTK, Linear, Llama3, LongRoPE, YaRN
from rotary.scaling.by_parts import mscale

SIZES: dict[str, Any] = {"hidden_size": 4096, "num_attention_heads": 32, "num_layers": 8}
MEGATRON: dict[str, Any] = SIZES | {"max_position_embeddings": 8192, "rotary_base": 10000}
MLA: dict[str, Any] = MEGATRON | {"multi_latent_attention": True}
MEGATRON_YARN: dict[str, Any] = MEGATRON | {"position_embedding_type": "yarn", "yarn_rotary_scaling_factor": 4}
MEGATRON_ARGUMENTS: dict[str, Any] = MEGATRON | {
    "position_embedding_type": "rope",
    "rotary_percent": 1.0,
    "rotary_interleaved": False,
    "rotary_seq_len_interpolation_factor": None,
    "use_rope_scaling": False,
    "rope_scaling_factor": 8.0,
    "no_rope_freq": None,
    "rope_type": None,
    "rotary_scaling_factor": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 0.0,
    "yarn_beta_fast": None,
    "multi_latent_attention": False,
}
"""The defaults of megatron/training/arguments.py."""
MLA_CONFIG: dict[str, Any] = MLA | {
    "rope_type": "rope",
    "rotary_percent": 1.0,
    "rotary_scaling_factor": 40,
    "original_max_position_embeddings": 4096,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 0.0,
}
"""MLATransformerConfig of megatron/core with rope_type rope."""
TUNE: dict[str, Any] = {"num_layers": 16, "num_heads": 32, "embed_dim": 2048, "max_seq_len": 131072}
LLAMA_GGUF: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.context_length": 4096,
    "llama.embedding_length": 4096,
    "llama.attention.head_count": 32,
}
FACTORS: dict[str, Any] = {"rope_factors_long.weight": [2.0] * 64, "rope_factors_short.weight": [1.0] * 64}
COSMOS: dict[str, Any] = {"_class_name": "Cosmos3OmniTransformer"}
JOY: dict[str, Any] = {"_class_name": "JoyImageEditTransformer3DModel"}

MPT: dict[str, Any] = {"model_type": "mpt", "d_model": 4096, "n_heads": 32}
MPT_ROPE: dict[str, Any] = {"rope": True, "rope_theta": 10000, "rope_impl": "dail"}
MPT_DEFAULTS: dict[str, Any] = {
    "rope_dail_config": {"type": "original", "pos_idx_in_fp32": True, "xpos_scale_base": 512},
    "rope_hf_config": {"type": "no_scaling", "factor": 1.0},
}
INTERNLM: dict[str, Any] = {"model_type": "internlm", "hidden_size": 4096, "num_attention_heads": 32}
META: dict[str, Any] = {"dim": 4096, "n_layers": 32, "n_heads": 32, "rope_theta": 500000.0}
LITGPT: dict[str, Any] = {"n_embd": 2048, "n_head": 32, "rope_base": 1e4}
QWEN: dict[str, Any] = {"model_type": "qwen", "head_dim": 64, "rope_theta": 1e4, "use_logn_attn": True}


def tune(package: str, **more: Any) -> dict[str, Any]:
    return TUNE | {"_component_": f"torchtune.models.{package}.{package}"} | more


def gguf(**more: Any) -> dict[str, Any]:
    return LLAMA_GGUF | {f"llama.rope.{key.replace('__', '.')}": value for key, value in more.items()}


REFUSED: list[tuple[dict[str, Any], str]] = [
    (MEGATRON | {"rope_type": "yarn"}, "rope_type 'yarn' is for multi_latent_attention"),
    (MLA | {"rope_type": "bogus"}, "rope_type must be 'rope' or 'yarn'"),
    (MLA | {"rope_type": "rope", "position_embedding_type": "yarn"}, "contradicts position_embedding_type"),
    (MLA | {"rotary_scaling_factor": 40, "use_rope_scaling": True}, "use_rope_scaling (bool True) has no effect with YaRN"),
    (MLA | {"rope_scaling_factor": 3}, "rope_scaling_factor (int 3) has no effect"),
    (MLA | {"yarn_rotary_scaling_factor": 9}, "yarn_rotary_scaling_factor (int 9) has no effect"),
    (MLA | {"scale_factor": 8}, "scale_factor (int 8) has no effect"),
    (MLA | {"rotary_percent": 0.5}, "rotary_percent (float 0.5) has no effect with YaRN"),
    (MLA | {"seq_len_interpolation_factor": 2}, "seq_len_interpolation_factor (int 2) has no effect"),
    (MLA | {"yarn_correction_range_round_to_int": False}, "yarn_correction_range_round_to_int"),
    (MLA | {"rope_type": "rope", "rotary_scaling_factor": 8.0}, "rotary_scaling_factor (float 8.0) has no effect"),
    (MEGATRON_YARN | {"use_rope_scaling": True}, "use_rope_scaling (bool True) has no effect with position_embedding_type"),
    (MEGATRON_YARN | {"rotary_percent": 0.5}, "rotary_percent (float 0.5) has no effect"),
    (MEGATRON_YARN | {"seq_len_interpolation_factor": 2}, "seq_len_interpolation_factor"),
    (MEGATRON_YARN | {"rotary_scaling_factor": 8.0}, "conflicting yarn_rotary_scaling_factor"),
    (MEGATRON_YARN | {"yarn_mscale": -2.0}, "yarn_mscale must be a finite number >= 0.0"),
    (MEGATRON_YARN | {"rotary_interleaved": True}, "rotary_interleaved with YaRN"),
    (MEGATRON | {"mscale_all_dim": 1.0}, "mscale_all_dim (float 1.0) has no effect"),
    (MEGATRON | {"original_max_position_embeddings": 4096}, "original_max_position_embeddings (int 4096) has no effect"),
    (MEGATRON | {"use_rope_scaling": False, "rope_scaling_factor": 32.0}, "rope_scaling_factor (float 32.0) has no effect"),
    (MEGATRON | {"use_rope_scaling": True, "old_context_len": 4096}, "old_context_len (int 4096) has no effect"),
    (tune("llama4", use_scaled_rope=True, scale_factor=8), "scale_factor (int 8) has no effect with use_scaled_rope"),
    (tune("llama4", rope_scale_factor=8.0), "rope_scale_factor (float 8.0) has no effect with use_scaled_rope: false"),
    (tune("llama2", rope_low_freq_factor=2), "rope_low_freq_factor (int 2) has no effect with the builder of llama2"),
    (tune("llama2", scale_factor=8), "scale_factor (int 8) has no effect with the builder of llama2"),
    (tune("llama3_1", rope_scale_factor=9), "rope_scale_factor (int 9) has no effect with the builder of llama3_1"),
    (tune("llama3_1", old_context_len=4096), "old_context_len (int 4096) has no effect"),
    (tune("llama3_2_vision", scale_factor=32), "scale_factor (int 32) has no effect"),
    (gguf(scaling__type="none", scaling__factor=4.0), "llama.rope.scaling.factor (float 4.0) has no effect"),
    (gguf(scaling__factor=4.0, scale_linear=8.0), "conflicting llama.rope.scaling.factor"),
    (gguf(scaling__factor=4.0, scaling__alpha=1000.0), "llama.rope.scaling.factor (float 4.0) has no effect with scaling.alpha"),
    (gguf(scaling__type="yarn", scaling__factor=4.0, scaling__alpha=9.0), "llama.rope.scaling.alpha (float 9.0) has no effect"),
    (gguf(scaling__factor=4.0) | FACTORS, "llama.rope.scaling.factor (float 4.0) has no effect with the tensors"),
    (gguf(scaling__yarn_beta_fast=5.0) | FACTORS, "llama.rope.scaling.yarn_beta_fast (float 5.0) has no effect"),
    (gguf(scaling__type="yarn") | FACTORS, "contradicts the tensors"),
    (COSMOS | {"rope_scaling": {"rope_type": "yarn"}}, "Cosmos3OmniTransformer has no scheme"),
    (COSMOS | {"rope_scaling": {"factor": 4.0}}, "unexpected key 'factor'"),
    (COSMOS | {"rope_scaling": {"rope_theta": 7.0}}, "conflicting rope_theta"),
    (COSMOS | {"rope_scaling": {"mrope_interleaved": False}}, "mrope_interleaved is False"),
    (COSMOS | {"rope_axes_dim": [24, 20, 20], "rope_scaling": {"mrope_section": [1, 2, 3]}}, "conflicting rope_axes_dim"),
    (COSMOS | {"rope_scaling": "x"}, "rope_scaling must be a dict"),
    (MPT | {"attn_config": MPT_ROPE | {"rope_hf_config": {"type": "linear", "factor": 2.0}}}, "rope_hf_config.factor (float 2.0)"),
    (MPT | {"attn_config": MPT_ROPE | {"rope_impl": "hf", "rope_hf_config": {"type": "no_scaling", "factor": 2.0}}},
     "attn_config.rope_hf_config.factor (float 2.0) has no effect"),
    (MPT | {"attn_config": MPT_ROPE | {"rope_impl": "hf", "rope_dail_config": {"type": "xpos"}}}, "rope_dail_config.type"),
    (INTERNLM | {"rotary": {"base": 10000, "type": "origin", "scaling_factor": 4.0}}, "scaling_factor 4.0 has no effect"),
    (META | {"attn_temperature_tuning": True}, "attn_temperature_tuning (bool True) has no effect with layers that all rotate"),
    (LITGPT | {"rope_indices": [1, 0]}, "rope_indices (list [1, 0]) has no effect"),
    (LITGPT | {"latent_attention": {"qk_rope_head_dim": 64}, "rotary_percentage": 0.5}, "rotary_percentage (float 0.5) has no effect"),
    (QWEN, "missing seq_length"),
    (JOY | {"rope_type": "yarn"}, "rope_type must be 'rope' or 'mrope'"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "words"), REFUSED)
def test_a_key_that_the_selected_scheme_does_not_read_is_refused(config: dict[str, Any], words: str):
    with pytest.raises((TypeError, ValueError)) as raised:
        raise AssertionError(read(config))
    assert words in str(raised.value)


READ: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (MEGATRON_ARGUMENTS, {"dim": 128, "scaling": ()}),
    (MEGATRON_ARGUMENTS | {"use_rope_scaling": True, "rope_scaling_factor": 32.0}, {"scaling": (Llama3(32.0, 8192),)}),
    (MEGATRON_ARGUMENTS | {"position_embedding_type": "yarn", "rotary_scaling_factor": 4.0, "mscale_all_dim": 0.5},
     {"scaling": (YaRN(4.0, 4096, attention_factor=mscale(4.0) / mscale(4.0, 0.5)),)}),
    (MEGATRON_ARGUMENTS | {"position_embedding_type": "yarn", "yarn_rotary_scaling_factor": 8.0},
     {"scaling": (YaRN(8.0, 4096, attention_factor=mscale(8.0)),)}),
    (MEGATRON_YARN | {"yarn_correction_range_round_to_int": False},
     {"scaling": (YaRN(4, 4096, attention_factor=mscale(4), truncate=False),)}),
    (MLA_CONFIG, {"dim": 64, "head_dim": 64, "interleaved": True, "scaling": ()}),
    (MLA_CONFIG | {"rotary_percent": 0.5, "kv_lora_rank": 512}, {"dim": 32, "head_dim": 64, "interleaved": True, "scaling": ()}),
    (MLA_CONFIG | {"rope_type": "yarn"}, {"scaling": (YaRN(40, 4096, attention_factor=mscale(40)),)}),
    (tune("llama4", use_scaled_rope=False, rope_scale_factor=16.0, rope_high_freq_factor=1.0), {"scaling": ()}),
    (tune("llama4", use_scaled_rope=True), {"scaling": (Llama3(16.0, 8192, high_freq_factor=1.0),)}),
    (tune("llama3_1", scale_factor=None), {"scaling": (Llama3(8.0, 8192),)}),
    (gguf(scaling__type="none"), {"scaling": ()}),
    (gguf(scaling__type="none", scaling__factor=1.0, scaling__original_context_length=262144), {"scaling": ()}),
    (gguf(scaling__type="none", scaling__factor=1.0, scaling__alpha=1000.0), {"scaling": (NTK(1000.0),)}),
    (gguf(scaling__type="none", scaling__factor=0.0, scaling__finetuned=True), {"scaling": ()}),
    (gguf(scaling__factor=4.0, scale_linear=4.0), {"scaling": (Linear(4.0),)}),
    (gguf(scaling__type="longrope", scaling__original_context_length=2048, scaling__attn_factor=1.25) | FACTORS,
     {"scaling": (LongRoPE([1.0] * 64, [2.0] * 64, 2048, attention_factor=1.25),)}),
    (COSMOS | {"rope_scaling": {"mrope_section": [24, 20, 20], "mrope_interleaved": True, "rope_type": "default"}}, {"dim": 128}),
    (MPT | {"attn_config": MPT_ROPE | MPT_DEFAULTS}, {"dim": 128, "scaling": ()}),
    (MPT | {"attn_config": MPT_ROPE | MPT_DEFAULTS | {"rope_impl": "hf"}}, {"dim": 128, "scaling": ()}),
    (META | {"attn_temperature_tuning": False, "floor_scale": 8192, "attn_scale": 0.1}, {"dim": 128, "scaling": ()}),
    (LITGPT | {"latent_attention": {"qk_rope_head_dim": 64}, "rotary_percentage": 1.0}, {"dim": 64}),
    (JOY | {"rope_type": "rope"}, {"dim": 128, "scaling": ()}),
]  # fmt: skip


@pytest.mark.parametrize(("config", "expected"), READ)
def test_what_programs_write_whatever_the_scheme_is_changes_nothing(config: dict[str, Any], expected: dict[str, Any]):
    arguments: Arguments = read(config)
    assert {key: getattr(arguments, key) for key in expected} == expected


def test_notes_of_what_turns_besides():
    assert any("slice of qk_pos_emb_head_dim = 64" in note for note in read(MLA_CONFIG | {"rotary_percent": 0.5}).notes)
    assert "text counts" in read(JOY | {"rope_type": "mrope"}).notes[0]
    assert "text counts" not in read(JOY | {"rope_type": "rope"}).notes[0]
