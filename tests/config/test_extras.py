"""What a config requires besides the rotation is reported: temperatures and notes."""

from __future__ import annotations

from typing import Any

import pytest

from rotary.config import read
from rotary.scaling.temperature import Llama4, MScale

YARN = {"type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096, "mscale": 1.0, "mscale_all_dim": 1.0}
DEEPSEEK = {
    "model_type": "deepseek_v3",
    "qk_rope_head_dim": 64,
    "max_position_embeddings": 163840,
    "rope_theta": 1e4,
    "rope_scaling": YARN,
}
LLAMA4 = {"model_type": "llama4_text", "head_dim": 128, "rope_theta": 5e5, "max_position_embeddings": 8192}


def test_mscale_all_dim_is_a_temperature_in_deepseek_and_not_in_llama():
    arguments = read(DEEPSEEK)
    assert arguments.temperatures == (MScale(40.0, 1.0),)
    assert any("qk_rope_head_dim = 64" in note for note in arguments.notes)
    assert any("MScale(factor=40.0, mscale_all_dim=1.0)" in note for note in arguments.notes)
    assert read(DEEPSEEK | {"model_type": "llama", "qk_rope_head_dim": None, "head_dim": 64}).temperatures == ()


def test_ministral_has_llama4s_temperature():
    parameters = YARN | {"rope_type": "yarn", "rope_theta": 1e6, "llama_4_scaling_beta": 0.1}
    parameters.pop("type")
    config = {"model_type": "ministral3", "head_dim": 128, "rope_parameters": parameters}
    assert read(config | {"max_position_embeddings": 163840}).temperatures == (Llama4(0.1, 4096),)


def test_layers_that_do_not_rotate():
    arguments = read(LLAMA4 | {"no_rope_layers": [1, 1, 1, 0], "attn_temperature_tuning": True})
    assert arguments.notes[0] == "layers 3 do not rotate (no_rope_layers)"
    assert "Llama4(beta=0.1, original_max_position_embeddings=8192, first=1)" in arguments.notes[1]
    assert arguments.temperatures == ()  # these multiply queries of layers that rotate
    assert read(LLAMA4 | {"no_rope_layers": [1, 1]}).notes == ()


def test_different_bases_need_separate_modules():
    granite = LLAMA4 | {"model_type": "granite_swa"}
    assert read(granite | {"layer_rope_theta": [5e5, 0]}).notes == ("layers 1 do not rotate (layer_rope_theta is 0)",)
    with pytest.raises(ValueError, match=r"layer_rope_theta gives layers different bases, \[10000\.0, 500000\.0\]"):
        read(granite | {"layer_rope_theta": [5e5, 1e4]})
    scaled = granite | {"rope_scaling": {"type": "linear", "factor": 2.0}, "num_hidden_layers": 4}
    with pytest.raises(ValueError, match=r"rope_scaling_layers \[0, 1\]: only these layers use the scaling"):
        read(scaled | {"rope_scaling_layers": [0, 1]})
    assert read(scaled | {"rope_scaling_layers": [0, 1, 2, 3]}).notes == ()


@pytest.mark.parametrize("window", [None, 8])
def test_layer_types_that_do_not_rotate_if_there_is_a_sliding_window(window: int | None):
    config: dict[str, Any] = {
        "model_type": "cohere2",
        "hidden_size": 64,
        "num_attention_heads": 4,
        "rope_theta": 1e4,
        "sliding_window": window,
    }
    config["layer_types"] = ["sliding_attention", "full_attention"]
    if window is None:
        assert read(config).notes == read(config, layer_type="full_attention").notes == ()
    else:
        assert "layers of type 'full_attention' do not rotate" in read(config, layer_type="sliding_attention").notes
        with pytest.raises(ValueError, match="layers of type 'full_attention' do not rotate"):
            read(config, layer_type="full_attention")


def test_a_plain_rotation_of_some_layers_needs_no_scaling_everywhere():
    config = {
        "model_type": "llama",
        "hidden_size": 64,
        "num_attention_heads": 4,
        "rope_theta": 1e4,
        "num_hidden_layers": 3,
    }
    assert read(config | {"rope_scaling": {"rope_type": "default"}, "rope_scaling_layers": [0, 1]}).notes == ()


def test_a_norm_after_the_rotation_cancels_the_attention_factor():
    yarn = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 2048}
    after = {"model_type": "hunyuan_v1_dense", "head_dim": 64, "max_position_embeddings": 8192, "rope_parameters": yarn}
    (only,) = (note for note in read(after).notes if "norm after" in note)
    assert "cancels the attention factor 1.139 of YaRN" in only
    for other in (
        {**after, "model_type": "qwen3"},
        {**after, "rope_parameters": {**yarn, "attention_factor": 1.0}},
        {**after, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        {**after, "model_type": "llama4_text", "use_qk_norm": False},
    ):
        assert not [note for note in read(other).notes if "norm after" in note]


def test_a_stated_factor_needs_no_longest_context():
    for longest in (None, 4096):
        assert read(DEEPSEEK | {"max_position_embeddings": longest}).temperatures == (MScale(40.0, 1.0),)
    without_factor = {key: value for key, value in YARN.items() if key != "factor"}
    derived = read(DEEPSEEK | {"rope_scaling": without_factor})
    assert derived.temperatures == (MScale(40.0, 1.0),)
    with pytest.raises(ValueError, match="missing key 'factor'"):
        read(DEEPSEEK | {"rope_scaling": without_factor, "max_position_embeddings": None})
    with pytest.raises(ValueError, match="max_position_embeddings must be at most"):
        read(DEEPSEEK | {"rope_scaling": without_factor, "max_position_embeddings": 10**400})


@pytest.mark.parametrize("tuning", [True, 4, None])  # transformers 4.51 wrote 4
def test_the_temperature_of_llama4s_layers_without_rotation(tuning: bool | int | None):
    config = LLAMA4 | {"no_rope_layers": [1, 0], "attn_temperature_tuning": tuning, "floor_scale": 4096.0}
    assert any(
        "Llama4(beta=0.1, original_max_position_embeddings=4096, first=1)" in note for note in read(config).notes
    )
    assert not any("temperature" in note for note in read(config | {"attn_temperature_tuning": False}).notes)
