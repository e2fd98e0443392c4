"""rotate() and cos_sin() whole in C against step by step in Python: equal in every bit and property, or the same error."""

from __future__ import annotations

import contextlib
import copy
import os
import pickle
import random
import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from rotary import RotaryEmbedding
from rotary._native import library
from rotary._rotation import call
from rotary.axes import sections
from rotary.scaling import DynamicNTK, LongRoPE, YaRN
from support.step_by_step import about, counted, outcome, step_by_step

pytestmark = pytest.mark.skipif(call.unavailable() is not None, reason=str(call.unavailable()))
CALLS = int(os.environ.get("ROTARY_FUZZ", "800"))
HALF = (torch.bfloat16, torch.float16)
MODULES = {
    "plain": RotaryEmbedding(8),
    "interleaved, interpolated": RotaryEmbedding(6, interleaved=True, interpolation_factor=3.0),
    "an amplitude": RotaryEmbedding(8, scaling=YaRN(4.0, 32)),
    "a window": RotaryEmbedding(8, scaling=DynamicNTK(2.0, 16)),
    "a window and an amplitude": RotaryEmbedding(8, scaling=LongRoPE((1.0,) * 4, (4.0,) * 4, 16, 64)),
    "xPos": RotaryEmbedding(8, use_xpos=True),
    "axes": RotaryEmbedding(8, axes=sections(1, 2, 1)),
    "float64 frequencies": RotaryEmbedding.from_inv_freq(torch.rand(4, dtype=torch.float64)),
    "float32 angles": RotaryEmbedding(8, angles="float32"),
    "axial": RotaryEmbedding.axial(4, 4),
}
X = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(1))
FAR = 2**31
EDGES = (
    0,
    0,
    3,
    -3,
    11,
    15,
    16,
    17,
    99999,
    2 * 10**6,
    FAR,
    FAR - 2,
    -FAR,
    FAR + 5,
    2**40,
    2**63 - 5,
    2**63 - 6,
    -(2**63),
)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALF])
def test_a_decoding_step_goes_whole(module: str, dtype: torch.dtype):
    rope, q, k = MODULES[module], X[:, :, 4:].to(dtype), X.to(dtype)
    numbers = torch.arange(5) + 3
    spread = numbers if rope.axes is None else numbers[:, None].expand(5, rope.coordinates)
    calls = (
        lambda: rope.rotate(q, k, offset=4),
        lambda: rope.rotate(q, role="key"),
        lambda: rope.rotate(q.clone(), k.clone(), offset=torch.tensor(4), inplace=True),
        lambda: rope.rotate(q, k, offset=torch.tensor([4, 9]), conjugate=True),
        lambda: rope.rotate(k, positions=spread, role="query"),
        lambda: rope.cos_sin(5, dtype, role="query"),
        lambda: rope.cos_sin(spread, dtype, role="key"),
    )
    for number, run in enumerate(calls):
        with counted() as served:
            whole = outcome(run)
        with step_by_step():
            assert whole == outcome(run)
        exact = module != "float32 angles" and (number < 5 or dtype not in HALF)
        # A scheme with a window needs a length beside positions in a tensor, whatever they are: Python says so.
        refused = module.startswith("a window") and number in (2, 3, 4, 6)
        assert served == ["rotate_at" if number < 5 else "tables_at"] * (exact and not refused), number


def test_every_call_has_the_result_or_the_error_that_it_has_step_by_step():
    draw = random.Random(int(os.environ.get("ROTARY_FUZZ_SEED", "0")))
    whole_calls = raised = 0
    for number in range(CALLS):
        seed, results = draw.random(), []
        for _ in range(2):
            module, name, arguments, options = drawn(random.Random(seed))
            with counted() as served, step_by_step() if results else contextlib.nullcontext():
                answer = outcome(lambda: getattr(MODULES[module], name)(*arguments, **options))
            xs = [x for x in arguments if isinstance(x, Tensor) and x.layout is torch.strided]
            results.append((answer, [about(x) for x in xs], [x._version for x in xs]))
            whole_calls += len(served)
        assert results[0] == results[1], (
            f"call {number}, seed {seed}, {module}: {results[0][0][:2]} and {results[1][0][:2]}"
        )
        raised += isinstance(results[0][0][0], str)
    assert whole_calls > CALLS // 8 and raised > CALLS // 8


def drawn(draw: random.Random) -> tuple[str, str, list[Any], dict[str, Any]]:
    generator = torch.Generator().manual_seed(draw.randrange(1 << 30))
    module = draw.choice(list(MODULES))
    coordinates = 0 if MODULES[module].axes is None else MODULES[module].coordinates

    def numbers(*shape: int) -> Tensor:
        edge = draw.choice(EDGES)
        x = torch.randint(0, 9, (*shape, *([coordinates] if coordinates else [])), generator=generator) + edge
        kind = draw.choice(("dense", "dense", "transposed", "strided", "expanded", "int32", "float", "uint8", "half"))
        if kind == "transposed" and x.ndim > 1:
            return x.transpose(0, 1).contiguous().transpose(0, 1)
        if kind == "strided" and x.ndim:
            return x.repeat_interleave(2, 0)[::2]
        if kind == "expanded" and x.ndim > 1:
            return x[:1].expand(x.shape)
        named = {"int32": torch.int32, "float": torch.float64, "uint8": torch.uint8, "half": torch.float16}
        return x.to(named[kind]) if kind in named and draw.random() < 0.4 else x

    role = draw.choice((None, None, "query", "key", "Key", 3))
    length = draw.choice((None, None, None, None, 40, 4, -1, True, torch.tensor(40), torch.tensor([40, 8])))
    if draw.random() < 0.3:
        shape = [draw.choice((0, 1, 2, 5)) for _ in range(draw.choice((0, 1, 1, 2, 3)))]
        of = draw.choice(
            (numbers(*shape), numbers(*shape), numbers(*shape), draw.choice((0, 1, 7, -1, 2.0, None, True)))
        )
        dtype = draw.choice((torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.int64, None))
        options = {name: value for name, value in (("role", role), ("length", length)) if value is not None}
        return module, "cos_sin", [of] if draw.random() < 0.3 else [of, dtype], options
    dtype, ndim = draw.choice((torch.float32, torch.float64, *HALF)), draw.choice((2, 3, 4, 4))
    axis = draw.randrange(ndim - 1)
    shape = [draw.choice((0, 1, 2, 2, 3)) for _ in range(ndim)]
    shape[axis], shape[-1] = draw.choice((0, 1, 2, 5)), draw.choice((6, 8, 8, 10))
    rows = shape[axis]
    shorter = list(shape)
    shorter[axis] = draw.randrange(rows + 1) if draw.random() < 0.3 else rows
    arguments: list[Any] = [torch.randn(shape, generator=generator).to(dtype)]
    if draw.random() < 0.6:
        arguments.insert(
            0, torch.randn(shorter, generator=generator).to(draw.choice((dtype, dtype, dtype, torch.float32)))
        )
    options = {
        "seq_dim": draw.choice((axis, axis - ndim)),
        "conjugate": draw.random() < 0.3,
        "inplace": draw.random() < 0.3,
    }
    where = draw.randrange(8)
    if where < 3:
        options["offset"] = draw.choice((*EDGES, 2**63, True, 1.5, "2", None))
    elif where < 5:
        start = torch.tensor(draw.choice(EDGES))
        options["offset"] = draw.choice(
            (start, start[None], start + torch.arange(shape[0]), start[None, None], start.to(torch.int32))
        )
    elif where < 7:
        batch = draw.choice(([], [], [1], [shape[0]], [3]))
        options["positions"] = numbers(*batch, draw.choice((rows, rows, rows, rows, rows + 1)))
        if draw.random() < 0.1:
            options["offset"] = draw.choice((0, 1, False, torch.tensor(0)))
    if draw.random() < 0.1:
        options["cu_seqlens"] = torch.tensor([0, rows])
    if draw.random() < 0.3:
        options["role"] = role
    if draw.random() < 0.5:
        options["length"] = length
    return module, "rotate", arguments, options


def test_tables_are_made_where_positions_or_the_module_are():
    assert RotaryEmbedding(8, device="meta").cos_sin(5)[0].is_meta
    rope = RotaryEmbedding(8, device="meta")
    assert not rope.cos_sin(torch.arange(5))[0].is_meta and not rope.rotate(X).is_meta
    with torch.inference_mode():
        assert rope.cos_sin(torch.arange(5))[0].is_inference()
    assert all(t.untyped_storage().resizable() for t in rope.cos_sin(torch.arange(5)))


def test_long_tables_in_several_threads_have_the_bits_of_short_ones():
    rope, x = RotaryEmbedding(64, use_xpos=True), torch.randn(1, 2, 3000, 64)
    wrong: list[int] = []
    whole = rope.rotate(x, x, offset=7)

    def run(start: int) -> None:
        part = rope.rotate(x[:, :, start : start + 50], x[:, :, start : start + 50], offset=7 + start)
        wrong.extend(start for a, b in zip(part, whole, strict=True) if not torch.equal(a, b[:, :, start : start + 50]))

    threads = [threading.Thread(target=run, args=(50 * i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("name", ["avx512", "avx2", "baseline"])
def test_every_instruction_set_serves_whole_calls(name: str):
    if library.instruction_sets().get(name) != "available":
        pytest.skip(f"no {name} here")
    expected, before = MODULES["xPos"].rotate(X, X, offset=9), library.instruction_set()
    library.use_instruction_set(name)
    try:
        assert all(map(torch.equal, MODULES["xPos"].rotate(X, X, offset=9), expected))
    finally:
        library.use_instruction_set(before)


@pytest.mark.parametrize("module", MODULES)
def test_what_the_library_keeps_is_in_no_copy_and_no_pickle(module: str):
    rope = MODULES[module]
    expected = rope.rotate(X, role="query")
    for other in (copy.copy(rope), copy.deepcopy(rope), pickle.loads(pickle.dumps(rope))):
        assert torch.equal(other.rotate(X, role="query"), expected) and repr(other) == repr(rope)
    assert b"capsule" not in pickle.dumps(rope)
