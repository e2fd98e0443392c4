"""What is the GPU kernel compiled to: registers, spills, and the width of every access to memory? It needs no GPU.

    python -m benchmarks.gpu.code            1 minute; writes results/gpu_code.json and results/gpu_code.md, a row per chip, dtype,
                                             pairing and shape
    python -m benchmarks.gpu.code sass       prints the instructions for an H200, bfloat16, head_dim 128; writes nothing
    python -m benchmarks.gpu.code fused      prints the same rows of norm and rotation in one pass and of its gradient; writes nothing

The kernel is compiled as the launcher would compile it: its constants come from the launcher's own plan for these tensors. Triton
brings the assembler and the disassembler. Run it with -m only: as a script its folder would be the first of sys.path, and this file
would stand for the standard library's module `code`.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

from benchmarks.record import circumstances, table, write
from rotary._angles.gpu import code as tables_of
from rotary._fused import triton as fused
from rotary._fused import triton_rows as fused_rows
from rotary._fused.work import Norm
from rotary._rotation import triton as launcher
from rotary._triton.launch import Code as Launched

CHIPS = {"A100": 80, "H200": 90, "B200": 100}
MULTIPROCESSORS = 132  # an H200's, which decide between large and small tiles
DTYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32", torch.float64: "fp64"}
SHAPES = {  # (tokens, head_dim, dim)
    "128": (4096, 128, 128), "128, one token": (1, 128, 128), "128, 64 of them turned": (4096, 128, 64),
    "96": (4096, 96, 96), "80": (4096, 80, 80), "256": (4096, 256, 256), "512": (4096, 512, 512),
    "80, 32 of them turned": (4096, 80, 32), "256, 64 of them turned": (4096, 256, 64), "512, 64 of them turned": (4096, 512, 64),
}  # fmt: skip
_INSTRUCTION = re.compile(r"^[^\t\n]*\t(?:@!?U?P\w+ )?([A-Z][A-Z0-9_]*)((?:\.\w+)*)", re.M)
_FUSED = re.compile(
    r"\t[^\t\n]*\b(?:FFMA2?|DFMA|HFMA2)\b\S* \w+, (?!-RZ, RZ)"
)  # of zeros alone it is how a constant is loaded
_TOOLS = Path(triton.__path__[0]) / "backends" / "nvidia" / "bin"


class Code(NamedTuple):
    instructions: int
    registers: int
    stack: int
    """Bytes of local memory per thread: where spilled registers would go."""
    shared: int
    barriers: int
    fused: int
    """Fused multiply-adds on floating-point numbers: one rounding where the formula has two."""
    accesses: Counter[str]
    """Instructions that touch memory, by kind and width in bits, as LDG.128."""


def compiled(
    dtype: torch.dtype,
    shape: tuple[int, int, int],
    *,
    interleaved: bool,
    chip: int,
    in_place: bool = False,
    fused: bool = False,
) -> CompiledKernel:
    """The kernel for 32 query and 8 key heads in the memory of a projection, (batch, seq, heads, head_dim)."""
    seq, head_dim, dim = shape
    work = torch.float64 if dtype == torch.float64 else torch.float32
    xs = [torch.empty(1, seq, heads, head_dim, dtype=dtype, device="meta").transpose(1, 2) for heads in (32, 8)]
    cos = torch.empty(seq, dim // 2, dtype=work, device="meta")
    tables = (cos.shape, cos.stride(), cos.stride())
    geometry = tuple(launcher.Geometry(x.shape, x.stride(), None if in_place else x.stride(), *tables) for x in xs)
    with mock.patch.object(launcher, "_multiprocessors", return_value=MULTIPROCESSORS):
        plan = launcher._launches.__wrapped__(dtype, torch.device("cpu"), 2, interleaved, False, geometry)
    assert isinstance(plan, tuple) and len(plan) == 1, plan
    kind, tables = DTYPES[dtype], "fp64" if dtype == torch.float64 else "fp32"
    return build(plan[0].code, (kind, kind, tables, tables) * 2, chip, fused=fused)


def compiled_tables(planes: int, chip: int) -> CompiledKernel:
    """The kernel that makes tables."""
    return build(tables_of(torch.device("cpu"), planes), ("i64", "i64", "i64", "fp64", "fp32", "fp32"), chip)


def compiled_fused(
    dtype: torch.dtype, shape: tuple[int, int, int], *, interleaved: bool, chip: int, backward: bool = False
) -> CompiledKernel:
    """Norm and rotation in one pass, or its gradient, as `compiled`: of weights of q and of k too."""
    seq, head_dim, dim = shape
    work = torch.float64 if dtype == torch.float64 else torch.float32
    xs = tuple(torch.empty(1, seq, heads, head_dim, dtype=dtype).transpose(1, 2) for heads in (32, 8))
    weights = tuple(torch.empty(head_dim, dtype=dtype) for _ in xs)
    table = torch.empty(seq, dim // 2, dtype=work)
    tables = ((table, table), (table, table))
    taken: list[tuple[Any, list[torch.dtype]]] = []

    def launch(code: Any, programs: int, tensors: tuple[torch.Tensor, ...], integers: tuple[int, ...]) -> None:
        taken.append((code, [t.dtype for t in tensors]))

    norm = Norm(1e-6, 0.0, False, False)
    how: dict[str, Any] = {"seq_dim": 2, "interleaved": interleaved}
    outs = tuple(torch.empty_like(x) for x in xs)
    with (
        mock.patch.object(Launched, "launch", launch),
        mock.patch.object(fused_rows, "unavailable", return_value=None),
        mock.patch.object(fused_rows.devices, "serves", return_value=True),
    ):
        if backward:
            totals = tuple(torch.empty(head_dim, dtype=work) for _ in xs)
            reason = fused.norm_rotate_backward(xs, xs, outs, totals, weights, tables, norm, **how)
        else:
            reason = fused.norm_rotate(xs, outs, weights, tables, norm, **how)
    assert reason is None, reason
    code, dtypes = taken[0]
    return build(code, tuple(DTYPES[one] for one in dtypes), chip)


def build(code: Any, pointers: tuple[str, ...], chip: int, *, fused: bool = False) -> CompiledKernel:
    """One kernel, from its constants and what its pointers point at; they are aligned to 16 bytes, as torch's allocations are."""
    kernel = code.kernel()
    names = kernel.arg_names
    first = len(names) - len(code.constants)
    signature = {parameter.name: parameter.annotation_type for parameter in kernel.params[:first]}
    signature.update((name, f"*{kind}") for name, kind in zip(names, pointers, strict=False))
    signature.update((name, "constexpr") for name in names[first:])
    constants = {(i,): value for i, value in enumerate(code.constants, first)}
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind.startswith("*")}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    options = {"num_warps": code.warps, "enable_fp_fusion": fused}
    return triton.compile(source, target=GPUTarget("cuda", chip, 32), options=options)


def read(kernel: CompiledKernel) -> Code:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        told = subprocess.run(
            (_TOOLS / "cuobjdump", "--dump-resource-usage", file.name), capture_output=True, text=True, check=True
        ).stdout
    registers, stack = (int(n) for n in re.search(r"REG:(\d+) STACK:(\d+)", told).groups())  # pyright: ignore
    result = _INSTRUCTION.findall(kernel.asm["sass"])
    accesses: Counter[str] = Counter()
    for name, suffixes in result:
        if name in ("LDG", "STG", "LDS", "STS", "LDL", "STL", "LD", "ST"):
            width = re.search(r"\.(128|64|U16|S16|U8|S8|256)\b", suffixes)
            accesses[f"{name}.{width.group(1).lstrip('US') if width else '32'}"] += 1
    count = Counter(name for name, _ in result)
    fused = len(_FUSED.findall(kernel.asm["sass"]))
    return Code(len(result), registers, stack, kernel.metadata.shared, count["BAR"], fused, accesses)


def main() -> None:
    if "sass" in sys.argv[1:]:
        print(compiled(torch.bfloat16, SHAPES["128"], interleaved=False, chip=90).asm["sass"])
        return
    if "fused" in sys.argv[1:]:
        for backward in (False, True):
            for name, shape in SHAPES.items():
                for interleaved in (False, True):
                    made = compiled_fused(torch.bfloat16, shape, interleaved=interleaved, chip=90, backward=backward)
                    label = f"H200, bf16, {name}, {'interleaved' if interleaved else 'half'}, {'backward' if backward else 'forward'}"
                    print(label, *shown(read(made)), sep="   ", flush=True)
        return
    rows: list[list[str]] = []
    for chip, number in CHIPS.items():
        for dtype, kind in DTYPES.items():
            for name, shape in SHAPES.items():
                if chip != "H200" and name != "128":
                    continue
                for interleaved in (False, True):
                    code = read(compiled(dtype, shape, interleaved=interleaved, chip=number))
                    rows.append([f"{chip}, {kind}, {name}, {'interleaved' if interleaved else 'half'}", *shown(code)])
                    print(*rows[-1], sep="   ", flush=True)
        if chip == "H200":
            code = read(compiled(torch.bfloat16, SHAPES["128"], interleaved=False, chip=number, fused=True))
            rows.append([f"{chip}, bf16, 128, half, fusion allowed", *shown(code)])
        code = read(compiled_tables(64, number))
        rows.append([f"{chip}, tables of 64 planes", *shown(code)])
        print(*rows[-1], sep="   ", flush=True)
    at = circumstances("triton")
    text = f"""# What the GPU kernel is compiled to

`python -m benchmarks.gpu.code`, torch {at["versions"]["torch"]}, triton {at["versions"]["triton"]}, commit {at["commit"]}. Chip, dtype,
channels per head and how many of them are turned, pairing; instructions of a thread. 32 + 8 heads in the memory of a projection. LDG
and STG read and write global memory, LDS and STS shared memory, LDL and STL spilled registers; after the dot the bits per thread and
access.

{table(["", "instructions", "registers", "stack", "shared", "barriers", "fused", "loads", "stores", "others"], rows)}
"""
    write("gpu_code", {**at, "rows": rows}, text)


def shown(code: Code) -> list[str]:
    kinds = {
        kind: [f"{n} {k}" for k, n in sorted(code.accesses.items()) if k.startswith(kind)] for kind in ("LDG", "STG")
    }
    others = [f"{n} {k}" for k, n in sorted(code.accesses.items()) if not k.startswith(("LDG", "STG"))]
    return [*(str(n) for n in code[:6]), *(", ".join(result) for result in (*kinds.values(), others))]


if __name__ == "__main__":
    main()
