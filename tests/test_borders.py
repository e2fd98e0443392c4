"""What broke at the borders when strangers tried: each kind of fault with its right answer, F38 and on of docs/reliability.md.

F37, the registered operators, is in _native/test_operator_fuzz.py.
"""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from rotary import RotaryEmbedding, apply_rotary, positions
from rotary.scaling import NTK, DynamicNTK, Linear, LongRoPE, YaRN
from support import truth

ARGUMENTS = {
    "dim": 4,
    "use_xpos": True,
    "scale_base": 256,
    "interpolation_factor": 4.0,
    "base": 5e5,
    "base_rescale_factor": 2.0,
    "scaling": (),
    "interleaved": True,
    "angles": "float32",
    "attention_factor": 2.0,
}


def makes() -> dict[str, RotaryEmbedding]:
    """Modules by every way of making one."""
    rope = RotaryEmbedding(8)
    return {
        "constructor": rope,
        "from_inv_freq": RotaryEmbedding.from_inv_freq([1.0, 0.1, 0.01, 0.001]),
        "from_config": RotaryEmbedding.from_config("llama-3.1-8b"),
        "deepcopy": copy.deepcopy(rope),
        "copy": copy.copy(rope),
        "pickle": pickle.loads(pickle.dumps(rope)),
        "meta": RotaryEmbedding(8, device="meta").to_empty(device="cpu"),
        "cast": RotaryEmbedding(8).to(torch.bfloat16),
    }


@pytest.mark.parametrize("made", list(makes()))
@pytest.mark.parametrize("name", list(ARGUMENTS))
def test_F38_an_argument_cannot_be_assigned(made: str, name: str):
    """It changed nothing while repr showed it; interleaved and half of dim did change."""
    rope = makes()[made]
    before = repr(rope)
    with pytest.raises(
        AttributeError, match=rf"{name} was fixed .* rope.replace\(\) .*builders \(from_inv_freq, axial\)"
    ):
        setattr(rope, name, ARGUMENTS[name])
    assert repr(rope) == before
    rope.note = "an attribute of one's own"  # free
    assert rope.note


@pytest.mark.parametrize("made", list(makes()))
def test_F38_a_mirrored_buffer_takes_what_agrees(made: str):
    rope = makes()[made]
    good = rope.inv_freq.clone()
    expected = rope.cos_sin(5)
    rope.inv_freq = good
    rope.inv_freq = good.double()
    rope.inv_freq = good.to("meta")  # has no values to disagree with
    rope.reset_parameters()
    with FakeTensorMode() as mode:
        rope.inv_freq = mode.from_tensor(good)
    rope.inv_freq = good
    rope.scale = None
    wrong: list[tuple[Any, type[Exception]]] = [
        (good * 2, ValueError),
        (good[:-1], ValueError),
        (torch.full_like(good, float("nan")), ValueError),
        (good.to(torch.int64), ValueError),
        (None, ValueError),
        (nn.Parameter(good.clone()), TypeError),
    ]
    for value, error in wrong:
        with pytest.raises(error):
            rope.inv_freq = value
        assert rope.inv_freq is good
    with pytest.raises(ValueError, match="use_xpos=False"):
        rope.scale = torch.ones(4)
    with pytest.raises(AttributeError, match="cannot be deleted"):
        del rope.inv_freq
    assert all(torch.equal(a, b) for a, b in zip(rope.cos_sin(5), expected, strict=True))
    assert rope.state_dict() == {} and list(rope.parameters()) == []


def test_F38_replace_makes_another_module():
    rope = RotaryEmbedding(8, base=500, scaling=Linear(2.0), interleaved=True)
    other = rope.replace(base=7.0, scaling=None)
    assert other.base == 7.0 and other.scaling == () and other.interleaved and rope.base == 500
    assert torch.equal(other.inv_freq, RotaryEmbedding(8, base=7.0).inv_freq)
    assert rope.replace(device="meta").inv_freq.is_meta and repr(rope.replace()) == repr(rope)
    with pytest.raises(TypeError, match="unknown argument 'bas'"):
        rope.replace(bas=3)
    with pytest.raises(TypeError, match="from_inv_freq"):
        RotaryEmbedding.from_inv_freq([1.0]).replace(base=3.0)

    class Mine(RotaryEmbedding):
        def __init__(self) -> None:
            super().__init__(8)

    with pytest.raises(TypeError, match="Mine has a constructor of its own"):
        Mine().replace(base=3.0)


FAR = (2**31, 2**31 + 1, 2**36 + 7, -(2**40) - 3, 2**50 + 1, 2**55 - 1, -(2**62) - 5, 2**63 - 1, -(2**63))


@pytest.mark.parametrize("base", [1e4, 5e5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_F39_positions_are_exact_wherever_int64_reaches(base: float, dtype: torch.dtype):
    """One word of the angle lost 0.76 of cos at 2^62, silently; the error bound is now that of every other position."""
    rope = RotaryEmbedding(16, base=base)
    table = rope.cos_sin(torch.tensor(FAR), dtype)
    bound = 3.1e-8 if dtype == torch.float32 else 2e-9  # the last kept bit of a frequency, 2^-96 turn, times 2^63
    exact = truth.table(FAR, rope.inv_freq.tolist())
    for t, position in enumerate(FAR):
        for j in range(8):
            for got, expected in zip((table[0][t, j], table[1][t, j]), exact[t][j], strict=True):
                assert abs(float(got) - expected) <= bound, (position, j)
    one = torch.randn(1, 1, 16, dtype=dtype)
    for position in FAR:
        alone = rope.rotate(one, offset=position)
        assert torch.equal(alone, rope.rotate(one, positions=torch.tensor([position])))


def test_F39_a_far_position_changes_no_bit_of_its_neighbours():
    rope = RotaryEmbedding(64)
    near = torch.randint(-(2**31), 2**31, (4000,), generator=torch.Generator().manual_seed(0))
    mixed = torch.cat((near, torch.tensor([2**40])))
    assert all(torch.equal(a, b[:-1]) for a, b in zip(rope.cos_sin(near), rope.cos_sin(mixed), strict=True))


def test_F39_positions_that_no_int64_holds_are_refused():
    rope, x = RotaryEmbedding(8), torch.randn(1, 3, 8)
    for offset in (2**63, 2**63 - 2, -(2**63) - 1, 10**30):
        with pytest.raises(ValueError, match="int64"):
            rope.rotate(x, offset=offset)
    rope.rotate(x, offset=2**63 - 3)
    with pytest.raises(ValueError, match="2\\^63"):
        rope.cos_sin(torch.tensor([2**64 - 1], dtype=torch.uint64))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.uint64])
@pytest.mark.parametrize("made", [{}, {"use_xpos": True}, {"scaling": DynamicNTK(2.0, 64)}])
def test_F39_positions_of_every_integer_dtype(dtype: torch.dtype, made: dict[str, Any]):
    rope = RotaryEmbedding(8, **made)
    role = {"role": "query"} if rope.use_xpos else {"length": 64}
    expected = rope.cos_sin(torch.tensor([0, 3, 50]), **role)
    assert all(
        torch.equal(a, b)
        for a, b in zip(rope.cos_sin(torch.tensor([0, 3, 50], dtype=dtype), **role), expected, strict=True)
    )


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_F40_a_length_that_jit_trace_made_a_tensor_is_refused():
    """cos_sin(3) is three positions and cos_sin(tensor(3)) is position 3: under jit.trace a length becomes the second."""
    rope = RotaryEmbedding(8)
    x = (torch.randn(1, 2, 5, 8),)
    with pytest.raises(ValueError, match=r"torch.arange\(n\)"):
        torch.jit.trace(lambda x: apply_rotary(x, *rope.cos_sin(x.shape[-2])), x, check_trace=False)
    with pytest.raises(ValueError, match=r"torch.arange\(n\)"):
        torch.jit.trace(lambda x: rope(x.shape[-2])[0], x, check_trace=False)
    traced = torch.jit.trace(lambda x: apply_rotary(x, *rope.cos_sin(torch.arange(x.shape[-2]))), x, check_trace=False)
    longer = torch.randn(1, 2, 9, 8)
    assert torch.equal(traced(longer), rope.rotate(longer))
    assert rope.cos_sin(torch.tensor(3))[0].shape == (4,)


def test_F41_a_mask_of_document_numbers_starts_each_document_anew():
    assert positions.padded(torch.tensor([[1, 1, 1, 2, 2, 3]])).tolist() == [[0, 1, 2, 0, 1, 0]]
    assert positions.padded(torch.tensor([[0, 0, 1, 1, 5, 5, 0], [0, 2, 2, 2, 2, 3, 3]])).tolist() == [
        [0, 0, 0, 1, 0, 1, 1],
        [0, 0, 1, 2, 3, 0, 1],
    ]
    for mask in ([[1, 1, 0, 0]], [[0, 1, 0, 1]], [[0, 0, 0, 0]], [[1, 0, 1, 1]]):  # of 0 and 1: as ever
        real = torch.tensor(mask)
        assert positions.padded(real).tolist() == (real.cumsum(-1) - 1).clamp(min=0).tolist()
        assert torch.equal(positions.padded(real.bool()), positions.padded(real))
    for wrong in ([[2, 1]], [[1, 2, 1]], [[-1, 1]]):
        with pytest.raises(ValueError, match="document numbers"):
            positions.padded(torch.tensor(wrong))
    assert positions.padded(torch.zeros(2, 0, dtype=torch.int64)).shape == (2, 0)


def strideless(x: torch.Tensor) -> dict[str, torch.Tensor]:
    made = {
        "nested, strided": torch.nested.nested_tensor([torch.randn(4, 8), torch.randn(6, 8)]),
        "sparse": x.to_sparse(),
        "csr": x[0].to_sparse_csr(),
    }
    if torch.backends.mkldnn.is_available():
        made["mkldnn"] = x.to_mkldnn()
    return made


@pytest.mark.parametrize("kind", list(strideless(torch.randn(2, 5, 8))))
@pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:The PyTorch API of nested")
def test_F42_tensors_without_strides_are_refused_with_the_remedy(kind: str):
    x = strideless(torch.randn(2, 5, 8))[kind]
    with pytest.raises(TypeError, match=r"layout=torch\.jagged" if "nested" in kind else r"to_dense\(\)"):
        RotaryEmbedding(8).rotate(x, seq_dim=-2)
    with pytest.raises(TypeError, match="positions"):
        RotaryEmbedding(8).cos_sin(torch.tensor([1, 2]).to_sparse())
    with pytest.raises(TypeError, match="inv_freq"):
        RotaryEmbedding.from_inv_freq(torch.tensor([1.0, 0.0]).to_sparse())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_F42_script_and_fx_are_refused_with_the_remedy():
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rope = RotaryEmbedding(8)

        def forward(self, x):
            return self.rope.rotate(x)

    for module in (Attention(), RotaryEmbedding(8)):
        with pytest.raises(TypeError, match=r"torch.jit.script: use torch.compile or torch.export"):
            torch.jit.script(module)
    with pytest.raises(TypeError, match=r"use torch.export"):
        torch.fx.Tracer(autowrap_functions=()).trace(lambda x: Attention().rope.rotate(x))
    x = torch.randn(1, 5, 8)
    assert torch.equal(torch.export.export(Attention(), (x,)).module()(x), RotaryEmbedding(8).rotate(x))


class Plain(torch.Tensor):
    """A subclass that changes nothing."""


def test_F46_overlapping_q_and_k_in_place_are_refused_where_the_formula_runs_too():
    rope = RotaryEmbedding(8)

    def overlapping() -> tuple[torch.Tensor, torch.Tensor]:
        buffer = torch.randn(2, 6, 8)
        return buffer[:, :5], buffer[:, 1:]

    q, k = overlapping()
    before = q.clone()
    with pytest.raises(RuntimeError, match="share memory"):
        rope.rotate(q.as_subclass(Plain), k.as_subclass(Plain), inplace=True)
    assert torch.equal(q, before)
    with torch.autograd.forward_ad.dual_level(), pytest.raises(RuntimeError, match="share memory"):
        rope.rotate(q, k, inplace=True)
    assert torch.equal(q, before)
    expanded = torch.randn(1, 5, 8).expand(2, 5, 8).as_subclass(Plain)
    with pytest.raises(RuntimeError, match="overlaps itself"):
        rope.rotate(expanded, inplace=True)
    apart = torch.randn(2, 5, 8).as_subclass(Plain), torch.randn(2, 5, 8).as_subclass(Plain)
    assert rope.rotate(*apart, inplace=True)[0] is apart[0]


def test_F43_the_documented_pair_of_an_interleaved_module_warns():
    """Its freqs are laid out by halves, as documented, and the module pairs adjacent channels."""
    with pytest.warns(UserWarning, match=r"use rotate\(\)"):
        freqs, _ = RotaryEmbedding(8, interleaved=True)(5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(freqs, RotaryEmbedding(8)(5)[0])
        RotaryEmbedding(8, interleaved=True).rotate(torch.randn(5, 8))


def test_F44_accelerate_offloads_the_buffers():
    """The None buffer `scale` stood among those that are not persistent, which offload_buffers moves."""
    accelerate = pytest.importorskip("accelerate")
    for use_xpos in (False, True):
        model = nn.Sequential(nn.Linear(4, 4), RotaryEmbedding(8, use_xpos=use_xpos))
        expected = model[1].inv_freq.clone()
        accelerate.cpu_offload(model, execution_device=torch.device("cpu"), offload_buffers=True)
        assert model[1](3)[0].shape == (3, 8)
        assert torch.equal(
            model[1].rotate(torch.ones(3, 8), role="query"),
            RotaryEmbedding(8, use_xpos=use_xpos).rotate(torch.ones(3, 8), role="query"),
        )
        assert expected.shape == (4,)


HUGE = 10**400


@pytest.mark.parametrize(
    "make",
    [
        lambda: RotaryEmbedding(8, base=HUGE),
        lambda: RotaryEmbedding(8, interpolation_factor=HUGE),
        lambda: RotaryEmbedding(8, base_rescale_factor=HUGE),
        lambda: RotaryEmbedding(8, base=1e300, base_rescale_factor=1e300),
        lambda: RotaryEmbedding(8, use_xpos=True, scale_base=HUGE),
        lambda: RotaryEmbedding(8, scaling=NTK(HUGE)),
        lambda: RotaryEmbedding(8, scaling=Linear(HUGE)),
        lambda: RotaryEmbedding(8, scaling=NTK(1e308), angles="float32"),
        lambda: RotaryEmbedding(8, scaling=YaRN(HUGE, 4096)),
        lambda: RotaryEmbedding(8, scaling=YaRN(4.0, 4096, attention_factor=1e300)),
        lambda: RotaryEmbedding(8, scaling=YaRN(4.0, 4096, mscale=1e40, mscale_all_dim=0.7)),
        lambda: RotaryEmbedding(64, scaling=LongRoPE([1.0] * 32, [1e-45] * 32, 64, factor=4.0)),
        lambda: RotaryEmbedding(64, scaling=DynamicNTK(1e30, 100)),
        lambda: RotaryEmbedding.from_inv_freq([1.0], attention_factor=1e39),
        lambda: RotaryEmbedding.from_inv_freq([1.0], attention_factor=HUGE),
        lambda: RotaryEmbedding.from_inv_freq([HUGE]),
        lambda: RotaryEmbedding.from_inv_freq([[1.0, 0.1], [0.5, 0.2]]),
        lambda: RotaryEmbedding.from_inv_freq([1e39]),
        lambda: RotaryEmbedding.from_inv_freq(1.0),
        lambda: RotaryEmbedding.from_inv_freq("abc"),
        lambda: RotaryEmbedding.from_inv_freq(None),
        lambda: RotaryEmbedding.from_inv_freq([]),
    ],
)
def test_F45_numbers_that_no_table_holds_are_our_error(make: Any):
    with pytest.raises((ValueError, TypeError)) as caught:
        make()
    assert len(str(caught.value)) < 500


def test_F45_the_largest_numbers_that_can_be_honoured_are():
    rope = RotaryEmbedding(8, use_xpos=True, scale_base=1e308)
    q, k = rope.rotate(torch.randn(1, 3, 8), torch.randn(1, 3, 8))
    assert bool(q.isfinite().all() and k.isfinite().all()) and rope(3)[0].shape == (3, 8)
