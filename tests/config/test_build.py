"""Rope parameters -> schemes: each type with the keys it needs, and the readings that nobody can settle."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rotary.config.build import TYPES, scheme
from rotary.scaling import NTK, LongRoPE, Proportional, Resonance, Scheme, YaRN

WINDOW = {"original_max_position_embeddings": 4096}
CONFIG = {"max_position_embeddings": 16384}


def made(rope_type: str, **keys: Any) -> Scheme | None:
    return scheme({"rope_type": rope_type, "rope_theta": 1e4, **keys}, CONFIG)


def test_a_missing_factor_is_the_ratio_of_the_lengths():
    assert made("yarn", **WINDOW) == YaRN(4.0, 4096)
    assert made("longrope", short_factor=[1.0], long_factor=[2.0], **WINDOW) == LongRoPE([1.0], [2.0], 4096, factor=4.0)


def test_attn_factor_multiplies_and_attention_factor_is_final():
    usual = 0.1 * math.log(4.0) + 1.0
    assert made("yarn", attn_factor=2.0, factor=4.0, **WINDOW) == YaRN(4.0, 4096, attention_factor=2.0 * usual)
    assert made("yarn", attention_factor=2.0, factor=4.0, **WINDOW) == YaRN(4.0, 4096, attention_factor=2.0)


def test_alpha_is_a_change_of_base():
    assert made("dynamic", alpha=1000.0, factor=1.0, beta_fast=32) == NTK(1000.0)
    with pytest.raises(TypeError, match="unexpected key 'beta_fast'"):
        made("dynamic", factor=1.0, beta_fast=32)


def test_proportional_and_plain():
    assert made("proportional", partial_rotary_factor=0.25) == Proportional(0.25)
    assert made("default", **WINDOW) is None


def test_what_nobody_can_settle():
    with pytest.raises(
        ValueError, match=r"transformers takes 1\.13863 for the attention factor, DeepSeek's own code 1;"
    ):
        made("yarn", factor=4.0, mscale_all_dim=1.0, **WINDOW)
    with pytest.raises(ValueError, match="original_max_position_embeddings 4096 beside max_position_embeddings 16384"):
        made("dynamic", factor=2.0, **WINDOW)
    with pytest.raises(ValueError, match="extrapolation_factor must be 1"):
        made("yarn", factor=4.0, extrapolation_factor=2, **WINDOW)
    with pytest.raises(ValueError, match="conflicting max_position_embeddings"):
        made("linear", factor=4.0, max_position_embeddings=8192)


@pytest.mark.parametrize("rope_type", TYPES)
def test_each_type_names_a_missing_and_an_unknown_key(rope_type: str):
    whole: dict[str, Any] = dict.fromkeys(TYPES[rope_type].needs, 2.0)
    for key in TYPES[rope_type].needs:
        with pytest.raises(ValueError, match=f"missing key .* for rope_type '{rope_type}'"):
            made(rope_type, **{k: v for k, v in whole.items() if k != key})
    with pytest.raises(TypeError, match=f"unexpected key 'fators' = 1 for rope_type '{rope_type}'"):
        made(rope_type, **whole, fators=1)


def test_a_scheme_that_no_config_names_is_not_a_rope_type():
    with pytest.raises(ValueError, match="unknown rope_type 'resonance'"):
        made(type(Resonance()).__name__.lower())
