"""torch.compile and torch.export: no break, few graphs, the same bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from rotary import RotaryEmbedding, apply_rotary_qk, cos_sin_of
from rotary.scaling import DynamicNTK

LENGTHS = (1, 10, 5, 6, 7, 8, 9, 4, 3, 2, 11)
ROPES = {
    "plain": RotaryEmbedding(64),
    "xpos": RotaryEmbedding(64, use_xpos=True),
    "partial": RotaryEmbedding(32, interleaved=True),
    "float32": RotaryEmbedding(64, angles="float32"),
}


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def graphs(rope: RotaryEmbedding, lengths: tuple[int, ...], dynamic: bool | None = None) -> int:
    counter = CompileCounter()
    compiled = torch.compile(lambda q, k: rope.rotate(q, k), fullgraph=True, backend=counter, dynamic=dynamic)
    for n in lengths:
        q, k = torch.randn(2, 4, n, 64), torch.randn(2, 2, n, 64)
        assert all(torch.equal(a, b) for a, b in zip(compiled(q, k), rope.rotate(q, k), strict=True))
    return counter.frame_count


@pytest.mark.parametrize("rope", ROPES.values(), ids=ROPES.keys())
def test_graphs_over_eleven_lengths(rope: RotaryEmbedding):
    assert graphs(rope, LENGTHS) <= 2
    torch._dynamo.reset()
    assert graphs(rope, LENGTHS, dynamic=True) <= 2
    torch._dynamo.reset()
    assert graphs(rope, LENGTHS[::-1]) <= 3
    torch._dynamo.reset()
    assert graphs(rope, (7, 1, 9, 2, 3, 4, 5, 6, 8, 10, 11)) <= 3


@pytest.mark.parametrize("rope", ROPES.values(), ids=ROPES.keys())
def test_graphs_over_eleven_offsets(rope: RotaryEmbedding):
    counter = CompileCounter()
    compiled = torch.compile(lambda q, k, offset: rope.rotate(q, k, offset=offset), fullgraph=True, backend=counter)
    q, k = torch.randn(2, 4, 1, 64), torch.randn(2, 2, 1, 64)
    for offset in range(11):
        assert all(
            torch.equal(a, b) for a, b in zip(compiled(q, k, offset), rope.rotate(q, k, offset=offset), strict=True)
        )
    assert counter.frame_count <= 2


@pytest.mark.parametrize("rope", ROPES.values(), ids=ROPES.keys())
def test_inductor_gives_the_same_numbers_and_gradients(rope: RotaryEmbedding):
    def both(call, dtype: torch.dtype):
        draw = torch.Generator().manual_seed(0)
        q = torch.randn(2, 4, 9, 64, generator=draw).to(dtype).requires_grad_()
        k = torch.randn(2, 2, 9, 64, generator=draw).to(dtype).requires_grad_()
        y, z = call(q, k)
        (y.float().pow(2).sum() + z.float().sum()).backward()
        return y, z, q.grad, k.grad

    compiled = torch.compile(
        lambda q, k: rope.rotate(q, k, offset=100_000 if not rope.use_xpos else 100), fullgraph=True
    )
    for dtype in (torch.float32, torch.bfloat16):
        eager = both(lambda q, k: rope.rotate(q, k, offset=100_000 if not rope.use_xpos else 100), dtype)
        for a, b in zip(both(compiled, dtype), eager, strict=True):
            torch.testing.assert_close(
                a, b, atol=1e-6 if dtype == torch.float32 else 0.0, rtol=1e-6 if dtype == torch.float32 else 2**-7
            )


def test_compiled_with_everything_given():
    rope = ROPES["plain"]
    q, k = torch.randn(2, 4, 6, 64), torch.randn(2, 2, 6, 64)
    cu, positions, offset = torch.tensor([0, 2, 6]), torch.arange(6).expand(2, 6) * 3, torch.tensor([4, -4])
    for options in ({"cu_seqlens": cu}, {"positions": positions}, {"offset": offset}, {"seq_dim": 2}):
        torch._dynamo.reset()
        compiled = torch.compile(lambda q, k, o=options: rope.rotate(q, k, **o), fullgraph=True, backend="eager")
        assert all(torch.equal(a, b) for a, b in zip(compiled(q, k), rope.rotate(q, k, **options), strict=True))
    torch._dynamo.reset()
    x, y = q.clone(), k.clone()
    compiled = torch.compile(lambda q, k: rope.rotate(q, k, inplace=True), fullgraph=True, backend="aot_eager")
    compiled(x, y)
    assert all(torch.equal(a, b) for a, b in zip((x, y), rope.rotate(q, k), strict=True))


class Layer(nn.Module):
    def __init__(self, rope: RotaryEmbedding) -> None:
        super().__init__()
        self.rope = rope

    def forward(self, q: torch.Tensor, k: torch.Tensor):
        return self.rope.rotate(q, k)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("rope", ROPES.values(), ids=ROPES.keys())
def test_export_with_a_dynamic_length(rope: RotaryEmbedding, strict: bool):
    q, k = torch.randn(2, 4, 9, 64), torch.randn(2, 2, 9, 64)
    seq = torch.export.Dim("seq", min=2, max=1 << 20)
    program = torch.export.export(Layer(rope), (q, k), dynamic_shapes={"q": {2: seq}, "k": {2: seq}}, strict=strict)
    for n in (2, 9, 300):
        q, k = torch.randn(2, 4, n, 64), torch.randn(2, 2, n, 64)
        assert all(torch.equal(a, b) for a, b in zip(program.module()(q, k), rope.rotate(q, k), strict=True))
    assert torch.equal(
        rope.rotate(q, k)[0],
        RotaryEmbedding(rope.dim, rope.use_xpos, interleaved=rope.interleaved, angles=rope.angles).rotate(q, k)[0],
    )


DYNAMIC = RotaryEmbedding(64, scaling=DynamicNTK(2.0, 16))
TABLES: dict[str, tuple[Callable[..., tuple[Tensor, Tensor]], tuple[Tensor, ...]]] = {
    "one position": (ROPES["plain"].cos_sin, (torch.tensor(3),)),
    "a length": (lambda p, n: DYNAMIC.cos_sin(p, length=n), (torch.arange(5), torch.tensor(40))),
    "directions": (lambda p: cos_sin_of(p, [[1.0, 0.5]]), (torch.tensor([[1, 2]]),)),
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_what_asks_for_a_jit_trace_compiles_whole(name: str):
    run, inputs = TABLES[name]
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert all(torch.equal(a, b) for a, b in zip(compiled(*inputs), run(*inputs), strict=True))


def test_tables_handed_to_layers_compile_too():
    cos, sin = ROPES["plain"].cos_sin(9)
    q, k = torch.randn(2, 4, 9, 64), torch.randn(2, 2, 9, 64)
    compiled = torch.compile(apply_rotary_qk, fullgraph=True, backend="aot_eager")
    assert all(
        torch.equal(a, b) for a, b in zip(compiled(q, k, cos, sin), apply_rotary_qk(q, k, cos, sin), strict=True)
    )


@pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="before torch 2.7 the formula runs in place")
@pytest.mark.parametrize("inside", [True, False], ids=["views made inside", "views handed in"])
def test_q_and_k_that_share_memory_are_refused_in_place(inside: bool):
    """What the compiler cannot see is seen when the program runs."""
    cos, sin = RotaryEmbedding(8).cos_sin(5)

    def rotated(q: Tensor, k: Tensor) -> None:
        apply_rotary_qk(q, k, cos, sin, inplace=True)

    def whole(x: Tensor, first: int) -> None:
        rotated(x[:, :first], x[:, 2:])

    by_parts, by_whole = (torch.compile(function, backend="aot_eager") for function in (rotated, whole))

    def run(x: Tensor, first: int) -> None:
        by_whole(x, first) if inside else by_parts(x[:, :first], x[:, 2:])

    x = torch.randn(1, 4, 5, 8)
    before = x.clone()
    with pytest.raises(RuntimeError, match="q and k share memory"):
        run(x, 3)
    assert torch.equal(x, before)
    run(x, 2)
    assert torch.equal(x, torch.cat(apply_rotary_qk(before[:, :2], before[:, 2:], cos, sin), 1))
