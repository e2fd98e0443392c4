"""Modules are built from configs and parts where models are: on the meta device, with fake tensors, in inference mode, under autocast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from rotary import RotaryEmbedding, config
from rotary.scaling import DynamicNTK

CONTEXTS: dict[str, Callable[[], Any]] = {
    "meta": lambda: torch.device("meta"),
    "fake": FakeTensorMode,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}
LTX = {
    "_class_name": "LTXVideoTransformer3DModel",
    "num_attention_heads": 4,
    "attention_head_dim": 64,
    "cross_attention_dim": 256,
}
CONFIGS: dict[str, Any] = {
    **{name: name for name in config.shipped()},
    "frequencies in float64": LTX,
    "pixtral": {
        "model_type": "pixtral",
        "hidden_size": 64,
        "num_attention_heads": 2,
        "head_dim": 32,
        "rope_theta": 1e4,
    },
    "a norm that cancels": {
        "model_type": "hunyuan_v1_dense",
        "hidden_size": 128,
        "num_attention_heads": 2,
        "max_position_embeddings": 4096,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 2.0,
            "original_max_position_embeddings": 2048,
        },
    },
}


@pytest.mark.filterwarnings("ignore:the config asks for more than a rotation")
@pytest.mark.parametrize("context", CONTEXTS)
def test_a_config_gives_the_same_module_wherever_it_is_built(context: str):
    for name, source in CONFIGS.items():
        layers = "full_attention" if str(name).startswith("gemma-3") else None
        expected = RotaryEmbedding.from_config(source, layer_type=layers)
        with CONTEXTS[context]():
            module = RotaryEmbedding.from_config(source, layer_type=layers)
        assert repr(module) == repr(expected) and module._tables == expected._tables, name
        assert module.notes == expected.notes and module.temperatures == expected.temperatures, name
        for a, b in zip(module.to_empty(device="cpu").cos_sin(7), expected.cos_sin(7), strict=True):
            assert torch.equal(a, b), name


@pytest.mark.parametrize("context", CONTEXTS)
def test_parts_whose_frequencies_depend_on_the_length_are_compared(context: str):
    with CONTEXTS[context]():
        part = RotaryEmbedding(8, scaling=DynamicNTK(2.0, original_max_position_embeddings=16))
        module = RotaryEmbedding.axial(part, part)
    assert module.coordinates == 2 and module._tables.spectrum.parts == (part._tables.spectrum,) * 2
