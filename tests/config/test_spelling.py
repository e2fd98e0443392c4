"""spelled(): one reader for every config; overridden(): vLLM's hf_overrides."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest

from rotary import RotaryEmbedding
from rotary.checkpoints.layout import Layout
from rotary.config import overridden, path, read
from rotary.config.spelling import spelled
from rotary.scaling import Linear, YaRN
from rotary.scaling.temperature import MScale

LLAMA = {"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "max_position_embeddings": 32768}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
PARAMS = {"dim": 4096, "n_layers": 2, "n_heads": 32, "n_kv_heads": 8, "head_dim": 128, "rope_theta": 1e6}


def test_a_config_of_transformers_stays_as_it_is():
    config = LLAMA | {"rope_theta": 1e4}
    assert spelled(config).config == config and spelled(config).dialect == "transformers"
    composite = {"model_type": "x", "text_config": config, "vision_config": {"model_type": "siglip"}}
    assert spelled(composite).config == config


@pytest.mark.parametrize(
    "changes",
    [{}, {"use_scaled_rope": True, "n_layers": 32}, {"yarn": {"factor": 4, "original_max_position_embeddings": 8192}}],
)
def test_conversion_reads_params_json_as_from_config_does(changes: dict[str, Any]):
    config = PARAMS | changes
    layout, arguments = Layout(config), read(config)
    assert layout.interleaved is arguments.interleaved is True
    assert layout.arguments(0) == arguments
    assert layout.rotated("layers.0.attention.wq.weight", (4096, 4096)) is not None


def test_conversion_knows_the_pairing_that_a_dialect_fixes():
    chatglm = {"model_type": "chatglm", "kv_channels": 128, "num_attention_heads": 32, "hidden_size": 4096}
    assert Layout(chatglm, like="glm").interleaved
    kimi = Layout({"model_type": "kimi_k2", "qk_rope_head_dim": 64, "rope_theta": 5e4})
    assert kimi.family == "deepseek_v3" and kimi.interleaved


BASES = [LLAMA | {"rope_theta": 1e6}, LLAMA | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}]


@pytest.mark.parametrize("config", BASES)
@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_overrides_as_vllm_has_them(config: dict[str, Any], key: str):
    """The base of the config stays, in either spelling of transformers, and the block is replaced as a whole."""
    found = read(overridden(config, {key: YARN, "max_position_embeddings": 131072}))
    assert (found.base, found.scaling, found.target) == (1e6, (YaRN(4.0, 32768),), 131072)
    again = overridden(overridden(config, {key: YARN}), {key: {"rope_type": "linear", "factor": 2.0}})
    assert (read(again).base, read(again).scaling) == (1e6, (Linear(2.0),))
    assert read(overridden(config, {"rope_theta": 2e6})).base == 2e6
    assert (
        read(
            overridden(
                config, {key: YARN | {"rope_theta": 3e6}} | ({"rope_theta": 3e6} if "rope_theta" in config else {})
            )
        ).base
        == 3e6
    )


def test_overrides_of_a_part_and_wrong_ones():
    composite = {"model_type": "x", "text_config": LLAMA | {"rope_theta": 1e6}}
    changed = overridden(composite, {"text_config": {"rope_scaling": YARN}})
    assert read(changed).scaling == (YaRN(4.0, 32768),) and composite["text_config"] == LLAMA | {"rope_theta": 1e6}
    assert RotaryEmbedding.from_config(overridden(path("plain"), {"head_dim": 64})).dim == 64
    with pytest.raises(TypeError, match="hf_overrides must be a dict"):
        overridden(LLAMA, [])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="'rope_scalng'"):
        read(overridden(LLAMA, {"rope_scalng": YARN}))


def test_a_module_keeps_what_its_config_asks_for_besides():
    """DeepSeek-V3: logits are multiplied by a temperature, and 64 of 192 channels turn."""
    with pytest.warns(UserWarning, match="only the slice of qk_rope_head_dim = 64 channels rotates") as raised:
        rope = RotaryEmbedding.from_config(path("deepseek-v3"))
    assert len(raised) == 1 and raised[0].filename == __file__
    assert rope.temperatures == (MScale(40, 1.0),) and len(rope.notes) == 2
    assert "temperatures=(MScale(factor=40, mscale_all_dim=1.0),)" in repr(rope) and "qk_rope_head_dim" in repr(rope)
    for copied in (
        copy.deepcopy(rope),
        pickle.loads(pickle.dumps(rope)),
        rope.replace(interleaved=True),
        rope.double(),
    ):
        assert (copied.temperatures, copied.notes) == (rope.temperatures, rope.notes)
    assert rope.replace(scaling=None).temperatures == ()  # the temperature was the scheme's
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = RotaryEmbedding.from_config("llama-3.1-8b")
    assert plain.notes == plain.temperatures == RotaryEmbedding(8).notes == () and "notes" not in repr(plain)
