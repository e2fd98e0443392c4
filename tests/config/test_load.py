"""Loading a config from each kind of source, and finding the sub-config of the text model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rotary.config.load import load, rotary_keys
from rotary.config.parts import key_of_text_part, text_part

PLAIN = {"model_type": "llama", "rope_theta": 1e4}


def test_load_from_each_kind_of_source(tmp_path: Path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(PLAIN))
    assert load(PLAIN) == load(file) == load(str(file)) == load(tmp_path) == PLAIN
    assert load(PLAIN) is not PLAIN


def test_a_transformers_config_has_its_mapped_names_too():
    transformers = pytest.importorskip("transformers")
    config = load(transformers.GPTJConfig(n_embd=64, n_head=4))
    assert (config["hidden_size"], config["num_attention_heads"]) == (64, 4)


def test_sources_that_are_not_a_config(tmp_path: Path):
    with pytest.raises(TypeError, match="got int 3"):
        load(3)
    with pytest.raises(ValueError, match="no config at .*nowhere"):
        load("nowhere")
    (tmp_path / "config.json").write_text("[1, 2]")
    with pytest.raises(TypeError, match=r"contains list \[1, 2\], not a JSON object"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="Expecting property name"):
        load(tmp_path)


def test_rotary_keys_are_words_not_syllables():
    config = {"rope_theta": 1.0, "rotary_dim": None, "mrope_section": [], "europe": 1, "qk_rope_head_dim": 64}
    assert rotary_keys(config) == ["rope_theta", "mrope_section", "qk_rope_head_dim"]


def test_the_text_model_of_a_composite_config():
    assert text_part({"model_type": "composite", "text_config": PLAIN, "vision_config": {"model_type": "vit"}}) == PLAIN
    assert text_part({"thinker_config": {"text_config": PLAIN}}) == PLAIN
    assert text_part(PLAIN | {"text_config": {"model_type": "x"}})["rope_theta"] == 1e4
    with pytest.raises(ValueError, match="composite config with rope_theta outside its text_config"):
        text_part({"model_type": "composite", "rope_theta": 1.0, "text_config": PLAIN})
    with pytest.raises(
        ValueError, match=r"composite config; pass part= one of .* rotate: encoder_config, decoder_config\.inner_config"
    ):
        text_part({"encoder_config": PLAIN, "decoder_config": {"inner_config": PLAIN}})


def test_the_key_of_the_text_model():
    inner = {"model_type": "composite", "text_config": PLAIN}
    assert key_of_text_part(inner) == "text_config"
    assert key_of_text_part({"thinker_config": inner}) == "thinker_config.text_config"
    assert key_of_text_part({"llm_config": PLAIN}) == "llm_config"
    assert key_of_text_part(PLAIN) == key_of_text_part({"vision_config": PLAIN}) == ""
