"""The C entry of exact tables with counts, sizes and addresses of every kind: a status, or the right answer, never memory.

A caller in C passes numbers past the checks of the Python functions. sanitize.sh runs this file under AddressSanitizer, where an access
beyond a tensor ends the process; ROTARY_FUZZ is the number of calls.
"""

from __future__ import annotations

import os
import random

import pytest
import torch
from torch import Tensor

from rotary._angles import eager, native, polynomials
from rotary._angles.turns import turns_along
from rotary._native import library

CALLS = int(os.environ.get("ROTARY_FUZZ", "1500"))
NAMES = ("dtype", "words", "batch", "rows", "planes", "step", "coordinates", "amplitudes", "first")
TENSORS = ("positions", "axes", "high", "low", "amplitude", "decay", "cos", "sin")
ODD = (-1, 0, 1, 2, 3, 7, 2**31, 2**61, 2**62, 2**63 - 1, -(2**63))

Numbers = dict[str, int]
Memory = dict[str, Tensor | None]


def arguments(draw: random.Random) -> tuple[Numbers, Memory]:
    """Numbers that fit together, and memory that is exactly as long as they say."""
    generator = torch.Generator().manual_seed(draw.randrange(1 << 30))

    def integers(reach: int, *shape: int) -> Tensor:
        return torch.randint(-reach, reach, shape, generator=generator)

    batch, rows, planes = (
        draw.choice((0, 1, 1, 2, 3)),
        draw.choice((0, 1, 2, 5, 400)),
        draw.choice((0, 1, 3, 8, 32, 33)),
    )
    coordinates, step = draw.choice((1, 1, 2, 3)), draw.choice((0, rows, rows + 2))
    axes = draw.random() < 0.5
    decay = not axes and draw.random() < 0.3
    words = draw.choice((1, 2, 3))
    amplitudes = draw.choice((1, batch))
    reach = draw.choice((2**10, 2**31, 2**62))
    numbers = {
        "dtype": draw.randrange(2),
        "words": words,
        "batch": batch,
        "rows": rows,
        "planes": planes,
        "step": step,
        "coordinates": coordinates,
        "amplitudes": amplitudes,
        "first": draw.randrange(-(2**40), 2**40),
    }
    out = torch.float64 if numbers["dtype"] else torch.float32
    memory: Memory = {
        "positions": None
        if draw.random() < 0.2
        else integers(2**10 if decay else reach, max(batch - 1, 0) * step + rows, coordinates),
        "axes": torch.randint(0, coordinates, (planes,), generator=generator) if axes else None,
        "high": integers(2**63 - 1, batch, planes),
        "low": None if words == 1 else torch.randint(0, 2**31, (batch, planes), generator=generator),
        "amplitude": None
        if amplitudes == 1 and draw.random() < 0.3
        else torch.rand(amplitudes, dtype=torch.float64, generator=generator),
        "decay": torch.cat((-torch.rand(planes, dtype=torch.float64, generator=generator), torch.tensor([512.0])))
        if decay
        else None,
        "cos": torch.full((batch, rows, planes), 7.0, dtype=out),
        "sin": torch.full((batch, rows, planes), 7.0, dtype=out),
    }
    if memory["positions"] is None and decay:
        numbers["first"] %= 1000
    return numbers, memory


def expected(numbers: Numbers, memory: Memory) -> tuple[Tensor, Tensor]:
    """The same by torch operations."""
    batch, rows, planes, step = (numbers[name] for name in ("batch", "rows", "planes", "step"))
    at = torch.arange(batch)[:, None] * step + torch.arange(rows)
    if memory["positions"] is None:
        p = (numbers["first"] + torch.arange(rows)).expand(batch, rows)[..., None].expand(-1, -1, planes)
    else:
        axes = torch.zeros(planes, dtype=torch.int64) if memory["axes"] is None else memory["axes"]
        p = memory["positions"][at][..., axes]
    high, low = memory["high"][:, None], None if memory["low"] is None else memory["low"][:, None]
    turns = turns_along(p, high, low if numbers["words"] > 1 else None)
    if numbers["words"] == 3:
        turns = torch.where((p >= -(2**31)) & (p <= 2**31), p * (high + (low >> 30)), turns)
    factor = torch.ones(1, dtype=torch.float64) if memory["amplitude"] is None else memory["amplitude"]
    factor = factor[:, None, None]
    if memory["decay"] is not None:
        factor = polynomials.exp(p.double() / memory["decay"][-1] * memory["decay"][:-1]) * factor
    return eager.scaled(polynomials.cos_sin(turns), factor, memory["cos"].dtype)


def call(numbers: Numbers, addresses: dict[str, int]) -> int:
    function = native._call or native._bind()
    return function(native._pack(*(numbers[name] for name in NAMES), *(addresses[name] for name in TENSORS)))


def addresses_of(memory: Memory) -> dict[str, int]:
    return {name: 0 if memory[name] is None else memory[name].data_ptr() for name in TENSORS}


def broken(numbers: Numbers, memory: Memory, draw: random.Random) -> dict[str, int]:
    """The addresses, with one thing changed so that it must be refused, whatever else is there."""
    addresses = addresses_of(memory)
    wide = draw.choice([2**61, 2**62, 2**63 - 1])
    match draw.randrange(9):
        case 0:
            numbers["dtype"] = draw.choice((-1, 2, 3, 4, 2**40))
        case 1:
            numbers["words"] = draw.choice((0, -1, 4, 2**33 + 1))
        case 2:
            numbers[draw.choice(("batch", "rows", "planes"))] = draw.choice((-1, -(2**63)))
        case 3:
            numbers["coordinates"] = draw.choice((0, -1, -(2**63)))
        case 4:
            numbers["amplitudes"] = numbers["batch"] + draw.choice((2, 3, wide - 9))
        case 5 if memory["axes"] is not None and memory["axes"].numel():
            memory["axes"][draw.randrange(memory["axes"].numel())] = draw.choice((-1, numbers["coordinates"], wide))
        case 6:
            addresses[draw.choice(("high", "cos", "sin"))] = 0
        case 7:
            addresses[draw.choice(("high", "cos", "sin"))] += draw.choice((1, 2, 3))
        case 8 if numbers["rows"] > 1 and numbers["batch"]:
            numbers["step"] = draw.choice((-1, numbers["rows"] - 1, wide))
            numbers["step"] = -1 if numbers["batch"] == 1 and numbers["step"] == wide else numbers["step"]
        case _:
            numbers["rows"] = numbers["planes"] = numbers["batch"] = wide
    return addresses


@pytest.mark.skipif(library.unavailable() is not None, reason=str(library.unavailable()))
def test_F37_native_tables_answer_rightly_or_decline_whatever_they_are_given():
    draw = random.Random(int(os.environ.get("ROTARY_FUZZ_SEED", "0")))
    sets = [name for name, state in library.instruction_sets().items() if state == "available"]
    before, answered, refused = library.instruction_set(), 0, 0
    for _ in range(CALLS):
        library.use_instruction_set(draw.choice(sets))
        numbers, memory = arguments(draw)
        cos, sin = memory["cos"], memory["sin"]
        values = cos.numel()
        if draw.random() < 0.4:
            unbroken = dict(numbers)
            addresses = broken(numbers, memory, draw)
            status = call(numbers, addresses)
            assert status > 0 or values == 0, f"{unbroken} -> {numbers}"
            assert bool((cos == 7).all()) and bool((sin == 7).all()), f"written although refused: {numbers}"
            refused += status > 0
            continue
        assert call(numbers, addresses_of(memory)) == 0, numbers
        if values:
            for result, wanted in zip((cos, sin), expected(numbers, memory), strict=True):
                assert torch.equal(result, wanted), numbers
            answered += 1
    library.use_instruction_set(before)
    assert answered > CALLS // 5 and refused > CALLS // 8


@pytest.mark.skipif(library.unavailable() is not None, reason=str(library.unavailable()))
def test_native_tables_never_write_beside_what_was_given():
    """Every number odd in turn, with no memory behind it: a status, before anything is touched."""
    for name in NAMES:
        for value in ODD:
            numbers = dict.fromkeys(NAMES, 1) | {"dtype": 0, name: value}
            assert call(numbers, dict.fromkeys(TENSORS, 0)) > 0 or 0 in (
                numbers[n] for n in ("batch", "rows", "planes")
            )
