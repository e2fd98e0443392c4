"""The software GPU is right about instructions, and notices what compute-sanitizer would."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from software_gpu import ptx

HEAD = """
.visible .entry f(
	.param .u64 .ptr .global .align 1 f_param_0,
	.param .u32 f_param_1
)
.reqntid {threads}
{{
	ld.param.b64 	%rd1, [f_param_0];
	ld.param.b32 	%r1, [f_param_1];
	mov.u32 	%r2, %tid.x;
	mov.u32 	%r3, %ctaid.x;
	mad.lo.s32 	%r4, %r3, {threads}, %r2;
	mul.wide.s32 	%rd2, %r4, 4;
	add.s64 	%rd3, %rd1, %rd2;
{body}
	ret;
}}
"""
TORCH = {"bf16": torch.bfloat16, "f16": torch.float16}


def run(body: str, *, out: Tensor, argument: int = 0, grid: int = 1, threads: int = 32, shared: int = 0) -> Tensor:
    """out, after the body with %rd1 its address, %rd3 that of the thread's own word, %r1 the argument, %r4 the thread's number."""
    program = ptx.parse(HEAD.format(body=body, threads=threads))
    storage = out.untyped_storage()
    tensors = [(storage.data_ptr(), storage.data_ptr() + storage.nbytes())]
    ptx.run(program, grid, [out.data_ptr(), argument], tensors, shared)
    return out


def words(n: int = 32, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.arange(n, dtype=dtype)


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("add.s32 %r5, %r4, %r1;", lambda t, a: t + a),
        ("sub.s32 %r5, %r4, %r1;", lambda t, a: t - a),
        ("mul.lo.s32 %r5, %r4, %r1;", lambda t, a: t * a),
        ("mad.lo.s32 %r5, %r4, %r1, -7;", lambda t, a: t * a - 7),
        ("neg.s32 %r5, %r4;", lambda t, a: -t),
        ("neg.s32 %r9, %r4; div.s32 %r5, %r9, 3;", lambda t, a: -(t // 3)),
        ("shl.b32 %r5, %r4, 3;", lambda t, a: t << 3),
        ("neg.s32 %r9, %r4; shr.s32 %r5, %r9, 1;", lambda t, a: -t >> 1),
        ("neg.s32 %r9, %r4; shr.u32 %r5, %r9, 28;", lambda t, a: 0 if t == 0 else 15),
        ("and.b32 %r5, %r4, 12;", lambda t, a: t & 12),
        ("or.b32 %r5, %r4, 12;", lambda t, a: t | 12),
        ("xor.b32 %r5, %r4, 12;", lambda t, a: t ^ 12),
        ("not.b32 %r5, %r4;", lambda t, a: ~t),
        ("bfe.u32 %r5, %r4, 1, 3;", lambda t, a: t >> 1 & 7),
        ("bfe.s32 %r5, %r4, 2, 1;", lambda t, a: -(t >> 2 & 1)),
        ("setp.lt.s32 %p1, %r4, 9; selp.b32 %r5, %r1, 3, %p1;", lambda t, a: a if t < 9 else 3),
        ("mov.b32 %r5, 1; setp.eq.b32 %p1, %r4, 9; @!%p1 mov.b32 %r5, 2;", lambda t, a: 1 if t == 9 else 2),
        (
            "setp.gt.s32 %p1, %r4, 3; setp.lt.s32 %p2, %r4, 9; and.pred %p3, %p1, %p2; selp.b32 %r5, 1, 0, %p3;",
            lambda t, a: 3 < t < 9,
        ),
        (
            "cvt.s64.s32 %rd5, %r1; shl.b64 %rd6, %rd5, 33; shr.s64 %rd7, %rd6, 32; cvt.u32.u64 %r5, %rd7;",
            lambda t, a: 2 * a,
        ),
        ("mov.b32 {%rs1, %rs2}, %r4; mov.b32 %r5, {%rs2, %rs1};", lambda t, a: t << 16),
        ("prmt.b32 %r5, %r4, %r1, 0x3210U;", lambda t, a: t),
        ("prmt.b32 %r5, %r4, %r1, 0x0123U;", lambda t, a: t << 24),
        ("xor.b32 %r6, %r4, 1; shfl.sync.idx.b32 %r5, %r4, %r6, 31, -1;", lambda t, a: t ^ 1),
    ],
)
def test_integers(body: str, wanted):
    result = run(body + "st.global.b32 [%rd3], %r5;", out=words(), argument=-5).tolist()
    assert result == [(int(wanted(t, -5)) + 2**31) % 2**32 - 2**31 for t in range(32)]


def test_loops_that_all_threads_run_alike():
    loop = """mov.b32 %r5, %r4; mov.b32 %r6, 0;
$L__BB0_1:
	add.s32 %r5, %r5, 10;
	add.s32 %r6, %r6, 1;
	setp.lt.s32 %p1, %r6, %r1;
	@%p1 bra $L__BB0_1;
	st.global.b32 [%rd3], %r5;"""
    assert run(loop, out=words(), argument=3).tolist() == [t + 30 for t in range(32)]
    with pytest.raises(AssertionError, match="threads part at a branch"):
        run(loop.replace("%r6, %r1", "%r4, %r1"), out=words(), argument=3)


def test_products_twice_as_wide():
    wide = "mul.wide.s32 %rd5, %r1, %r1; mad.wide.u32 %rd6, %r4, 8, %rd1; st.global.b64 [%rd6+0], %rd5;"
    assert run(wide, out=words(dtype=torch.int64), argument=-(2**31)).tolist() == [2**62] * 32


@pytest.mark.parametrize("kind", TORCH)
def test_half_precisions_round_as_torch_does(kind: str):
    x = torch.cat((torch.randn(28) * 100, torch.tensor([0.0, float("inf"), -0.0, 1e-41])))
    down = (
        f"ld.global.b32 %r5, [%rd3]; cvt.rn.{kind}.f32 %rs1, %r5; mov.b16 %rs2, 0;"
        "mov.b32 %r6, {%rs1, %rs2}; st.global.b32 [%rd3], %r6;"
    )
    result = run(down, out=x.clone()).view(torch.int16)[::2].view(TORCH[kind])
    assert torch.equal(result, x.to(TORCH[kind]))
    up = f"ld.global.b32 %r5, [%rd3]; mov.b32 {{%rs1, %rs2}}, %r5; cvt.f32.{kind} %r6, %rs1; st.global.b32 [%rd3], %r6;"
    padded = torch.stack((result.view(torch.int16), torch.zeros(32, dtype=torch.int16)), -1).view(torch.float32)[:, 0]
    assert torch.equal(run(up, out=padded.clone()), result.float())


def test_floats_round_once_per_operation():
    x = torch.randn(32)
    body = (
        "ld.global.b32 %r5, [%rd3]; mul.rn.f32 %r6, %r5, %r5; sub.rn.f32 %r7, %r6, %r5; neg.f32 %r8, %r7;"
        "add.rn.f32 %r9, %r8, 0f3F800000; st.global.b32 [%rd3], %r9;"
    )
    assert torch.equal(run(body, out=x.clone()), -(x * x - x) + 1.0)


@pytest.mark.parametrize("trans", ["", ".trans"])
def test_matrices_go_to_shared_memory_and_back(trans: str):
    """Thread t holds elements (t // 4, t % 4 * 2) and its neighbour of an 8 x 8 matrix of half words; transposed, of its transpose."""
    body = (
        "and.b32 %r5, %r4, 7; shl.b32 %r6, %r5, 4; stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r6], {%r4}; bar.sync 0;"
        f"ldmatrix.sync.aligned.m8n8.x1{trans}.shared.b16 {{%r7}}, [%r6]; st.global.b32 [%rd3], %r7;"
    )
    result = run(body, out=words(), shared=128).view(torch.int16).view(8, 8)
    expected = words().view(torch.int16).view(8, 8)
    assert torch.equal(result, expected.T.contiguous() if trans else expected)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("st.global.b32 [%rd3+4], %r4;", "1 threads outside every tensor"),
        ("add.s64 %rd4, %rd3, -4; st.global.b32 [%rd4], %r4;", "1 threads outside every tensor"),
        ("ld.global.v2.b32 {%r5, %r6}, [%rd3];", "not divisible by 8"),
        ("st.shared.b32 [%r2], %r4;", "not divisible by 4"),
        ("shl.b32 %r5, %r2, 2; st.shared.b32 [%r5+4], %r4;", "outside 128 bytes of shared memory"),
        ("st.global.b32 [%rd1], %r4;", "threads race"),
        ("ld.global.b32 %r5, [%rd1]; st.global.b32 [%rd3], %r4;", "threads race"),
        ("shl.b32 %r5, %r2, 2; st.shared.b32 [%r5], %r4; ld.shared.b32 %r6, [0];", "threads race"),
    ],
)
def test_wrong_accesses_are_noticed(body: str, message: str):
    with pytest.raises(AssertionError, match=message):
        run(body, out=words(), shared=128)


def test_what_is_no_race():
    """The same value written by all; memory handed on across a barrier, or within a warp across a shuffle; guards that hold threads off."""
    fine = (
        "st.global.b32 [%rd1], %r1;",
        "shl.b32 %r5, %r2, 2; st.shared.b32 [%r5], %r4; bar.sync 0; ld.shared.b32 %r6, [0];",
        "ld.global.b32 %r5, [%rd1]; shfl.sync.idx.b32 %r6, %r5, 0, 31, -1; st.global.b32 [%rd3], %r4;",
        "setp.lt.s32 %p1, %r4, 31; @%p1 st.global.b32 [%rd3+4], %r4;",
    )
    for body in fine:
        run(body, out=words(), shared=128)


def test_a_barrier_is_of_one_program_and_a_shuffle_of_one_warp():
    read = "ld.global.b32 %r5, [%rd1];"
    with pytest.raises(AssertionError, match="threads race"):
        run(f"{read} bar.sync 0; st.global.b32 [%rd3], %r4;", out=words(64), grid=2)
    with pytest.raises(AssertionError, match="threads race"):
        run(f"{read} shfl.sync.idx.b32 %r6, %r5, 0, 31, -1; st.global.b32 [%rd3], %r4;", out=words(64), threads=64)
    with pytest.raises(AssertionError, match="threads race"):
        run(f"{read} bar.warp.sync -1; st.global.b32 [%rd3], %r4;", out=words(64), threads=64)
    run(f"{read} bar.warp.sync -1; st.global.b32 [%rd3], %r4;", out=words(32), threads=32)
    run(f"{read} bar.sync 0; st.global.b32 [%rd3], %r4;", out=words(64), threads=64)


def test_programs_have_shared_memory_of_their_own():
    body = "st.shared.b32 [0], %r3; bar.sync 0; ld.shared.b32 %r5, [0]; st.global.b32 [%rd3], %r5;"
    assert run(body, out=words(96), grid=3, shared=4).view(3, 32)[:, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("instruction", "name"),
    [
        ("popc.b32 %r5, %r4;", "popc"),
        ("mul.hi.s32 %r5, %r4, %r4;", "hi"),
        ("cvt.rz.f32.f64 %r5, %rd1;", "rz"),
        ("mul.rn.ftz.f32 %r5, %r4, %r4;", "ftz"),
        ("add.sat.s32 %r5, %r4, %r4;", "sat"),
    ],
)
def test_what_is_not_known_is_named(instruction: str, name: str):
    with pytest.raises(RuntimeError, match=f"{name} is not known"):
        run(instruction, out=words())


def test_addresses_are_64_bits_wide():
    far = torch.from_numpy(np.empty(2**30 + 32, np.int32))  # pages that are never written take no memory
    run(
        "cvt.s64.s32 %rd4, %r1; shl.b64 %rd5, %rd4, 2; add.s64 %rd6, %rd3, %rd5; st.global.b32 [%rd6], %r4;",
        out=far,
        argument=2**30,
    )
    assert far[2**30 :].tolist() == list(range(32))
