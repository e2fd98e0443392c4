"""The instruction sets of the native library: which one computes, and that each keeps the bits in cases that the battery does not have.

The battery itself, tests/_rotation/test_contract.py, runs once for every set that this processor has.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rotary import apply_rotary, use_backend
from rotary._fused import eager, native
from rotary._fused.work import Norm
from rotary._native import build, library
from support import warm

SETS = tuple(name for name, state in library.instruction_sets().items() if state == "available")
pytestmark = pytest.mark.skipif(not SETS, reason="no native library")
SAYS = "from rotary._native import library; print(library.unavailable() or library.instruction_set())"


@pytest.fixture(params=SETS)
def instructions(request: pytest.FixtureRequest) -> Iterator[str]:
    before = library.instruction_set()
    library.use_instruction_set(request.param)
    yield request.param
    library.use_instruction_set(before)


def chosen(**environment: str) -> tuple[str, str]:
    """What a fresh process computes by, or why by nothing; and its warnings."""
    run = warm.run("-c", SAYS, env=os.environ | environment)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip(), run.stderr


@pytest.mark.skipif("ROTARY_LIBRARY" in os.environ, reason="a fresh process loads the installed library")
def test_the_best_set_computes_unless_the_environment_names_another():
    assert chosen(ROTARY_INSTRUCTION_SET="")[0] == SETS[-1]
    assert chosen(ROTARY_INSTRUCTION_SET=SETS[0]) == (SETS[0], "")


@pytest.mark.skipif("ROTARY_LIBRARY" in os.environ, reason="a fresh process loads the installed library")
def test_an_unknown_name_in_the_environment_is_a_reason_and_a_warning():
    reason, warned = chosen(ROTARY_INSTRUCTION_SET="avx3")
    assert reason.startswith("ROTARY_INSTRUCTION_SET=avx3: unknown; known here: ") and SETS[0] in reason
    assert "RuntimeWarning" in warned and "avx3" in warned


def test_an_unknown_name_changes_nothing():
    before = library.instruction_set()
    with pytest.raises(ValueError, match="no instruction set 'avx3' here; this library has "):
        library.use_instruction_set("avx3")
    assert library.instruction_set() == before


def test_a_set_that_this_processor_does_not_run_is_refused(monkeypatch: pytest.MonkeyPatch):
    loaded = library.load()
    assert not isinstance(loaded, str)
    monkeypatch.setattr(loaded, "rotary_runs", lambda name: 0)
    assert set(library.instruction_sets().values()) == {"this processor does not run it"}
    with pytest.raises(ValueError, match="this processor does not run it"):
        library.use_instruction_set(SETS[0])
    assert library.instructions() == library.instruction_set()


def test_a_set_that_changes_arithmetic_is_not_used_and_named(monkeypatch: pytest.MonkeyPatch):
    loaded = library.load()
    assert not isinstance(loaded, str)
    monkeypatch.setattr(loaded, "rotary_rounds_twice", lambda name: name.decode() != SETS[-1])
    assert "changed its arithmetic" in library.instruction_sets()[SETS[-1]]
    assert f"{SETS[-1]}: the compiler changed its arithmetic" in library.instructions()


def test_what_was_not_built_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(library, "REPORT", tmp_path / "build.txt")
    assert library.instructions() == library.instruction_set()
    (tmp_path / "build.txt").write_text("built without avx2: a reason\n")
    assert library.instructions() == f"{library.instruction_set()}; built without avx2: a reason"


EVERY_HALF = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.float16)


@pytest.mark.parametrize("interleaved", [False, True], ids=["half", "interleaved"])
def test_flushing_denormal_numbers_moves_no_bit_of_half_precision(instructions: str, interleaved: bool):
    """Every number of half precision, made smaller too, so that most results are denormal; on this one thread, whose flag it is."""
    generator = torch.Generator().manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for scale in (1.0, 2.0**-12):
            x = EVERY_HALF[torch.randperm(2**16, generator=generator)].view(512, 128)
            cos, sin = (scale * torch.randn(512, 60, generator=generator) for _ in range(2))
            with use_backend("native"):
                expected = apply_rotary(x, cos, sin, interleaved=interleaved)
                if not torch.set_flush_denormal(True):
                    pytest.skip("this processor does not flush denormal numbers")
                flushed = apply_rotary(x, cos, sin, interleaved=interleaved)
                torch.set_flush_denormal(False)
            differs = (expected.view(torch.int16) != flushed.view(torch.int16)) & ~(expected.isnan() & flushed.isnan())
            assert not differs.any()
            assert scale == 1 or ((expected != 0) & (expected.abs() < 2.0**-14)).float().mean() > 0.05
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(before)


@pytest.mark.parametrize("interleaved", [False, True], ids=["half", "interleaved"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_nan_of_a_table_stays_one_whatever_its_bits(instructions: str, dtype: torch.dtype, interleaved: bool):
    """Rounding without a check carries a NaN of bfloat16 whose bits are all ones into a zero."""
    patterns = [-1, 0x7FFFFFFF, 0x7FFF8000, 0x7F800001, -0x7FFFFF, 0x7FC00000]
    bits = torch.tensor(patterns, dtype=torch.int64).to(torch.int32)
    for planes in (1, 3, 4, 8, 16, 37, 64):
        x = torch.randn(len(bits), 2 * planes).to(dtype)
        ordinary = torch.randn(len(bits), planes)
        nan = bits[:, None].expand(-1, planes).contiguous().view(torch.float32)
        for cos, sin in ((nan, ordinary), (ordinary, nan), (nan, nan)):
            for place in (x, x.clone().fill_(torch.inf)):
                with use_backend("native"):
                    y = apply_rotary(place, cos, sin, interleaved=interleaved)
                assert y.isnan().all(), (planes, y)


@pytest.mark.parametrize("interleaved", [False, True], ids=["half", "interleaved"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_nan_of_a_table_stays_one_beside_a_norm(instructions: str, dtype: torch.dtype, interleaved: bool):
    patterns = torch.tensor([-1, 0x7FFFFFFF, 0x7FFF8000, 0x7F800001, -0x7FFFFF], dtype=torch.int64).to(torch.int32)
    norms = (Norm(1e-6, 0.0, False, False), Norm(1e-6, 0.0, True, False), Norm(1e-6, 0.0, True, True))
    for channels, part, norm in itertools.product((10, 64, 80, 96, 128, 256), (2, 4), norms):
        planes = channels // part
        x, grad = (torch.randn(len(patterns), channels).to(dtype) for _ in range(2))
        nan = patterns[:, None].expand(-1, planes).contiguous().view(torch.float32)
        nan[:, : planes // 2] = 0.5
        table, how = (nan, torch.randn(len(patterns), planes)), {"seq_dim": 0, "interleaved": interleaved}
        weight, result, of_x = torch.randn(channels).to(dtype), torch.empty_like(x), torch.empty_like(x)
        assert native.norm_rotate((x,), (result,), (weight,), (table,), norm, **how) is None
        expected = eager.formula(x, weight, *table, norm, **how)
        assert expected.isnan().any() and torch.equal(result.isnan(), expected.isnan()), (channels, planes, norm)
        assert native.norm_rotate_backward((grad,), (x,), (of_x,), (None,), (weight,), (table,), norm, **how) is None
        expected = eager.gradients(grad, x, weight, *table, norm, **how)[0]
        assert torch.equal(of_x.isnan(), expected.isnan()), (channels, planes, norm)


@pytest.mark.skipif(
    shutil.which("nm") is None or shutil.which("c++") is None or not build.instruction_sets(),
    reason="nothing to compile",
)
@pytest.mark.parametrize("source", build.EACH)
def test_no_function_of_a_set_can_take_the_place_of_another(source: str, tmp_path: Path):
    """The linker keeps any one copy of a function with external linkage that several sources define, and a copy of AVX-512 would end the
    process on a processor without it. Without optimisation, where nothing is inlined away."""
    name, flags = list(build.instruction_sets().items())[-1]
    object_file = tmp_path / "set.o"
    command = (
        "c++",
        "-std=c++17",
        "-O0",
        "-w",
        "-fno-exceptions",
        *flags,
        f"-DROTARY_SET={name}",
        "-c",
        str(build.FOLDER / source),
    )
    subprocess.run((*command, "-o", str(object_file)), check=True)
    symbols = subprocess.run(
        ("nm", "--defined-only", "-C", str(object_file)), capture_output=True, text=True, check=True
    )
    result = [line for line in symbols.stdout.splitlines() if len(line.split()) > 2 and line.split()[1] in "TWVuDBRi"]
    assert result and all(f"rotary::{name}::" in line for line in result), result
