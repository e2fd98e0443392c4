"""Values of the wrong type or size are refused by name, before anything is computed from them."""

from __future__ import annotations

from typing import Any

import pytest

from rotary.config import overridden, read
from rotary.config.values import block, integer, numbers_of, real, switch

LLAMA: dict[str, Any] = {"model_type": "llama", "head_dim": 64}
LLAMA4: dict[str, Any] = {"model_type": "llama4_text", "head_dim": 64, "num_hidden_layers": 8}
MEGATRON: dict[str, Any] = {"hidden_size": 4096, "num_attention_heads": 32, "num_layers": 8, "rotary_base": 10000}
TUNE: dict[str, Any] = {"num_layers": 16, "num_heads": 32, "embed_dim": 2048}
LLAMA4_TUNE: dict[str, Any] = TUNE | {"_component_": "torchtune.models.llama4.llama4"}
QWEN: dict[str, Any] = {"model_type": "qwen", "head_dim": 64, "rope_theta": 1e4, "seq_length": 2048}
GGUF: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.embedding_length": 4096,
    "llama.attention.head_count": 32,
}
LITGPT_YARN: dict[str, Any] = {"factor": 40, "beta_fast": 32, "beta_slow": 1, "original_max_seq_len": 4096}
LITGPT: dict[str, Any] = {"n_embd": 2048, "n_head": 32, "rope_base": 1e4, "rotary_percentage": 1.0}
LAYERS: dict[str, Any] = {"head_dim": 64, "rope_theta": 1e4, "layer_types": ["a"]}
MPT: dict[str, Any] = {"model_type": "mpt", "d_model": 4096, "n_heads": 32}
HUGE = 10**5000


def test_a_value_of_each_kind():
    config = {"n": 8192.0, "on": True, "list": [0, 2.5], "inside": {"a": 1}, "none": None}
    assert integer(config, "n") == 8192 and isinstance(integer(config, "n"), int)
    assert integer(config, "none", 7) == 7
    assert switch(config, "on") and not switch(config, "none") and switch(config, "none", True)
    assert numbers_of(config, "list", at_least=0) == [0, 2.5] and numbers_of(config, "none") == []
    assert block(config, "inside") == {"a": 1} and block(config, "none") == {}
    assert real({"a": 0}, "a", at_least=0) == 0
    with pytest.raises(ValueError, match=r"list\[0\] must be a finite number > 0"):
        numbers_of(config, "list")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (LLAMA4_TUNE | {"use_scaled_rope": "false"}, "use_scaled_rope must be True or False, got str 'false'"),
        (LLAMA4_TUNE | {"use_scaled_rope": True, "old_context_len": 8192.7}, "old_context_len must be an integer"),
        (TUNE | {"_component_": ["torchtune"]}, "_component_ must be a string"),
        (TUNE | {"_component_": "torchtune.models.x"}, "unknown torchtune builder 'torchtune.models.x';"),
        (MEGATRON | {"multi_latent_attention": "false"}, "multi_latent_attention must be True or False"),
        (MEGATRON | {"use_rotary_position_embeddings": "false"}, "use_rotary_position_embeddings must be True or False"),
        (MEGATRON | {"no_rope_freq": ["0", "0"]}, "no_rope_freq must have 0 or 1 for each layer"),
        (MEGATRON | {"multi_latent_attention": True, "mscale": "x"}, "mscale must be a real number, got str 'x'"),
        (QWEN | {"use_logn_attn": "x"}, "use_logn_attn must be True or False"),
        (QWEN | {"use_dynamic_ntk": "false"}, "use_dynamic_ntk must be True or False"),
        ({"model_type": "roformer", "head_dim": 64, "rotary_value": "x"}, "rotary_value must be True or False"),
        (LLAMA4 | {"attn_temperature_tuning": "x"}, "attn_temperature_tuning must be True or False"),
        (LLAMA4 | {"floor_scale": 8192.9}, "floor_scale must be an integer >= 1, got float 8192.9"),
        ({"model_type": "dbrx", "d_model": 64, "n_heads": 1, "attn_config": {"rope_theta": 5e5}, "rope_parameters": "x"},
         "rope_parameters must be a dict, got str 'x'"),
        (LAYERS | {"per_layer_config": {"a": 1}}, "per_layer_config must have numbers of layers as its keys, got str 'a'"),
        (LAYERS | {"per_layer_config": {"0": 1}}, "per_layer_config.0 must be a dict, got int 1"),
        (LLAMA | {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_scaling_layers": 0}, "rope_scaling_layers must be a list"),
        ({"model_type": "granite_swa", "head_dim": 64, "layer_rope_theta": -1}, "layer_rope_theta must be a list"),
        ({"model_type": "granite_swa", "head_dim": 64, "layer_rope_theta": ["x", 1]}, "layer_rope_theta[0] must be a real number"),
        (GGUF | {"rope_freqs.weight": 0}, "rope_freqs.weight must be a list of numbers, got int 0"),
        (GGUF | {"rope_factors_long.weight": 0, "rope_factors_short.weight": 0}, "rope_factors_long.weight must be a list"),
        (LITGPT | {"rope_adjustments": LITGPT_YARN | {"mscale": "x"}}, "rope_adjustments.mscale must be a real number"),
        ({"text_config": {"model_type": ["llama"]}}, "model_type of text_config must be a string"),
        (LLAMA | {"rope_scaling": {1: 2}}, "the keys of rope_scaling must be strings, got int 1"),
        ({1: 2, "rope_theta": 1e4}, "the keys of config must be strings, got int 1"),
        ({"dim": [4096], "n_layers": 32, "n_heads": 32, "use_scaled_rope": True}, "dim list [4096], n_layers int 32"),
        ({"model_type": "efficientloftr", "hidden_size": 256, "num_attention_heads": 8, "partial_rotary_factor": 1e308},
         "partial_rotary_factor float 1e+308: the code of this family needs 4"),
        (MPT | {"attn_config": {"rope": True, "alibi": HUGE}}, "alibi int of 16610 bits: this MPT does not rotate"),
        ({"model_type": "dinov3_vit", "head_dim": 64, "rotary_dim": 16}, "rotary_dim (int 16) has no effect with the axes of images"),
        ({"model_type": "deepseek_v3", "qk_rope_head_dim": 64, "rope_theta": 1e4, "rotary_dim": 32}, "conflicting rotary_dim int 32"),
        ({"model_type": "pixtral", "head_dim": 64, "rope_theta": 1e-320}, "its frequencies are too large for a float"),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_type_is_refused_by_name(config: dict[str, Any], words: str):
    with pytest.raises((TypeError, ValueError)) as raised:
        raise AssertionError(read(config, layer_type="a" if "layer_types" in config else None))
    assert words in str(raised.value)


def test_keys_of_other_things_may_be_numbers():
    plain = read(LLAMA)
    for name in ("id2label", "pruned_heads", "quantization_config", "per_layer_config"):
        assert read(LLAMA | {name: {0: "a"}}) == plain
    assert read(LAYERS | {"per_layer_config": {0: {"head_dim": 32}}}, layer_type="a").head_dim == 32
    with pytest.raises(TypeError, match="the keys of hf_overrides must be strings"):
        overridden(LLAMA, {1: 2})  # type: ignore[dict-item]


def test_null_counts_as_present_for_sizes_alone():
    assert read(LLAMA | {"rope_theta": None, "rope_scaling": None}) == read(LLAMA)
    assert read({"model_type": "gemma3_text"}, layer_type="full_attention").head_dim == 256
    with pytest.raises(ValueError, match="missing head_dim"):
        read({"model_type": "gemma3_text", "head_dim": None}, layer_type="full_attention")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "smollm3", "head_dim": 64, "num_hidden_layers": 2**17}, "num_hidden_layers must be at most 65,536"),
        ({"model_type": "muse_glimmer_text", "head_dim": 64, "num_hidden_layers": 2**17}, "num_hidden_layers must be at most"),
        (MEGATRON | {"no_rope_freq": 4, "num_layers": 2**17}, "num_layers must be at most 65,536"),
        ({"_class_name": "WanTransformer3DModel", "attention_head_dim": 2**20}, "attention_head_dim must be at most 65,536"),
        ({"_class_name": "LTXVideoTransformer3DModel", "num_attention_heads": 2**12}, "attention_head_dim must be at most 65,536"),
        ({"_class_name": "MiniMaxH3Transformer3DModel", "rope_freq_dim": 2**20}, "rope_freq_dim must be at most 65,536"),
        ({"_class_name": "FluxTransformer2DModel", "axes_dims_rope": [2**20, 2]}, "axes_dims_rope must have at most 65,536 channels"),
        ({"model_type": "pixtral", "head_dim": 2**20}, "head_dim must be at most 65,536 channels"),
        ({"model_type": "efficientloftr", "hidden_size": 2**20, "partial_rotary_factor": 4.0}, "head_dim must be at most 65,536"),
        ({"spatial_rope_base_frequency": 20.0, "head_dim": 2**20}, "head_dim must be at most 65,536 channels"),
        ({"model_type": "deepseek_v3", "qk_rope_head_dim": 2**20, "rope_theta": 1e4}, "head_dim must be at most 65,536 channels"),
    ],
)  # fmt: skip
def test_a_number_in_a_config_does_not_fill_the_memory(config: dict[str, Any], words: str):
    with pytest.raises(ValueError) as raised:
        raise AssertionError(read(config))
    assert words in str(raised.value)


def test_a_long_list_of_layers_is_shortened():
    (note, *_) = read({"model_type": "smollm3", "head_dim": 64, "num_hidden_layers": 2**16}).notes
    assert note.startswith("layers 3, 7, 11, ") and "..., 65535 do not rotate" in note and len(note) < 400


@pytest.mark.parametrize("key", ["head_dim", "rotary_dim", "max_position_embeddings", "rope_theta", "hidden_size"])
@pytest.mark.parametrize("sign", [1, -1])
def test_an_integer_that_python_does_not_print_is_refused_by_name(key: str, sign: int):
    config = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 3} | (
        {} if key == "hidden_size" else LLAMA
    )
    with pytest.raises(ValueError, match=key):
        raise AssertionError(read(config | {key: sign * HUGE}))
