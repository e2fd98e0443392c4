"""Distributed tensors against one process: every placement, argument and way of calling, bit for bit, without a collective."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.debug import CommDebugMode

import rotary
from rotary import RotaryEmbedding
from rotary._rotation import backends, native
from rotary.scaling import DynamicNTK, YaRN

BATCH, HEADS, KV, SEQ, DIM = 4, 4, 2, 16, 32
PLACEMENTS = {
    "batch": Shard(0),
    "heads": Shard(1),
    "seq": Shard(2),
    "whole": Replicate(),
    "sum": Partial("sum"),
    "avg": Partial("avg"),
}


def some(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Alike in every process."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def place(x: Tensor, mesh: Any, placements: Any) -> Any:
    """x, alike in every process, as a DTensor; summands are equal ones, exact since their number is a power of 2."""
    cut = [Replicate() if p.is_partial() else p for p in placements]
    local = (
        DTensor.from_local(x, mesh, [Replicate()] * mesh.ndim, run_check=False).redistribute(placements=cut).to_local()
    )
    for i, p in enumerate(placements):
        if p.is_partial() and p.reduce_op == "sum":
            local = local / mesh.size(i)
    strides = torch.empty(x.shape, device="meta").stride()
    return DTensor.from_local(local.clone(), mesh, placements, run_check=False, shape=x.shape, stride=strides)


def same(y: Any, whole: Tensor, placements: Any = None, why: str = "") -> None:
    """y lies so, and each process holds the bits that it would hold of whole."""
    placements = y.placements if placements is None else tuple(placements)
    assert tuple(y.placements) == tuple(placements), (why, y.placements, placements)
    assert y.shape == whole.shape, why
    expected = place(whole, y.device_mesh, placements).to_local()
    assert torch.equal(y.to_local(), expected), (why, (y.to_local() - expected).abs().max())


class Counted:
    """How many times the kernel ran, and a rotation by formula."""

    kernel = 0
    formula = 0


@contextmanager
def counting() -> Iterator[Counted]:
    from rotary._rotation import call, eager

    call.load()
    counted, run, formula, whole = Counted(), native.rotate, eager.formula, (call.rotate, call.rotate_at)

    def kernel(*args: Any, **how: Any) -> Any:
        counted.kernel += 1
        return run(*args, **how)

    def plainly(*args: Any, **how: Any) -> Any:
        counted.formula += 1
        return formula(*args, **how)

    def in_one(function: Any) -> Any:
        """A call that goes into C as a whole, which answers None where it does not."""

        def rotated(*args: Any) -> Any:
            found = function(*args)
            counted.kernel += found is not None
            return found

        return rotated

    native.rotate, eager.formula = kernel, plainly
    call.rotate, call.rotate_at = map(in_one, whole)
    try:
        yield counted
    finally:
        native.rotate, eager.formula = run, formula
        call.rotate, call.rotate_at = whole


@contextmanager
def silent(why: str = "") -> Iterator[None]:
    """No collective inside, and no rotation but by the kernel."""
    with counting() as counted, CommDebugMode() as spoken:
        yield
    assert spoken.get_total_counts() == 0, (why, spoken.get_comm_counts())
    assert counted.formula == 0 and counted.kernel, (why, vars(counted))


def arguments(kind: str) -> dict[str, Any]:
    order = torch.randperm(SEQ, generator=torch.Generator().manual_seed(3))
    return {
        "nothing": {},
        "offset": {"offset": 1000},
        "offset of rows": {"offset": torch.tensor([0, 5, -3, 2**20])},
        "positions": {"positions": order},
        "positions of rows": {"positions": torch.stack([order + i * 2**28 for i in range(BATCH)])},
        "documents": {"cu_seqlens": torch.tensor([0, 3, 3, 10, SEQ]), "offset": 7},
        "documents with offsets": {"cu_seqlens": torch.tensor([0, 3, 10, SEQ]), "offset": torch.tensor([1, 0, 9])},
    }[kind]


KINDS = ("nothing", "offset", "offset of rows", "positions", "positions of rows", "documents", "documents with offsets")


def check_rotate(
    rope: RotaryEmbedding, mesh: Any, at: tuple[Any, Any], given: dict[str, Any], why: str, **other: Any
) -> None:
    """rotate(q, k) forward, backward and in place, q placed as at[0], k as at[1]."""
    dtype = other.pop("dtype", torch.float32)
    shapes = other.pop("shapes", ((BATCH, HEADS, SEQ, DIM), (BATCH, KV, SEQ, DIM)))
    q, k = some(*shapes[0], dtype=dtype), some(*shapes[1], seed=1, dtype=dtype)
    one = rope.rotate(q, k, **given, **other)
    spread = [place(x, mesh, p) for x, p in zip((q, k), at, strict=True)]
    with torch.no_grad(), silent(why):
        ys = rope.rotate(*spread, **given, **other)
    for y, whole, p in zip(ys, one, at, strict=True):
        same(y, whole, p, why)
        assert y.stride() == whole.stride() and not y.requires_grad
    with counting() as counted:  # without a mode: past the dispatcher
        again = rope.rotate(*spread, **given, **other)
        ys = rope.rotate(*spread, inplace=True, **given, **other)
    assert (counted.formula, counted.kernel > 0) == (0, True), why
    for y, whole, p in zip(again, one, at, strict=True):
        same(y, whole, p, why)
    assert ys[0] is spread[0] and ys[1] is spread[1]
    for y, whole, p in zip(spread, one, at, strict=True):
        same(y, whole, p, f"{why}, in place")
    leaves = [place(x, mesh, p).requires_grad_() for x, p in zip((q, k), at, strict=True)]
    grads = [some(*x.shape, seed=5 + i, dtype=dtype) for i, x in enumerate((q, k))]
    # The gradient of a sum is whole: that of an average is given as whole here too, and each lies as it came.
    back = [[Replicate() if p.is_partial() else p for p in placements] for placements in at]
    with silent(why):
        ys = rope.rotate(*leaves, **given, **other)
        torch.autograd.backward(ys, [place(g, mesh, p) for g, p in zip(grads, back, strict=True)])
    alone = [x.clone().requires_grad_() for x in (q, k)]
    torch.autograd.backward(rope.rotate(*alone, **given, **other), grads)
    for leaf, x, p in zip(leaves, alone, back, strict=True):
        same(leaf.grad, x.grad, p, f"{why}, gradient")


def rotate_by_every_placement(rank: int, world: int, folder: Path) -> None:
    """One dimension of the mesh, all pairings of placements of q and k where the rows agree or not, all arguments."""
    del rank, folder
    mesh = init_device_mesh("cpu", (world,))
    half, inter = RotaryEmbedding(DIM), RotaryEmbedding(DIM // 2, interleaved=True)
    for (a, p), (b, r) in itertools.product(PLACEMENTS.items(), PLACEMENTS.items()):
        if a != b and world == 4:
            continue
        for i, kind in enumerate(KINDS):
            rope = inter if i % 2 else half
            check_rotate(rope, mesh, ((p,), (r,)), arguments(kind), f"q {a}, k {b}, {kind}")


def rotate_on_two_axes(rank: int, world: int, folder: Path) -> None:
    """A mesh of two dimensions: 25 pairs of placements."""
    del rank, folder
    mesh = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("a", "b"))
    half, inter = RotaryEmbedding(DIM // 2), RotaryEmbedding(DIM, interleaved=True)
    used = {k: v for k, v in PLACEMENTS.items() if k != "avg"}
    for (a, p), (b, r) in itertools.product(used.items(), used.items()):
        for i, kind in enumerate(KINDS):
            rope = inter if i % 2 else half
            check_rotate(rope, mesh, ((p, r), (p, r)), arguments(kind), f"({a}, {b}), {kind}")
    check_rotate(
        half, mesh, ((Shard(2), Shard(1)), (Shard(0), Shard(2))), arguments("positions of rows"), "q and k apart"
    )


def uneven_and_empty(rank: int, world: int, folder: Path) -> None:
    del rank, folder
    mesh = init_device_mesh("cpu", (world,))
    rope = RotaryEmbedding(DIM)
    for batch, heads, kv, seq in ((3, 5, 1, 15), (1, 3, 1, 1), (2, 6, 2, world + 1), (1, 1, 1, 3), (5, 2, 2, 0)):
        shapes = ((batch, heads, seq, DIM), (batch, kv, seq, DIM))
        for p in (Shard(0), Shard(1), Shard(2)):
            why = f"{shapes} {p}"
            check_rotate(rope, mesh, ((p,), (p,)), {"offset": 3}, why, shapes=shapes)
            rows = torch.arange(batch * seq).reshape(batch, seq)
            check_rotate(rope, mesh, ((p,), (p,)), {"positions": rows}, why, shapes=shapes)
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        check_rotate(rope, mesh, ((Shard(2),), (Shard(1),)), {}, f"{dtype}", dtype=dtype)


def strided(rank: int, world: int, folder: Path) -> None:
    """torch's _StridedShard: a dimension that the second dimension of the mesh cut first."""
    del rank, folder
    from torch.distributed.tensor.placement_types import _StridedShard

    mesh = init_device_mesh("cpu", (2, world // 2))
    other = world // 2
    rope = RotaryEmbedding(DIM)
    x = some(BATCH, HEADS, SEQ, DIM)
    for dim, kind in itertools.product((0, 2), KINDS):
        placements = (_StridedShard(dim, split_factor=other), Shard(dim))
        parts = [c for half in x.chunk(other, dim) for c in half.chunk(2, dim)]
        a, b = mesh.get_coordinate()
        spread = DTensor.from_local(
            parts[b * 2 + a].clone(), mesh, placements, run_check=False, shape=x.shape, stride=x.stride()
        )
        given = arguments(kind)
        with torch.no_grad(), silent():
            y = rope.rotate(spread, **given)
        whole = [c for half in rope.rotate(x, **given).chunk(other, dim) for c in half.chunk(2, dim)]
        assert torch.equal(y.to_local(), whole[b * 2 + a]), (dim, kind)
        assert tuple(y.placements) == placements
        alone = (_StridedShard(dim, split_factor=2), Replicate())  # by itself: 2 stretches of 2, one of each here
        mine = torch.cat([half.chunk(2, dim)[a] for half in x.chunk(2, dim)], dim)
        spread = DTensor.from_local(mine, mesh, alone, run_check=False, shape=x.shape, stride=x.stride())
        with torch.no_grad(), silent():
            y = rope.rotate(spread, **given)
        halves = rope.rotate(x, **given).chunk(2, dim)
        assert torch.equal(y.to_local(), torch.cat([half.chunk(2, dim)[a] for half in halves], dim)), (dim, kind)


def tables_of_the_whole(rank: int, world: int, folder: Path) -> None:
    """apply_rotary, apply_rotary_qk, their operators and torch.ops.rotary, with plain, whole and cut tables."""
    del rank, folder
    mesh = init_device_mesh("cpu", (world,))
    rope = RotaryEmbedding(DIM)
    q, k = some(BATCH, HEADS, SEQ, DIM), some(BATCH, KV, SEQ, DIM, seed=1)
    flat = rope.cos_sin(torch.arange(SEQ) * 7)
    rows = rope.cos_sin(torch.arange(BATCH * SEQ).reshape(BATCH, SEQ))
    from rotary import operators

    for (name, p), tables in itertools.product(PLACEMENTS.items(), (flat, rows)):
        one = rotary.apply_rotary_qk(q, k, *tables)
        cut = [p if p.is_shard(0) and tables is rows else Shard(tables[0].ndim - 2) if p.is_shard(2) else Replicate()]
        for form in ([], [Replicate()], cut):
            given = tables if not form else tuple(place(t, mesh, form) for t in tables)
            for module in (rotary, operators):
                why = f"{name}, tables {form}, {module.__name__}"
                xs = [place(x, mesh, [p]) for x in (q, k)]
                with torch.no_grad(), silent(why):
                    ys = module.apply_rotary_qk(*xs, *given)
                    y = module.apply_rotary(xs[0], *given, conjugate=True)
                for got, whole in zip(ys, one, strict=True):
                    same(got, whole, [p], why)
                same(y, rotary.apply_rotary(q, *tables, conjugate=True), [p], why)
                with silent(why):
                    module.apply_rotary_qk(*xs, *given, inplace=True)
                for x, whole in zip(xs, one, strict=True):
                    same(x, whole, [p], f"{why}, in place")
            xs = [place(x, mesh, [p]) for x in (q, k)]
            for context in (torch.no_grad, torch.inference_mode, torch.enable_grad):
                with context(), silent(name):
                    ys = torch.ops.rotary.rotate(xs, [*given, *given], 2, False, False)
                for got, whole in zip(ys, one, strict=True):
                    same(got, whole, [p], f"{name}, {context.__name__}")
                written = [place(x, mesh, [p]) for x in (q, k)]
                with context(), silent(name):
                    assert torch.ops.rotary.rotate_(written, [*given, *given], 2, False, False) is None
                for got, whole in zip(written, one, strict=True):
                    same(got, whole, [p], f"{name}, {context.__name__}, in place")
            leaf = place(q, mesh, [p]).requires_grad_()
            lies = [Replicate() if p.is_partial() else p]
            with silent(name):
                rotary.apply_rotary(leaf, *given).backward(place(q, mesh, lies))
            same(leaf.grad, rotary.apply_rotary(q, *tables, conjugate=True), lies, name)
    # Queries that follow cached keys, which only heads and batch can be cut for.
    for p in (Shard(0), Shard(1), Replicate()):
        late = q[:, :, -3:]
        with torch.no_grad(), silent():
            ys = rope.rotate(place(late, mesh, [p]), place(k, mesh, [p]), offset=5)
            zs = rotary.apply_rotary_qk(place(late, mesh, [p]), place(k, mesh, [p]), *flat)
        for got, whole in zip(
            (*ys, *zs), (*rope.rotate(late, k, offset=5), *rotary.apply_rotary_qk(late, k, *flat)), strict=True
        ):
            same(got, whole, [p])


def other_arguments(rank: int, world: int, folder: Path) -> None:
    """Schemes, lengths of rows, roles, axes, layouts, positions that are distributed themselves."""
    del rank, folder
    mesh = init_device_mesh("cpu", (world,))
    shards = (Shard(0), Shard(1), Shard(2), Replicate())
    dynamic = RotaryEmbedding(DIM, scaling=DynamicNTK(4.0, 8))
    lengths = torch.tensor([16, 4, 32, 9])
    for p in shards:
        check_rotate(dynamic, mesh, ((p,), (p,)), {"length": lengths}, f"length of rows, {p}")
        check_rotate(dynamic, mesh, ((p,), (p,)), {"length": 64, "offset": torch.tensor(3)}, f"length, {p}")
        check_rotate(dynamic, mesh, ((p,), (Shard(2),)), {"length": lengths}, f"length of rows, {p}, k by rows")
        check_rotate(RotaryEmbedding(DIM), mesh, ((p,), (p,)), {"length": lengths}, f"length that no scheme reads, {p}")
    xpos = RotaryEmbedding(DIM, use_xpos=True)
    yarn = RotaryEmbedding(DIM, scaling=YaRN(4.0, 8))
    single = RotaryEmbedding(DIM, angles="float32")
    axial = RotaryEmbedding.axial(DIM // 2, DIM // 2)
    grid = rotary.positions.grid(4, 4)
    for p in shards:
        for rope, given in (
            (xpos, {}),
            (yarn, {"offset": 9}),
            (single, {}),
            (axial, {"positions": grid}),
            (axial, {"offset": 4}),
        ):
            check_rotate(rope, mesh, ((p,), (p,)), given, f"{rope}, {p}")
        for positions in (torch.arange(SEQ) * 3, torch.arange(BATCH * SEQ).reshape(BATCH, SEQ)):
            lies = [
                p
                if p.is_shard(0) and positions.ndim == 2
                else Shard(positions.ndim - 1)
                if p.is_shard(2)
                else Replicate()
            ]
            spread = place(positions, mesh, lies)
            rope = RotaryEmbedding(DIM)
            x = some(BATCH, HEADS, SEQ, DIM)
            with torch.no_grad(), silent():
                y = rope.rotate(place(x, mesh, [p]), positions=spread)
            same(y, rope.rotate(x, positions=positions), [p])
            with CommDebugMode() as spoken:
                tables = rope.cos_sin(spread)
            assert spoken.get_total_counts() == 0
            for got, whole in zip(tables, rope.cos_sin(positions), strict=True):
                same(got, whole, lies)
    spread = place(torch.arange(BATCH * SEQ).reshape(BATCH, SEQ), mesh, [Shard(0)])
    for got, whole in zip(
        dynamic.cos_sin(spread, length=lengths), dynamic.cos_sin(spread.full_tensor(), length=lengths), strict=True
    ):
        same(got, whole, [Shard(0)])
    for p, lies in ((Replicate(), Replicate()), (Shard(0), Shard(1))):  # one row of positions, a table for each length
        tables = dynamic.cos_sin(place(torch.arange(SEQ), mesh, [p]), length=lengths)
        for got, whole in zip(tables, dynamic.cos_sin(torch.arange(SEQ), length=lengths), strict=True):
            same(got, whole, [lies])
    for role in ("query", "key"):
        x = some(BATCH, HEADS, SEQ, DIM)
        with torch.no_grad(), silent():
            y = xpos.rotate(place(x, mesh, [Shard(2)]), role=role)
        same(y, xpos.rotate(x, role=role), [Shard(2)])
    # (tokens, heads, dim), packed, cut along tokens; and (batch, seq, heads, dim)
    x, cu, rope = some(SEQ, HEADS, DIM), torch.tensor([0, 5, 12, SEQ]), RotaryEmbedding(DIM)
    with torch.no_grad(), silent():
        y = rope.rotate(place(x, mesh, [Shard(0)]), cu_seqlens=cu, seq_dim=0)
    same(y, rope.rotate(x, cu_seqlens=cu, seq_dim=0), [Shard(0)])
    x = some(BATCH, SEQ, HEADS, DIM)
    for p in shards:
        with torch.no_grad(), silent():
            y = rope.rotate(place(x, mesh, [p]), seq_dim=1, offset=torch.tensor([1, 2, 3, 4]))
        same(y, rope.rotate(x, seq_dim=1, offset=torch.tensor([1, 2, 3, 4])), [p])
    # A transposed view: the output has the strides of empty_like.
    spread = place(x, mesh, [Shard(0)]).transpose(1, 2)
    with torch.no_grad(), silent():
        y = rope.rotate(spread)
    same(y, rope.rotate(x.transpose(1, 2)))
    assert y.stride() == rope.rotate(x.transpose(1, 2)).stride()
    # Only this process's rows were made into tables.
    made: list[int] = []
    original = type(rope._tables).at

    def at(self: Any, positions: Tensor, *args: Any, **how: Any) -> Any:
        made.append(positions.numel())
        return original(self, positions, *args, **how)

    type(rope._tables).at = at
    try:
        rope.rotate(place(some(1, 2, 16 * world, DIM), mesh, [Shard(2)]))
    finally:
        type(rope._tables).at = original
    assert made == [16]
    with rotary.use_backend("eager"), torch.no_grad():
        same(
            rope.rotate(place(some(BATCH, HEADS, SEQ, DIM), mesh, [Shard(2)])),
            rope.rotate(some(BATCH, HEADS, SEQ, DIM)),
        )
    assert backends.chosen() is None
