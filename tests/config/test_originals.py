"""Modules made from diffusers' configs, and by hand for timm and rotary-embedding-torch, beside the tables that the originals make."""

from __future__ import annotations

import importlib
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from rotary import RotaryEmbedding
from rotary.config import read
from tests.support.originals import Original, error, originals

ORIGINALS = originals()
DIFFUSERS = {name: original for name, original in ORIGINALS.items() if original.config}
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "originals.json"
BOUND = 3.1e-8
ULP = 2.0**-24


def module(original: Original) -> RotaryEmbedding:
    if not original.config:
        return RotaryEmbedding.from_inv_freq(
            original.inv_freq, axes=original.axes if original.at.shape[-1] > 1 else None
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # notes on positions
        return RotaryEmbedding.from_config(original.config)


def reach(original: Original, rope: RotaryEmbedding) -> float:
    """How far exact tables may be from the formula: half an ulp of a frequency, where these are float32, times a position."""
    values = read(original.config).inv_freq if original.config else original.inv_freq.tolist()
    shown = torch.tensor(values or rope.inv_freq.tolist(), dtype=torch.float64)
    moved = (shown - original.inv_freq).abs() * original.at.double().abs().amax(0)[original.axes]
    assert float(((shown - original.inv_freq).abs() / original.inv_freq.clamp(min=1e-30)).max()) <= 2 * ULP
    return BOUND + float(moved.max())


@pytest.mark.parametrize("name", ORIGINALS)
def test_tables_are_those_of_the_formula(name: str):
    """Without any of the packages: channels, coordinates, base and arithmetic of each class are right."""
    original = ORIGINALS[name]
    original = original._replace(at=original.at[:: max(1, len(original.at) // 997)])  # a thousand of the tokens
    rope = module(original)
    at = original.at if rope.axes is not None else original.at[:, 0]
    assert list(rope.axes or original.axes) == original.axes
    assert error(rope.cos_sin(at), original) <= reach(original, rope)
    if original.config and read(original.config).inv_freq and "LTX2" not in original.config["_class_name"]:
        assert reach(original, rope) < 2 * BOUND  # frequencies of models that compute in float64 stay float64


@pytest.mark.parametrize("name", ORIGINALS)
def test_originals(name: str):
    """|theirs - float64 of the formula| is what the page says, and ours is no further from theirs than both errors together."""
    original = ORIGINALS[name]
    pytest.importorskip(original.package)
    try:
        with torch.no_grad():
            theirs = original.theirs(original.at)
    except (ImportError, RuntimeError) as why:  # a package whose own requirements are missing
        if isinstance(why, RuntimeError) and "Failed to import" not in str(why):
            raise
        pytest.skip(f"{original.package} cannot be used: {why}")
    rope = module(original)
    ours = rope.cos_sin(original.at if rope.axes is not None else original.at[:, 0])
    off, own = error(theirs, original), error(ours, original)
    apart = max(float((a.double() - b.double()).abs().max()) for a, b in zip(ours, theirs, strict=True))
    assert apart <= off + own + 1e-12
    written: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))["originals"][name]
    assert off <= 2 * written["theirs"] and own <= 2 * written["rotary"]


def test_every_class_that_is_read_has_an_original():
    from rotary.config.dialects.diffusers_classes import BY_SHARE, BY_WIDTHS
    from rotary.config.dialects.diffusers_frequencies import BY_FORMULA

    known = {*BY_WIDTHS, *BY_SHARE, *BY_FORMULA}
    # the same code under another name: Flux's (Chroma, Bria Fibo), Wan's, HunyuanVideo's, QwenEmbedRope, CogVideoX's
    shared = {
        "ChromaTransformer2DModel", "BriaFiboTransformer2DModel", "WanVACETransformer3DModel", "WanAnimateTransformer3DModel",
        "ChronoEditTransformer3DModel", "HunyuanVideoFramepackTransformer3DModel", "JoyImageEditTransformer3DModel",
        "JoyImageEditPlusTransformer3DModel", "NucleusMoEImageTransformer2DModel", "QwenImage21Transformer2DModel",
        "EasyAnimateTransformer3DModel",
    }  # fmt: skip
    assert {original.config["_class_name"] for original in DIFFUSERS.values()} | shared == known
    guide = (Path(__file__).parents[2] / "docs" / "guide" / "several-axes.md").read_text(encoding="utf-8")
    assert f"{len(known)} transformer classes of diffusers" in guide and f"[all {len(ORIGINALS)}]" in guide
    for name in shared:
        config = {"_class_name": name, "use_rotary_positional_embeddings": True}
        assert read(config).axes


def test_every_default_config_of_diffusers_is_read_or_refused_by_name():
    pytest.importorskip("diffusers")
    import inspect
    import pkgutil

    found = importlib.import_module("diffusers.models.transformers")
    seen: dict[str, str] = {}
    for entry in pkgutil.iter_modules(found.__path__):
        try:
            source = importlib.import_module(f"{found.__name__}.{entry.name}")
        except RuntimeError as why:
            pytest.skip(f"diffusers cannot be used: {why}")
        for name, kind in vars(source).items():
            if inspect.isclass(kind) and kind.__module__ == source.__name__ and hasattr(kind, "load_config"):
                defaults = inspect.signature(kind.__init__).parameters
                config = {k: p.default for k, p in defaults.items() if p.default is not p.empty}
                try:
                    seen[name] = read(config | {"_class_name": name}).dialect
                except (TypeError, ValueError) as refused:
                    seen[name] = str(refused)
    assert sum(dialect == "diffusers transformer" for dialect in seen.values()) >= 41
    for name, dialect in seen.items():
        assert dialect == "diffusers transformer" or name in dialect or "rotary" in dialect, (name, dialect)


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"_class_name": "FluxTransformer2DModel", "axes_dims_rope": [16, 56, 58]}, ValueError,
     r"16 \+ 56 \+ 58 = 130 channels, more than the 128"),
    ({"_class_name": "FluxTransformer2DModel", "axes_dims_rope": [15, 57, 56]}, ValueError, "each must be even"),
    ({"_class_name": "FluxTransformer2DModel", "axes_dims_rope": 128}, TypeError, "axes_dims_rope must be a list"),
    ({"_class_name": "FluxTransformer2DModel", "rope_theta": 5e5}, TypeError, "rope_theta .* is not read by FluxTransformer2DModel"),
    ({"_class_name": "FluxTransformer2DModel", "rope_axes_dims": [1]}, TypeError, "rope_axes_dims"),
    ({"_class_name": "Flux2Transformer2DModel", "rope_theta": 0}, ValueError, "rope_theta"),
    ({"_class_name": "CogVideoXTransformer3DModel"}, ValueError, "does not rotate"),
    ({"_class_name": "MochiTransformer3DModel"}, ValueError, "cos_sin_of"),
    ({"_class_name": "ErnieImageTransformer2DModel"}, ValueError, "no rotation"),
    ({"_class_name": "SD3Transformer2DModel"}, ValueError, "does not rotate, or is not read"),
    ({"_class_name": "ChronoEditTransformer3DModel", "attention_head_dim": 112}, ValueError, "cuts them by thirds"),
    ({"_class_name": "LTX2VideoTransformer3DModel", "rope_type": "yarn"}, ValueError, "'interleaved' or 'split'"),
    ({"_class_name": "CosmosTransformer3DModel", "rope_scale": [2.0]}, TypeError, "three numbers"),
    ({"_class_name": "WanTransformer3DModel", "rope_scale": [2.0, 1.0, 1.0]}, TypeError, "rope_scale"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "failure", "words"), WRONG)
def test_what_cannot_be_honoured(config: dict[str, Any], failure: type[Exception], words: str):
    with pytest.raises(failure, match=words):
        read({"attention_head_dim": 128} | config)


def test_float32_arithmetic_is_refused_where_the_model_has_none():
    with pytest.raises(ValueError, match="leave angles out"):
        RotaryEmbedding.from_config({"_class_name": "FluxTransformer2DModel"}, angles="float32")
