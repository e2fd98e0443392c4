"""Each dialect: a config as published, or as its tool writes it, and what it means."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rotary.axes import sections
from rotary.config import read
from rotary.config.axial import Part
from rotary.config.dialects import DIALECTS, gguf, recognise
from rotary.scaling import NTK, DynamicNTK, Gains, Linear, Llama3, LongRoPE, NTKMixed, YaRN
from rotary.scaling.by_parts import mscale
from rotary.scaling.temperature import Llama4, MScale

Case = tuple[str, dict[str, Any], dict[str, Any]]

META_8B: dict[str, Any] = {
    "dim": 4096,
    "n_layers": 32,
    "n_heads": 32,
    "n_kv_heads": 8,
    "multiple_of": 1024,
    "ffn_dim_multiplier": 1.3,
    "norm_eps": 1e-05,
    "vocab_size": 128256,
    "rope_theta": 500000.0,
    "use_scaled_rope": True,
}
MISTRAL_7B: dict[str, Any] = {
    "dim": 4096,
    "n_layers": 32,
    "head_dim": 128,
    "hidden_dim": 14336,
    "n_heads": 32,
    "n_kv_heads": 8,
    "norm_eps": 1e-05,
    "vocab_size": 32768,
    "rope_theta": 1000000.0,
}
MINISTRAL: dict[str, Any] = (
    {
        "dim": 3072,
        "n_layers": 26,
        "head_dim": 128,
        "hidden_dim": 9216,
        "n_heads": 32,
        "n_kv_heads": 8,
        "rope_theta": 1e6,
    }
    | {"yarn": {"original_max_position_embeddings": 16384, "factor": 16, "apply_scale": False, "beta": 32, "alpha": 1}}
    | {
        "llama_4_scaling": {"original_max_position_embeddings": 16384, "beta": 0.1},
        "max_position_embeddings": 262144,
    }
)
LARGE_3: dict[str, Any] = (
    {"dim": 7168, "n_layers": 61, "n_heads": 128, "hidden_dim": 16384, "q_lora_rank": 1536, "kv_lora_rank": 512}
    | {"qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128, "rope_theta": 1e4}
    | {"yarn": {"original_max_position_embeddings": 8192, "factor": 36, "apply_scale": False, "beta": 32, "alpha": 1}}
)
LITGPT: dict[str, Any] = {
    "name": "Llama-3.2-1B",
    "n_embd": 2048,
    "n_head": 32,
    "n_layer": 16,
    "block_size": 131072,
    "rotary_percentage": 1.0,
    "norm_class_name": "RMSNorm",
    "rope_base": 500000,
}
ADJUSTED: dict[str, Any] = {
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_seq_len": 8192,
}
TUNE: dict[str, Any] = {
    "vocab_size": 128256,
    "num_layers": 16,
    "num_heads": 32,
    "num_kv_heads": 8,
    "embed_dim": 2048,
    "max_seq_len": 131072,
}
MEGATRON: dict[str, Any] = {
    "num_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "kv_channels": 128,
    "position_embedding_type": "rope",
    "max_position_embeddings": 8192,
    "rotary_base": 500000,
    "rotary_percent": 1.0,
    "rotary_interleaved": False,
}
LLAMA_GGUF: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 32,
    "llama.context_length": 4096,
    "llama.embedding_length": 4096,
    "llama.attention.head_count": 32,
    "llama.rope.dimension_count": 128,
    "llama.rope.freq_base": 10000.0,
}
LLAMA_31_GGUF: dict[str, Any] = LLAMA_GGUF | {"llama.context_length": 131072, "llama.rope.freq_base": 500000.0}
QWEN_GGUF: dict[str, Any] = (
    {"general.architecture": "qwen2", "qwen2.context_length": 131072, "qwen2.embedding_length": 3584}
    | {"qwen2.attention.head_count": 28, "qwen2.rope.freq_base": 1e6, "qwen2.rope.scaling.type": "yarn"}
    | {"qwen2.rope.scaling.factor": 4.0, "qwen2.rope.scaling.original_context_length": 32768}
)
PHI3_GGUF: dict[str, Any] = (
    {"general.architecture": "phi3", "phi3.context_length": 131072, "phi3.embedding_length": 3072}
    | {
        "phi3.attention.head_count": 32,
        "phi3.rope.dimension_count": 96,
        "phi3.rope.scaling.attn_factor": 1.1902380714238083,
    }
    | {"phi3.rope.scaling.original_context_length": 4096}
)
DEEPSEEK_GGUF: dict[str, Any] = (
    {
        "general.architecture": "deepseek2",
        "deepseek2.context_length": 163840,
        "deepseek2.attention.kv_lora_rank": 512,
    }
    | {
        "deepseek2.attention.key_length": 576,
        "deepseek2.rope.dimension_count": 64,
        "deepseek2.rope.freq_base": 10000.0,
    }
    | {"deepseek2.rope.scaling.type": "yarn", "deepseek2.rope.scaling.factor": 40.0}
    | {
        "deepseek2.rope.scaling.original_context_length": 4096,
        "deepseek2.rope.scaling.yarn_log_multiplier": 0.1,
    }
)
GEMMA_GGUF: dict[str, Any] = {
    "general.architecture": "gemma3",
    "gemma3.context_length": 131072,
    "gemma3.attention.key_length": 256,
    "gemma3.rope.freq_base": 1e6,
    "gemma3.rope.scaling.type": "linear",
    "gemma3.rope.scaling.factor": 8.0,
}
GLM4: dict[str, Any] = {
    "model_type": "chatglm",
    "hidden_size": 4096,
    "kv_channels": 128,
    "num_attention_heads": 32,
    "num_layers": 40,
    "original_rope": True,
    "rope_ratio": 500,
    "seq_length": 131072,
    "multi_query_attention": True,
}
PHI3_SMALL: dict[str, Any] = {
    "model_type": "phi3small",
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "max_position_embeddings": 8192,
    "rope_embedding_base": 1000000,
    "rope_position_scale": 1.0,
    "mup_use_scaling": True,
}
SU: dict[str, Any] = {
    "type": "su",
    "short_factor": [1.0] * 64,
    "long_factor": [2.0] * 64,
    "original_max_position_embeddings": 8192,
    "short_mscale": 1.0,
    "long_mscale": 1.1,
}
NOMIC: dict[str, Any] = {
    "model_type": "nomic_bert",
    "n_embd": 768,
    "n_head": 12,
    "rotary_emb_base": 1000,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
    "rotary_scaling_factor": None,
    "max_trained_positions": 2048,
}
OPENELM: dict[str, Any] = {
    "model_type": "openelm",
    "head_dim": 128,
    "model_dim": 3072,
    "rope_freq_constant": 10000,
    "rope_max_length": 4096,
    "max_context_length": 2048,
    "num_query_heads": [12, 24],
    "num_kv_heads": [3, 6],
}
MPT: dict[str, Any] = {"model_type": "mpt", "d_model": 4096, "n_heads": 32, "max_seq_len": 2048}
MPT_ROPE: dict[str, Any] = {"alibi": False, "rope": True, "rope_theta": 10000, "rope_impl": "dail"}
MPT_HF: dict[str, Any] = MPT_ROPE | {"rope_impl": "hf", "rope_hf_config": {"type": "linear", "factor": 2.0}}
KIMI: dict[str, Any] = {
    "model_type": "kimi_k2",
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "kv_lora_rank": 512,
    "rope_theta": 50000.0,
    "max_position_embeddings": 131072,
    "rope_scaling": {
        "type": "yarn",
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "beta_fast": 1.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    },
}
MIMO: dict[str, Any] = {
    "model_type": "mimo_v2_flash",
    "head_dim": 192,
    "rope_theta": 5e6,
    "swa_rope_theta": 1e4,
    "partial_rotary_factor": 0.334,
}
EARLY_PHI3: dict[str, Any] = (
    {"model_type": "phi3", "hidden_size": 256, "num_attention_heads": 4, "max_position_embeddings": 8192}
    | {"original_max_position_embeddings": 4096}
    | {"rope_scaling": {"type": "yarn", "short_factor": [1.0] * 32, "long_factor": [2.0] * 32}}
)
GTE: dict[str, Any] = {
    "model_type": "new",
    "hidden_size": 768,
    "num_attention_heads": 12,
    "rope_theta": 500000,
    "max_position_embeddings": 8192,
}
BLUELM: dict[str, Any] = {"model_type": "BlueLM", "hidden_size": 4096, "num_attention_heads": 32, "rope_theta": 10000}
LLAMA: dict[str, Any] = {"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32}

NEW_GGUF = {"general.architecture": "newarch", "newarch.embedding_length": 64, "newarch.attention.head_count": 1}

CASES: list[Case] = [
    ("Meta params.json", META_8B, {"dim": 128, "base": 5e5, "interleaved": True, "scaling": (Llama3(8.0, 8192),), "window": 8192}),
    ("Meta params.json", META_8B | {"use_scaled_rope": False}, {"base": 5e5, "interleaved": True, "scaling": ()}),
    ("Meta params.json", META_8B | {"dim": 2048, "n_layers": 16}, {"dim": 64, "scaling": (Llama3(32.0, 8192),)}),
    ("Meta params.json", META_8B | {"dim": 3072, "n_layers": 28, "n_heads": 24}, {"dim": 128, "scaling": (Llama3(32.0, 8192),)}),
    ("Meta params.json", META_8B | {"dim": 16384, "n_layers": 126, "n_heads": 128}, {"scaling": (Llama3(8.0, 8192),)}),
    ("Meta params.json", META_8B | {"dim": 1024, "rope_scaling_factor": 4.0}, {"scaling": (Llama3(4.0, 8192),)}),
    ("Meta params.json", {"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-05, "vocab_size": -1},
     {"dim": 128, "base": 1e4, "interleaved": True, "scaling": ()}),
    ("Mistral params.json", MISTRAL_7B, {"dim": 128, "base": 1e6, "interleaved": True, "scaling": ()}),
    ("Mistral params.json", {k: v for k, v in MISTRAL_7B.items() if k != "rope_theta"} | {"sliding_window": 4096}, {"base": 1e4}),
    ("Mistral params.json", MISTRAL_7B | {"yarn": {"factor": 4, "original_max_position_embeddings": 8192, "beta": 16, "alpha": 2}},
     {"interleaved": True, "scaling": (YaRN(4, 8192, beta_fast=16, beta_slow=2),)}),
    ("Mistral params.json", MINISTRAL, {"dim": 128, "base": 1e6, "interleaved": True, "target": 262144, "window": 16384,
     "scaling": (YaRN(16, 16384, beta_fast=32, beta_slow=1, attention_factor=1.0),), "temperatures": (Llama4(0.1, 16384),)}),
    ("Mistral params.json", LARGE_3, {"dim": 64, "interleaved": True, "temperatures": (),
     "scaling": (YaRN(36, 8192, beta_fast=32, beta_slow=1, attention_factor=1.0),)}),
    ("Mistral params.json", LARGE_3 | {"yarn": LARGE_3["yarn"] | {"apply_scale": True}},
     {"scaling": (YaRN(36, 8192, beta_fast=32, beta_slow=1, mscale=1.0, mscale_all_dim=1.0),), "temperatures": (MScale(36, 1.0),)}),
    ("LitGPT", LITGPT | {"rope_adjustments": ADJUSTED},
     {"dim": 64, "base": 5e5, "interleaved": False, "scaling": (Llama3(32.0, 8192),), "target": 131072}),
    ("LitGPT", LITGPT | {"rope_condense_ratio": 4, "rotary_percentage": 0.25}, {"dim": 16, "head_dim": 64, "scaling": (Linear(4),)}),
    ("LitGPT", {"n_embd": 4096, "n_head": 32, "rope_base": 10000}, {"dim": 32, "head_dim": 128}),  # rotary_percentage is 0.25 by default
    ("LitGPT", LITGPT | {"head_size": 128, "rope_adjustments": {"factor": 8.0}}, {"dim": 128, "scaling": (Linear(8.0),)}),
    ("LitGPT", LITGPT | {"rope_adjustments": {"factor": 40, "beta_fast": 32, "beta_slow": 1, "original_max_seq_len": 4096}},
     {"scaling": (YaRN(40, 4096, beta_fast=32, beta_slow=1, attention_factor=1.0),)}),
    ("LitGPT", LITGPT | {"rope_interleave": True}, {"interleaved": True}),
    ("torchtune builder", TUNE | {"_component_": "torchtune.models.llama3_2.llama3_2", "rope_base": 500000},
     {"dim": 64, "base": 5e5, "interleaved": True, "scaling": (Llama3(32.0, 8192),)}),
    ("torchtune builder", TUNE | {"rope_base": 500000, "scale_factor": 8}, {"interleaved": True, "scaling": (Llama3(8, 8192),)}),
    ("torchtune builder", TUNE | {"_component_": "torchtune.models.qwen2.qwen2"}, {"base": 1e6, "interleaved": False, "scaling": ()}),
    ("torchtune builder", TUNE | {"_component_": "torchtune.models.gemma.gemma", "head_dim": 256}, {"dim": 256, "interleaved": True}),
    ("Megatron-LM or NeMo", MEGATRON, {"dim": 128, "base": 5e5, "interleaved": False, "scaling": ()}),
    ("Megatron-LM or NeMo", MEGATRON | {"rotary_percent": 0.5, "rotary_interleaved": True}, {"dim": 64, "interleaved": True}),
    ("Megatron-LM or NeMo", MEGATRON | {"use_rope_scaling": True, "rope_scaling_factor": 8.0}, {"scaling": (Llama3(8.0, 8192),)}),
    ("Megatron-LM or NeMo", MEGATRON | {"scale_factor": 8, "low_freq_factor": 1, "high_freq_factor": 4, "old_context_len": 8192},
     {"scaling": (Llama3(8, 8192, 1, 4),)}),
    ("Megatron-LM or NeMo", MEGATRON | {"seq_len_interpolation_factor": 4}, {"scaling": (Linear(4),)}),
    ("Megatron-LM or NeMo", {"hidden_size": 4096, "num_attention_heads": 32, "position_embedding_type": "rope", "rotary_percentage": 0.5},
     {"dim": 64, "base": 1e4}),
    ("Megatron-LM or NeMo", MEGATRON | {"position_embedding_type": "yarn", "yarn_rotary_scaling_factor": 8.0,
     "yarn_original_max_position_embeddings": 4096, "yarn_beta_fast": 32.0, "yarn_beta_slow": 1.0, "yarn_mscale": 1.0,
     "yarn_mscale_all_dim": 0.0}, {"scaling": (YaRN(8.0, 4096, attention_factor=mscale(8.0)),)}),
    ("Megatron-LM or NeMo", MEGATRON | {"multi_latent_attention": True, "qk_pos_emb_head_dim": 64, "rotary_scaling_factor": 40.0,
     "original_max_position_embeddings": 4096, "mscale": 1.0, "mscale_all_dim": 1.0}, {"dim": 64, "interleaved": True,
     "scaling": (YaRN(40.0, 4096, attention_factor=1.0, mscale_all_dim=1.0),), "temperatures": (MScale(40.0, 1.0),)}),
    ("GGUF", LLAMA_GGUF, {"dim": 128, "base": 1e4, "interleaved": True, "scaling": (), "target": 4096}),
    ("GGUF", LLAMA_GGUF | {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}, {"scaling": (Linear(4.0),)}),
    ("GGUF", LLAMA_GGUF | {"llama.rope.scale_linear": 4.0}, {"scaling": (Linear(4.0),)}),
    ("GGUF", LLAMA_31_GGUF | {"rope_freqs.weight": [1.0] * 32 + [8.0] * 32},
     {"base": 5e5, "scaling": (Gains([1.0] * 32 + [0.125] * 32),)}),
    ("GGUF", LLAMA_31_GGUF | {"rope_freqs.weight": None}, {"base": 5e5, "scaling": ()}),
    ("GGUF", QWEN_GGUF, {"dim": 128, "interleaved": False, "scaling": (YaRN(4.0, 32768),)}),
    ("GGUF", PHI3_GGUF | {"rope_factors_long.weight": [2.0] * 48, "rope_factors_short.weight": [1.0] * 48},
     {"dim": 96, "interleaved": False, "scaling": (LongRoPE([1.0] * 48, [2.0] * 48, 4096, attention_factor=1.1902380714238083),)}),
    ("GGUF", DEEPSEEK_GGUF, {"dim": 64, "interleaved": True, "scaling": (YaRN(40.0, 4096, mscale=1.0, mscale_all_dim=1.0),),
     "temperatures": (MScale(40.0, 1.0),)}),
    ("ChatGLM", GLM4, {"dim": 64, "head_dim": 128, "base": 5e6, "interleaved": True, "target": 131072}),
    ("ChatGLM", {k: v for k, v in GLM4.items() if k != "rope_ratio"}, {"dim": 64, "base": 1e4}),
    ("Phi-3-small", PHI3_SMALL, {"dim": 128, "base": 1e6, "interleaved": False, "scaling": ()}),
    ("Phi-3-small", PHI3_SMALL | {"rope_position_scale": 2.0}, {"scaling": (Linear(2.0),)}),
    ("Phi-3-small", PHI3_SMALL | {"rope_scaling": SU},
     {"scaling": (LongRoPE([1.0] * 64, [2.0] * 64, 8192, short_mscale=1.0, long_mscale=1.1),)}),
    ("Nomic remote code", NOMIC, {"dim": 64, "base": 1000, "interleaved": False, "scaling": ()}),
    ("Nomic remote code", NOMIC | {"rotary_emb_fraction": 0.5, "rotary_emb_interleaved": True, "rotary_scaling_factor": 2},
     {"dim": 32, "interleaved": True, "scaling": (DynamicNTK(2, 2048),)}),
    ("StableLM-epoch", {"model_type": "stablelm_epoch", "hidden_size": 2560, "num_attention_heads": 32, "rope_pct": 0.25,
     "rope_theta": 10000}, {"dim": 20, "head_dim": 80, "base": 1e4, "interleaved": False}),
    ("OpenELM", OPENELM, {"dim": 128, "base": 1e4, "interleaved": False, "target": 2048}),
    ("Baichuan", {"model_type": "baichuan", "hidden_size": 4096, "num_attention_heads": 32, "max_position_embeddings": 4096},
     {"dim": 128, "base": 1e4, "interleaved": False}),
    ("DBRX", {"model_type": "dbrx", "d_model": 6144, "n_heads": 48, "attn_config": {"kv_n_heads": 8, "rope_theta": 500000}},
     {"dim": 128, "base": 5e5, "interleaved": False}),
    ("MPT", MPT | {"attn_config": MPT_ROPE}, {"dim": 128, "base": 1e4, "interleaved": False, "scaling": ()}),
    ("MPT", MPT | {"attn_config": MPT_HF}, {"scaling": (Linear(2.0),)}),
    ("InternLM 1", {"model_type": "internlm", "hidden_size": 4096, "num_attention_heads": 32, "max_position_embeddings": 2048,
     "rotary": {"base": 10000, "type": "dynamic"}}, {"dim": 128, "base": 1e4, "scaling": (DynamicNTK(1.0, 2048),)}),
    ("diffusers transformer", {"_class_name": "Flux2Transformer2DModel", "attention_head_dim": 128, "axes_dims_rope": [32, 32, 32, 32],
     "rope_theta": 2000}, {"dim": 128, "base": 2000, "interleaved": True, "axes": sections(16, 16, 16, 16), "parts": ()}),
    ("diffusers transformer", {"_class_name": "HunyuanVideoTransformer3DModel", "attention_head_dim": 128, "rope_axes_dim": [16, 56, 56],
     "rope_theta": 256.0}, {"base": 256.0, "inv_freq": (), "parts": (Part(16, 0), Part(56, 1), Part(56, 2))}),
    ("diffusers transformer", {"_class_name": "CosmosTransformer3DModel", "attention_head_dim": 128, "rope_scale": [2.0, 1.0, 1.0]},
     {"interleaved": False, "parts": (Part(44, 0, (NTK(2.0),)), Part(42, 1), Part(42, 2))}),
    ("ESMFold2 atoms", {"hidden_size": 128, "num_attention_heads": 4, "spatial_rope_base_frequency": 20.0,
     "num_spatial_rope_pairs_per_axis": 2, "num_uid_rope_pairs": 9, "uid_rope_base_frequency": 10000.0},
     {"dim": 32, "base": 20.0, "interleaved": False, "axes": (0, 0, 1, 1, 2, 2) + (3,) * 10}),
    ("Kimi-K2", KIMI, {"dim": 64, "base": 5e4, "interleaved": True, "temperatures": (MScale(32.0, 1.0),)}),
    ("Bamba", {"model_type": "bamba", "hidden_size": 4096, "num_attention_heads": 32, "attn_rotary_emb": 64}, {"dim": 64, "head_dim": 128}),
    ("Phi-3, first published", EARLY_PHI3, {"scaling": (LongRoPE([1.0] * 32, [2.0] * 32, 4096, factor=2.0),)}),
    ("transformers", GTE | {"rope_scaling": {"type": "ntk", "factor": 2.0}}, {"scaling": (NTKMixed(2.0, 1.0),)}),
    ("transformers", GTE | {"rope_scaling": {"type": "ntk", "factor": 2.0, "mixed_b": 0.5}}, {"scaling": (NTKMixed(2.0, 0.5),)}),
    ("transformers", LLAMA | {"rope_scaling": {"type": "ntk", "factor": 4.0}}, {"scaling": (NTK(4.0),)}),
    ("transformers", BLUELM | {"rope_scaling": {"type": "ntkmixed", "factor": 16.0, "power": 0.4}}, {"scaling": (NTKMixed(16.0, 0.4),)}),
]  # fmt: skip


@pytest.mark.parametrize(("dialect", "config", "expected"), CASES)
def test_a_config_of_each_dialect(dialect: str, config: dict[str, Any], expected: dict[str, Any]):
    arguments = read(config)
    assert arguments.dialect == recognise(config).name == dialect
    assert {key: getattr(arguments, key) for key in expected} == expected


def test_every_dialect_has_a_case_and_a_source():
    named = {dialect.name for dialect in DIALECTS} | {gguf.dialect({}).name}
    assert {dialect for dialect, _, _ in CASES} | {"MiMo-V2-Flash"} == named
    assert all(dialect.source and dialect.keys for dialect in DIALECTS)


def test_layer_types():
    full, sliding = (read(MIMO, layer_type=kind) for kind in ("full_attention", "sliding_attention"))
    assert (full.dim, full.base, sliding.dim, sliding.base) == (64, 5e6, 64, 1e4)
    full, sliding = (read(GEMMA_GGUF, layer_type=kind) for kind in ("full_attention", "sliding_attention"))
    assert (full.base, full.scaling, sliding.base, sliding.scaling) == (1e6, (Linear(8.0),), 1e4, ())
    local = LITGPT | {"rope_local_base_freq": 10000, "rope_indices": [1, 0], "rope_adjustments": {"factor": 8.0}}
    full, sliding = (read(local, layer_type=kind) for kind in ("full_attention", "sliding_attention"))
    assert (full.base, full.scaling, sliding.base, sliding.scaling) == (5e5, (Linear(8.0),), 1e4, ())


def test_the_amplitude_of_mistrals_yarn():
    """apply_scale false means 1, true and missing YaRN's own; early Phi-3 keeps LongRoPE's."""
    block = {"factor": 4, "original_max_position_embeddings": 8192}
    for more, expected in (({}, mscale(4)), ({"apply_scale": True}, mscale(4)), ({"apply_scale": False}, 1.0)):
        (scheme,) = read(MISTRAL_7B | {"yarn": block | more}).scaling
        assert isinstance(scheme, YaRN)
        assert (scheme.attention_factor or mscale(4)) == expected
    (scheme,) = read(EARLY_PHI3).scaling
    assert isinstance(scheme, LongRoPE) and scheme.factor == 2.0
    assert math.sqrt(1 + math.log(2) / math.log(4096)) != mscale(2.0)


NOTES: list[tuple[dict[str, Any], str]] = [
    (META_8B, "8 is that of Llama 3.1, 3.2 Vision and 3.3"),
    (META_8B | {"dim": 2048, "n_layers": 16}, "32 is that of Llama 3.2 1B and 3B"),
    ({"dim": 4096, "n_heads": 32, "n_layers": 32}, "the base is 10000, that of Llama 1 and 2"),
    (EARLY_PHI3, "read as LongRoPE"),
    (LLAMA_GGUF, "read without the tensors of the file"),
    (LITGPT | {"rope_adjustments": {"factor": 4, "beta_fast": 32, "beta_slow": 1, "original_max_seq_len": 4096}}, "the other way round"),
    (LLAMA | {"rope_scaling": {"type": "ntk", "factor": 4.0}}, "vLLM reads it as NTKMixed"),
    (META_8B | {"nope_layer_interval": 4, "rope_theta": 5e5, "n_layers": 8}, "layers 3, 7 do not rotate"),
    (MEGATRON | {"no_rope_freq": 4, "num_layers": 8}, "layers 3, 7 do not rotate"),
    ({"general.architecture": "smollm3", "smollm3.embedding_length": 2048, "smollm3.attention.head_count": 16,
      "smollm3.block_count": 8}, "layers 3, 7 do not rotate"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "words"), NOTES)
def test_what_a_dialect_leaves_open_is_a_note(config: dict[str, Any], words: str):
    assert words in " ".join(read(config).notes)


REFUSALS: list[tuple[dict[str, Any], type[Exception], str]] = [
    (META_8B | {"dim": 1024}, ValueError, "write rope_scaling_factor: 8.0"),
    (META_8B | {"use_scaled_rope": False, "rope_scaling_factor": 8.0}, ValueError, "has no effect"),
    (META_8B | {"use_scaled_rope_2": True}, TypeError, "'use_scaled_rope_2'"),
    (META_8B | {"yarn": {"factor": 4}}, TypeError, "'yarn'"),
    ({k: v for k, v in MISTRAL_7B.items() if k != "rope_theta"}, ValueError, "missing rope_theta"),
    (MISTRAL_7B | {"yarn": {"factor": 4, "beta_fast": 32}}, TypeError, "'beta_fast'"),
    (MISTRAL_7B | {"yarn": {"factor": 4}}, ValueError, "missing yarn.original_max_position_embeddings"),
    (MISTRAL_7B | {"rope_scaling": {"type": "linear", "factor": 2.0}}, TypeError, "'rope_scaling'"),
    (TUNE | {"rope_base": 10000}, ValueError, "pass interleaved="),
    (TUNE, ValueError, "missing rope_base"),
    (TUNE | {"_component_": "torchtune.models.mamba.mamba"}, ValueError, "unknown torchtune builder"),
    (LITGPT | {"rope_adjustments": ADJUSTED | {"fctor": 1.0}}, TypeError, "'fctor'"),
    (MEGATRON | {"position_embedding_type": "learned_absolute"}, ValueError, "learned_absolute"),
    (MEGATRON | {"rope_scaling_factor": 8.0}, ValueError, "use_rope_scaling"),
    (MEGATRON | {"rotary_bas": 1e4}, TypeError, "did you mean 'rotary_base'"),
    (LLAMA_31_GGUF, ValueError, "rope_freqs.weight"),
    (PHI3_GGUF, ValueError, "rope_factors_long.weight"),
    (LLAMA_GGUF | {"general.architecture": "newarch"}, TypeError, "llama.rope"),
    (NEW_GGUF, ValueError, "pass interleaved="),
    ({"general.architecture": "mpt", "mpt.embedding_length": 64}, ValueError, "does not rotate"),
    ({"general.architecture": "qwen2vl", "qwen2vl.rope.dimension_sections": [16, 24, 24, 0]}, ValueError, "M-RoPE"),
    (LLAMA_GGUF | {"llama.rope.scaling.yarn_beta_fast": 32.0}, ValueError, "no effect"),
    (LLAMA_GGUF | {"llama.rope.scaling.attn_factor": 1.2}, ValueError, "no effect"),
    (LLAMA_GGUF | {"llama.rope.scaling.original_context_length": 2048}, ValueError, "rope_factors_long.weight"),
    (GEMMA_GGUF | {"gemma3.attention.key_length_swa": 128}, ValueError, "key_length_swa"),
    (GEMMA_GGUF | {"rope_freqs.weight": [1.0] * 128}, ValueError, "two bases"),
    ({"general.architecture": "gemma4", "gemma4.attention.key_length": 512}, ValueError, "different widths"),
    (MEGATRON | {"beta_fast": 32.0}, ValueError, "beta_fast"),
    (LLAMA_GGUF | {"llama.rope.scaling.typ": "yarn"}, TypeError, "did you mean"),
    (GLM4 | {"rope_ratios": 2}, TypeError, "'rope_ratios'"),
    ({"model_type": "chatglm", "position_encoding_2d": True, "inner_hidden_size": 16384}, ValueError, "two coordinates"),
    (PHI3_SMALL | {"rope_position_scale": 2.0, "rope_scaling": SU}, ValueError, "conflicting rope_position_scale"),
    (NOMIC | {"rotary_emb_scale_base": 512}, ValueError, "xPos"),
    (MPT | {"attn_config": MPT_ROPE | {"rope": False, "alibi": True}}, ValueError, "does not rotate"),
    (MPT | {"attn_config": MPT_ROPE | {"rope_dail_config": {"type": "xpos", "xpos_scale_base": 512}}}, ValueError, "xPos"),
    ({"model_type": "baichuan", "hidden_size": 5120, "num_attention_heads": 40}, ValueError, "ALiBi"),
    ({"model_type": "dbrx", "d_model": 64, "n_heads": 1, "attn_config": {"rope_theta": 5e5}, "rope_theta": 1e4}, ValueError, "conflicting"),
    ({"model_type": "internlm", "head_dim": 64, "rope_theta": 1e4, "rotary": {"base": 1e6}}, ValueError, "conflicting"),
    ({"model_type": "nemotron_h", "head_dim": 128, "rope_theta": 10000}, ValueError, "do not rotate in transformers"),
    (MIMO | {"model_type": "llama"}, TypeError, "'swa_rope_theta'"),
    (LLAMA | {"rope_ratio": 8}, TypeError, "'rope_ratio'"),
    (LLAMA | {"rope_freq_constant": 1e4}, TypeError, "'rope_freq_constant'"),
    (LLAMA | {"rotary_emb_fraction": 0.5}, TypeError, "'rotary_emb_fraction'"),
    (LLAMA | {"rotary": {"base": 1e4, "type": "origin"}}, TypeError, "rotary must be a single value"),
    (LLAMA | {"rotary": "yes"}, TypeError, "rotary must be True or False"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "error", "words"), REFUSALS)
def test_what_a_dialect_does_not_say_is_asked_for(config: dict[str, Any], error: type[Exception], words: str):
    with pytest.raises(error) as raised:
        raise AssertionError(read(config))
    assert words in str(raised.value)


def test_the_pairing_that_is_asked_for():
    assert read(TUNE | {"rope_base": 10000}, interleaved=True).interleaved
    assert not read(NEW_GGUF, interleaved=False).interleaved


def test_a_whole_dump_of_gguf_metadata():
    """Names of the model and of its tokenizer are not schemes, and its tokens are not looked into."""
    dump = {
        "general.name": "llama3",
        "general.basename": "yarn",
        "tokenizer.ggml.pre": "llama3",
        "tokenizer.ggml.tokens": ["rope"] * 9,
    }
    assert read(LLAMA_GGUF | dump) == read(LLAMA_GGUF)
