"""Every spelling of the rope parameters becomes the same flat dict, or raises an error that names the conflict."""

from __future__ import annotations

from typing import Any

import pytest

from rotary.config.normalize import layer_types, nearest, parameters

BASE = {"model_type": "llama", "rope_theta": 5e5}
GEMMA = {"model_type": "gemma3_text", "rope_theta": 1e6, "rope_local_base_freq": 1e4}
NESTED = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}


@pytest.mark.parametrize(
    "config",
    [
        BASE | {"rope_scaling": {"type": "linear", "factor": 8.0}},
        BASE | {"rope_scaling": {"rope_type": "linear", "factor": 8.0, "attention_factor": None}},
        {"rope_parameters": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5}},
        BASE | {"rope_parameters": {"rope_type": "linear", "factor": 8.0}},
        {"rotary_emb_base": 5e5, "rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 8.0}},
    ],
)
def test_spellings_of_one_thing(config: dict[str, Any]):
    assert parameters(config, None) == {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5}


def test_defaults_of_the_family():
    assert parameters({"model_type": "llama"}, None) == {"rope_type": "default", "rope_theta": 10000.0}
    assert parameters({"model_type": "qwen3"}, None)["rope_theta"] == 10000.0
    with pytest.raises(ValueError, match="missing rope_theta: model_type None does not determine a base"):
        parameters({"rope_scaling": {"type": "linear", "factor": 2.0}}, None)


def test_per_layer_type_in_both_spellings():
    for kind, base in (("full_attention", 1e6), ("sliding_attention", 1e4)):
        assert parameters(GEMMA, kind)["rope_theta"] == base
        assert parameters({"rope_parameters": NESTED}, kind) == NESTED[kind]
    assert layer_types({"rope_parameters": NESTED}) == layer_types(GEMMA) == ("full_attention", "sliding_attention")
    assert layer_types(BASE) == ()
    same = dict.fromkeys(NESTED, NESTED["full_attention"])
    assert layer_types({"rope_parameters": same}) == ()
    assert parameters({"rope_parameters": same}, None) == NESTED["full_attention"]
    with pytest.raises(ValueError, match="layers of type 'sliding_attention' do not rotate"):
        parameters({"rope_parameters": NESTED | {"sliding_attention": None}}, "sliding_attention")


def test_modernberts_scaling_belongs_to_both_layer_types():
    config = {
        "model_type": "modernbert",
        "rope_scaling": {"rope_type": "linear", "factor": 4.0},
        "local_rope_theta": 2e4,
    }
    full, sliding = (parameters(config, kind) for kind in NESTED)
    assert full == {"rope_type": "linear", "factor": 4.0, "rope_theta": 160000.0}
    assert sliding == {"rope_type": "linear", "factor": 4.0, "rope_theta": 2e4}
    gemma = GEMMA | {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}
    assert parameters(gemma, "sliding_attention")["rope_type"] == "default"


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "modernbert", "rope_local_base_freq": 1e4}, "its key is local_rope_theta"),
    ({"model_type": "olmo3", "rope_theta": 1e6}, "transformers 4 gives it to both layer types"),
    (
        {"model_type": "ministral3", "rope_scaling": {"type": "linear", "factor": 2.0}},
        "missing rope_theta: transformers takes",
    ),
    ({"model_type": "moonshine_streaming", "rope_theta": 5e5}, "has no effect at the top level"),
    ({"model_type": "voxtral_realtime_text"}, "does not determine a base"),
    (
        {"model_type": "llama", "rope_parameters": {"yarn": {"rope_theta": 1e4}}},
        "is the name of a scheme and no layer type",
    ),
]


@pytest.mark.parametrize(("config", "words"), REFUSED)
def test_what_transformers_reads_otherwise_is_refused(config: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        parameters(config, "full_attention" if config["model_type"] == "modernbert" else None)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (BASE | {"rotary_emb_base": 1e4}, "conflicting rope_theta"),
        (BASE | {"rope_parameters": {"rope_theta": 1e4}}, "conflicting rope_theta"),
        (BASE | {"rope_scaling": {"factor": 2.0}, "rope_parameters": {"factor": 4.0}}, "conflicting factor"),
        (
            BASE | {"rope_local_base_freq": 1e4},
            r"rope_local_base_freq float 10000\.0 needs a model_type with two layer types",
        ),
    ],
)
def test_conflicts(config: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        parameters(config, None)


def test_a_layer_type_of_a_config_with_one_set_of_parameters():
    with pytest.raises(
        ValueError,
        match="unknown layer_type 'sliding_attention': the config has one set of rope parameters for all layers",
    ):
        parameters(BASE, "sliding_attention")
    with_layer_types = BASE | {"layer_types": ["full_attention", "sliding_attention"]}
    assert parameters(with_layer_types, "sliding_attention") == parameters(BASE, None)


def test_nearest():
    assert nearest("facter", {"factor", "base"}) == "; did you mean 'factor'?"
    assert nearest("x", {"factor", "base"}) == "; known: base, factor"


def test_rope_parameters_that_are_none_are_no_layer_types():
    nothing = {"rope_type": None, "type": None, "factor": None, "rope_theta": None}
    assert parameters(BASE | {"rope_scaling": nothing}, None) == parameters(BASE, None)
    assert parameters({"rope_parameters": NESTED | nothing}, "full_attention") == NESTED["full_attention"]
    with pytest.raises(ValueError, match="layers of type 'sliding_attention' do not rotate"):
        parameters({"rope_parameters": {"sliding_attention": None, "rope_type": None}}, "sliding_attention")
