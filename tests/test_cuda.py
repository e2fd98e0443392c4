"""What only a GPU can show: nothing waits for it, graphs replay with other positions, gradients and compiled programs agree there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from rotary import RotaryEmbedding, apply_rotary_qk
from rotary._rotation import eager
from rotary.transformers import RotationSpec
from rotary.transformers.wrapper import Replacement

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
ROPE = RotaryEmbedding(64, base=500_000)


def tensors(dtype: torch.dtype = torch.bfloat16, seq: int = 48) -> tuple[Tensor, Tensor]:
    q, k = (torch.randn(3, seq, heads, 64, device="cuda").to(dtype).transpose(1, 2) for heads in (8, 2))
    return q, k


def same(found: Any, wanted: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


WHERE: dict[str, dict[str, Any]] = {
    "offset": {"offset": 7},
    "offset on the device": {"offset": torch.tensor(7)},
    "offset per row": {"offset": torch.tensor([0, 5, 2**30])},
    "positions": {"positions": torch.arange(3 * 48).view(3, 48)},
    "positions of 32 bits": {"positions": torch.arange(48, dtype=torch.int32)},
    "packed": {"cu_seqlens": torch.tensor([0, 5, 5, 30, 48], dtype=torch.int32)},
    "packed from offsets": {"cu_seqlens": torch.tensor([0, 5, 48]), "offset": torch.tensor([3, 1])},
}


@pytest.fixture
def unwaited() -> Iterator[Callable[[Callable[[], Any]], Any]]:
    """Runs a call once as it is, then again where waiting for the device is an error."""

    def run(call: Callable[[], Any]) -> Any:
        call()
        torch.cuda.set_sync_debug_mode("error")
        try:
            return call()
        finally:
            torch.cuda.set_sync_debug_mode("default")

    yield run
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("where", WHERE.values(), ids=WHERE.keys())
def test_nothing_waits_for_the_device(where: dict[str, Any], unwaited: Callable[..., Any]):
    q, k = tensors(torch.float32)
    given = {name: value.cuda() if isinstance(value, Tensor) else value for name, value in where.items()}
    found = unwaited(lambda: ROPE.rotate(q, k, **given))
    wanted = ROPE.rotate(q.cpu(), k.cpu(), **where)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=0, atol=4e-6)


@pytest.mark.parametrize("inplace", [False, True])
def test_a_graph_replayed_with_other_positions(inplace: bool):
    q, k = tensors()
    positions = torch.arange(48, device="cuda")
    held_q, held_k = q.clone(), k.clone()

    def call() -> tuple[Tensor, Tensor]:
        if not inplace:
            return ROPE.rotate(held_q, held_k, positions=positions)
        held_q.copy_(q)
        held_k.copy_(k)
        return ROPE.rotate(held_q, held_k, positions=positions, inplace=True)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()  # compiles, and makes the constants
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = call()
    for offset in (0, 100, 2**31 - 100):
        positions.copy_(torch.arange(offset, offset + 48, device="cuda"))
        graph.replay()
        assert same(found, ROPE.rotate(q, k, offset=offset))


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("inplace", [False, True])
def test_gradients(interleaved: bool, inplace: bool):
    rope = RotaryEmbedding(64, interleaved=interleaved)
    leaves = [t.requires_grad_() for t in tensors(torch.float32)]
    grads = tensors(torch.float32)
    found = torch.autograd.grad(rope.rotate(*(2.0 * t for t in leaves), inplace=inplace), leaves, grads)
    cos, sin = (t.cuda() for t in rope.cos_sin(48))
    for a, grad in zip(found, grads, strict=True):
        wanted = 2.0 * eager.formula(grad, cos, sin, seq_dim=2, interleaved=interleaved, conjugate=True)
        torch.testing.assert_close(a, wanted, rtol=0, atol=4e-6)


def test_one_launch_for_q_and_k(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # a launch for each output
    q, k = tensors()
    table = [t.cuda() for t in ROPE.cos_sin(48)]
    apply_rotary_qk(q, k, *table)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        apply_rotary_qk(q, k, *table)
        torch.cuda.synchronize()
    events = [event for event in seen.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    assert len(events) == 1


def test_prefill_is_decoding_and_packed_is_each_alone():
    q, k = tensors()
    whole = ROPE.rotate(q, k, offset=1_000_000)
    for n in (0, 17, 47):
        one = ROPE.rotate(q[:, :, n : n + 1], k[:, :, n : n + 1], offset=1_000_000 + n)
        assert same(one, [t[:, :, n : n + 1] for t in whole])
    packed = ROPE.rotate(q, k, cu_seqlens=torch.tensor([0, 20, 48], device="cuda"))
    for a, b in ((0, 20), (20, 48)):
        assert same(ROPE.rotate(q[:, :, a:b], k[:, :, a:b]), [t[:, :, a:b] for t in packed])


def test_F30_tables_of_more_than_2_to_the_31_values(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    rows = 2**31 // 32 + 100
    if torch.cuda.mem_get_info()[0] < 20 * 2**30:
        pytest.skip("20 GiB are not free")
    last = torch.arange(rows, device="cuda")
    for found, wanted in zip(ROPE.cos_sin(last), ROPE.cos_sin(last[-5:]), strict=True):
        assert torch.equal(found[-5:], wanted)


def test_compiled():
    q, k = tensors(torch.float32)
    torch._dynamo.reset()
    compiled = torch.compile(lambda q, k: ROPE.rotate(q, k, offset=3), fullgraph=True)
    for a, b in zip(compiled(q, k), ROPE.rotate(q, k, offset=3), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=4e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_operator(dtype: torch.dtype):
    q, k = tensors(dtype)
    cos, sin = (t.cuda() for t in ROPE.cos_sin(48))
    torch.library.opcheck(torch.ops.rotary.rotate.default, ([q, k], [cos, sin, cos, sin], 2, False, False))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_F51_a_patched_function_waits_for_nothing_and_a_graph_follows_its_tables(
    dtype: torch.dtype, unwaited: Callable[..., Any]
):
    """The two columns of a plane are not compared: the kernel reads both, whatever was written into the tables, .data included."""
    replaced = Replacement(rotate_usual, RotationSpec(unsqueeze=1), lambda: True)
    q, k = tensors(dtype)
    cos, sin = (torch.cat((t, t), -1)[None].to(dtype) for t in (t.cuda() for t in ROPE.cos_sin(48)))
    assert replaced.fits(64, 64)
    unwaited(lambda: replaced(q, k, cos, sin))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = replaced(q, k, cos, sin)
    for offset in (0, 100):
        for table, new in zip((cos, sin), ROPE.cos_sin(torch.arange(offset, offset + 48)), strict=True):
            table.data.copy_(torch.cat((new, new), -1)[None])
        graph.replay()
        half = (cos[..., :32].float().contiguous(), sin[..., :32].float().contiguous())
        assert same(found, apply_rotary_qk(q, k, *half))
    assert replaced.fallbacks == 0


def rotate_usual(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    q_turned, k_turned = (torch.cat((-x[..., x.shape[-1] // 2 :], x[..., : x.shape[-1] // 2]), -1) for x in (q, k))
    return q * cos + q_turned * sin, k * cos + k_turned * sin
