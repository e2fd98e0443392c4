"""The registered operators with arguments of every shape, dtype, axis, count and stride: an error or the right answer, never memory.

Exported programs and other libraries call torch.ops.rotary.rotate by name, past the checks of the Python functions. sanitize.sh runs
this file under AddressSanitizer, where an access beyond a tensor ends the process; ROTARY_FUZZ is the number of calls.
"""

from __future__ import annotations

import os
import random

import pytest
import torch
from torch import Tensor

from rotary import operators as operators  # registers them
from rotary._native import library

CALLS = int(os.environ.get("ROTARY_FUZZ", "1500"))
FLOATING = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
ODD = (torch.int32, torch.int64, torch.bool, torch.complex64)


def strided(shape: tuple[int, ...], dtype: torch.dtype, draw: random.Random) -> Tensor:
    """A tensor of that shape: dense, a slice of a larger one, permuted, expanded, or with channels apart."""
    generator = torch.Generator().manual_seed(draw.randrange(1 << 30))

    def made(*sizes: int) -> Tensor:
        x = torch.randn(sizes, generator=generator)
        return (x * 4).to(dtype) if dtype not in (torch.bool,) else x > 0

    kind = draw.choice(("dense", "dense", "dense", "slice", "permuted", "apart", "expanded"))
    if kind == "slice" and 0 < len(shape) <= 6:
        return made(*(n + 2 for n in shape))[tuple(slice(1, n + 1) for n in shape)]
    if kind == "permuted" and len(shape) > 2:
        order = [*draw.sample(range(len(shape) - 1), len(shape) - 1), len(shape) - 1]
        back = [order.index(i) for i in range(len(shape))]
        return made(*(shape[i] for i in order)).permute(back)
    if kind == "apart" and shape:
        return made(*shape[:-1], shape[-1] * 2)[..., ::2]
    if kind == "expanded" and len(shape) > 1:
        return made(1, *shape[1:]).expand(shape)
    return made(*shape)


def arguments(draw: random.Random) -> tuple[list[Tensor], list[Tensor], int]:
    """Arguments that fit together, in half of the draws with one or two things changed that may not fit."""
    count = draw.choice((1, 2, 2))
    ndim = draw.choice((2, 3, 4, 4, 5, 17))
    shape = [draw.choice((0, 1, 1, 2, 3, 5)) if ndim < 17 else 1 for _ in range(ndim)]
    shape[-1] = draw.choice((1, 2, 8, 8, 10, 64))
    seq_dim = draw.randrange(ndim - 1)
    dtype = draw.choice(FLOATING)
    work = torch.float64 if dtype == torch.float64 else torch.float32
    planes = draw.randrange(shape[-1] // 2 + 1)
    batch = draw.choice(((), (), (1,), (shape[0],)))
    table: list[int] = [*batch, shape[seq_dim], planes]
    xs = [strided(tuple(shape), dtype, draw) for _ in range(count)]
    tables = [strided(tuple(table), work, draw) for _ in range(2 * count)]
    for _ in range(draw.choice((0, 0, 1, 2))):
        at = draw.randrange(len(tables)) if tables else 0
        change = draw.randrange(10)
        if change == 0:
            seq_dim = draw.choice((-2, -1, ndim - 1, ndim, 99, 2**40))
        elif change == 1 and tables:
            smaller = [max(n + draw.choice((-1, 0, 1, 7)), 0) for n in tables[at].shape]
            tables[at] = strided(tuple(smaller), work, draw)
        elif change == 2:
            xs.append(strided(tuple(shape), dtype, draw))
        elif change == 3 and tables:
            tables.pop()
        elif change == 4 and tables:
            tables[at] = tables[at].to(draw.choice((*FLOATING, *ODD)))
        elif change == 5 and xs:
            xs[draw.randrange(len(xs))] = strided(tuple(shape), draw.choice((*FLOATING, *ODD)), draw)
        elif change == 6 and xs:
            other = tuple(max(n + draw.choice((-1, 0, 0, 0, 1)), 0) for n in shape[: draw.choice((ndim, ndim, 1, 0))])
            xs[draw.randrange(len(xs))] = strided(other, dtype, draw)
        elif change == 7:
            xs.clear()
        elif change == 8 and tables:
            tables[at] = tables[at][None]
        elif change == 9 and tables:  # wide tables, the same for cos and sin
            at -= at % 2
            wide = (*tables[at].shape[:-1], 40) if tables[at].ndim else (40,)
            for i in range(at, min(at + 2, len(tables))):
                tables[i] = strided(wide, work, draw)
    return xs, tables, seq_dim


def fits(xs: list[Tensor], tables: list[Tensor], seq_dim: int) -> bool:
    """Whether the operator is defined for these arguments; written from its documentation, not from its checks."""
    if len(xs) not in (1, 2) or len(tables) != 2 * len(xs):
        return False
    if len({x.dtype for x in xs}) != 1 or xs[0].dtype not in FLOATING:
        return False
    work = torch.float64 if xs[0].dtype == torch.float64 else torch.float32
    for i, x in enumerate(xs):
        cos, sin = tables[2 * i : 2 * i + 2]
        if x.ndim < 2 or not 0 <= seq_dim < x.ndim - 1 or cos.shape != sin.shape or cos.ndim not in (2, 3):
            return False
        if cos.dtype != work or sin.dtype != work or cos.shape[-2] != x.shape[seq_dim]:
            return False
        if 2 * cos.shape[-1] > x.shape[-1]:
            return False
        if cos.ndim == 3 and cos.shape[0] != 1 and (seq_dim == 0 or cos.shape[0] != x.shape[0]):
            return False
    return True


def rotated(x: Tensor, cos: Tensor, sin: Tensor, seq_dim: int, interleaved: bool, conjugate: bool) -> Tensor:
    """The rotation by complex numbers in float64."""
    planes = cos.shape[-1]
    turn = torch.complex(cos.double(), -sin.double() if conjugate else sin.double())
    sizes = [1] * x.ndim
    sizes[seq_dim], sizes[-1] = x.shape[seq_dim], planes
    if turn.ndim == 3 and turn.shape[0] != 1:
        sizes[0] = x.shape[0]
    turn = (turn[0] if turn.ndim == 3 and turn.shape[0] == 1 else turn).reshape(sizes)
    head = x[..., : 2 * planes].double()
    pairs = head.unflatten(-1, (planes, 2)) if interleaved else head.unflatten(-1, (2, planes)).transpose(-1, -2)
    z = torch.complex(pairs[..., 0], pairs[..., 1]) * turn
    parts = torch.stack((z.real, z.imag), -1)
    y = parts.flatten(-2) if interleaved else parts.transpose(-1, -2).flatten(-2)
    return torch.cat((y.to(x.dtype), x[..., 2 * planes :]), -1)


@pytest.mark.skipif(library.unavailable() is not None, reason=str(library.unavailable()))
def test_F37_an_operator_answers_rightly_or_raises_whatever_it_is_given():
    draw = random.Random(int(os.environ.get("ROTARY_FUZZ_SEED", "0")))
    answered = refused = 0
    for call in range(CALLS):
        xs, tables, seq_dim = arguments(draw)
        interleaved, conjugate, in_place = (draw.random() < 0.5 for _ in range(3))
        copies = [x.clone() for x in xs]
        try:
            if in_place:
                torch.ops.rotary.rotate_(xs, tables, seq_dim, interleaved, conjugate)
                ys = xs
            else:
                ys = torch.ops.rotary.rotate(xs, tables, seq_dim, interleaved, conjugate)
        except (TypeError, ValueError, RuntimeError) as error:
            shared = (
                in_place and isinstance(error, RuntimeError) and "in place" in str(error)
            )  # elements that share memory
            wrong = not shared and (isinstance(error, RuntimeError) or fits(xs, tables, seq_dim))
            wrong = wrong or not all(torch.equal(x, copy) for x, copy in zip(xs, copies, strict=True))
            refused += not shared
            if wrong:
                pytest.fail(f"call {call}: {type(error).__name__}: {error}")
            continue
        assert fits(copies, tables, seq_dim), (
            f"call {call}: {[x.shape for x in xs]}, {[t.shape for t in tables]}, {seq_dim}"
        )
        answered += 1
        for i, (x, y) in enumerate(zip(copies, ys, strict=True)):
            expected = rotated(x, *tables[2 * i : 2 * i + 2], seq_dim, interleaved, conjugate)
            eps = (
                torch.finfo(x.dtype).eps
                if x.dtype not in (torch.float32, torch.float64)
                else 4 * torch.finfo(x.dtype).eps
            )
            bound = eps * 64
            assert y.dtype == x.dtype and y.shape == x.shape
            assert y.numel() == 0 or float((y.double() - expected.double()).abs().max()) <= bound * 4, f"call {call}"
    assert answered > CALLS // 4 and refused > CALLS // 8
