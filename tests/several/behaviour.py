"""Distributed tensors: gradients that lie elsewhere, refusals, compiled programs, modes, and torch without its private names."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

import rotary
from rotary import RotaryEmbedding, apply_rotary, apply_rotary_qk, fused, operators, pairing
from rotary._subclasses import dtensor
from rotary.scaling import DynamicNTK
from several.matrix import BATCH, DIM, HEADS, KV, PLACEMENTS, SEQ, counting, place, same, silent, some


def collectives(mode: Any) -> dict[str, int]:
    return {str(k).rsplit(".", 1)[-1]: n for k, n in mode.get_comm_counts().items() if n}


def gradients_elsewhere(rank: int, world: int, folder: Path) -> None:
    """A gradient is rotated where it lies; for it tables may be gathered, q and k never."""
    del rank, folder
    mesh = init_device_mesh("cpu", (world,))
    rope = RotaryEmbedding(DIM)
    x, g = some(BATCH, HEADS, SEQ, DIM), some(BATCH, HEADS, SEQ, DIM, seed=9)
    rows = torch.arange(BATCH * SEQ).reshape(BATCH, SEQ)
    for (a, p), (b, r), given in itertools.product(PLACEMENTS.items(), PLACEMENTS.items(), ({}, {"positions": rows})):
        leaf = place(x, mesh, [p]).requires_grad_()
        y = rope.rotate(leaf, **given)
        with CommDebugMode() as spoken, counting() as counted:
            y.backward(place(g, mesh, [r]))
        whole = x.clone().requires_grad_()
        rope.rotate(whole, **given).backward(g)
        same(leaf.grad, whole.grad, [r], f"x {a}, gradient {b}")
        # cut rows of tables are gathered, cos and sin, where the gradient needs others; cutting them is local
        cut = p.is_shard(2) or (p.is_shard(0) and given)
        needed = 2 if cut and p != r else 0
        assert sum(collectives(spoken).values()) <= needed, (a, b, collectives(spoken))
        assert (counted.formula, counted.kernel) == (0, 1)
    # One gradient for both, none for k, and a second derivative.
    q, k = (place(x, mesh, [Shard(2)]).requires_grad_() for _ in range(2))
    rope.rotate(q, k)[0].backward(place(g, mesh, [Shard(2)]))
    assert k.grad is None and torch.equal(
        q.grad.to_local(), place(rope.rotate(g, conjugate=True), mesh, [Shard(2)]).to_local()
    )
    leaf = place(x, mesh, [Shard(2)]).requires_grad_()
    (first,) = torch.autograd.grad(rope.rotate(leaf).square().sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), leaf)
    alone = x.clone().requires_grad_()
    (one,) = torch.autograd.grad(rope.rotate(alone).square().sum(), alone, create_graph=True)
    (two,) = torch.autograd.grad(one.square().sum(), alone)
    torch.testing.assert_close(second.full_tensor(), two, rtol=1e-6, atol=1e-6)
    # Tables that want a gradient: summed over processes.
    for p, form in itertools.product((Shard(0), Shard(1), Shard(2), Replicate()), ("plain", "whole")):
        tables = [t.clone().requires_grad_() for t in rope.cos_sin(SEQ)]
        given = (
            tables if form == "plain" else [DTensor.from_local(t, mesh, [Replicate()], run_check=False) for t in tables]
        )
        apply_rotary(place(x, mesh, [p]), *given).backward(place(g, mesh, [p]))
        own = [t.clone().requires_grad_() for t in rope.cos_sin(SEQ)]
        apply_rotary(x, *own).backward(g)
        for t, o in zip(tables, own, strict=True):
            torch.testing.assert_close(t.grad, o.grad, rtol=1e-5, atol=1e-5)
    # In place inside a graph, on a view too.
    for p in (Shard(0), Shard(1), Shard(2), Replicate()):
        leaf, alone = place(x, mesh, [p]).requires_grad_(), x.clone().requires_grad_()
        y, one = leaf * 2, alone * 2
        with counting() as counted:
            assert rope.rotate(y, inplace=True) is y
        rope.rotate(one, inplace=True)
        same(y, one, [p])
        (y * y).sum().backward()
        (one * one).sum().backward()
        torch.testing.assert_close(leaf.grad.full_tensor(), alone.grad, rtol=1e-6, atol=1e-6)
        assert (counted.formula, counted.kernel) == (0, 1)
    # What autograd saved of a tensor that is then written over is noticed, through the DTensor too.
    leaf = place(x, mesh, [Shard(1)]).requires_grad_()
    y = leaf * 1
    z = y.square()
    with torch.no_grad():
        rope.rotate(y, inplace=True)
    raised(RuntimeError, "modified by an inplace operation", lambda: z.sum().backward())


def raised(kind: type[Exception], match: str, call: Callable[[], Any]) -> None:
    """Every process raises this."""
    with pytest.raises(kind, match=match):
        call()


def refusals(rank: int, world: int, folder: Path) -> None:
    """Each is raised by every process, with its remedy, before anything is written."""
    del folder
    mesh = init_device_mesh("cpu", (world,))
    rope, x, k = RotaryEmbedding(DIM), some(BATCH, HEADS, SEQ, DIM), some(BATCH, KV, SEQ, DIM, seed=1)
    tables = rope.cos_sin(SEQ)
    channels, biggest = place(x, mesh, [Shard(3)]), place(x, mesh, [Replicate()])
    biggest = DTensor.from_local(biggest.to_local(), mesh, [Partial("max")], run_check=False)
    for spread, words in (
        (channels, "both channels of a plane: redistribute"),
        (biggest, "goes with sums and averages, not with 'max'"),
    ):
        before = spread.to_local().clone()
        for in_place in (False, True):
            raised(ValueError, words, lambda: rope.rotate(spread, inplace=in_place))
            raised(ValueError, words, lambda: apply_rotary(spread, *tables, inplace=in_place))
            raised(ValueError, words, lambda: operators.apply_rotary(spread, *tables, inplace=in_place))
            raised(ValueError, words, lambda: rope.rotate(spread, place(k, mesh, [Replicate()]), inplace=in_place))
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                raised(ValueError, words, lambda: torch.ops.rotary.rotate_([spread], [*tables], 2, False, False))
        assert torch.equal(spread.to_local(), before)
    q = place(x, mesh, [Shard(2)])
    shorter = place(x[:, :, -5:].contiguous(), mesh, [Replicate()])
    long = place(k, mesh, [Shard(2)])
    raised(ValueError, "shorter than k", lambda: rope.rotate(shorter, long))
    raised(
        ValueError,
        "shorter than k",
        lambda: rope.rotate(place(x[:, :, -8:].contiguous(), mesh, [Shard(2)]), place(k, mesh, [Replicate()])),
    )
    raised(ValueError, "differ along dimension 2", lambda: apply_rotary_qk(shorter, long, *tables))
    cut = [place(t, mesh, [Shard(0)]) for t in tables]
    raised(ValueError, "cut along their rows", lambda: apply_rotary_qk(shorter, place(k, mesh, [Replicate()]), *cut))
    # Tables that would have to be sent.
    heads = place(x, mesh, [Shard(1)])
    raised(ValueError, r"cos with shape .* needs \(Replicate\)", lambda: apply_rotary(heads, *cut))
    raised(ValueError, r"needs \(Shard\(0\)\)", lambda: apply_rotary(q, *(place(t, mesh, [Shard(1)]) for t in tables)))
    raised(
        ValueError,
        "summands that are not reduced yet",
        lambda: apply_rotary(q, *(place(t, mesh, [Partial()]) for t in tables)),
    )
    raised(
        ValueError,
        r"positions with shape .* needs \(Replicate\)",
        lambda: rope.rotate(heads, positions=place(torch.arange(SEQ), mesh, [Shard(0)])),
    )
    # Mixtures and meshes.
    raised(TypeError, "k is a plain tensor", lambda: rope.rotate(q, k))
    raised(TypeError, "q is a plain tensor", lambda: rope.rotate(x, place(k, mesh, [Shard(2)])))
    raised(TypeError, "k is a plain tensor", lambda: apply_rotary_qk(q, k, *tables))
    whole = [place(t, mesh, [Replicate()]) for t in (x, k, *tables)]
    weights = {"q_weight": None, "k_weight": None, "eps": 1e-6}
    normed = fused.norm_rotate(x, k, *tables, **weights)
    for got, one in zip(fused.norm_rotate(q, long, *whole[2:], **weights), normed, strict=True):
        assert torch.allclose(got.full_tensor(), one, rtol=0, atol=1e-6)
    raised(TypeError, "q is a DTensor and cos a plain tensor", lambda: fused.norm_rotate(q, long, *tables, **weights))
    weights["k_weight"] = place(torch.ones(DIM), mesh, [Replicate()])
    raised(TypeError, "k_weight is a DTensor and q a plain", lambda: fused.norm_rotate(x, k, *tables, **weights))
    cache = torch.zeros(2, BATCH, SEQ, KV, DIM).unbind()
    slots = torch.arange(BATCH * SEQ)
    for i, name in enumerate(("cache_k", "cache_v", "slots")):
        stored = [*cache, slots]
        stored[i] = place(stored[i], mesh, [Replicate()])
        raised(
            TypeError,
            rf"give {name}\.to_local\(\)",
            lambda stored=stored: fused.rotate_and_store(k, k, *tables, *stored),
        )
    raised(TypeError, "give k.to_local", lambda: fused.rotate_and_store(whole[1], k, *whole[2:], *cache, slots))
    rows = place(torch.arange(SEQ), mesh, [Replicate()])
    raised(TypeError, "give new_positions.to_local", lambda: rope.rerotate(x, 0, rows))
    raised(TypeError, "give old_positions.to_local", lambda: rope.rerotation(rows, 0))
    raised(TypeError, "give old_length.to_local", lambda: rope.rerotate(x, 0, 1, old_length=rows[0]))
    raised(TypeError, "give length.to_local", lambda: rope.cos_sin(torch.arange(SEQ), length=rows[0]))
    raised(TypeError, "give x.to_local", lambda: pairing.half_to_interleaved(q))
    raised(TypeError, "give inv_freq.to_local", lambda: RotaryEmbedding.from_inv_freq(whole[2][0]))
    raised(
        TypeError,
        "give freqs.to_local",
        lambda: rotary.apply_rotary_pos_emb(x, place(rope(SEQ)[0], mesh, [Replicate()])),
    )
    raised(TypeError, "x is a plain tensor", lambda: apply_rotary(x, *cut))
    raised(
        TypeError,
        "positions is distributed .*to_local",
        lambda: rope.rotate(x, positions=place(torch.arange(SEQ), mesh, [Replicate()])),
    )
    raised(
        TypeError,
        "offset is distributed",
        lambda: rope.rotate(x, offset=place(torch.arange(BATCH), mesh, [Replicate()])),
    )
    other = init_device_mesh("cpu", (2, world // 2)) if world > 2 else init_device_mesh("cpu", (1, 2))
    raised(
        ValueError,
        "q on DeviceMesh.*over one mesh",
        lambda: rope.rotate(q, place(k, other, [Replicate(), Replicate()])),
    )
    raised(
        ValueError,
        "positions is on",
        lambda: rope.rotate(q, positions=place(torch.arange(SEQ), other, [Replicate(), Replicate()])),
    )
    raised(
        ValueError,
        "cos is on",
        lambda: apply_rotary(q, *(place(t, other, [Replicate(), Replicate()]) for t in tables)),
    )
    leaf = place(x, mesh, [Shard(2)]).requires_grad_()
    raised(ValueError, "the gradient .*both channels", lambda: rope.rotate(leaf).backward(place(x, mesh, [Shard(3)])))
    raised(RuntimeError, "leaf tensor", lambda: rope.rotate(leaf, inplace=True))
    wide = place(some(1, 1, SEQ, DIM), mesh, [Replicate()]).expand(1, 4, SEQ, DIM)
    raised(RuntimeError, "overlaps itself", lambda: rope.rotate(wide, inplace=True))
    raised(RuntimeError, "share memory", lambda: rope.rotate(heads, heads, inplace=True))
    whole = torch.empty(1, HEADS, SEQ * world, DIM, device="meta")
    mine = some(1, HEADS, SEQ if rank else SEQ - 2, DIM)  # fewer in one process than torch.chunk gives it
    wrong = DTensor.from_local(mine, mesh, [Shard(2)], run_check=False, shape=whole.shape, stride=whole.stride())
    if rank == 0:
        raised(ValueError, "not what torch.chunk would give", lambda: rope.rotate(wrong))
    # Every process refuses what one would: a length that only some positions need, positions that only some hold.
    dynamic = RotaryEmbedding(DIM, scaling=DynamicNTK(4.0, 8))
    mine = torch.arange(SEQ // world) + rank * (SEQ // world)
    local = x.chunk(world, 2)[rank]
    raised(ValueError, "pass length=", lambda: dynamic.rotate(local, positions=mine))
    raised(ValueError, "pass length=", lambda: dynamic.rotate(local, offset=mine[0]))
    raised(ValueError, "pass length=", lambda: dynamic.cos_sin(mine))
    raised(ValueError, "pass length=", lambda: dynamic.rotate(local, cu_seqlens=torch.tensor([0, SEQ // world])))
    raised(ValueError, "pass length=", lambda: dynamic.rotate(q))
    raised(ValueError, "pass length=", lambda: dynamic.rotate(place(x[:, :, :4].contiguous(), mesh, [Shard(2)])))
    raised(ValueError, "pass length=", lambda: dynamic.cos_sin(place(torch.arange(SEQ), mesh, [Shard(0)])))
    one = dynamic.rotate(x, length=SEQ)
    assert torch.equal(dynamic.rotate(local, positions=mine, length=SEQ), one.chunk(world, 2)[rank])
    xpos = RotaryEmbedding(DIM, use_xpos=True)
    far = torch.arange(SEQ)
    far[-1] = 10**7
    raised(ValueError, "scale", lambda: xpos.rotate(q, role="query", positions=far))
    # Rows of a plain tensor: were it an error, the one process that holds the far row would raise, and the others wait for it.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        xpos.rotate(local, role="query", positions=far.chunk(world)[rank])
        xpos.rerotate(local, far.chunk(world)[rank], torch.zeros_like(mine))
    assert ["beyond what torch.float32" in str(w.message) for w in caught] == [True, True] * (rank == world - 1)
    raised(ValueError, "scale", lambda: xpos.rotate(local, role="query", offset=10**7))
    raised(ValueError, "scale", lambda: xpos.rerotate(local, 10**7, 0))
    wrong_rows = torch.arange(SEQ - 1)
    raised(ValueError, "positions has 15 entries", lambda: rope.rotate(q, positions=wrong_rows))
    raised(ValueError, "cos and sin have 15 rows", lambda: apply_rotary(q, *rope.cos_sin(SEQ - 1)))
    raised(ValueError, "exceeds head_dim", lambda: RotaryEmbedding(2 * DIM).rotate(q))


def modes(rank: int, world: int, folder: Path) -> None:
    """A dispatch mode sees one operator of local tensors, and the kernel runs below it."""
    del rank, folder
    from torch.utils._python_dispatch import TorchDispatchMode

    class Seen(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.names: list[str] = []

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.names.append(str(func))
            return func(*args, **(kwargs or {}))

    mesh = init_device_mesh("cpu", (world,))
    rope, x = RotaryEmbedding(DIM), some(BATCH, HEADS, SEQ, DIM)
    tables = rope.cos_sin(SEQ)
    spread = place(x, mesh, [Shard(1)])
    with Seen() as seen, counting() as counted, torch.no_grad():
        y = apply_rotary(spread, *tables)
    same(y, apply_rotary(x, *tables))
    assert [n for n in seen.names if "rotary" in n] == ["rotary.rotate.default"] and counted.formula == 0
    assert not any("mul" in n for n in seen.names), seen.names


def compiled(rank: int, world: int, folder: Path) -> None:
    """One graph, the kernel in it, forward, backward and in place."""
    del rank
    mesh = init_device_mesh("cpu", (world,))
    x, g = some(BATCH, HEADS, SEQ, DIM), some(BATCH, HEADS, SEQ, DIM, seed=4)
    rope = RotaryEmbedding(DIM)
    tables = rope.cos_sin(SEQ)
    order = torch.randperm(SEQ, generator=torch.Generator().manual_seed(3))

    def rotate(t: Any) -> Any:
        return rope.rotate(t)

    def by_tables(t: Any) -> Any:
        return apply_rotary(t, *tables)

    calls: list[tuple[str, Any, Callable[[Any], Any], Callable[[Any], Any]]] = [
        ("rotate", Shard(0), rotate, rotate),
        ("positions", Shard(2), lambda t: rope.rotate(t, positions=order), lambda t: rope.rotate(t, positions=order)),
        ("tables", Shard(2), by_tables, by_tables),
        ("operators", Shard(1), lambda t: operators.apply_rotary(t, *tables), by_tables),
        ("in place", Shard(2), lambda t: rope.rotate(t * 1, inplace=True), rotate),
    ]
    for name, p, call, judge in calls:
        torch._dynamo.reset()
        (folder / f"compiling {name}").touch()
        program = torch.compile(call, backend="aot_eager", fullgraph=True)
        with torch.no_grad(), counting() as counted:
            y = program(place(x, mesh, [p]))
        same(y, judge(x), [p], name)
        assert (counted.formula, counted.kernel) == (0, 1), (name, vars(counted))
        leaf, alone = place(x, mesh, [p]).requires_grad_(), x.clone().requires_grad_()
        with counting() as counted:
            program(leaf).backward(place(g, mesh, [p]))
        assert (counted.formula, counted.kernel) == (0, 2), (name, vars(counted))
        judge(alone).backward(g)
        same(leaf.grad, alone.grad, [p], f"{name}, gradient")
    torch._dynamo.reset()


def without_private_names(rank: int, world: int, folder: Path) -> None:
    """The public functions of torch alone give the same: local parts, wrapping."""
    del rank, folder
    mesh = init_device_mesh("cpu", (world,))
    rope, x = RotaryEmbedding(DIM), some(BATCH, HEADS, SEQ, DIM)
    hidden = {"_local_tensor", "_spec"}
    original = dtensor.private_attribute

    def absent(value: Any, name: str) -> Any:
        return None if name in hidden else original(value, name)

    dtensor.private_attribute = absent
    try:
        for p in (Shard(0), Shard(1), Shard(2), Replicate(), Partial()):
            leaf = place(x, mesh, [p]).requires_grad_()
            with silent():
                y = rope.rotate(leaf, offset=5)
                y.backward(place(x, mesh, [Replicate() if p.is_partial() else p]))
            same(y, rope.rotate(x, offset=5), [p])
            same(leaf.grad, rope.rotate(x, offset=5, conjugate=True))
            spread = place(x, mesh, [p])
            rope.rotate(spread, inplace=True)
            same(spread, rope.rotate(x), [p])
        view = place(some(BATCH, SEQ, HEADS, DIM), mesh, [Shard(0)]).transpose(1, 2)
        assert rope.rotate(view).stride() == view.stride()
    finally:
        dtensor.private_attribute = original


def outside_the_mesh(rank: int, world: int, folder: Path) -> None:
    """A process with no part in a mesh holds nothing, and nothing is asked of it."""
    del folder
    from torch.distributed.device_mesh import DeviceMesh

    few = DeviceMesh("cpu", list(range(world - 1)))
    rope, x = RotaryEmbedding(DIM), some(BATCH, HEADS, 6, DIM)
    spread = distribute_tensor(x, few, [Shard(2)])
    y = rope.rotate(spread)
    if rank < world - 1:
        same(y, rope.rotate(x), [Shard(2)])
    else:
        assert y.to_local().numel() == 0
    spread = distribute_tensor(x, few, [Shard(2)])
    rope.rotate(spread, inplace=True)
    assert rotary.apply_rotary(spread, *rope.cos_sin(6)).shape == x.shape


def lying_tables(rank: int, world: int, folder: Path) -> None:
    """The documented companion of forward(), by torch's own rules for distributed tensors."""
    del rank, folder
    mesh = init_device_mesh("cpu", (world,))
    rope, x = RotaryEmbedding(DIM), some(BATCH, HEADS, SEQ, DIM)
    freqs, scale = rope(SEQ)
    for p in (Shard(0), Shard(1), Shard(2), Replicate()):
        with CommDebugMode() as spoken:
            y = rotary.apply_rotary_pos_emb(place(x, mesh, [p]), freqs, scale)
        assert spoken.get_total_counts() == 0
        same(y, rotary.apply_rotary_pos_emb(x, freqs, scale), [p])
    raised(ValueError, "both channels", lambda: rotary.apply_rotary_pos_emb(place(x, mesh, [Shard(3)]), freqs, scale))
