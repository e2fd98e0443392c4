"""The C entries of norm, rotation and cache write with counts, sizes, steps and addresses of every kind: a status, or the right answer,
never memory.

A caller in C passes numbers past the checks of the Python functions. sanitize.sh runs this file under AddressSanitizer, where an access
beyond a tensor ends the process; ROTARY_FUZZ is the number of calls.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from rotary._fused import eager, native, sums
from rotary._fused.work import Norm
from rotary._native import library
from rotary._rotation import native as rotation

CALLS = int(os.environ.get("ROTARY_FUZZ", "1500")) // 3
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
WIDE = (2**47, 2**61, 2**62, 2**63 - 1)
SEED = int(os.environ.get("ROTARY_FUZZ_SEED", "0"))
pytestmark = pytest.mark.skipif(library.unavailable() is not None, reason=str(library.unavailable()))


def laid(shape: tuple[int, ...], dtype: torch.dtype, draw: random.Random, apart: bool = False) -> Tensor:
    """Random numbers in any order of dimensions, with gaps between rows; nothing lies behind the last number. apart: channels too."""
    strides, step = [0] * len(shape), draw.choice((2, 3)) if apart else 1
    for d in (len(shape) - 1, *draw.sample(range(len(shape) - 1), len(shape) - 1)):
        strides[d] = step
        step = max(step * shape[d], 1) + draw.choice((0, 0, 1, 3))
    length = 0 if 0 in shape else 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    generator = torch.Generator().manual_seed(draw.randrange(1 << 30))
    numbers = torch.randn(length, generator=generator) * draw.choice((1, 1, 1, 1e-3, 100))
    return numbers.to(dtype).as_strided(shape, strides)


class Case(NamedTuple):
    """One call as its words: header and, for each tensor, named fields; what is behind the addresses."""

    header: dict[str, int]
    fields: list[dict[str, int | tuple[int, ...]]]
    tensors: list[dict[str, Tensor | None]]
    norm: Norm
    backward: bool

    def words(self) -> list[int]:
        flat = list(self.header.values())
        for fields in self.fields:
            for value in fields.values():
                flat += value if isinstance(value, tuple) else (value,)
        return flat

    def call(self) -> int:
        return native._functions()[1 if self.backward else 0](rotation.packed(self.words()))

    def outs(self) -> list[Tensor]:
        return [t for of in self.tensors for t in (of["out"], of["sums"]) if t is not None]


def case(draw: random.Random) -> Case:
    """Numbers that fit together, and memory that is exactly as long as they say."""
    ndim, dtype = draw.choice((2, 3, 4, 4, 5, 16)), draw.choice(DTYPES)
    shape = [draw.choice((0, 1, 1, 2, 3, 9)) if ndim < 16 else 1 for _ in range(ndim)]
    seq_dim = draw.randrange(ndim - 1)
    work = torch.float64 if dtype == torch.float64 else torch.float32
    backward, interleaved = draw.random() < 0.4, draw.random() < 0.5
    norm = Norm(draw.choice((1e-6, 1e-5, 1.0)), draw.choice((0.0, 0.0, 1.0)), draw.random() < 0.3, draw.random() < 0.3)
    header = {"count": draw.choice((1, 2, 2)), "dtype": DTYPES.index(dtype), "interleaved": interleaved}
    header |= {"seq_dim": seq_dim, "model": norm.model, "after": norm.after}
    header |= {"eps": native._bits(norm.eps), "offset": native._bits(norm.weight_offset)}
    fields: list[dict[str, int | tuple[int, ...]]] = []
    tensors: list[dict[str, Tensor | None]] = []
    for _ in range(header["count"]):
        shape[-1] = draw.choice((0, 1, 2, 6, 15, 16, 48, 64, 80, 96, 128, 128, 256, 1024))
        planes = draw.choice((shape[-1] // 2, shape[-1] // 4, draw.randrange(shape[-1] // 2 + 1)))
        table = (*draw.choice(((), (1,), (shape[0],) if seq_dim else ())), shape[seq_dim], planes)
        x, grad = (laid(tuple(shape), dtype, draw) for _ in "ab")
        out = x if draw.random() < 0.4 and not backward else torch.full_like(laid(tuple(shape), dtype, draw), 7.0)
        weight = laid((shape[-1],), dtype, draw, apart=draw.random() < 0.5) if draw.random() < 0.7 else None
        cos, sin = (laid(table, work, draw) for _ in "ab")
        rows = math.prod(shape[:-1])
        room = draw.random() < 0.7 and backward
        of = {"x": x, "out": out, "cos": cos, "sin": sin, "weight": weight}
        of |= {"grad": grad, "sums": torch.full((-(-rows // 64), shape[-1]), 7.0, dtype=work) if room else None}
        tensors.append(of)
        at = {name: 0 if t is None else t.data_ptr() for name, t in of.items()}
        words: dict[str, int | tuple[int, ...]] = {name: at[name] for name in ("x", "out", "cos", "sin")}
        words |= {"table_ndim": len(table), "ndim": ndim, "weight": at["weight"]}
        words["weight_stride"] = 0 if weight is None else weight.stride(0)
        if backward:
            words |= {"grad": at["grad"], "sums": at["sums"]}
        words |= {"shape": tuple(shape), "x_strides": x.stride(), "out_strides": out.stride()}
        if backward:
            words["grad_strides"] = grad.stride()
        words |= {"table_shape": table, "cos_strides": cos.stride(), "sin_strides": sin.stride()}
        fields.append(words)
    return Case(header, fields, tensors, norm, backward)


def spoilt(made: Case, draw: random.Random) -> None:
    """One thing changed so that it must be refused."""
    which = draw.randrange(len(made.fields))
    fields = made.fields[which]
    shape, table = fields["shape"], fields["table_shape"]
    assert isinstance(shape, tuple) and isinstance(table, tuple)

    def replace(name: str, at: int, value: int) -> None:
        sizes = fields[name]
        assert isinstance(sizes, tuple)
        at %= len(sizes)
        fields[name] = (*sizes[:at], value, *sizes[at + 1 :])

    match draw.randrange(11):
        case 0:
            made.header["count"] = draw.choice((0, -1, 3, 2**32 + 1, *WIDE))
        case 1:
            made.header["dtype"] = draw.choice((-1, 4, 2**32, *WIDE))
        case 2:
            made.header["seq_dim"] = draw.choice((-1, len(shape) - 1, len(shape), 2**40))
        case 3:
            fields["ndim"] = draw.choice((-1, 0, 1, 17, 2**32 + 4, *WIDE))
        case 4:
            fields["table_ndim"] = draw.choice((-1, 0, 1, 4, 2**32 + 2, *WIDE))
        case 5:
            replace("shape", draw.randrange(len(shape)), draw.choice((-1, -(2**63), 2**61, 2**62, 2**63 - 1)))
        case 6:
            replace("table_shape", -1, draw.choice((-1, shape[-1] // 2 + 1, *WIDE)))
        case 7:
            replace("table_shape", -2, table[-2] + draw.choice((-1, 1, 2**40)))
        case 8 if len(table) == 3:
            replace("table_shape", 0, shape[0] + draw.choice((2, 2**40)))
        case 9:
            fields[draw.choice(("x", "out", *(["cos", "sin"] if table[-1] else [])))] = 0
        case 10 if shape[-1] > 1:
            replace(draw.choice(("x_strides", "out_strides")), -1, draw.choice((0, 2, -1)))
        case _:
            replace("table_shape", -1, -1)


def wanted(made: Case) -> Iterator[tuple[Tensor, Tensor]]:
    """The results, and those of plain torch (which tests/_fused/test_contract.py compares with numpy)."""
    how = {"seq_dim": made.header["seq_dim"], "interleaved": bool(made.header["interleaved"])}
    for of in made.tensors:
        result, table = of["out"], (of["cos"], of["sin"])
        if not made.backward:
            yield result, eager.formula(of["before"], of["weight"], *table, made.norm, **how)
            continue
        of_x, of_rows = eager.gradients(of["grad"], of["before"], of["weight"], *table, made.norm, **how)
        yield result, of_x
        if of["sums"] is not None and of["x"].shape[-1]:
            yield sums.over_chunks(of["sums"]), sums.over_rows(of_rows, how["seq_dim"])


def alike(a: Tensor, b: Tensor) -> bool:
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


@pytest.fixture
def any_set() -> Iterator[Callable[[random.Random], None]]:
    before = library.instruction_set()
    sets = [name for name, state in library.instruction_sets().items() if state == "available"]
    yield lambda draw: library.use_instruction_set(draw.choice(sets))
    library.use_instruction_set(before)


def test_F37_norm_and_rotation_answer_rightly_or_decline_whatever_they_are_given(
    any_set: Callable[[random.Random], None],
):
    draw, answered, refused = random.Random(SEED), 0, 0
    for number in range(CALLS):
        any_set(draw)
        made = case(draw)
        empty = all(of["x"].numel() == 0 for of in made.tensors)
        for of in made.tensors:
            of["before"] = of["x"].clone()
        if draw.random() < 0.4:
            outs = [out.clone() for out in made.outs()]
            spoilt(made, draw)
            status = made.call()
            some = any(of["x"].numel() == 0 for of in made.tensors)
            assert status > 0 or some, f"call {number}: {made.header} {made.fields}"
            if status:
                assert all(alike(a, b) for a, b in zip(made.outs(), outs, strict=True)), f"call {number}: written"
            refused += status > 0
            continue
        assert made.call() == 0, f"call {number}: {made.header} {made.fields}"
        for result, right in wanted(made):
            assert result.numel() == 0 or alike(result, right), f"call {number}: {made.header} {made.fields}"
        answered += not empty
    assert answered > CALLS // 4 and refused > CALLS // 8


def test_F37_a_write_into_a_cache_answers_rightly_or_declines_whatever_it_is_given():
    draw, answered, refused = random.Random(SEED), 0, 0
    for number in range(CALLS):
        dtype, slot_dtype = draw.choice(DTYPES), draw.choice((torch.int32, torch.int64))
        batch, seq, heads = (draw.choice((0, 1, 2, 3, 5)) for _ in range(3))
        pages, page = draw.choice((0, 1, 2, 7)), draw.choice((0, 1, 4, 16))
        capacity = pages * page
        slots = laid((batch, seq), slot_dtype, draw, apart=draw.random() < 0.5)
        for b in range(batch):
            for s in range(seq):
                slots[b, s] = draw.choice((-1, -9, draw.randrange(-1, capacity)))
        sizes = {"bytes": dtype.itemsize, "slot": slot_dtype.itemsize, "batch": batch, "seq": seq, "heads": heads}
        sizes |= {"pages": pages, "page": page, "slots": slots.data_ptr()}
        sizes |= {"along": slots.stride(0), "across": slots.stride(1)}
        copied = []
        for name in ("keys", "values"):
            channels = draw.choice((0, 1, 6, 64))
            of = laid((batch, seq, heads, channels), dtype, draw)
            cache = laid((pages, page, heads, channels), dtype, draw)
            copied.append((of, cache, cache.clone()))
            sizes |= {f"{name}": of.data_ptr(), **{f"{name} {d}": of.stride(d) for d in range(3)}}
            sizes |= {f"{name} cache": cache.data_ptr(), **{f"{name} cache {d}": cache.stride(d) for d in range(3)}}
            sizes[f"{name} channels"] = channels
        written = batch * seq * heads * (copied[0][0].shape[-1] + copied[1][0].shape[-1]) > 0
        if draw.random() < 0.5:
            match draw.randrange(5):
                case 0 if written:
                    slots[draw.randrange(batch), draw.randrange(seq)] = capacity + draw.choice((0, 1, 2**30))
                case 1:
                    sizes["bytes"] = draw.choice((0, -1, 17, *WIDE))
                case 2:
                    sizes["slot"] = draw.choice((0, -1, 1, 2, 16, *WIDE))
                case 3 if written:
                    sizes["slots"] = 0
                case _:
                    name = draw.choice(("batch", "seq", "heads", "pages", "page", "keys channels", "values channels"))
                    sizes[name] = draw.choice((-1, -(2**63), 2**61, 2**62, 2**63 - 1))
            assert native._functions()[2](rotation.packed(list(sizes.values()))) > 0, f"call {number}: {sizes}"
            assert all(alike(cache, before) for _, cache, before in copied), f"call {number}: written"
            refused += 1
            continue
        assert native._functions()[2](rotation.packed(list(sizes.values()))) == 0, f"call {number}: {sizes}"
        for of, cache, before in copied:
            candidates: dict[int, list[Tensor]] = {}
            for b in range(batch):
                for s in range(seq):
                    if slots[b, s] >= 0:
                        candidates.setdefault(int(slots[b, s]), []).append(of[b, s])
            for slot in range(capacity):
                result, old = cache[slot // page, slot % page], before[slot // page, slot % page]
                assert any(alike(result, row) for row in candidates.get(slot, [old])), f"call {number}: {sizes}"
        answered += written
    assert answered > CALLS // 8 and refused > CALLS // 4
