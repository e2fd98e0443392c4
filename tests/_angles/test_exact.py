"""One battery over everything that makes exact tables: native on each instruction set, the GPU kernel, plain torch operations.

Plain torch operations are judged elsewhere (test_turns.py, test_polynomials.py); every other way has their bits, in every case.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from _rotation.test_contract import DEVICE, SETS, chosen, interpreted
from rotary import RotaryEmbedding, cos_sin_of, scaling, use_backend
from rotary._angles import exact, native
from rotary._angles.frequencies import Spectrum
from rotary._native import library
from support.step_by_step import step_by_step

KERNELS = (*(f"native {name}" for name in SETS), "triton")
EDGES = (0, 1, -1, 2**31, -(2**31), 2**31 + 1, -(2**31) - 1, 2**32, 2**53 + 1, 2**63 - 1, -(2**63))
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}
YARN = scaling.YaRN(factor=4.0, original_max_position_embeddings=64)
LONGROPE = scaling.LongRoPE([1.0] * 24, [1.0 + i / 4 for i in range(24)], 64, factor=4.0)

needs_library = pytest.mark.skipif(library.unavailable() is not None, reason=str(library.unavailable()))


@pytest.fixture(params=KERNELS, ids=lambda kernel: kernel.replace(" ", "-"))
def kernel(request: pytest.FixtureRequest) -> Iterator[str]:
    with chosen(request.param) as name:
        yield name


def bits(x: Tensor) -> Tensor:
    return x.contiguous().cpu().view(INTEGER[x.element_size()])


def compare(kernel: str, make: Callable[[str], tuple[Tensor, Tensor]], monkeypatch: pytest.MonkeyPatch) -> None:
    """make(device) by that kernel, and by plain torch operations; the kernel must have been asked, and must not have declined."""
    with use_backend("eager"):
        expected = make("cpu")
    filled: list[bool] = []
    tables_by = exact._tables_by

    def recorded(*arguments: Any) -> Any:
        tables = tables_by(*arguments)
        filled.append(tables is not None)
        return tables

    with monkeypatch.context() as patched:
        patched.setattr(exact, "_tables_by", recorded)
        with use_backend(kernel):
            result = make(DEVICE[kernel])
    assert filled and all(filled), f"{kernel} was not asked"
    for a, b in zip(result, expected, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype and a.device.type == DEVICE[kernel]
        assert torch.equal(bits(a), bits(b)), f"{int((bits(a) != bits(b)).sum())} of {a.numel()} values differ"


def reaches_far(kernel: str, dtype: torch.dtype) -> bool:
    """Whether positions beyond 2^31 are exact: positions on a device are not read, and there one word is taken for all of them, which is
    the documented limit of tables other than float64."""
    return dtype == torch.float64 or DEVICE[kernel] == "cpu"


def some_positions(n: int, reach: int = 2**31) -> Tensor:
    return torch.randint(-reach, reach, (n,), generator=torch.Generator().manual_seed(n))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", [2, 6, 96, 128])
def test_one_coordinate(kernel: str, dim: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    """Near and far positions, alone and together: float32 tables take one word near and two words far, row by row."""
    rope = RotaryEmbedding(dim, base=5e5)
    near, far, edges = some_positions(9 if interpreted(kernel) else 301), some_positions(9, 2**62), torch.tensor(EDGES)
    if not reaches_far(kernel, dtype):
        far, edges = far[:0], edges[:5]
    for positions in (near, torch.cat((near[:5], far, edges))):
        compare(kernel, lambda device, p=positions: rope.cos_sin(p.to(device), dtype), monkeypatch)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_amplitudes(kernel: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    positions = torch.tensor([*EDGES[:5], 1000, 77])
    for scheme, length in ((YARN, None), (LONGROPE, 65)):
        rope = RotaryEmbedding(48, scaling=scheme)
        compare(kernel, lambda device, r=rope, n=length: r.cos_sin(positions.to(device), dtype, length=n), monkeypatch)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("role", ["query", "key"])
def test_the_decay_of_xpos(kernel: str, role: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    """The exp of polynomials.py: the bits of a scale are the same everywhere too."""
    positions = torch.tensor([0, 1, -1, 500, -1999, 3000])
    compare(
        kernel,
        lambda device: RotaryEmbedding(20, use_xpos=True).cos_sin(positions.to(device), dtype, role=role),
        monkeypatch,
    )


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("reach", [2**31, 2**62], ids=["near", "far"])
def test_axes(kernel: str, reach: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    if reach > 2**31 and not reaches_far(kernel, dtype):
        pytest.skip("positions on a device are not read: 2^31 is their limit")
    rope = RotaryEmbedding(40, axes=(0,) * 3 + (2,) * 7 + (1, 2) * 5)
    positions = some_positions(2 * 5 * 3, reach).view(2, 5, 3)
    for p in (positions, positions[0], positions[:, 2], positions.transpose(0, 1), positions[1:].expand(3, 5, 3)):
        compare(kernel, lambda device, p=p: rope.cos_sin(p.to(device), dtype), monkeypatch)


@pytest.mark.parametrize("scheme", [scaling.DynamicNTK(4.0, 64), LONGROPE], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_a_length_for_each_row(
    kernel: str, scheme: scaling.Scheme, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
):
    """Words, and with LongRoPE amplitudes, for each row of the batch, and positions for all rows or for each."""
    rope = RotaryEmbedding(48, scaling=scheme)
    for lengths, shape in itertools.product(([30, 100, 900], [300]), ((7,), (1, 7), (3, 7))):
        if shape[0] == 3 != len(lengths) or (interpreted(kernel) and shape == (1, 7)):
            continue
        positions = some_positions(torch.Size(shape).numel()).view(shape)
        compare(
            kernel,
            lambda device, p=positions, n=lengths: rope.cos_sin(
                p.to(device), dtype, length=torch.tensor(n, device=device)
            ),
            monkeypatch,
        )


@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 5), (3, 1), (2, 1, 3)], ids=str)
@pytest.mark.parametrize("planes", [1, 3, 64, 600])
def test_shapes(kernel: str, planes: int, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch):
    rope = RotaryEmbedding(2 * planes)
    positions = some_positions(torch.Size(shape).numel()).view(shape)
    compare(kernel, lambda device: rope.cos_sin(positions.to(device)), monkeypatch)


def test_positions_that_are_views(kernel: str, monkeypatch: pytest.MonkeyPatch):
    positions = some_positions(24).view(4, 6)
    for view in (positions[:, ::2], positions.T, positions[1, 2], positions[:1].expand(3, 6)):
        compare(kernel, lambda device, p=view: RotaryEmbedding(8).cos_sin(p.to(device)), monkeypatch)


def test_no_rows(kernel: str):
    with use_backend(kernel):
        for shape in ((0,), (2, 0), (0, 3)):
            cos, sin = RotaryEmbedding(8).cos_sin(torch.empty(shape, dtype=torch.int64, device=DEVICE[kernel]))
            assert cos.shape == sin.shape == (*shape, 4)


def test_turns_that_are_there_already(kernel: str, monkeypatch: pytest.MonkeyPatch):
    """Dense directions and moved keys have turns for each position and plane, and no words to multiply by."""
    directions = [[0.5, 0.25], [1.0, -3.0], [0.1, 0.7]]
    positions = some_positions(12).view(6, 2)
    for dtype in DTYPES:
        compare(kernel, lambda device, d=dtype: cos_sin_of(positions.to(device), directions, d), monkeypatch)
    rope = RotaryEmbedding(16, use_xpos=True)
    k = torch.randn(1, 2, 5, 16, generator=torch.Generator().manual_seed(0))
    old, new = torch.arange(5), torch.tensor([[3, 9, 11, 400, -7]])
    compare(
        kernel,
        lambda device: (moved := rope.rerotate(k.to(device), old.to(device), new.to(device)), moved),
        monkeypatch,
    )


@needs_library
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, 90),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=40),
    st.sampled_from(DTYPES),
    st.sampled_from(SETS),
)
def test_native_tables_have_the_bits_of_the_operations(
    planes: int, positions: list[int], dtype: torch.dtype, name: str
):
    rope, at = RotaryEmbedding(2 * planes), torch.tensor(positions)
    with use_backend("eager"):
        expected = rope.cos_sin(at, dtype)
    with chosen(f"native {name}"), use_backend("native"):
        result = rope.cos_sin(at, dtype)
    assert all(torch.equal(bits(a), bits(b)) for a, b in zip(result, expected, strict=True))


@needs_library
def test_long_native_tables_in_threads_have_the_bits_of_each_row_alone():
    rope, positions = RotaryEmbedding(70), some_positions(3001)
    whole = rope.cos_sin(positions)
    for i in (0, 1, 467, 468, 1499, 1500, 3000):
        assert all(torch.equal(a, b[i : i + 1]) for a, b in zip(rope.cos_sin(positions[i : i + 1]), whole, strict=True))


@needs_library
def test_the_native_tables_may_be_counted_without_positions():
    """A caller in C may pass no positions: row r has position first + r, on every coordinate."""
    rope = RotaryEmbedding(48, axes=(0,) * 8 + (1,) * 16)
    spectrum = Spectrum(48, 10_000.0, axes=rope.axes)
    high, axes = torch.tensor(spectrum.turns_per_token[0]), torch.tensor(spectrum.axes)
    amplitude = torch.tensor([spectrum.attention_factor], dtype=torch.float64)
    cos, sin = torch.empty(2, 5, 24), torch.empty(2, 5, 24)
    both = torch.cat((high, high))
    call = native._call or native._bind()
    addresses = (0, axes.data_ptr(), both.data_ptr(), 0, amplitude.data_ptr(), 0, cos.data_ptr(), sin.data_ptr())
    assert call(native._pack(0, 1, 2, 5, 24, 0, 2, 1, -3, *addresses)) == 0
    expected = rope.cos_sin(torch.arange(-3, 2)[:, None].expand(5, 2))
    for table, row in zip((cos, sin), expected, strict=True):
        assert torch.equal(table[0], row) and torch.equal(table[1], row)


class Subclass(Tensor):
    pass


def _fake(rope: RotaryEmbedding) -> object:
    with FakeTensorMode():
        return rope.cos_sin(torch.arange(3))


TRACERS: dict[str, Callable[[RotaryEmbedding], object]] = {
    "compile": lambda rope: torch.compile(rope.cos_sin, backend="eager")(torch.arange(3)),
    "make_fx": lambda rope: make_fx(lambda p: rope.cos_sin(p))(torch.arange(3)),
    "fake tensors": _fake,
    "vmap": lambda rope: torch.func.vmap(rope.cos_sin)(torch.arange(3)),
    "jit.trace": lambda rope: torch.jit.trace(lambda p: rope.cos_sin(p), torch.arange(3), check_trace=False),
    "subclass": lambda rope: rope.cos_sin(torch.arange(3).as_subclass(Subclass)),
    "meta": lambda rope: rope.cos_sin(torch.arange(3, device="meta")),
    "real positions": lambda rope: rope.cos_sin(torch.arange(3.0)),
    "directions": lambda rope: torch.func.vmap(lambda p: cos_sin_of(p, [[1.0, 0.5]]))(
        torch.ones(2, 3, 2, dtype=torch.int64)
    ),
}


@needs_library
@pytest.mark.parametrize("tracer", TRACERS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_no_address_is_taken_of_what_something_traces(tracer: str, monkeypatch: pytest.MonkeyPatch):
    def refuse(*given: object) -> None:
        raise AssertionError("the kernel was called")

    monkeypatch.setattr(exact, "_tables_by", refuse)
    TRACERS[tracer](RotaryEmbedding(8))
    with step_by_step(), pytest.raises(AssertionError, match="the kernel was called"):
        RotaryEmbedding(8).cos_sin(torch.arange(3))


XPOS, FLOAT32 = RotaryEmbedding(8, use_xpos=True), RotaryEmbedding(8, angles="float32")
DYNAMIC = RotaryEmbedding(8, scaling=scaling.DynamicNTK(4.0, 16))
LONG = RotaryEmbedding(8, scaling=scaling.LongRoPE([1.0] * 4, [4.0] * 4, 16, factor=2.0))
TRACES: dict[
    str, tuple[Callable[..., object], tuple[int, ...]]
] = {  # functions of q, p and, if they take one, two lengths of the context
    "xPos": (lambda q, p: XPOS.rotate(q, positions=p, role="key"), ()),
    "xPos, two tables": (lambda q, p: XPOS.rotate(q, 2 * q, positions=p), ()),
    "DynamicNTK": (lambda q, p, n: DYNAMIC.rotate(q, positions=p, length=n), (9, 99)),
    "DynamicNTK, a length per row": (lambda q, p, n: DYNAMIC.cos_sin(p, length=torch.stack((n, 2 * n))), (9, 99)),
    "LongRoPE in float64": (lambda q, p, n: LONG.cos_sin(p, torch.float64, length=n), (9, 99)),
    "directions": (lambda q, p: cos_sin_of(p[:, None], [[1.0], [1e-39], [-0.3]]), ()),
    "moved keys": (lambda q, p: XPOS.rerotate(q, p, p + 3), ()),
    "moved keys of float32 angles": (lambda q, p: FLOAT32.rerotate(q, p, 2 * p), ()),
    "keys under another base": (lambda q, p: XPOS.rerotate(q, p, p, new=XPOS.replace(base=500)), ()),
}


@pytest.mark.parametrize("name", TRACES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_jit_trace_has_the_bits_for_other_positions_and_lengths(name: str):
    run, lengths = TRACES[name]
    first: list[Tensor] = [torch.randn(2, 3, 5, 8), torch.arange(5)]
    other: list[Tensor] = [torch.randn(2, 3, 5, 8), torch.arange(5) * 7]
    for inputs, length in zip((first, other), lengths, strict=False):
        inputs.append(torch.tensor(length))
    traced = torch.jit.trace(run, tuple(first), check_trace=False)
    for inputs in (first, other):
        result, expected = traced(*inputs), run(*inputs)
        pairs = [(result, expected)] if isinstance(expected, Tensor) else zip(result, expected, strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


@needs_library
def test_tables_lie_where_positions_do_whatever_the_default_device():
    with torch.device("meta"):
        cos, _ = RotaryEmbedding(8).cos_sin(torch.arange(70_000, device="cpu"))
    assert cos.device.type == "cpu"


def test_without_a_library_the_operations_make_the_same_tables(monkeypatch: pytest.MonkeyPatch):
    rope, positions = RotaryEmbedding(128), some_positions(2000)
    with_library = rope.cos_sin(positions)
    monkeypatch.setattr(native, "unavailable", lambda: "no native library here")
    assert all(torch.equal(a, b) for a, b in zip(rope.cos_sin(positions), with_library, strict=True))
