"""One battery over every kernel. The eager one is judged by numpy and exact fractions, every other one by the eager one.

    eager   bits: the formula in numpy, operation by operation; accuracy: fractions, no rounding at all
    cpu     bits equal to eager (a NaN is a NaN, whatever its payload; what is copied keeps its payload too)
    triton  in software, bits equal to eager. On a device an assembler follows that nobody here has seen, and may contract a * b + c:
            |y - exact| <= 2 u (|x_a cos| + |x_b sin|), u half an ulp of 1, before the one rounding

Two products span the battery: numbers (dtype, pairing, direction, head size, special values) and loops (shapes, memory layouts, tables).
What a row computes and where rows lie do not know of each other, and hypothesis mixes them in case they do.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from rotary._native import library
from rotary._rotation import eager
from rotary._rotation.autograd import How
from rotary._rotation.backends import kernel as find_kernel

Table = tuple[Tensor, Tensor]
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}
SETS = tuple(library.instruction_sets() or ("none",))
"""The instruction sets of the native library, each of which passes the battery where this processor runs it."""
KERNELS = ("eager", *(f"native {name}" for name in SETS), "triton")
DEVICE = {"eager": "cpu", "native": "cpu", "triton": "cuda" if torch.cuda.is_available() else "cpu"}


@pytest.fixture(params=KERNELS, ids=lambda kernel: kernel.replace(" ", "-"))
def kernel(request: pytest.FixtureRequest) -> Iterator[str]:
    with chosen(request.param) as name:
        yield name


@contextmanager
def chosen(kernel: str) -> Iterator[str]:
    """The name of a kernel, "native avx2" say, without the instruction set, by which it computes inside."""
    name, *instructions = kernel.split()
    reason = find_kernel(name).unavailable()
    if reason is None and instructions and (state := library.instruction_sets()[instructions[0]]) != "available":
        reason = state
    if reason is not None:
        pytest.skip(f"{kernel}: {reason}")
    before = library.instruction_set() if instructions else ""
    for name_of_set in instructions:
        library.use_instruction_set(name_of_set)
    yield name
    if before:
        library.use_instruction_set(before)


def interpreted(kernel: str) -> bool:
    """True if this kernel runs in a software GPU, thousands of times slower: then a part of the battery is run."""
    return kernel == "triton" and DEVICE[kernel] == "cpu"


@dataclass(frozen=True)
class Work:
    """Arguments of one call. base of a tensor: the whole memory it is a view of, so that stray writes are seen."""

    xs: tuple[Tensor, ...]
    outs: tuple[Tensor, ...]
    tables: tuple[Table, ...]
    how: How

    def description(self) -> str:
        tensors = [(tuple(t.shape), t.stride()) for t in (*self.xs, *self.outs, *(c for c, _ in self.tables))]
        return f"{self.xs[0].dtype} {self.how} in place: {self.outs[0] is self.xs[0]}; shapes and strides of x, out, cos: {tensors}"


def run(kernel: str, work: Work) -> str | None:
    """One kernel on copies of the memory of this work; True where it served. Fails where it wrote what it should not have."""
    device = DEVICE[kernel]
    moved = {id(t): _moved(t, device) for t in (*work.xs, *work.outs, *(t for table in work.tables for t in table))}
    xs = tuple(moved[id(x)] for x in work.xs)
    outs = tuple(moved[id(out)] for out in work.outs)
    tables = tuple((moved[id(c)], moved[id(s)]) for c, s in work.tables)
    before = {id(t): _memory(t).clone() for t in moved.values()}
    reason = find_kernel(kernel).rotate(xs, outs, tables, **work.how)
    for t in moved.values():
        old, new = before[id(t)], _memory(t)
        kept = torch.ones(old.numel(), dtype=torch.bool, device=device)
        if reason is None and any(t is out for out in outs):
            kept.as_strided(t.shape, t.stride(), t.storage_offset()).fill_(False)
        changed = (_bits(old) != _bits(new)) & kept
        assert not changed.any(), f"{kernel} wrote where it should not: {work.description()}"
    if reason is not None:
        assert kernel != "eager" and isinstance(reason, str) and reason
        return reason
    judge = _judge_eager if kernel == "eager" else _judge_by_eager
    judge(kernel, work, tuple(out.cpu() for out in outs))
    return None


def _judge_by_eager(kernel: str, work: Work, ys: tuple[Tensor, ...]) -> None:
    for x, y, table in zip(work.xs, ys, work.tables, strict=True):
        expected = torch.empty_like(x, memory_format=torch.contiguous_format)
        eager.rotate((x,), (expected,), (table,), **work.how)
        dim = 2 * table[0].shape[-1]
        # In place nothing past dim is written, so that it is equal in every bit either way.
        assert torch.equal(_bits(y[..., dim:]), _bits(expected[..., dim:])), (
            f"{kernel}, channels past {dim}: {work.description()}"
        )
        differs = (_bits(y) != _bits(expected)) & ~(y.isnan() & expected.isnan())
        if kernel == "triton" and DEVICE[kernel] == "cuda" and differs.any():
            differs &= ~within_bound(x, y, table, work.how)
        assert not differs.any(), f"{kernel}: {int(differs.sum())} of {y.numel()} differ: {work.description()}"


def _judge_eager(kernel: str, work: Work, ys: tuple[Tensor, ...]) -> None:
    for x, y, table in zip(work.xs, ys, work.tables, strict=True):
        dim = 2 * table[0].shape[-1]
        assert torch.equal(_bits(y[..., dim:]), _bits(x[..., dim:]))
        a, b, cos, sin = (_numpy(t) for t in _planes(x, table, work.how))
        sign = -1 if work.how["conjugate"] else 1
        with np.errstate(all="ignore"):
            expected = a * cos - b * (sign * sin), b * cos + a * (sign * sin)
        for y_part, part in zip(_planes(y, table, work.how)[:2], expected, strict=True):
            assert part.dtype == (np.float64 if x.dtype == torch.float64 else np.float32)
            rounded = _rounded(part, x.dtype)
            differs = (_bits(y_part) != _bits(rounded)) & ~(y_part.isnan() & rounded.isnan())
            assert not differs.any(), f"{int(differs.sum())} differ from the formula: {work.description()}"


def within_bound(x: Tensor, y: Tensor, table: Table, how: How) -> Tensor:
    """Which channels are as near to the exact rotation as a contracting compiler may leave them.

    In fractions for float64; for the rest in float64, where products of float32 are exact.
    """
    double = x.dtype == torch.float64
    a, b, cos, sin = (_numpy(t).astype(np.float64) for t in _planes(x, table, how))
    sin = -sin if how["conjugate"] else sin
    finite = (abs(a) < 1e150) & (abs(b) < 1e150)  # larger ones have no finite products to speak of
    a, b = np.where(finite, a, 0.0), np.where(finite, b, 0.0)
    unit: float | Fraction = 2.0**-24 * (1 + 1e-9)
    smallest: float | Fraction = 2.0**-149
    if double:
        unit, smallest = Fraction(2) ** -53, Fraction(2) ** -1074
        a, b, cos, sin = (np.vectorize(Fraction, otypes=[object])(t) if t.size else t for t in (a, b, cos, sin))
    within = torch.ones_like(y, dtype=torch.bool)
    parts = _planes(within, table, how)[:2], _planes(y, table, how)[:2], ((a * cos, -b * sin), (b * cos, a * sin))
    for mark, part, (first, second) in zip(*parts, strict=True):
        slack = (abs(first) + abs(second)) * 2 * unit + smallest
        low, high = (np.asarray(first + second + side, np.float64) for side in (-slack, slack))
        # Rounding keeps order, so that the one rounding at the end maps the interval onto the values that are allowed.
        low, high = (torch.from_numpy(t).to(x.dtype) for t in (low, high))
        mark.copy_((low <= part) & (part <= high) & torch.from_numpy(finite))
    return within


def _planes(x: Tensor, table: Table, how: How) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x_a, x_b, cos, sin of one shape: spelled by moving the sequence to the end, otherwise than the kernels do."""
    planes = table[0].shape[-1]
    pairs = x[..., : 2 * planes].unflatten(-1, (planes, 2) if how["interleaved"] else (2, planes))
    a, b = pairs.unbind(-1 if how["interleaved"] else -2)
    tables: list[Tensor] = []
    for t in table:
        t = t if t.ndim == 3 else t[None]
        moved = a.movedim(how["seq_dim"], -2)
        if how["seq_dim"] == 0:
            t = t[0]
        else:
            t = t.view(t.shape[0], *(1,) * (moved.ndim - 3), *t.shape[1:])
        tables.append(t.expand(moved.shape).movedim(-2, how["seq_dim"]))
    return a, b, tables[0], tables[1]


def _numpy(t: Tensor) -> np.ndarray:
    return (t.float() if t.dtype in (torch.bfloat16, torch.float16) else t).numpy()


def _rounded(value: np.ndarray, dtype: torch.dtype) -> Tensor:
    """To nearest, ties to even, without torch."""
    if dtype == torch.bfloat16:
        bits = np.ascontiguousarray(value).view(np.uint32)
        even = ((bits + (0x7FFF + ((bits >> 16) & 1)).astype(np.uint32)) >> 16).astype(np.uint16)
        even = np.where(np.isnan(value), np.uint16(0x7FC0), even)
        return torch.from_numpy(even.view(np.int16)).view(torch.bfloat16)
    if dtype == torch.float16:
        with np.errstate(over="ignore"):
            return torch.from_numpy(value.astype(np.float16))
    return torch.from_numpy(np.ascontiguousarray(value))


def _memory(t: Tensor) -> Tensor:
    return torch.empty(0, dtype=t.dtype, device=t.device).set_(t.untyped_storage())


def _moved(t: Tensor, device: str) -> Tensor:
    """A copy with the strides of t."""
    return _memory(t).clone().to(device).as_strided(t.shape, t.stride(), t.storage_offset())


def _bits(t: Tensor) -> Tensor:
    return t.contiguous().view(INTEGER[t.element_size()])


# --- memory ---------------------------------------------------------------------------------------------------------------------------

DRAW = torch.Generator()


def numbers(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=DRAW, dtype=torch.float64).to(dtype)


def special(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Every kind of number there is: zeros of both signs, denormals, the largest, infinities, NaN, and ordinary ones between."""
    info = torch.finfo(dtype)
    kinds = [
        0.0,
        -0.0,
        info.smallest_normal,
        info.smallest_normal / 4,
        -info.smallest_normal / 8,
        info.max,
        -info.max,
        info.max / 2,
    ]
    kinds += [math.inf, -math.inf, math.nan, 1.0, -1.0, info.eps, 3.0, 1e-3]
    picks = torch.randint(2 * len(kinds), shape, generator=DRAW)
    values = torch.tensor(kinds, dtype=torch.float64).to(dtype)[picks % len(kinds)]
    return torch.where(picks < len(kinds), values, numbers(shape, dtype))


Maker = Callable[[tuple[int, ...], torch.dtype], Tensor]
Layout = Callable[[Tensor], Tensor]


def swapped(t: Tensor) -> Tensor:
    """Heads and sequence change places in memory: a projection (batch, seq, heads, d) seen as (batch, heads, seq, d)."""
    return t.transpose(-2, -3).contiguous().transpose(-2, -3) if t.ndim > 2 else t


def packed(t: Tensor) -> Tensor:
    """The middle of rows three times as long, as q in a fused projection."""
    whole = torch.full((*t.shape[:-1], 3 * t.shape[-1] + 5), math.nan, dtype=t.dtype)
    part = whole[..., t.shape[-1] + 2 : 2 * t.shape[-1] + 2]
    return part.copy_(t)


def every_other(t: Tensor) -> Tensor:
    whole = torch.full((*t.shape[:-2], 2 * t.shape[-2] + 1, t.shape[-1]), math.nan, dtype=t.dtype)
    return whole[..., 1::2, :].copy_(t)


def shifted(t: Tensor) -> Tensor:
    """Starts one element into its memory, where no vector register's width divides the address."""
    whole = torch.full((t.numel() + 1,), math.nan, dtype=t.dtype)
    return whole[1:].view(t.shape).copy_(t)


def backwards(t: Tensor) -> Tensor:
    """The outer dimensions in memory are in the opposite order."""
    order = (*range(t.ndim - 1)[::-1], t.ndim - 1)
    return t.permute(order).contiguous().permute(order)


LAYOUTS: dict[str, Layout] = {
    "contiguous": lambda t: t, "swapped": swapped, "packed": packed, "every other": every_other, "shifted": shifted, "backwards": backwards,
}  # fmt: skip
INPUTS_ONLY: dict[str, Layout] = {
    "one row for all": lambda t: t[:1].expand(t.shape),
    "one head for all": lambda t: t.narrow(-2, 0, min(1, t.shape[-2])).expand(t.shape),
}


def works(
    x_shapes: tuple[tuple[int, ...], ...],
    dim: int,
    dtype: torch.dtype,
    how: How,
    *,
    layout: str = "contiguous",
    tables: str = "shared",
    make: Maker = numbers,
) -> Iterator[Work]:
    """The call out of place, where it can be done in place, and with outputs in another layout."""
    lay = LAYOUTS.get(layout) or INPUTS_ONLY[layout]
    xs = tuple(lay(make(shape, dtype)) for shape in x_shapes)
    work = torch.float64 if dtype == torch.float64 else torch.float32
    length = max(shape[how["seq_dim"]] for shape in x_shapes)
    made = TABLES[tables](x_shapes, length, dim // 2, work)
    rows = [shape[how["seq_dim"]] for shape in x_shapes]
    given = tuple((c[..., length - n :, :], s[..., length - n :, :]) for (c, s), n in zip(made, rows, strict=True))
    yield Work(xs, tuple(torch.full_like(x, math.nan) for x in xs), given, how)
    if layout not in INPUTS_ONLY:
        yield Work(xs, xs, given, how)
        if layout != "contiguous":
            contiguous = tuple(torch.full(x.shape, math.nan, dtype=dtype) for x in xs)
            yield Work(xs, contiguous, given, how)
            yield Work(tuple(x.contiguous() for x in xs), tuple(lay(out) for out in contiguous), given, how)


def _tables_shared(
    shapes: tuple[tuple[int, ...], ...], length: int, planes: int, work: torch.dtype
) -> tuple[Table, ...]:
    return ((numbers((length, planes), work), numbers((length, planes), work)),) * len(shapes)


def _tables_one_row(
    shapes: tuple[tuple[int, ...], ...], length: int, planes: int, work: torch.dtype
) -> tuple[Table, ...]:
    return tuple((numbers((1, length, planes), work), numbers((1, length, planes), work)) for _ in shapes)


def _tables_per_row(
    shapes: tuple[tuple[int, ...], ...], length: int, planes: int, work: torch.dtype
) -> tuple[Table, ...]:
    return tuple((numbers((s[0], length, planes), work), numbers((s[0], length, planes), work)) for s in shapes)


def _tables_views(
    shapes: tuple[tuple[int, ...], ...], length: int, planes: int, work: torch.dtype
) -> tuple[Table, ...]:
    """cos and sin side by side in one memory, every second row of it; keys have their own."""
    both = numbers((len(shapes), 2 * length, 2 * planes + 3), work)
    return tuple((t[::2, :planes], t[::2, planes + 1 : 2 * planes + 1]) for t in both)


def _tables_expanded(
    shapes: tuple[tuple[int, ...], ...], length: int, planes: int, work: torch.dtype
) -> tuple[Table, ...]:
    """One row seen as many; cos moves along the batch and sin does not."""
    return tuple(
        (numbers((s[0], length, planes), work), numbers((1, length, planes), work).expand(s[0], length, planes))
        for s in shapes
    )


TABLES = {
    "shared": _tables_shared,
    "one row": _tables_one_row,
    "per row": _tables_per_row,
    "views": _tables_views,
    "expanded": _tables_expanded,
}

# --- the battery ----------------------------------------------------------------------------------------------------------------------

HEADS = (
    (128, 128),
    (128, 64),
    (96, 96),
    (80, 32),
    (64, 64),
    (16, 2),
    (6, 6),
    (2, 2),
    (7, 4),
    (5, 0),
    (256, 256),
    (24, 14),
    (512, 512),
    (448, 96),
)
FEW = ((96, 96), (64, 64), (6, 6), (7, 4), (5, 0), (512, 512), (448, 96))
ROWS, FEW_ROWS = ((2, 3, 5), (2, 1, 5)), ((2, 2, 3), (2, 1, 3))
"""(batch, heads, seq) of q and of k. The few are several programs of a GPU as well; how many rows there may be is a matter of loops."""
DIRECTIONS = tuple(itertools.product((False, True), (False, True)))


@pytest.mark.parametrize("make", [numbers, special])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("interleaved", [False, True], ids=["half", "interleaved"])
def test_numbers(kernel: str, dtype: torch.dtype, interleaved: bool, make: Maker):
    DRAW.manual_seed(0)
    heads, rows = (FEW, FEW_ROWS) if interpreted(kernel) else (HEADS, ROWS)
    for (channels, dim), conjugate in itertools.product(heads, (False, True)):
        how: How = {"seq_dim": 2, "interleaved": interleaved, "conjugate": conjugate}
        shapes = tuple((*few, channels) for few in rows)
        for work in works(shapes, dim, dtype, how, layout="shifted", make=make):
            assert run(kernel, work) is None


SHAPES: dict[str, tuple[tuple[tuple[int, ...], ...], int]] = {
    "one token": (((1, 4, 1, 8), (1, 2, 1, 8)), 2),
    "heads, sequence": (((3, 4, 9, 8), (3, 1, 9, 8)), 2),
    "sequence, heads": (((3, 9, 4, 8), (3, 9, 1, 8)), 1),
    "sequence first": (((9, 3, 4, 8), (9, 3, 2, 8)), 0),
    "three": (((5, 9, 8), (5, 9, 8)), 1),
    "three, sequence first": (((9, 5, 8),), 0),
    "two": (((9, 8),), 0),
    "five": (((2, 3, 2, 5, 8), (2, 3, 1, 5, 8)), 3),
    "five, sequence second": (((2, 5, 3, 2, 8),), 1),
    "seven": (((2, 1, 2, 3, 2, 3, 8),), 4),
    "cached keys": (((2, 4, 2, 8), (2, 4, 9, 8)), 2),
    "no rows": (((0, 4, 9, 8), (0, 2, 9, 8)), 2),
    "no positions": (((2, 4, 0, 8), (2, 2, 0, 8)), 2),
    "no keys": (((2, 4, 9, 8), (2, 0, 9, 8)), 2),
    "no channels": (((2, 4, 9, 0),), 2),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_loops(kernel: str, shape: str, dtype: torch.dtype):
    DRAW.manual_seed(1)
    shapes, seq_dim = SHAPES[shape]
    layouts = (*LAYOUTS, *INPUTS_ONLY)
    for number, (layout, tables) in enumerate(itertools.product(layouts, TABLES)):
        if (seq_dim == 0 and tables in ("per row", "expanded")) or (interpreted(kernel) and (number + len(shape)) % 7):
            continue
        interleaved, conjugate = DIRECTIONS[number % 4]
        how: How = {"seq_dim": seq_dim, "interleaved": interleaved, "conjugate": conjugate}
        for dim in {shapes[0][-1], shapes[0][-1] // 4 * 2}:
            for work in works(shapes, dim, dtype, how, layout=layout, tables=tables):
                reason = run(kernel, work)
                assert reason is None or kernel == "triton", f"{kernel} does not serve {shape}, {layout}: {reason}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seq_dim", [0, 1, 2])
def test_sizes_that_take_threads_and_blocks(kernel: str, dtype: torch.dtype, seq_dim: int):
    """Several pieces of work, none of them a round number of positions."""
    if interpreted(kernel):
        pytest.skip("the interpreter is too slow for sizes")
    DRAW.manual_seed(2)
    sizes, how = [2, 5], How(seq_dim=seq_dim, interleaved=False, conjugate=False)
    sizes.insert(seq_dim, 389)
    for layout, tables in (
        ("contiguous", "shared"),
        ("swapped", "views"),
        ("contiguous", "per row"),
        ("packed", "one row"),
    ):
        if seq_dim or tables != "per row":
            for work in works(((*sizes, 96), (*sizes, 96)), 80, dtype, how, layout=layout, tables=tables):
                assert run(kernel, work) is None


def test_steps_longer_than_32_bits(kernel: str):
    """Rows of a memory of 4.5 GB of which few pages are ever touched; on a GPU it is really taken."""
    step, device = 2**30 + 64, DEVICE[kernel]
    if device == "cuda" and torch.cuda.mem_get_info()[0] < 5 * step:
        pytest.skip(f"not {5 * step} bytes free on the device")
    memory = (
        torch.from_numpy(np.empty(2 * step + 64, np.float16))
        if device == "cpu"
        else torch.empty(2 * step + 64, dtype=torch.float16, device=device)
    )
    x = memory.as_strided((3, 2, 16), (step, 16, 1))
    table = numbers((2, 8), torch.float32), numbers((2, 8), torch.float32)
    values = numbers((3, 2, 16), torch.float16)
    x.copy_(values)
    expected = torch.empty_like(values)
    how = How(seq_dim=1, interleaved=True, conjugate=False)
    eager.rotate((values,), (expected,), (table,), **how)
    table = table[0].to(device), table[1].to(device)
    assert find_kernel(kernel).rotate((x,), (x,), (table,), **how) is None
    assert torch.equal(x.cpu(), expected)


def test_channels_with_steps_are_served_or_refused_untouched(kernel: str):
    DRAW.manual_seed(3)
    how = How(seq_dim=1, interleaved=False, conjugate=False)
    strided = numbers((2, 5, 16), torch.float32)[..., ::2]
    plain = numbers((2, 5, 8), torch.float32)
    tables = _tables_shared(((2, 5, 8),), 5, 4, torch.float32)
    columns = _tables_shared(((2, 5, 8),), 5, 8, torch.float32)[0]
    columns = (columns[0][:, ::2], columns[1][:, ::2])
    for x, out, table in (
        (strided, torch.full((2, 5, 8), math.nan), tables[0]),
        (plain, torch.full((2, 5, 16), math.nan)[..., ::2], tables[0]),
        (strided, strided, tables[0]),
        (plain, torch.full((2, 5, 8), math.nan), columns),
    ):
        run(kernel, Work((x,), (out,), (table,), how))


@st.composite
def any_work(draw: st.DrawFn) -> Work:
    """Shapes of up to six dimensions, any order in memory, steps, offsets, rows seen many times."""
    dtype = draw(st.sampled_from(DTYPES))
    dims = draw(st.integers(2, 6))
    seq_dim = draw(st.integers(0, dims - 2))
    shape = [draw(st.integers(0, 4)) for _ in range(dims - 1)] + [draw(st.integers(1, 40))]
    heads = draw(st.integers(1, dims - 2)) if dims > 2 else 0
    DRAW.manual_seed(draw(st.integers(0, 9)))
    planes = draw(st.integers(0, shape[-1] // 2))
    work = torch.float64 if dtype == torch.float64 else torch.float32
    batches = st.sampled_from((None, 1, shape[0]) if seq_dim else (None, 1))

    def somewhere(sizes: list[int], of: torch.dtype, make: Maker = numbers, expand: bool = False) -> Tensor:
        order = [*draw(st.permutations(range(len(sizes) - 1))), len(sizes) - 1]
        steps = [draw(st.integers(1, 2)) for _ in sizes[:-1]]
        whole = make((*(sizes[d] * steps[d] for d in order[:-1]), sizes[-1] + draw(st.integers(0, 3))), of)
        t = whole.permute([order.index(d) for d in range(len(sizes))])
        t = t[(*(slice(None, None, step) for step in steps), slice(t.shape[-1] - sizes[-1], None))]
        if expand and draw(st.booleans()):
            d = draw(st.integers(0, len(sizes) - 2))
            t = t.narrow(d, 0, min(1, sizes[d])).expand(sizes)
        return t

    xs, outs, tables = [], [], []
    make = draw(st.sampled_from((numbers, special)))
    in_place = draw(st.booleans())
    for _ in range(draw(st.integers(1, 2))):
        sizes = list(shape)
        if heads and heads != seq_dim:
            sizes[heads] = draw(st.integers(0, 4))
        x = somewhere(sizes, dtype, make, expand=not in_place)
        xs.append(x)
        outs.append(x if in_place else somewhere(sizes, dtype))
        batch = draw(batches)
        rows = [sizes[seq_dim], planes] if batch is None else [batch, sizes[seq_dim], planes]
        tables.append((somewhere(rows, work, expand=True), somewhere(rows, work, expand=True)))
    how: How = {"seq_dim": seq_dim, "interleaved": draw(st.booleans()), "conjugate": draw(st.booleans())}
    return Work(tuple(xs), tuple(outs), tuple(tables), how)


@pytest.mark.parametrize("name", KERNELS[:-1])
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(work=any_work())
def test_anything(name: str, work: Work):
    with chosen(name) as kernel:
        assert run(kernel, work) is None
