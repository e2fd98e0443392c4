"""A key about rotation is known or refused, wherever it lies and however it is spelled."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from rotary.config import Arguments, path, read, shipped
from rotary.config.names import about_rotation, nearest, snake
from rotary.config.silence import is_another_model

LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "max_position_embeddings": 8192,
    "rope_theta": 5e5,
}
LINEAR = {"rope_type": "linear", "factor": 4.0}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("compress_pos_emb", 4.0),
        ("freq_scale", 0.25),
        ("freq_base", 1e6),
        ("seq_len_interpolation_factor", 4.0),
        ("xpos_rel_pos", True),
        ("nope_layer_interval", 4),
        ("ropeScaling", LINEAR),
        ("ROPE_SCALING", LINEAR),
        ("rope-theta", 1e4),
        ("RopeTheta", 1e4),
        ("ropetheta", 1e4),
        ("my_rope_theta", 1e4),
        ("theta", 1e4),
        ("yarn", {}),
        ("yarn", {"factor": 4.0}),
        ("longrope", True),
        ("factor", 4.0),
        ("long_factor", [1.0]),
        ("alpha", 1000),
        ("scaling", {"type": "yarn", "factor": 4.0}),
        ("position", {"kind": "longrope"}),
        ("extension", "dynamic-ntk"),
        ("context", {"rope_scaling": LINEAR}),
        ("attn_config", {"rope_theta": 1e4}),
        ("layers", [{"rope_theta": 1e4}]),
        ("text_config", {"model_type": "llama", "rope_scaling": LINEAR}),
        ("rope_scaling", {"yarn": {"factor": 4.0}}),
        ("rope_scaling", {"yarn": {}}),
        ("rope_scaling", {"rope_type": "YaRN", "factor": 4.0}),
        ("rope_scaling", [LINEAR]),
        ("rope_parameters", LINEAR | {"ropeTheta": 1e4}),
    ],
)
def test_a_key_about_rotation_is_never_passed_over(key: str, value: Any):
    with pytest.raises((TypeError, ValueError)):
        raise AssertionError(read(LLAMA | {key: value}))


@pytest.mark.parametrize(
    "harmless",
    [
        {"vision_config": {"model_type": "siglip", "rope_theta": 1e4}},
        {"vision_encoder": {"hidden_size": 64, "num_attention_heads": 2, "rope_theta": 1e4}},
        {"quantization_config": {"quant_method": "awq", "rotate": True}},
        {"rope_interleaved_key": None, "europe": 1, "properties": {"factored": 2}, "chat_template": "llama3"},
        {"lora": {"rank": 8, "alpha": 16}, "alibi": False},
        {"_name_or_path": "yarn", "nope_head_dim": 128},
    ],
)
def test_what_is_not_about_the_rotation_of_this_model_is_not_looked_at(harmless: dict[str, Any]):
    assert read(LLAMA | harmless) == read(LLAMA)


def test_names():
    assert [snake(key) for key in ("ropeScaling", "ROPE-Theta", "rope.freq base")] == [
        "rope_scaling",
        "rope_theta",
        "rope_freq_base",
    ]
    assert about_rotation("useYarn") and about_rotation("rotary") and not about_rotation("europe")
    assert is_another_model("vision_config", {"model_type": "x"}) and not is_another_model(
        "text_config", {"model_type": "x"}
    )


def test_a_hint_names_a_key_that_could_have_the_value():
    known = {"use_mem_rope", "rope_theta", "rope_scaling"}
    assert nearest("mem_rope", known, 4.0) == "; known: rope_scaling, rope_theta, use_mem_rope"
    assert nearest("mem_rope", known, True) == "; did you mean 'use_mem_rope'?"
    assert nearest("ropeScaling", known, {}) == "; did you mean 'rope_scaling'?"
    with pytest.raises(TypeError) as raised:
        read(LLAMA | {"rope_ratio_x": 8})
    assert "use_mem_rope'?" not in str(raised.value)


# --- fuzz: one rotation key of a known config is renamed, nested, moved or given twice --------------------------------------------

YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 2048,
    "beta_fast": 16.0,
    "attention_factor": 1.5,
}
KNOWN: list[dict[str, Any]] = [
    *(json.loads(path(name).read_text()) for name in shipped() if name not in ("gemma-3-4b", "qwen3-vl-8b")),
    json.loads(path("qwen3-vl-8b").read_text())["text_config"],
    LLAMA | {"rope_scaling": YARN, "partial_rotary_factor": 0.5},
    {"model_type": "qwen3", "head_dim": 128, "rope_parameters": YARN | {"rope_theta": 1e6}},
    {"dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "rope_theta": 5e5, "use_scaled_rope": True, "multiple_of": 256},
    {"dim": 4096, "n_layers": 32, "n_heads": 32, "head_dim": 128, "rope_theta": 1e6,
     "yarn": {"factor": 4, "original_max_position_embeddings": 8192, "beta": 16, "alpha": 2, "apply_scale": False}},
    {"n_embd": 2048, "n_head": 32, "block_size": 8192, "norm_class_name": "RMSNorm", "rope_base": 5e5, "rotary_percentage": 1.0,
     "rope_condense_ratio": 2, "rope_adjustments": {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_seq_len": 8192}},
    {"num_heads": 32, "embed_dim": 2048, "rope_base": 2e5, "scale_factor": 32, "_component_": "torchtune.models.llama3_1.llama3_1"},
    {"hidden_size": 4096, "num_attention_heads": 32, "rotary_base": 5e5, "rotary_percent": 0.5, "rotary_interleaved": True,
     "use_rope_scaling": True, "rope_scaling_factor": 4.0, "seq_len_interpolation_factor": 2.0},
    {"general.architecture": "qwen2", "qwen2.embedding_length": 3584, "qwen2.attention.head_count": 28, "qwen2.rope.freq_base": 1e6,
     "qwen2.rope.scaling.type": "yarn", "qwen2.rope.scaling.factor": 4.0, "qwen2.rope.scaling.original_context_length": 32768},
    {"model_type": "chatglm", "kv_channels": 128, "num_attention_heads": 32, "hidden_size": 4096, "rope_ratio": 500},
    {"model_type": "openelm", "head_dim": 64, "rope_freq_constant": 20000, "rope_max_length": 4096},
    {"model_type": "stablelm", "hidden_size": 2560, "num_attention_heads": 32, "rope_pct": 0.5, "rope_theta": 2e4},
    {"model_type": "nomic_bert", "n_embd": 768, "n_head": 12, "rotary_emb_base": 2000, "rotary_emb_fraction": 0.5,
     "rotary_emb_interleaved": True},
    {"model_type": "mpt", "d_model": 4096, "n_heads": 32, "attn_config": {"rope": True, "rope_theta": 2e4, "rope_impl": "hf",
     "rope_hf_config": {"type": "linear", "factor": 2.0}}},
    {"model_type": "dbrx", "d_model": 6144, "n_heads": 48, "attn_config": {"rope_theta": 5e5}},
    {"model_type": "internlm", "hidden_size": 4096, "num_attention_heads": 32, "rotary": {"base": 20000, "type": "origin"}},
]  # fmt: skip


def about(config: dict[str, Any], inside: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of the keys about rotation: names that say so, and every key of a block whose name says so."""
    for key, value in config.items():
        if about_rotation(key) or key in ("scale_factor", "rotary") or inside:
            yield (*inside, key)
        if isinstance(value, dict) and (about_rotation(key) or key == "attn_config"):
            yield from about(value, (*inside, key))


def camel(key: str) -> str:
    first, *rest = key.split("_")
    return first + "".join(word.capitalize() for word in rest)


SPELLINGS = [
    camel,
    str.upper,
    lambda key: key.replace("_", "-"),
    lambda key: key.replace("_", ""),
    lambda key: f"{key}_x",
    lambda key: f"my_{key}",
    lambda key: f"{key}s",
]
BLOCKS = ["attention", "attn", "model", "extra", "text_config", "rope", "yarn", "params"]


def changed(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value * 2
    return (
        {"rope_type": "linear", "factor": 3.0}
        if isinstance(value, dict)
        else "linear"
        if value != "linear"
        else "dynamic"
    )


def answer(config: dict[str, Any]) -> Arguments | None:
    try:
        return read(config)
    except (TypeError, ValueError):
        return None


@settings(
    max_examples=1500,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    derandomize=True,
)
@given(data=st.data())
def test_a_changed_config_is_never_read_as_less(data: st.DataObject):
    """Either it is refused, or it means what it meant: no key loses its effect in silence."""
    config = copy.deepcopy(data.draw(st.sampled_from(KNOWN)))
    original = answer(copy.deepcopy(config))
    assert original is not None
    where = data.draw(st.sampled_from(list(about(config))))
    part = config
    for key in where[:-1]:
        part = part[key]
    key = where[-1]
    how = data.draw(st.sampled_from(["renamed", "nested", "moved", "twice"]))
    if how == "renamed":
        name = data.draw(st.sampled_from(SPELLINGS))(key)
        assume(name != key and name not in part)
        part[name] = part.pop(key)
    elif how == "nested":
        block = data.draw(st.sampled_from(BLOCKS))
        assume(block not in part)
        part[block] = {key: part.pop(key)}
    elif how == "moved":
        assume(len(where) > 1 and key not in config)
        config[key] = part.pop(key)
    else:
        name = data.draw(st.sampled_from(SPELLINGS))(key)
        assume(name != key and name not in part)
        target = data.draw(st.sampled_from([part, config]))
        target[name] = changed(part[key])
    found = answer(copy.deepcopy(config))
    assert found is None or (
        found.dim, found.base, found.scaling, found.interleaved, found.temperatures, found.axes, found.inv_freq
    ) == (
        original.dim, original.base, original.scaling, original.interleaved, original.temperatures, original.axes, original.inv_freq
    ), (how, where, config)  # fmt: skip
