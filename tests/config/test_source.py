"""Where a config comes from, and which part of it turns text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rotary.config.source import load, rotary_keys, text_part

PLAIN = {"model_type": "llama", "rope_theta": 1e4}


def test_load_from_each_kind_of_source(tmp_path: Path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(PLAIN))
    assert load(PLAIN) == load(file) == load(str(file)) == load(tmp_path) == PLAIN
    assert load(PLAIN) is not PLAIN


def test_a_config_object_gives_the_names_it_maps():
    transformers = pytest.importorskip("transformers")
    found = load(transformers.GPTJConfig(n_embd=64, n_head=4))
    assert (found["hidden_size"], found["num_attention_heads"]) == (64, 4)


def test_what_is_no_config(tmp_path: Path):
    with pytest.raises(TypeError, match="got int"):
        load(3)
    with pytest.raises(ValueError, match="no config at .*nowhere"):
        load("nowhere")
    (tmp_path / "config.json").write_text("[1, 2]")
    with pytest.raises(TypeError, match="holds list, not a JSON object"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="Expecting property name"):
        load(tmp_path)


def test_rotary_keys_are_words_not_syllables():
    config = {"rope_theta": 1.0, "rotary_dim": None, "mrope_section": [], "europe": 1, "qk_rope_head_dim": 64}
    assert rotary_keys(config) == ["rope_theta", "mrope_section", "qk_rope_head_dim"]


def test_the_text_part_of_a_frame():
    assert text_part({"model_type": "frame", "text_config": PLAIN, "vision_config": {"model_type": "vit"}}) == PLAIN
    assert text_part({"thinker_config": {"text_config": PLAIN}}) == PLAIN
    assert text_part(PLAIN | {"text_config": {"model_type": "x"}})["rope_theta"] == 1e4
    with pytest.raises(ValueError, match="rope_theta stand beside text_config"):
        text_part({"model_type": "frame", "rope_theta": 1.0, "text_config": PLAIN})
    with pytest.raises(ValueError, match=r"a frame around encoder_config, decoder_config\.inner_config; pass the part"):
        text_part({"encoder_config": PLAIN, "decoder_config": {"inner_config": PLAIN}})
