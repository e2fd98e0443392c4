"""Rope parameters -> schemes: the required keys of each type, and configs whose meaning is ambiguous."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rotary.config.schemes import TYPES, make_scheme
from rotary.scaling import NTK, LongRoPE, Proportional, Resonance, Scheme, YaRN

WINDOW = {"original_max_position_embeddings": 4096}
CONFIG = {"max_position_embeddings": 16384}


def scheme_of(rope_type: str, **keys: Any) -> Scheme | None:
    return make_scheme({"rope_type": rope_type, "rope_theta": 1e4, **keys}, CONFIG)


def test_a_missing_factor_is_the_ratio_of_the_lengths():
    assert scheme_of("yarn", **WINDOW) == YaRN(4.0, 4096)
    assert scheme_of("longrope", short_factor=[1.0], long_factor=[2.0], **WINDOW) == LongRoPE(
        [1.0], [2.0], 4096, factor=4.0
    )


def test_attn_factor_multiplies_and_attention_factor_is_final():
    default = 0.1 * math.log(4.0) + 1.0
    assert scheme_of("yarn", attn_factor=2.0, factor=4.0, **WINDOW) == YaRN(4.0, 4096, attention_factor=2.0 * default)
    assert scheme_of("yarn", attention_factor=2.0, factor=4.0, **WINDOW) == YaRN(4.0, 4096, attention_factor=2.0)


def test_alpha_is_a_change_of_base():
    assert scheme_of("dynamic", alpha=1000.0, factor=1.0, beta_fast=32) == NTK(1000.0)
    with pytest.raises(TypeError, match="unexpected key 'beta_fast'"):
        scheme_of("dynamic", factor=1.0, beta_fast=32)


def test_proportional_and_plain():
    assert scheme_of("proportional", partial_rotary_factor=0.25) == Proportional(0.25)
    assert scheme_of("default", **WINDOW) is None


def test_ambiguous_parameters_are_refused():
    with pytest.raises(
        ValueError, match=r"the attention factor is 1\.13863 in transformers and 1 in DeepSeek's own code;"
    ):
        scheme_of("yarn", factor=4.0, mscale_all_dim=1.0, **WINDOW)
    with pytest.raises(
        ValueError, match="original_max_position_embeddings 4096 differs from max_position_embeddings 16384"
    ):
        scheme_of("dynamic", factor=2.0, **WINDOW)
    with pytest.raises(ValueError, match="extrapolation_factor must be 1, the only supported value, got int 2"):
        scheme_of("yarn", factor=4.0, extrapolation_factor=2, **WINDOW)
    with pytest.raises(ValueError, match="conflicting max_position_embeddings"):
        scheme_of("linear", factor=4.0, max_position_embeddings=8192)


@pytest.mark.parametrize("rope_type", TYPES)
def test_each_type_names_a_missing_and_an_unknown_key(rope_type: str):
    complete: dict[str, Any] = dict.fromkeys(TYPES[rope_type].required, 2.0)
    for key in TYPES[rope_type].required:
        with pytest.raises(ValueError, match=f"missing key .* for rope_type '{rope_type}'"):
            scheme_of(rope_type, **{name: value for name, value in complete.items() if name != key})
    with pytest.raises(TypeError, match=rf"unexpected key 'fators' \(int 1\) for rope_type '{rope_type}'"):
        scheme_of(rope_type, **complete, fators=1)


def test_a_scheme_that_no_config_names_is_not_a_rope_type():
    with pytest.raises(ValueError, match="unknown rope_type 'resonance'"):
        scheme_of(type(Resonance()).__name__.lower())
