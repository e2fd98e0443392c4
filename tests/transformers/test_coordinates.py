"""Exact tables of models of several coordinates: Qwen2-VL, Qwen2.5-VL and Qwen3-VL with images, against float64."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rotary.transformers import patch, rerotate
from rotary.transformers.coordinates import PlaneOrder, plane_order, position_layouts

transformers = pytest.importorskip("transformers")

SECTIONS = {"mrope_section": [2, 3, 3], "rope_type": "default", "rope_theta": 1e6}
TEXT = {
    "vocab_size": 160, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "rope_parameters": SECTIONS, "max_position_embeddings": 4_000_000,
}  # fmt: skip
IDS = {"image_token_id": 151, "video_token_id": 152, "vision_start_token_id": 150, "vision_end_token_id": 153}
VISION = {
    "depth": 2,
    "num_heads": 4,
    "patch_size": 2,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "in_channels": 3,
}
VISIONS = {
    "Qwen2VL": {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2},
    "Qwen2_5_VL": {"hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 32, "window_size": 8, "fullatt_block_indexes": [1]},
    "Qwen3VL": {"hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 32, "deepstack_visual_indexes": [0],
                "num_position_embeddings": 64},
}  # fmt: skip
STRIDED = [j % 3 if j < 3 * [2, 3, 3][j % 3] else 0 for j in range(8)]
AXES = {"Qwen2VL": [0, 0, 1, 1, 1, 2, 2, 2], "Qwen2_5_VL": [0, 0, 1, 1, 1, 2, 2, 2], "Qwen3VL": STRIDED}


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(text_config=TEXT, vision_config={**VISION, **VISIONS[name]}, **IDS)
    return getattr(transformers, f"{name}ForConditionalGeneration")(config).eval()


def with_image() -> dict[str, Tensor]:
    """Text, an image of 4 x 6 patches, which are 2 x 3 tokens, and text."""
    torch.manual_seed(1)
    ids = [5, 6, 150, *[151] * 6, 153, 7, 8]
    tokens = torch.tensor([ids])
    patches = torch.randn(24, 3 * 2 * 2 * 2)
    kinds = torch.tensor([[int(i == 151) for i in ids]])
    return {
        "input_ids": tokens, "pixel_values": patches, "image_grid_thw": torch.tensor([[1, 4, 6]]), "mm_token_type_ids": kinds,
    }  # fmt: skip


@pytest.mark.parametrize("name", VISIONS)
def test_with_an_image_and_far_out(name: str):
    model, inputs = made(name), with_image()
    with torch.no_grad():
        expected = model(**inputs).logits
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        handle = patch(model, tables="exact")
    report = str(handle.report())
    assert report.count("exact angles of coordinates") == 2 and not any(
        "otary" in owner for owner, _ in handle.report().left
    )
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))
        rotary = next(m for n, m in model.named_modules() if n.endswith("language_model.rotary_emb"))
        at = 1_000_000 + torch.randint(0, 5000, (3, 2, 40))
        x = torch.zeros(2, 40, 64)
        tables = rotary(x, at)
    per_plane = at[AXES[name]].movedim(0, -1).double()  # (2, 40, planes)
    exact = per_plane * rotary.inv_freq.double()
    theirs = type(rotary).__mro__[1].forward(rotary, x, at)
    for found, wanted, original in zip(tables, (exact.cos(), exact.sin()), theirs, strict=True):
        wanted = torch.cat((wanted, wanted), -1)
        assert float((found.double() - wanted).abs().max()) <= 3.1e-8
        assert float((original.double() - wanted).abs().max()) > 1e-3
    handle.remove()
    assert "forward" not in vars(rotary)


def test_a_cache_of_several_coordinates_is_refused_whatever_the_config_says():
    """By what the module does: configs of Qwen2-VL may leave mrope_section out, and keys of images would move wrongly."""
    model = made("Qwen2_5_VL")
    inputs = with_image()
    cache = transformers.DynamicCache()
    with torch.no_grad():
        model(**inputs, past_key_values=cache, use_cache=True)
    handle = patch(model)
    for config in (model.config, model.config.text_config):
        config.rope_parameters = {"rope_type": "default", "rope_theta": 1e6}
    before = cache.layers[0].keys.clone()
    with pytest.raises(ValueError, match="several positions per token"):
        rerotate(cache, handle, 0, 100)
    assert torch.equal(cache.layers[0].keys, before)


class Dealt(nn.Module):
    """A module of two coordinates, rows and columns in turn, tables with every plane twice in a row."""

    def __init__(self, other: bool = False) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 100.0 ** (-torch.arange(4) / 4))
        self.other = other

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        angles = torch.stack([position_ids[..., j % 2] * self.inv_freq[j] for j in range(4)], -1)
        wide = angles.repeat_interleave(2, -1)
        if self.other:  # the second channel of each plane reads the other coordinate
            wide[..., 1::2] = torch.stack([position_ids[..., 1 - j % 2] * self.inv_freq[j] for j in range(4)], -1)
        return wide.cos(), wide.sin()


def test_what_the_planes_read():
    module = Dealt()
    found = plane_order(module, Dealt.forward, module.inv_freq, "rows", 2)
    assert found == PlaneOrder("rows", (0, 1, 0, 1), (0, 1, 2, 3), repeated=True)
    assert isinstance(plane_order(module, Dealt.forward, module.inv_freq, "rows", 3), str)
    wrong: Any = Dealt(other=True)
    assert "no rotation" in str(plane_order(wrong, Dealt.forward, wrong.inv_freq, "rows", 2))


def test_layouts_of_positions():
    assert position_layouts(torch.zeros(3, 2, 9)) == [("first", 3)]
    assert position_layouts(torch.zeros(3, 9, 2)) == [("first", 3), ("last", 2)]
    assert position_layouts(torch.zeros(9, 2)) == [("rows", 2)] and position_layouts(torch.zeros(2, 9)) == []


@pytest.mark.parametrize("layout", ["rows", "last"])
def test_tables_of_rows_and_columns(layout: str):
    module = Dealt()
    positions = torch.randint(100_000, 200_000, (7, 2) if layout == "rows" else (2, 7, 2))
    exact = torch.stack([positions[..., j % 2] * module.inv_freq[j].double() for j in range(4)], -1).repeat_interleave(
        2, -1
    )

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rotary = module

        def forward(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:
            return rotate(q, k, cos, sin)

    with patch(Model(), tables="exact") as handle:
        assert "exact angles of coordinates" in str(handle.report())
        cos, sin = module(torch.zeros(1), positions)
        assert float((cos - exact.cos()).abs().max()) <= 3.1e-8 and float((sin - exact.sin()).abs().max()) <= 3.1e-8


def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    def turn(x: Tensor) -> Tensor:
        a, b = x[..., ::2], x[..., 1::2]
        return x * cos + torch.stack((-b, a), -1).flatten(-2) * sin

    return turn(q), turn(k)
