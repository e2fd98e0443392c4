"""Every rope type of transformers 5.23 with random parameters, against two references.

mpmath (formulas.py) gives the values of the papers: frequencies are within an ulp of them. transformers gives the values that checkpoints
were trained with: angles="float32" matches them bit for bit. rotary.config must read the same scheme from each config.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rotary import RotaryEmbedding
from rotary.config import read
from rotary.scaling import DynamicNTK, Linear, Llama3, LongRoPE, Proportional, YaRN
from support import formulas

pytest.importorskip("transformers")
from transformers import LlamaConfig, logging
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

logging.set_verbosity_error()

DIMS = st.sampled_from([4, 6, 16, 64, 80, 96, 128, 256])
BASES = st.one_of(st.sampled_from([10000.0, 500000.0, 1000000.0]), st.floats(100.0, 1e7))
FACTORS = st.one_of(st.sampled_from([1.0, 2.0, 4.0, 8.0, 32.0, 40.0]), st.floats(1.0, 64.0))
WINDOWS = st.sampled_from([512, 2048, 4096, 8192, 32768, 131072])
EXAMPLES = settings(max_examples=60, deadline=None)


def transformers_config(
    rope_type: str, dim: int, base: float, window: int, head_dim: int | None = None, **parameters: Any
) -> Any:
    """A transformers config with these rope parameters."""
    return LlamaConfig(
        hidden_size=4 * (head_dim or dim),
        num_attention_heads=4,
        head_dim=head_dim or dim,
        max_position_embeddings=window,
        rope_parameters={"rope_type": rope_type, "rope_theta": base, **parameters},
    )


def compare(config: Any, scheme: Any, exact: formulas.Planes, length: int | None = None, rtol: float = 1e-5) -> None:
    """inv_freq and attention factor of the scheme against mpmath and transformers, in both arithmetics, and their tables."""
    if config.rope_parameters.get("partial_rotary_factor") != 0.0:  # no channel would rotate: read() refuses it
        arguments = read(config)
        assert (arguments.dim, arguments.base, arguments.scaling) == (
            2 * len(exact),
            config.rope_parameters["rope_theta"],
            (scheme,),
        )
    rope_type, base = config.rope_parameters["rope_type"], config.rope_parameters["rope_theta"]
    dim = 2 * len(exact)
    window = config.max_position_embeddings
    reference, amplitude = ROPE_INIT_FUNCTIONS[rope_type](config, "cpu", seq_len=length)
    exact_rope = RotaryEmbedding(dim, base=base, scaling=scheme)
    shown, factor = exact_rope._tables.spectrum.frequencies(torch.device("cpu"), length)
    assert factor == amplitude
    assert max(formulas.ulps(a, b) for a, b in zip(shown.tolist(), exact, strict=True)) <= 1
    torch.testing.assert_close(shown, reference, atol=0.0, rtol=rtol)

    like = RotaryEmbedding(dim, base=base, scaling=scheme, angles="float32")
    bits, factor = like._tables.spectrum.frequencies(torch.device("cpu"), length)
    assert factor == amplitude and torch.equal(bits, reference)
    if length is None:
        module = LlamaRotaryEmbedding(config)
        positions = torch.tensor([0, 1, 5, 100, window - 1])
        cos, sin = module(torch.zeros(1), positions[None])
        for a, b in zip(like.cos_sin(positions, length=window), (cos, sin), strict=True):
            assert torch.equal(torch.cat((a, a), -1), b[0])


@EXAMPLES
@given(dim=DIMS, base=BASES, factor=FACTORS)
def test_linear(dim: int, base: float, factor: float):
    exact = formulas.linear(formulas.progression(dim, base), factor)
    compare(transformers_config("linear", dim, base, 2048, factor=factor), Linear(factor), exact)


@EXAMPLES
@given(dim=DIMS, base=BASES, factor=FACTORS, window=WINDOWS, longer=st.floats(0.01, 40.0))
def test_dynamic(dim: int, base: float, factor: float, window: int, longer: float):
    length = max(1, int(window * longer))
    config = transformers_config("dynamic", dim, base, window, factor=factor)
    stretch = formulas.dynamic_factor(factor, length, window)
    compare(config, DynamicNTK(factor, window), formulas.change_of_base(dim, base, stretch), length)
    compare(config, DynamicNTK(factor, window), formulas.progression(dim, base))


@EXAMPLES
@given(
    dim=DIMS,
    base=BASES,
    factor=FACTORS,
    window=WINDOWS,
    betas=st.tuples(st.floats(0.5, 4.0), st.floats(4.5, 64.0)),
    truncate=st.booleans(),
    amplitude=st.one_of(st.none(), st.floats(0.1, 3.0), st.tuples(st.floats(0.1, 2.0), st.floats(0.1, 2.0))),
)
def test_yarn(dim, base, factor, window, betas, truncate, amplitude):
    slow, fast = betas
    optional: dict[str, Any] = {"beta_slow": slow, "beta_fast": fast, "truncate": truncate}
    expected = formulas.temperature(factor)
    if isinstance(amplitude, tuple):
        optional |= {"mscale": amplitude[0], "mscale_all_dim": amplitude[1]}
        expected = formulas.temperature(factor, amplitude[0]) / formulas.temperature(factor, amplitude[1])
    elif amplitude is not None:
        optional["attention_factor"] = expected = amplitude
    config = transformers_config(
        "yarn", dim, base, window, factor=factor, original_max_position_embeddings=window, **optional
    )
    exact = formulas.by_planes(dim, base, factor, window, fast, slow, truncate)
    scheme = YaRN(factor, window, **optional)
    compare(config, scheme, exact)
    assert RotaryEmbedding(dim, base=base, scaling=scheme).attention_factor == pytest.approx(float(expected), rel=1e-14)


@EXAMPLES
@given(
    dim=DIMS,
    base=BASES,
    factor=FACTORS,
    window=WINDOWS,
    low=st.floats(0.5, 4.0),
    more=st.one_of(st.just(0.0), st.floats(1.0, 16.0)),
)
def test_llama3(dim: int, base: float, factor: float, window: int, low: float, more: float):
    high = low + more
    parameters = {"factor": factor, "low_freq_factor": low, "high_freq_factor": high}
    config = transformers_config("llama3", dim, base, 2 * window, original_max_position_embeddings=window, **parameters)
    exact = formulas.by_turns(formulas.progression(dim, base), factor, window, low, high)
    # The blend amplifies the float32 error of transformers by up to factor x high / (high - low) where it begins.
    compare(config, Llama3(factor, window, low, high), exact, rtol=1e-5 * max(1.0, factor / 8))


@EXAMPLES
@given(dim=DIMS, base=BASES, window=WINDOWS, factor=FACTORS, data=st.data())
def test_longrope(dim: int, base: float, window: int, factor: float, data: st.DataObject):
    lists = st.lists(st.floats(1.0, 64.0), min_size=dim // 2, max_size=dim // 2)
    short, long = data.draw(lists), data.draw(lists)
    attention_factor = data.draw(st.one_of(st.none(), st.floats(0.5, 2.0)))
    optional = {} if attention_factor is None else {"attention_factor": attention_factor}
    parameters = {
        "short_factor": short,
        "long_factor": long,
        "original_max_position_embeddings": window,
        "factor": factor,
    }
    config = transformers_config("longrope", dim, base, window, **parameters, **optional)
    scheme = LongRoPE(short, long, window, factor=factor, **optional)
    plain = formulas.progression(dim, base)
    for length, factors in ((None, short), (window, short), (window + 1, long), (10 * window, long)):
        compare(config, scheme, formulas.searched(plain, factors), length)
    if attention_factor is None:
        amplitude = RotaryEmbedding(dim, base=base, scaling=scheme).attention_factor
        assert amplitude == pytest.approx(float(formulas.searched_amplitude(factor, window)), rel=1e-14)


@EXAMPLES
@given(
    dim=DIMS, base=BASES, factor=FACTORS, share=st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0.0, 1.0))
)
def test_proportional(dim: int, base: float, factor: float, share: float):
    config = transformers_config("proportional", dim, base, 2048, factor=factor, partial_rotary_factor=share)
    count = int(share * dim // 2)
    plain = formulas.linear(formulas.progression(dim, base), factor)
    exact = plain[:count] + [formulas.mpf(0)] * (dim // 2 - count)
    compare(config, Proportional(share, factor), exact)


@pytest.mark.parametrize("length", [1, 2048, 2049, 5000, 131072])
def test_dynamic_per_row_is_their_forward(length: int):
    """transformers computes with a tensor seq_len in forward and with an int in its function: each matches the same kind of length here."""
    window, factor, dim, base = 2048, 3.7, 128, 10000.0
    config = transformers_config("dynamic", dim, base, window, factor=factor)
    like = RotaryEmbedding(dim, base=base, scaling=DynamicNTK(factor, window), angles="float32")
    module = LlamaRotaryEmbedding(config)
    positions = torch.arange(length - 1, -1, -max(1, length // 7)).flip(0)
    cos, sin = module(torch.zeros(1), positions[None])
    rows = torch.tensor([7, length, 10**6])
    batched = like.cos_sin(positions, length=rows)
    for a, b, row in zip(like.cos_sin(positions, length=torch.tensor(length)), (cos, sin), batched, strict=True):
        assert torch.equal(torch.cat((a, a), -1), b[0])
        assert torch.equal(row[1], a)


def test_longrope_switch_is_their_forward():
    window, dim, base = 64, 16, 10000.0
    short, long = [1.0 + i / 8 for i in range(8)], [2.0 + 3 * i for i in range(8)]
    parameters = {"short_factor": short, "long_factor": long, "original_max_position_embeddings": window, "factor": 8.0}
    config = transformers_config("longrope", dim, base, window * 8, **parameters)
    like = RotaryEmbedding(dim, base=base, scaling=LongRoPE(short, long, window, factor=8.0), angles="float32")
    for n in (1, 64, 65, 500):
        cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1), torch.arange(n)[None])
        for length in (n, torch.tensor(n)):
            for a, b in zip(like.cos_sin(n, length=length), (cos, sin), strict=True):
                assert torch.equal(torch.cat((a, a), -1), b[0])


# --- where transformers is wrong, or depends on more than it should --------------------------------------------------------------


def test_theirs_loses_truncate_of_a_nested_dict():
    """For parameters per layer type, transformers reads `truncate` from the top level, where it never is."""
    nested = {"full_attention": {"rope_type": "yarn", "rope_theta": 150000.0, "factor": 32.0, "truncate": False}}
    nested["full_attention"]["original_max_position_embeddings"] = 4096
    config = LlamaConfig(head_dim=64, hidden_size=256, num_attention_heads=4, max_position_embeddings=131072)
    config.layer_types = ["full_attention"] * config.num_hidden_layers
    config.rope_parameters = nested
    wrong, _ = ROPE_INIT_FUNCTIONS["yarn"](config, "cpu", layer_type="full_attention")
    expected = formulas.by_planes(64, 150000.0, 32.0, 4096, truncate=False)
    rounded = formulas.by_planes(64, 150000.0, 32.0, 4096, truncate=True)
    inv_freq = RotaryEmbedding(64, base=150000.0, scaling=YaRN(32.0, 4096, truncate=False)).inv_freq
    assert max(formulas.ulps(a, b) for a, b in zip(inv_freq.tolist(), expected, strict=True)) <= 1
    torch.testing.assert_close(wrong, torch.tensor([float(r) for r in rounded]), rtol=1e-5, atol=0.0)
    assert ((wrong / inv_freq).log().abs().max() > math.log(1.05)).item()
    assert torch.equal(RotaryEmbedding.from_config(config, layer_type="full_attention").inv_freq, inv_freq)


@pytest.mark.parametrize("rope_type", ["dynamic", "yarn", "longrope"])
def test_theirs_crashes_where_head_dim_is_none(rope_type: str):
    optional: dict[str, Any] = {} if rope_type == "dynamic" else {"original_max_position_embeddings": 4096}
    if rope_type == "longrope":
        optional |= {"short_factor": [1.0] * 32, "long_factor": [2.0] * 32}
    config = transformers_config(rope_type, 64, 10000.0, 4096, factor=4.0, **optional)
    config.head_dim = None
    with pytest.raises(TypeError):
        ROPE_INIT_FUNCTIONS[rope_type](config, "cpu")
    assert RotaryEmbedding.from_config(config).dim == 64  # hidden size 256, 4 heads


def test_theirs_depends_on_history_and_batch_mates_and_ours_does_not():
    window, dim = 32, 16
    config = transformers_config("dynamic", dim, 10000.0, window, factor=4.0)
    fresh, used = LlamaRotaryEmbedding(config), LlamaRotaryEmbedding(config)
    used(torch.zeros(1), torch.arange(300)[None])
    positions = torch.arange(40)[None]
    assert not torch.equal(fresh(torch.zeros(1), positions)[0], used(torch.zeros(1), positions)[0])
    mates = torch.stack((torch.arange(40), torch.arange(260, 300)))
    assert not torch.equal(
        LlamaRotaryEmbedding(config)(torch.zeros(1), mates)[0][0], fresh(torch.zeros(1), positions)[0][0]
    )

    for angles in ("exact", "float32"):
        rope = RotaryEmbedding(dim, scaling=DynamicNTK(4.0, window), angles=angles)
        before = rope.cos_sin(40, length=torch.tensor(40))
        rope.cos_sin(300, length=300)
        both = rope.cos_sin(torch.arange(40), length=torch.tensor([40, 300]))
        for a, b, c in zip(before, rope.cos_sin(40, length=torch.tensor(40)), both, strict=True):
            assert torch.equal(a, b) and torch.equal(a, c[0])


def test_their_arithmetic_is_tens_of_ulps_off():
    """Why angles="float32" is not the default, and why parity is stated at 1e-5."""
    config = transformers_config("default", 128, 500000.0, 8192)
    exact = formulas.progression(128, 500000.0)
    shown = LlamaRotaryEmbedding(config).inv_freq.tolist()
    rounded_once = RotaryEmbedding(128, base=500000.0).inv_freq.tolist()
    assert max(formulas.ulps(a, b) for a, b in zip(shown, exact, strict=True)) > 1
    assert max(formulas.ulps(a, b) for a, b in zip(rounded_once, exact, strict=True)) <= 0.51
    # The worst of 216 settings of Llama 3's scheme: a difference of two close numbers where its ramp begins.
    blend = {"factor": 40.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32768}
    exact = formulas.by_turns(formulas.progression(80, 500000.0), 40.0, 32768, 1.0, 4.0)
    shown = LlamaRotaryEmbedding(transformers_config("llama3", 80, 500000.0, 131072, **blend)).inv_freq.tolist()
    assert max(formulas.ulps(a, b) for a, b in zip(shown, exact, strict=True)) > 46
