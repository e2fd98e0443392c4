"""Vision towers of transformers: a module made from a default config beside the cos and sin that the model itself makes."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rotary import RotaryEmbedding, cos_sin_of
from rotary.config import read
from rotary.config.families import FAMILIES
from rotary.positions import centres, grid, merged, prefixed

transformers = pytest.importorskip("transformers")
TOWERS = sorted(name for name, family in FAMILIES.items() if "axial" in family)
Tables = tuple[Tensor, Tensor]
CLOSE = 1e-5
"""Their angles are float32 products of up to 72 rad."""


def default(name: str) -> Any:
    from tools import config_page

    return next(config for kind, config in config_page.parts() if kind == name)


def made(config: Any) -> RotaryEmbedding:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # notes on positions
        return RotaryEmbedding.from_config(config)


def rotary(config: Any) -> Any:
    """The rotary module of a tower, built by its own class."""
    from tools import config_page

    module = config_page.modeling(config)
    kinds = [
        k
        for n, k in vars(module).items()
        if inspect.isclass(k) and k.__module__ == module.__name__ and _is_rotary(n, k)
    ]
    vision = [
        k
        for k in kinds
        if any(word in k.__name__ for word in ("Vision", "ViT", "Dinov3", "Sapiens2")) or len(kinds) == 1
    ]
    return vision[0](config)


def _is_rotary(name: str, kind: type) -> bool:
    return ("Rotary" in name or "RopePosition" in name) and "config" in inspect.signature(kind).parameters


def half_of(table: Tensor, interleaved: bool) -> Tensor:
    """One column per plane of a table of full width, after looking that both channels of a plane agree."""
    first, second = (table[..., 0::2], table[..., 1::2]) if interleaved else table.chunk(2, -1)
    assert torch.equal(first, second)
    return first


def called(name: str, config: Any) -> tuple[Tensor, Tables]:
    """(our positions, the model's own cos and sin there), each table (seq, planes)."""
    from transformers.vision_utils import get_vision_position_ids

    module, family = rotary(config), FAMILIES[name]
    notes = family.get("positions", [])
    merge = getattr(config, "spatial_merge_size", 1) if any("merged" in note for note in notes) else 1
    at = get_vision_position_ids(
        torch.tensor([[2, 8, 12]]), merge, include_temporal=family["axial"].startswith("frames")
    )
    ours = merged(8, 12, merge).repeat(2, 1)
    if at.shape[-1] == 3:
        ours = torch.cat((torch.arange(2).repeat_interleave(96)[:, None], ours), -1)
    assert torch.equal(at, ours)
    if "merged from 1" in notes:
        at = ours = at + 1
    if name.startswith("muse"):  # their forward: position_ids.flip(-1) + 1
        at = at.flip(-1)
    x = torch.zeros(1, 4, 64)
    if name == "gemma4_vision":  # its processor stacks (x, y): image_processing_gemma4.py, meshgrid(indexing="xy")
        cos, sin = (table[0] for table in module(x, at.flip(-1)[None]))
        quarters = [table.chunk(4, -1) for table in (cos, sin)]
        assert all(torch.equal(a, b) and torch.equal(c, d) for a, b, c, d in quarters)
        return ours, tuple(torch.cat((a, c), -1) for a, _, c, _ in quarters)  # type: ignore[return-value]
    cos, sin = (table.squeeze(0) for table in module(x, at))
    interleaved = family.get("interleaved", False)
    return ours, (half_of(cos, interleaved), half_of(sin, interleaved))


def of_memory(name: str, config: Any) -> tuple[Tensor, Tables]:
    """SAM: the positions that its memory attention keeps."""
    from tools import config_page

    module: Any = config_page.modeling(config)
    kind = next(k for n, k in vars(module).items() if n.endswith(("MemoryAttention", "Sam3ViTLayer")))
    if name == "sam3_vit_model":
        at = kind.precompute_positions(config, 0)  # layers without windows: 72 x 72 patches on a window of 24
        ours = grid(72, 72).double() * (24 / 72)
    else:
        at, ours = kind.precompute_positions(config), grid(*reversed(config.memory_attention_rope_feat_sizes))
    torch.testing.assert_close(at.double(), ours.flip(-1).double(), rtol=0, atol=1e-5)
    cos, sin = (half_of(table[0], True) for table in rotary(config)(torch.zeros(1), at))
    return ours, (cos, sin)


def of_tiles(name: str, config: Any) -> tuple[Tensor, Tables]:
    """Llama 4: complex numbers, the class token last."""
    turned = rotary(config)(torch.zeros(1)).squeeze(1)
    n = config.image_size // config.patch_size
    return torch.cat((grid(n, n, start=1), torch.zeros(1, 2, dtype=torch.int64))), (turned.real, turned.imag)


def of_features(name: str, config: Any) -> tuple[Tensor, Tables]:
    """EfficientLoFTR: from the size of a feature map, over the whole width."""
    cos, sin = rotary(config)(torch.zeros(1, 256, 32, 48))
    rows, columns = cos.shape[1:3]
    return grid(rows, columns, start=1), (half_of(cos.reshape(-1, 256), True), half_of(sin.reshape(-1, 256), True))


def of_pixels(name: str, config: Any) -> tuple[Tensor, Tables]:
    """DINOv3: from the size of an image."""
    module = rotary(config).eval()
    cos, sin = module(torch.zeros(1, 3, 16 * 10, 16 * 14))
    return centres(10, 14), (half_of(cos, False), half_of(sin, False))


OWN: dict[str, Callable[[str, Any], tuple[Tensor, Tables]]] = {
    **dict.fromkeys(("sam2_video", "sam3_tracker_video", "edgetam_video", "sam3_vit_model"), of_memory),
    **dict.fromkeys(("dinov3_vit", "eomt_dinov3", "sapiens2"), of_pixels),
    "llama4_vision_model": of_tiles,
    "efficientloftr": of_features,
}


@pytest.mark.parametrize("name", TOWERS)
def test_cos_and_sin_are_the_models_own(name: str):
    config = default(name)
    at, theirs = OWN.get(name, called)(name, config)
    rope = made(config)
    assert rope.coordinates == at.shape[-1] and rope.notes
    for ours, wanted in zip(rope.cos_sin(at), theirs, strict=True):
        assert ours.shape == wanted.shape
        assert float((ours - wanted).abs().max()) <= CLOSE


@pytest.mark.parametrize("name", ["qwen2_vl_vision", "gemma4_vision", "pixtral", "kimi_k25_vision"])
def test_the_float32_arithmetic_is_that_of_the_tower(name: str):
    """angles="float32": bit for bit, but for Pixtral, whose frequencies are computed in float64 and rounded once."""
    config = default(name)
    at, theirs = called(name, config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rope = RotaryEmbedding.from_config(config, angles="float32")
    for ours, wanted in zip(rope.cos_sin(at), theirs, strict=True):
        assert torch.equal(ours, wanted) if name != "pixtral" else float((ours - wanted).abs().max()) <= 2e-6


def test_a_dinov3_head_turns_patches_and_leaves_tokens_in_front():
    from transformers.models.dinov3_vit.modeling_dinov3_vit import apply_rotary_pos_emb

    config = default("dinov3_vit")
    q, k = torch.randn(2, 1, 2, 5 + 140, 64)
    cos, sin = rotary(config).eval()(torch.zeros(1, 3, 160, 224))
    rope = made(config)
    ours = rope.rotate(q, k, positions=prefixed(centres(10, 14), 5))
    for a, b in zip(ours, apply_rotary_pos_emb(q, k, cos, sin), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
        assert torch.equal(ours[0][..., :5, :], q[..., :5, :])


def test_gemma_pairs_inside_axes_by_the_view_of_its_note():
    from transformers.models.gemma4.modeling_gemma4 import apply_multidimensional_rope

    config = default("gemma4_vision")
    rope, x = made(config), torch.randn(1, 12, 3, 64)  # (batch, seq, heads, channels)
    at = grid(3, 4)
    cos, sin = rotary(config)(x, at.flip(-1)[None])
    wanted = apply_multidimensional_rope(x, cos, sin, at.flip(-1)[None], unsqueeze_dim=2).transpose(1, 2)
    from rotary import apply_rotary

    c, s = (table.view(24, 16) for table in rope.cos_sin(at))
    y = x.transpose(1, 2).reshape(1, 3, 24, 32)
    torch.testing.assert_close(apply_rotary(y, c, s).view(1, 3, 12, 64), wanted, rtol=0, atol=1e-5)


def test_atoms_of_esmfold2():
    from transformers.models.esmfold2.configuration_esmfold2 import EsmFold2AtomEncoderConfig
    from transformers.models.esmfold2.modeling_esmfold2 import EsmFold2RotaryEmbedding

    config = EsmFold2AtomEncoderConfig()
    place, uid = torch.randn(1, 9, 3) * 20, torch.randint(0, 500, (1, 9))
    cos, sin = EsmFold2RotaryEmbedding(config)(place, uid, torch.float32)
    rope = made(config)
    at = torch.cat((place.double(), uid[..., None].double()), -1)
    for ours, wanted in zip(rope.cos_sin(at), (cos, sin), strict=True):
        assert float((ours - half_of(wanted, False)).abs().max()) <= 1e-4  # theirs: float32 products to 500 rad


def test_lightglue_learns_its_directions():
    """Refused by from_config, and served by cos_sin_of: the weight of its projection is (planes, 2)."""
    from transformers.models.lightglue.configuration_lightglue import LightGlueConfig
    from transformers.models.lightglue.modeling_lightglue import LightGluePositionalEncoder

    module = LightGluePositionalEncoder(LightGlueConfig())
    keypoints = torch.rand(1, 7, 2) * 2 - 1
    cos, sin = module(keypoints)[0]
    for ours, wanted in zip(cos_sin_of(keypoints[0], module.projector.weight), (cos, sin), strict=True):
        torch.testing.assert_close(ours, half_of(wanted[0], True), rtol=0, atol=1e-6)


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"head_dim": 70}, ValueError, "multiple of 4"),
    ({"num_heads": 7, "embed_dim": 1280}, ValueError, "embed_dim 1280 is not a multiple of num_heads = 7"),
    ({"num_heads": 8, "num_attention_heads": 16, "embed_dim": 1280}, ValueError, "num_heads|num_attention_heads"),
    ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, ValueError, "'yarn'.*axial"),
    ({"rope_parameters": {"rope_type": "axial", "partial_rotary_factor": 0.5}}, TypeError, "partial_rotary_factor"),
    ({"rope_theta": -1.0}, ValueError, "rope_theta"),
]


@pytest.mark.parametrize(("changes", "error", "words"), REFUSED)
def test_what_a_tower_cannot_be(changes: dict[str, Any], error: type[Exception], words: str):
    with pytest.raises(error, match=words):
        read({"model_type": "qwen2_vl_vision"} | changes)


def test_the_guide_counts_them():
    guide = (Path(__file__).parents[2] / "docs" / "guide" / "several-axes.md").read_text(encoding="utf-8")
    assert f"{len(TOWERS)} vision towers of\ntransformers" in guide


def test_sizes_of_towers_are_those_of_their_classes():
    for name in TOWERS:
        kept = type(default(name))().to_dict()
        for key, value in FAMILIES[name].get("sizes", {}).items():
            assert kept[key] == value, (name, key)
