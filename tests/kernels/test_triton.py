"""What the launcher promises: one launch, nothing compiled twice, the short way as good as the long one. On a GPU made of software."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from rotary import RotaryEmbedding, apply_rotary_qk, use_backend
from rotary.angles import cos_sin_of_turns
from rotary.kernels import triton as launcher

pytestmark = pytest.mark.skipif(
    "ROTARY_CHIP" not in os.environ, reason="needs ROTARY_CHIP: compiled code, run in software"
)
ROPE = RotaryEmbedding(64)


class Software(NamedTuple):
    """What the software GPU has seen since a test began: programs of each launch, kernels it was given; and the launcher's own."""

    launches: list[int]
    texts: list[str]
    codes: list[launcher.Code]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Software]:
    """With a launcher that remembers nothing from other tests, and 16 multiprocessors."""
    from kernels import software_gpu

    make, codes = launcher._code.__wrapped__, []

    @functools.cache
    def noting(*arguments: Any) -> launcher.Code:
        codes.append(make(*arguments))
        return codes[-1]

    launcher._plan.cache_clear()
    monkeypatch.setattr(launcher, "_code", noting)
    monkeypatch.setattr(launcher, "_multiprocessors", lambda device: 16)
    monkeypatch.setattr(software_gpu, "launches", [])
    monkeypatch.setattr(software_gpu, "texts", [])
    with use_backend("triton"):
        yield Software(software_gpu.launches, software_gpu.texts, codes)
    launcher._plan.cache_clear()


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
    """Two kernels are for small and for large work, and nothing else comes of sizes: Triton alone would specialise 1, and 16 n."""
    for seq in (1, 2, 3, 16, 17, 31, 48, 300):
        for batch in (1, 2):
            rotate(batch, seq, offset=7 * seq, conjugate=seq % 2 == 0)
    rotate(1, 16, heads=16)
    assert {code.warps for code in gpu.codes} == {launcher.SMALL["warps"], launcher.LARGE["warps"]}
    assert len(gpu.codes) == 2 and len(gpu.texts) <= 2


def test_the_second_launch_goes_past_triton_with_the_same_arguments(gpu: Software, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    wanted = rotate(2, 5, offset=3)
    monkeypatch.setattr(launcher, "_kernel", lambda: pytest.fail("Triton's own way was taken again"))
    torch.manual_seed(0)
    again = rotate(2, 5, offset=3)
    assert len(gpu.launches) == 2 and all(torch.equal(a, b) for a, b in zip(again, wanted, strict=True))


def test_memory_that_is_not_aligned_does_not_take_the_code_for_memory_that_is(gpu: Software):
    aligned = torch.randn(1, 2, 5, 64)
    shifted = torch.empty(aligned.numel() + 1)[1:].view(aligned.shape).copy_(aligned)
    wanted = ROPE.rotate(aligned)
    assert torch.equal(ROPE.rotate(shifted), wanted)
    assert torch.equal(ROPE.rotate(aligned), wanted)
    assert len(gpu.codes) == 1 and len(gpu.texts) <= 2


def test_every_program_has_work(gpu: Software):
    """As many programs as tiles: no grid over a longest sequence, no early exit."""
    rotate(1, 5)
    *_, tokens, heads, _ = gpu.codes[0].constants
    assert gpu.launches == [-(-5 // tokens) * (-(-4 // heads) + -(-1 // heads))]
