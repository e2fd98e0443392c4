"""Words of other libraries in the place of ours: a TypeError that names ours, and signatures without a catch-all."""

from __future__ import annotations

import inspect
import warnings

import pytest

from rotary import RotaryEmbedding
from rotary._inputs.words import CONSTRUCTOR, FROM_CONFIG


@pytest.mark.parametrize(
    ("word", "ours"),
    [
        ("theta", "base"),
        ("rope_theta", "base"),
        ("head_dim", "dim"),
        ("max_seq_len", "not needed"),
        ("max_position_embeddings", "not needed"),
        ("freqs_for", "RotaryEmbedding.axial"),
        ("custom_freqs", "from_inv_freq"),
        ("theta_rescale_factor", "NTK"),
        ("interpolate_factor", "Linear"),
        ("xpos_scale_base", "scale_base"),
        ("partial_rotary_factor", r"int\(share \* head_dim\)"),
        ("is_neox_style", "interleaved, which is the opposite"),
        ("learned_freq", "cos_sin_of"),
        ("rope_scaling", "rotary.scaling"),
        ("seq_dim", "each call"),
        ("dtype", "cos_sin"),
    ],
)
def test_a_word_of_the_constructor(word: str, ours: str):
    with pytest.raises(TypeError, match=rf"RotaryEmbedding\(\) has no argument '{word}'; here it is .*{ours}"):
        RotaryEmbedding(64, **{word: 1})
    with pytest.raises(TypeError, match=f"'{word}'"):  # beside a missing dim too
        RotaryEmbedding(**{word: 1})


@pytest.mark.parametrize(
    ("word", "ours"),
    [("rope_theta", "overridden"), ("base", "overridden"), ("dim", "head_dim"), ("is_neox_style", "opposite")],
)
def test_a_word_of_from_config(word: str, ours: str):
    with pytest.raises(TypeError, match=rf"from_config\(\) has no argument '{word}'; here it is .*{ours}"):
        RotaryEmbedding.from_config("plain", **{word: 1})


def test_no_word_is_an_argument_and_an_unknown_one_stays_unknown():
    for function, words in ((RotaryEmbedding, CONSTRUCTOR), (RotaryEmbedding.from_config, FROM_CONFIG)):
        parameters = inspect.signature(function).parameters
        assert not words.keys() & parameters.keys()
        assert all(p.kind is not p.VAR_KEYWORD and p.kind is not p.VAR_POSITIONAL for p in parameters.values())
    with pytest.raises(TypeError, match="unexpected keyword argument 'wings'"):
        RotaryEmbedding(64, wings=2)  # type: ignore[call-arg]


def test_a_subclass_has_arguments_of_its_own():
    class Own(RotaryEmbedding):
        def __init__(self, dim: int, theta: float) -> None:
            super().__init__(dim, base=theta)

    assert Own(64, theta=500_000).base == 500_000


def test_a_warning_of_from_config_is_about_the_line_that_called_it():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        RotaryEmbedding.from_config("deepseek-v3")
    assert [w.filename for w in caught] == [__file__]
