"""families.json against the model types and config classes of transformers."""

from __future__ import annotations

import pytest

from rotary.config.families import FAMILIES, REASONS, Family


def test_entries_have_known_keys_and_reasons():
    for name, family in FAMILIES.items():
        assert set(family) <= set(Family.__annotations__), name
        assert family.get("refused", "mrope") in REASONS, name


def test_every_family_is_a_model_type_of_transformers():
    transformers = pytest.importorskip("transformers")
    from tools import config_page

    assert transformers.__version__
    assert set(FAMILIES) - {name for name, _ in config_page.parts()} == set()


def test_sizes_are_those_of_the_config_classes():
    """Sub-configs are saved without values that equal their class's defaults: Gemma 3's head_dim of 256 is not hidden / heads."""
    pytest.importorskip("transformers")
    from tools import config_page

    for name, config in config_page.parts():
        for key in ("head_dim", "qk_rope_head_dim", "rotary_dim", "kv_channels"):
            default = getattr(type(config), key, None)
            if name in FAMILIES and isinstance(default, int) and default > 0:
                assert FAMILIES[name].get("sizes", {}).get(key) == default, (name, key)


def test_families_without_keys_are_plain():
    assert FAMILIES["llama"] == {} and "gpt2" not in FAMILIES
    assert FAMILIES["gptj"].get("interleaved") and FAMILIES["nanochat"].get("refused") == "backwards"
