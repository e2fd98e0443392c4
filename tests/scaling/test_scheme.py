"""Properties of all schemes: they are values, pure, can be chained, and users can write their own."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from dataclasses import dataclass

import pytest
import torch

from rotary import RotaryEmbedding, scaling
from rotary.scaling import (
    NTK,
    Clipped,
    DynamicNTK,
    Gains,
    Linear,
    Llama3,
    LongRoPE,
    NTKByParts,
    NTKMixed,
    Power,
    Proportional,
    Resonance,
    Scheme,
    Truncated,
    YaRN,
)
from rotary.scaling.scheme import as_schemes

ALL = (
    Linear(4.0),
    NTK(4.0),
    DynamicNTK(4.0, 64),
    NTKMixed(4.0),
    NTKByParts(4.0, 64, 8.0, 1.0),
    NTKByParts(4.0, 64, 8.0, 1.0, ramp="planes"),
    YaRN(4.0, 64),
    Llama3(4.0, 64),
    LongRoPE([1.0 + i / 8 for i in range(16)], [2.0 + i for i in range(16)], 64, factor=4.0),
    Proportional(0.5, 2.0),
    Truncated(64),
    Power(0.5),
    Clipped(4),
    Clipped(4, "hard"),
    Resonance(),
    Gains([0.9] * 16),
)
DIM = 32


def name(scheme: Scheme) -> str:
    return type(scheme).__name__


def test_every_public_scheme_is_here():
    public = {n for n in scaling.__all__ if n != "Scheme"}
    assert public == {name(scheme) for scheme in ALL}


@pytest.mark.parametrize("scheme", ALL, ids=name)
def test_is_a_value(scheme: Scheme):
    again = pickle.loads(pickle.dumps(scheme))
    assert again == scheme == copy.deepcopy(scheme) and hash(again) == hash(scheme)
    assert eval(repr(scheme), {name: getattr(scaling, name) for name in scaling.__all__}) == scheme
    for field in dataclasses.fields(scheme):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(scheme, field.name, 1.0)
    both = RotaryEmbedding(DIM, scaling=scheme), RotaryEmbedding(DIM, scaling=again)
    assert torch.equal(both[0].inv_freq, both[1].inv_freq) and name(scheme) in repr(both[0])
    assert torch.equal(pickle.loads(pickle.dumps(both[0])).cos_sin(9)[0], both[0].cos_sin(9)[0])


@pytest.mark.parametrize("scheme", ALL, ids=name)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_is_pure_and_keeps_its_dtype(scheme: Scheme, dtype: torch.dtype):
    inv_freq = 10000.0 ** (-torch.arange(0, DIM, 2, dtype=dtype) / DIM)
    before = inv_freq.clone()
    call = scheme if dtype == torch.float64 else scheme.in_float32
    for length in (None, 100, torch.tensor(100), torch.tensor([64, 100, 5000])):
        scaled, factor = call(inv_freq, base=10000.0, dim=DIM, length=length)
        again, same_factor = call(inv_freq, base=10000.0, dim=DIM, length=length)
        assert torch.equal(inv_freq, before) and torch.equal(scaled, again)
        assert torch.equal(torch.as_tensor(factor), torch.as_tensor(same_factor))
        assert scaled.dtype == dtype and scaled.isfinite().all() and (scaled >= 0).all()
        per_row = scheme.window is not None and isinstance(length, torch.Tensor) and length.ndim == 1
        assert scaled.shape == ((3, DIM // 2) if per_row else (DIM // 2,))


@pytest.mark.parametrize("scheme", ALL, ids=name)
def test_float32_is_the_same_map(scheme: Scheme):
    exact, float32 = (RotaryEmbedding(DIM, scaling=scheme, angles=angles) for angles in ("exact", "float32"))
    # The last plane of a clipped spectrum is 0 except for the rounding of cos(pi).
    torch.testing.assert_close(float32.inv_freq, exact.inv_freq, rtol=3e-6, atol=1e-10)
    assert float32.attention_factor == exact.attention_factor


@pytest.mark.parametrize("scheme", ALL, ids=name)
@pytest.mark.parametrize("angles", ["exact", "float32"])
def test_takes_frequencies_of_rows(scheme: Scheme, angles: str):
    """After a scheme that returns (batch, dim/2), each row equals the result for that row alone."""
    chain = (DynamicNTK(2.0, 16), scheme)
    rope = RotaryEmbedding(DIM, scaling=chain, angles=angles)
    lengths = [16, 17, 200]
    batch = rope.cos_sin(20, length=torch.tensor(lengths))
    for row, length in enumerate(lengths):
        for whole, alone in zip(batch, rope.cos_sin(20, length=torch.tensor(length)), strict=True):
            assert torch.equal(whole[row], alone)


@pytest.mark.parametrize("angles", ["exact", "float32"])
def test_chain_from_left_to_right(angles: str):
    rope = RotaryEmbedding(DIM, scaling=(YaRN(4.0, 64), Resonance()), angles=angles)
    first = RotaryEmbedding(DIM, scaling=YaRN(4.0, 64), angles=angles)
    expected = 2 * torch.pi / (2 * torch.pi / first.inv_freq.double()).round()
    torch.testing.assert_close(rope.inv_freq.double(), expected, rtol=2e-7, atol=0.0)
    swapped = RotaryEmbedding(DIM, scaling=(Resonance(), YaRN(4.0, 64)), angles=angles)
    assert not torch.equal(rope.inv_freq, swapped.inv_freq)
    assert rope.attention_factor == first.attention_factor
    twice = RotaryEmbedding(DIM, scaling=(YaRN(4.0, 64), YaRN(2.0, 64)), angles=angles)
    single = [RotaryEmbedding(DIM, scaling=YaRN(f, 64)).attention_factor for f in (4.0, 2.0)]
    assert twice.attention_factor == pytest.approx(single[0] * single[1], rel=1e-15)
    linear = RotaryEmbedding(DIM, scaling=(Linear(2.0), Linear(3.0)), angles=angles)
    torch.testing.assert_close(linear.inv_freq * 6, RotaryEmbedding(DIM).inv_freq, rtol=3e-7, atol=0.0)
    # transformers computes these schemes from the base; in a chain they keep the effect of the scheme before them.
    for later in (NTK(4.0), YaRN(4.0, 64), Proportional(0.5), ALL[8]):
        chained = RotaryEmbedding(DIM, scaling=(Linear(5.0), later), angles=angles).inv_freq
        alone = RotaryEmbedding(DIM, scaling=later, angles=angles).inv_freq
        torch.testing.assert_close(chained * 5, alone, rtol=3e-6, atol=0.0)


@pytest.mark.parametrize("scheme", ALL, ids=name)
def test_with_both_pairings_partial_heads_and_xpos(scheme: Scheme):
    """Scores depend on the distance alone, whatever the scheme is combined with, and xPos decays as it does without a scheme."""
    q, k = torch.randn(2, 1, 1, 1, 48, dtype=torch.float64).unbind(0)
    for interleaved in (False, True):
        for use_xpos in (False, True):
            rope = RotaryEmbedding(DIM, use_xpos, scaling=scheme, interleaved=interleaved)
            scores = []
            for shift in (0, 1000):
                qs, ks = (
                    rope.rotate(x, positions=torch.tensor([p + shift]), role=role, length=4096)
                    for x, p, role in ((q, 30, "query"), (k, 7, "key"))
                )
                assert torch.equal(qs[..., DIM:], q[..., DIM:])
                scores.append((qs * ks).sum())
            torch.testing.assert_close(scores[0], scores[1], rtol=1e-9, atol=1e-9)


def test_a_scheme_of_ones_own_in_ten_lines():
    @dataclass(frozen=True)
    class Slower(Scheme):
        """inv_freq / factor for the slower half of the planes."""

        factor: float

        def __call__(self, inv_freq, *, base, dim, length=None):
            slow = torch.arange(inv_freq.shape[-1], device=inv_freq.device) >= inv_freq.shape[-1] // 2
            return torch.where(slow, inv_freq / self.factor, inv_freq), 1.0

    rope, plain = RotaryEmbedding(DIM, scaling=(Slower(4.0), Resonance())), RotaryEmbedding(DIM, scaling=Resonance())
    assert torch.equal(rope.inv_freq[:8], plain.inv_freq[:8]) and (rope.inv_freq[8:] < plain.inv_freq[8:]).all()
    assert rope.rotate(torch.randn(2, 5, DIM)).shape == (2, 5, DIM)
    assert RotaryEmbedding(DIM, scaling=Slower(4.0), angles="float32").inv_freq.dtype == torch.float32


def test_a_value_that_is_not_a_scheme_is_refused():
    for wrong in ("yarn", YaRN, [Linear], {"factor": 2.0}, 4.0):
        with pytest.raises(TypeError, match="scaling must be a scheme"):
            RotaryEmbedding(DIM, scaling=wrong)


def test_length_dependent_schemes_do_not_read_values_from_the_device():
    """On the meta device reading a value raises."""
    for scheme in (DynamicNTK(4.0, 64), ALL[8]):
        inv_freq = torch.empty(DIM // 2, dtype=torch.float64, device="meta")
        length = torch.empty(3, dtype=torch.int64, device="meta")
        for call, x in ((scheme, inv_freq), (scheme.in_float32, inv_freq.float())):
            scaled, _ = call(x, base=10000.0, dim=DIM, length=length)
            assert scaled.shape == (3, DIM // 2) and scaled.device.type == "meta"


def test_one_scheme_several_or_none():
    def scheme(inv_freq, **options):
        return inv_freq, 1.0

    scheme.window = None
    assert as_schemes(None) == ()
    assert as_schemes(scheme) == (scheme,)
    assert as_schemes([scheme, scheme]) == (scheme, scheme)
    for wrong in ("yarn", {"rope_type": "yarn"}, int, lambda x: x, [scheme, 4]):
        with pytest.raises(TypeError, match="rotary.scaling"):
            as_schemes(wrong)
