"""M-RoPE in configs: which coordinate each plane reads, as published configs and transformers' code say it."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from rotary import RotaryEmbedding
from rotary.axes import alternating, sections, strided
from rotary.config import read
from rotary.transformers.coordinates import PlaneOrder, plane_order

HEAD = {"hidden_size": 1024, "num_attention_heads": 8, "head_dim": 128}
CASES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "Qwen2.5-VL-7B as published": (
        {"model_type": "qwen2_5_vl", "hidden_size": 3584, "num_attention_heads": 28, "rope_theta": 1e6,
         "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}},
        sections(16, 24, 24),
    ),
    "Qwen3-VL-8B as published": (
        {"model_type": "qwen3_vl_text", **HEAD, "rope_theta": 5e6,
         "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"}},
        strided((24, 20, 20)),
    ),
    "without a section": ({"model_type": "qwen2_vl_text", **HEAD}, sections(16, 24, 24)),
    "GLM-4.1V: half of a head": (
        {"model_type": "glm4v_text", **HEAD, "partial_rotary_factor": 0.5, "rope_theta": 1e4,
         "rope_scaling": {"type": "default", "mrope_section": [8, 12, 12]}},
        sections(8, 12, 12),
    ),
    "Ernie 4.5 VL": ({"model_type": "ernie4_5_vl_moe_text", **HEAD}, (1, 2) * 22 + (0,) * 20),
    "NeoMME": (
        {"model_type": "neomme", "hidden_size": 512, "num_attention_heads": 8, "head_dim": 64,
         "rope_parameters": {
             "full_attention": {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.25},
             "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
         }},
        alternating(2, 8),
    ),
    "Qwen3.5: planes end before the sections": ({"model_type": "qwen3_5_text", **HEAD, "head_dim": 256}, strided((11, 11, 10))),
    "an unknown model": ({"model_type": "unheard_of", **HEAD, "rope_theta": 1e4,
                          "rope_scaling": {"rope_type": "default", "mrope_section": [16, 24, 24]}}, sections(16, 24, 24)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_axes(name: str):
    config, axes = CASES[name]
    layer_type = "full_attention" if config["model_type"] == "neomme" else None
    found = read(config, layer_type=layer_type)
    assert found.axes == axes and any("coordinates" in note for note in found.notes)
    with pytest.warns(UserWarning, match="coordinates"):
        assert RotaryEmbedding.from_config(config, layer_type=layer_type).axes == axes


def test_a_config_of_one_coordinate_has_no_axes():
    assert read({"model_type": "llama", **HEAD}).axes is None


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "ernie4_5_vl_moe", "glm_ocr"])
def test_axes_are_those_of_the_module(family: str):
    """Read off the module that transformers makes of the family's default config."""
    pytest.importorskip("transformers")
    module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    kinds = [
        k
        for n, k in vars(module).items()
        if n.endswith("RotaryEmbedding") and "Vision" not in n and isinstance(k, type)
    ]
    configs = importlib.import_module(f"transformers.models.{family}.configuration_{family}")
    text = next(k for n, k in vars(configs).items() if n.endswith("TextConfig") and isinstance(k, type))
    config = text()
    rotary = kinds[0](config)
    shown = plane_order(rotary, kinds[0].forward, rotary.inv_freq, "first", 3)
    assert isinstance(shown, PlaneOrder)
    arguments = read(config)
    made = RotaryEmbedding(arguments.dim, base=arguments.base, axes=arguments.axes)
    theirs = sorted(zip(shown.axes, rotary.inv_freq[list(shown.index)].tolist(), strict=True))
    for (a, f), (b, g) in zip(
        theirs, sorted(zip(arguments.axes or (), made.inv_freq.tolist(), strict=True)), strict=True
    ):
        assert a == b and abs(f - g) <= 1e-6 * f
    assert shown.repeated == arguments.interleaved and torch.isfinite(rotary.inv_freq).all()
