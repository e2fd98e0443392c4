"""Each table of projections against models of its families: logits before and after conversion; and no entry is unused."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")
pytest.importorskip("safetensors")
import transformers
from safetensors.torch import load_file
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

from rotary.checkpoints import convert
from rotary.checkpoints.layout import Layout
from rotary.checkpoints.projections import (
    META,
    NORMS,
    PROJECTIONS,
    READS_ROPE_INTERLEAVE,
    UNROTATED,
    UNROTATED_LAYERS,
)
from rotary.transformers import patch
from rotary.transformers.wrapper import Replacement
from zoo import families, recipes

TOKENS = torch.randint(5, 90, (2, 12), generator=torch.Generator().manual_seed(0))
# Config options with which other tensors are rotated, or rows are arranged differently.
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "cohere, norms": ("cohere", {"use_qk_norm": True}),
    "deepseek_v2, no rank": ("deepseek_v2", {"q_lora_rank": None}),
    "deepseek_v3, half": ("deepseek_v3", {"rope_interleave": False}),
    "deepseek_v3, no rank": ("deepseek_v3", {"q_lora_rank": None}),
    "falcon, groups": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon, every head": ("falcon", {"multi_query": False, "num_kv_heads": 4}),
    "glm4_moe, norms": ("glm4_moe", {"use_qk_norm": True}),
    "llama, biases": ("llama", {"attention_bias": True}),
    "persimmon, no norms": ("persimmon", {"qk_layernorm": False}),
    "phi, norms": ("phi", {"qk_layernorm": True}),
    "stablelm, norms": ("stablelm", {"qk_layernorm": True, "use_qkv_bias": True}),
}
CASES = {**{name: (name, {}) for name in PROJECTIONS}, **OPTIONS}

Saved = tuple[Any, Tensor, Path]


def tiny(model_type: str, **options: Any) -> Any:
    config = transformers.CONFIG_MAPPING[model_type]
    mapping = MODEL_FOR_CAUSAL_LM_MAPPING if config in MODEL_FOR_CAUSAL_LM_MAPPING else MODEL_FOR_MASKED_LM_MAPPING
    with pytest.MonkeyPatch.context() as patched:
        family = families._family(mapping[config])
        patched.setitem(recipes.SIZES, family, recipes.SIZES.get(family, {}) | options)
        model = families.build(mapping[config])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms and biases start as ones and zeros, which look the same in any order
                parameter.add_(0.3 * torch.randn(parameter.shape))
    rope = getattr(model.config, "rope_parameters", None) or {}
    for parameters in (rope, *(v for v in rope.values() if isinstance(v, dict))):
        parameters.pop("mrope_section", None)  # zoo.recipes adds it for models that need it
    return model


def other(pairing: bool) -> Any:
    return "half" if pairing else "interleaved"


def bytes_of(folder: Path) -> dict[str, Tensor]:
    return {name: t for path in sorted(folder.glob("*.safetensors")) for name, t in load_file(path).items()}


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Saved]:
    """A function from a case to (class, logits, folder) of its model, cached."""

    @functools.cache
    def save(case: str) -> Saved:
        torch.manual_seed(0)
        model_type, options = CASES[case]
        model = tiny(model_type, **options)
        assert all(getattr(model.config, key) == value for key, value in options.items())
        folder = tmp_path_factory.mktemp("saved") / "model"
        model.save_pretrained(folder)
        return type(model), logits(model), folder

    return save


@pytest.mark.parametrize("case", sorted(CASES))
def test_a_model_attends_as_before_and_there_and_back_is_the_same(
    case: str, saved: Callable[[str], Saved], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Converted weights, rotated by the other pairing, give the logits of the original; rotated by the old one they do not."""
    kind, expected, source = saved(case)
    layout = Layout(source)
    done = convert(source, tmp_path / "b", to=other(layout.interleaved))
    assert done.difference < 1e-14 and done.layers >= 1 and done.left_out == ()
    back = convert(tmp_path / "b", tmp_path / "c", to=other(not layout.interleaved))
    assert back.tensors == done.tensors
    before, after, again = (bytes_of(path) for path in (source, tmp_path / "b", tmp_path / "c"))
    assert all(torch.equal(before[name], again[name]) for name in before) and before.keys() == again.keys()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(changed) == done.tensors
    loaded = kind.from_pretrained(tmp_path / "b", attn_implementation="eager").eval()
    close = {"rtol": 0, "atol": 1e-5 * float(expected.abs().max())}
    if CASES[case][0] in READS_ROPE_INTERLEAVE:  # the code reads the new pairing from the converted config
        torch.testing.assert_close(logits(loaded), expected, **close)
        loaded.config.rope_interleave = layout.interleaved
        assert float((logits(loaded) - expected).abs().max()) > 1e-4
        return
    assert float((logits(loaded) - expected).abs().max()) > 1e-4
    monkeypatch.setattr(Replacement, "fits", lambda *_: True)  # what the model's function does is changed on purpose
    with patch(loaded) as handle:
        for replacement in handle.replacements:
            replacement.spec = replace(replacement.spec, interleaved=not replacement.spec.interleaved)
        torch.testing.assert_close(logits(loaded), expected, **close)


@pytest.mark.parametrize("model_type", sorted(READS_ROPE_INTERLEAVE))
def test_a_config_without_rope_interleave_has_it_after_conversion(
    model_type: str, saved: Callable[[str], Saved], tmp_path: Path
):
    """As DeepSeek-V3's published config, which lacks the key: the default of its code is interleaved."""
    kind, expected, source = saved(model_type)
    config = json.loads((source / "config.json").read_text())
    assert config.pop("rope_interleave") is True
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").write_text(json.dumps(config))
    (tmp_path / "a" / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())
    convert(tmp_path / "a", tmp_path / "b", to="half")
    assert json.loads((tmp_path / "b" / "config.json").read_text()) == {**config, "rope_interleave": False}
    loaded = kind.from_pretrained(tmp_path / "b", attn_implementation="eager").eval()
    torch.testing.assert_close(logits(loaded), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_the_families_that_read_rope_interleave_are_those_whose_code_names_it():
    reading = {
        path.parent.name for path in families.FOLDER.glob("*/modeling_*.py") if ".rope_interleave" in path.read_text()
    }
    assert reading & PROJECTIONS.keys() == READS_ROPE_INTERLEAVE


def test_every_name_in_the_tables_occurs(saved: Callable[[str], Saved]):
    """Every name in the tables occurs in some model, in Meta's own files or in files of older transformers."""
    part = re.compile(r"\.(?:self_attn|attn|attention|self_attention|temporal_block)\.(?:self\.)?(\w+)")
    names = [name for case in CASES for name in bytes_of(saved(case)[2])]
    present = {match[1] for name in names if (match := part.search(name))}
    assert NORMS.keys() <= present
    # Meta's own names, and buffers of older releases of transformers.
    assert UNROTATED - present == {"wv", "wo", "rotary_emb", "inner_attention", "bias", "masked_bias"} - present
    for table in PROJECTIONS.values():
        assert table.keys() <= present
    assert META.keys() - present == {"wq", "wk"}
    layers = {word for name in names for word in name.split(".")}
    assert layers >= UNROTATED_LAYERS
