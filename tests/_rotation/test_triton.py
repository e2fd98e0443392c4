"""What the launcher promises: one launch, nothing compiled twice, the short way as good as the long one. On a GPU made of software."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from rotary import RotaryEmbedding, apply_rotary, apply_rotary_qk, use_backend
from rotary._angles import gpu as gpu_tables
from rotary._angles.eager import cos_sin_of_turns
from rotary._rotation import triton as launcher

pytestmark = pytest.mark.skipif(
    "ROTARY_CHIP" not in os.environ, reason="needs ROTARY_CHIP: compiled code, run in software"
)
ROPE = RotaryEmbedding(64)


class Software(NamedTuple):
    """Records of the software GPU since a test began: programs of each launch, kernels; and those of the launcher."""

    launches: list[int]
    texts: list[str]
    codes: list[launcher.Code]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Software]:
    """With a launcher that remembers nothing from other tests, and 16 multiprocessors."""
    from software_gpu import driver as software_gpu

    make, codes = launcher._code.__wrapped__, []

    @functools.cache
    def noting(*arguments: Any) -> launcher.Code:
        codes.append(make(*arguments))
        return codes[-1]

    launcher._launches.cache_clear()
    monkeypatch.setattr(launcher, "_code", noting)
    monkeypatch.setattr(launcher, "_multiprocessors", lambda device: 16)
    monkeypatch.setattr(software_gpu, "launches", [])
    monkeypatch.setattr(software_gpu, "texts", [])
    with use_backend("triton"):
        yield Software(software_gpu.launches, software_gpu.texts, codes)
    launcher._launches.cache_clear()


def tensors(batch: int, seq: int, heads: int = 4, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor]:
    q, k = (torch.randn(batch, seq, n, 64).to(dtype).transpose(1, 2) for n in (heads, heads // 4))
    return q, k


def rotate(batch: int, seq: int, heads: int = 4, offset: int = 0, **how: bool) -> tuple[Tensor, Tensor]:
    q, k = tensors(batch, seq, heads)
    table = cos_sin_of_turns(torch.arange(offset, offset + seq)[:, None] * torch.arange(32) * 2**55, torch.float32)
    return apply_rotary_qk(q, k, *table, **how)


def test_one_launch_for_queries_and_keys_forward_and_backward(gpu: Software):
    """And one for their tables, where those are asked for in the same call."""

    def count(call: Callable[[], Any]) -> int:
        gpu.launches.clear()
        call()
        return len(gpu.launches)

    q, k = (t.requires_grad_() for t in tensors(2, 5))
    rotated = ROPE.rotate(q, k)
    assert count(lambda: ROPE.rotate(q, k)) == 2
    assert count(lambda: torch.autograd.grad(rotated, (q, k), [torch.ones_like(t) for t in rotated])) == 1
    table = ROPE.cos_sin(5)
    partial = torch.randn(2, 3, 5, 96), torch.randn(2, 1, 5, 96)
    assert count(lambda: apply_rotary_qk(*partial, *table)) == 1
    assert count(lambda: apply_rotary_qk(*partial, *table, inplace=True)) == 1
    of_keys = {"key_cos": 2 * table[0], "key_sin": 2 * table[1]}
    assert count(lambda: apply_rotary_qk(*partial, *table, **of_keys)) == 1
    two_tails = torch.randn(1, 2, 5, 64), torch.randn(1, 2, 5, 80)
    assert count(lambda: apply_rotary_qk(*two_tails, *table)) == 2  # tails of two lengths are two kernels


def test_nothing_is_compiled_twice_for_another_length_batch_offset_direction_or_number_of_heads(gpu: Software):
    """There are two kernels, for small and for large work. Triton by itself would compile others for sizes of 1 and of 16 n."""
    for seq in (1, 2, 3, 16, 17, 31, 48, 300):
        for batch in (1, 2):
            rotate(batch, seq, offset=7 * seq, conjugate=seq % 2 == 0)
    rotate(1, 16, heads=16)
    assert {code.constants[-2] for code in gpu.codes} == {launcher.SMALL.heads, launcher.LARGE.heads}
    assert len(gpu.codes) == 2 and len(gpu.texts) <= 2


def test_the_second_launch_goes_past_triton_with_the_same_arguments(gpu: Software, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    expected = rotate(2, 5, offset=3)
    monkeypatch.setattr(launcher, "_kernel", lambda: pytest.fail("Triton's own way was taken again"))
    torch.manual_seed(0)
    again = rotate(2, 5, offset=3)
    assert len(gpu.launches) == 2 and all(torch.equal(a, b) for a, b in zip(again, expected, strict=True))


def test_memory_that_is_not_aligned_does_not_take_the_code_for_memory_that_is(gpu: Software):
    rotate(1, 5)  # of other types
    aligned = torch.randn(1, 2, 5, 64)
    shifted = torch.empty(aligned.numel() + 1)[1:].view(aligned.shape).copy_(aligned)
    first = ROPE.rotate(shifted)
    code = gpu.codes[-1]
    assert code.direct is None  # nor is it kept for those that are
    expected = ROPE.rotate(aligned)
    assert code.direct is not None and torch.equal(first, expected)
    assert torch.equal(ROPE.rotate(shifted), expected) and gpu.codes[-1] is code


def test_every_program_has_work(gpu: Software):
    """As many programs as tiles: no grid over a longest sequence, no early exit."""
    rotate(1, 5)
    *_, tokens, heads, _ = gpu.codes[0].constants
    assert gpu.launches == [-(-5 // tokens) * (-(-4 // heads) + -(-1 // heads))]


def test_one_token_runs_the_code_of_many(gpu: Software):
    """A row of tables has no stride where there is one row: widths that 16 bytes do not divide would make kernels of their own."""
    for dim in (100, 90, 18, 20):
        gpu.codes.clear()
        rope = RotaryEmbedding(dim)
        for seq in (1, 2, 5, 300):
            x = torch.randn(1, seq, 3, dim).transpose(1, 2)
            rope.rotate(x, x[:, :1])
        assert len(gpu.codes) <= 2, dim


def test_tables_of_queries_and_keys_with_strides_of_their_own(gpu: Software):
    """What divides the strides of one need not divide those of the other."""
    q, k = torch.randn(1, 4, 6, 64), torch.randn(1, 2, 6, 64)
    whole = torch.randn(6, 32), torch.randn(6, 32)
    odd = tuple(torch.randn(6, 33)[:, :32] for _ in range(2))
    for first, second in ((whole, odd), (odd, whole)):
        result = apply_rotary_qk(q, k, *first, key_cos=second[0], key_sin=second[1])
        with use_backend("eager"):
            expected = apply_rotary_qk(q, k, *first, key_cos=second[0], key_sin=second[1])
        assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))


def test_F30_rows_and_tables_further_apart_than_32_bits(gpu: Software):
    """Sequence and heads of x, and rows of tables, each in a memory of which few pages are ever touched."""
    step = 2**30 + 64  # two of them are more than 2^31 elements
    memory = torch.from_numpy(np.empty(2 * step + 256, np.float32))
    cos, sin = torch.randn(3, 4), torch.randn(3, 4)
    for strides in ((8, step, 8, 1), (8, 64, step, 1)):
        x = memory.as_strided((1, 3, 3, 8), strides).copy_(torch.randn(1, 3, 3, 8))
        expected = apply_rotary(x.clone(), cos, sin)
        assert torch.equal(apply_rotary(x, cos, sin, inplace=True), expected)
    far = [memory[n:].as_strided((3, 4), (step, 1)).copy_(t) for n, t in ((0, cos), (64, sin))]
    x = torch.randn(1, 3, 3, 8)
    assert torch.equal(apply_rotary(x, far[0], far[1]), apply_rotary(x, cos, sin))


def test_sizes_beyond_32_bits_are_refused():
    shape, strides, table = (2**20, 1, 2**12, 8), (2**15, 8, 8, 1), ((2**12, 4), (4, 1), (4, 1))
    for size, reason in ((shape, "more than 2147482624"), ((1, 1, 1, 2**17), "more than 65536 channels")):
        geometry = launcher.Geometry(torch.Size(size), strides, None, *table)
        plan = launcher._launches(torch.float32, torch.device("cpu"), 2, False, False, (geometry,))
        assert isinstance(plan, str) and reason in plan
    table = torch.empty(0)
    assert not gpu_tables.fill(SimpleNamespace(batch=2, rows=2**30), table, table)  # type: ignore[arg-type]


def test_writing_over_a_tensor_is_told_to_autograd(gpu: Software):
    x, (cos, sin) = torch.randn(1, 2, 5, 64), ROPE.cos_sin(5)
    before = x._version
    assert apply_rotary(x, cos, sin, inplace=True)._version == before + 1
    with torch.inference_mode():
        inside = torch.randn(1, 2, 5, 64)
        expected = apply_rotary(inside, cos, sin)
        assert torch.equal(apply_rotary(inside, cos, sin, inplace=True), expected)


def test_a_profilers_hook_sees_every_launch(gpu: Software):
    from triton import knobs

    names: list[str] = []
    chain, function = knobs.runtime.launch_enter_hook, lambda metadata: names.append(metadata.get()["name"])
    rotate(1, 5)
    if hasattr(chain, "add"):
        chain.add(function)
    else:
        knobs.runtime.launch_enter_hook = function
    try:
        rotate(1, 5)
        rotate(1, 5)
    finally:
        if hasattr(chain, "add"):
            chain.remove(function)
        else:
            knobs.runtime.launch_enter_hook = chain
    rotate(1, 5)
    assert names == ["rotate_kernel"] * 2 and len(gpu.launches) == 4


def test_code_is_of_one_device():
    dtypes = torch.float32, torch.float32
    assert launcher._code.__wrapped__(dtypes, torch.device("cuda", 3), 4, ()).device == 3
    of_tables = gpu_tables.code.__wrapped__(torch.device("cuda", 3), torch.float32, 64, 0, 1, False, False, False)
    assert of_tables.device == 3
