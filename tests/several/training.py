"""Models that are trained and stored by several processes, against one process: FSDP2, DDP, tensor and sequence parallel plans,
activation checkpointing, pipelines, checkpoints, and patched models of transformers."""

from __future__ import annotations

import copy
import itertools
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from rotary import RotaryEmbedding, _torch, apply_rotary_qk
from rotary._inputs import shapes
from several.matrix import counting

WIDTH, HEADS, KV, HEAD_DIM, TOKENS = 32, 4, 2, 8, 8


class Layer(nn.Module):
    """Attention with norms and a residual; cos and sin where the model hands them on, else rotate()."""

    def __init__(self, rope: RotaryEmbedding) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.wq, self.wk, self.wv = (nn.Linear(WIDTH, n * HEAD_DIM, bias=False) for n in (HEADS, KV, KV))
        self.wo = nn.Linear(HEADS * HEAD_DIM, WIDTH, bias=False)
        self.rope = rope

    def forward(self, x: Tensor, positions: Tensor | None = None, cos: Any = None, sin: Any = None) -> Tensor:
        h = self.norm(x)
        q, k, v = (w(h).unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2) for w in (self.wq, self.wk, self.wv))
        if cos is not None:
            q, k = apply_rotary_qk(q, k, cos, sin)
        else:
            q, k = self.rope.rotate(q, k, positions=positions)
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
        scores = q @ k.transpose(-1, -2) * HEAD_DIM**-0.5
        mask = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool).tril()
        if isinstance(scores, DTensor):
            mask = DTensor.from_local(
                mask, scores.device_mesh, [Replicate()] * scores.device_mesh.ndim, run_check=False
            )
        y = scores.masked_fill(~mask, float("-inf")).softmax(-1) @ v
        return x + self.wo(y.transpose(1, 2).flatten(2))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rope = RotaryEmbedding(HEAD_DIM)
        self.layers = nn.ModuleList(Layer(self.rope) for _ in range(2))

    def forward(self, x: Tensor, positions: Tensor | None = None, by_tables: bool = False) -> Tensor:
        tables = self.rope.cos_sin(x.shape[1]) if by_tables else (None, None)
        for layer in self.layers:
            x = layer(x, positions, *tables)
        return x


def model(dtype: torch.dtype = torch.float32) -> Model:
    torch.manual_seed(0)
    return Model().to(dtype)


def data(seed: int = 1) -> Tensor:
    return torch.randn(4, TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed))


def loss_of(y: Tensor) -> Tensor:
    return y.float().square().mean()


def whole(t: Any) -> Tensor:
    return (t.full_tensor() if isinstance(t, DTensor) else t).detach()


def gradients(of: nn.Module) -> dict[str, Tensor]:
    return {n.removeprefix("module."): whole(p.grad) for n, p in of.named_parameters() if p.grad is not None}


def alike(of: nn.Module, one: nn.Module, atol: float = 1e-7) -> None:
    """Gradients of all parameters within a few roundings of the largest."""
    expected = gradients(one)
    found = gradients(of)
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=atol, msg=lambda m, name=name: f"{name}: {m}")


def one_process(x: Tensor, **how: Any) -> tuple[Model, Tensor]:
    one = model()
    y = one(x, **how)
    loss_of(y).backward()
    return one, y.detach()


# --- data parallel -----------------------------------------------------------------------------------------------------------


def data_parallel(rank: int, world: int, folder: Path) -> None:
    """DDP and FSDP2: meta initialisation, a state dict of one process, checkpoints through the layers, rope itself sharded."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    x = data()
    mine = x.chunk(world)[rank]
    one, y = one_process(x)
    parallel = DistributedDataParallel(model())
    loss_of(parallel(mine)).backward()
    alike(parallel, one)

    mesh = init_device_mesh("cpu", (world,))
    with torch.device("meta"):
        sharded = Model()
    for layer in sharded.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(sharded.rope, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    sharded.to_empty(device="cpu")
    state = one.state_dict() if rank == 0 else {}
    set_model_state_dict(sharded, state, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))
    assert not any("rope" in key for key in get_model_state_dict(sharded))
    assert torch.equal(sharded.rope.inv_freq, one.rope.inv_freq)
    with counting() as counted:
        out = sharded(mine)
        loss_of(out).backward()
    assert torch.equal(out, y.chunk(world)[rank])
    assert counted.kernel >= 4 and counted.formula == 0
    alike(sharded, one)


def mixed_precision(rank: int, world: int, folder: Path) -> None:
    """FSDP2 in bfloat16: positions and rotate() inside give the bits of the cast model; tables as inputs are rounded, with a warning."""
    del folder
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh("cpu", (world,))
    x = data()
    mine = x.chunk(world)[rank]
    one = model(torch.bfloat16)

    def sharded(policy: MixedPrecisionPolicy) -> Model:
        made = model()
        for layer in made.layers:
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        fully_shard(made, mesh=mesh, mp_policy=policy)
        return made

    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    positions = torch.arange(TOKENS) * 1001
    for given in ({}, {"positions": positions}):
        y = sharded(policy)(mine, **given)
        assert torch.equal(y, one(x.bfloat16(), **given).chunk(world)[rank])
    assert sharded(policy).rope.inv_freq.dtype == torch.float32

    def warned(made: Model) -> list[str]:
        shapes._warned = False
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            made(mine, by_tables=True)
        return [str(w.message) for w in caught if "cos and sin are" in str(w.message)]

    (message,) = warned(sharded(policy))
    assert "torch.bfloat16" in message and "cast_forward_inputs=False" in message
    kept = MixedPrecisionPolicy(param_dtype=torch.bfloat16, cast_forward_inputs=False)
    made = sharded(kept)
    for layer in made.layers:  # the caller casts what is to be cast
        layer.register_forward_pre_hook(lambda m, args: (args[0].bfloat16(), *args[1:]))
    assert warned(made) == []


def checkpointing(rank: int, world: int, folder: Path) -> None:
    """Activation checkpointing, whole layers and by a policy that reads operators: the rotation is one of them, and can be kept."""
    del rank, world, folder
    from functools import partial

    from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

    x = data()
    one, y = one_process(x)
    for saves in (None, True, False):
        seen: list[str] = []

        def policy(context: Any, op: Any, *args: Any, saves: Any = saves, seen: Any = seen, **how: Any) -> Any:
            seen.append(str(op))
            keep = saves and op is torch.ops.rotary.rotate.default
            return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE

        how: dict[str, Any] = {"use_reentrant": False}
        if saves is not None:
            how["context_fn"] = partial(create_selective_checkpoint_contexts, policy)
        of, h = model(), x
        with counting() as counted:
            for layer in of.layers:
                h = checkpoint(layer, h, **how)
            loss_of(h).backward()
        assert torch.equal(h, y)
        for (name, a), b in zip(of.named_parameters(), one.parameters(), strict=True):
            assert torch.equal(a.grad, b.grad), name
        # forward, recomputed unless it was kept, backward: two layers each
        assert (counted.formula, counted.kernel) == (0, 4 if saves else 6), (saves, vars(counted))
        if saves is not None:
            assert seen.count("rotary.rotate.default") >= 2


# --- tensor and sequence parallel ------------------------------------------------------------------------------------------------


def tensor_parallel(rank: int, world: int, folder: Path) -> None:
    """Colwise and Rowwise plans with sequence parallel norms; local outputs and DTensors all the way; compiled."""
    del rank, folder
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        SequenceParallel,
        parallelize_module,
    )

    mesh = init_device_mesh("cpu", (world,))
    x = data()
    one, y = one_process(x)
    for local, sequence in itertools.product((True, False), (True, False)):
        if KV % world:
            continue  # a process would hold half a head of keys
        of = model()
        for layer in of.layers:
            column = ColwiseParallel(use_local_output=local)
            plan: dict[str, Any] = {"wq": column, "wk": column, "wv": column, "wo": RowwiseParallel()}
            if sequence:
                for name in ("wq", "wk", "wv"):
                    plan[name] = ColwiseParallel(input_layouts=Shard(1), use_local_output=local)
                plan["norm"] = SequenceParallel(sequence_dim=1)
            parallelize_module(layer, mesh, plan)
            if sequence:  # a whole x is cut along the sequence for the norm
                layer.norm.register_forward_pre_hook(
                    lambda m, args: DTensor.from_local(args[0], mesh, [Replicate()], run_check=False).redistribute(
                        placements=[Shard(1)]
                    ),
                    prepend=True,
                )
        with counting() as counted:
            out = of(x)
            loss_of(out).backward()
        torch.testing.assert_close(whole(out), y, rtol=1e-5, atol=1e-6)
        assert counted.formula == 0 and counted.kernel == 4, (local, sequence, vars(counted))
        for name, gradient in gradients(one).items():
            p = dict(of.named_parameters())[name].grad
            found = p.full_tensor() if isinstance(p, DTensor) else p
            torch.testing.assert_close(found, gradient, rtol=1e-5, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


def everything_distributed(rank: int, world: int, folder: Path) -> None:
    """A model of DTensors from input to output, on two dimensions of a mesh: batch and heads, batch and sequence."""
    del rank, folder
    mesh = init_device_mesh("cpu", (world // 2, 2))
    x = data()
    one, y = one_process(x)
    for placements in ((Shard(0), Replicate()), (Shard(0), Shard(1)), (Replicate(), Replicate())):
        of = model()
        for module in of.modules():
            for name, p in list(module.named_parameters(recurse=False)):
                spread = distribute_tensor(p.data, mesh, [Replicate(), Replicate()])
                setattr(module, name, nn.Parameter(spread))
        h = distribute_tensor(x, mesh, list(placements))
        with counting() as counted:
            out = of(h)
            loss_of(out).backward()
        assert counted.formula == 0 and counted.kernel >= 4
        torch.testing.assert_close(whole(out), y, rtol=1e-5, atol=1e-6)
        for name, gradient in gradients(one).items():
            found = whole(dict(of.named_parameters())[name].grad)
            torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


# --- pipeline, checkpoints, transformers -------------------------------------------------------------------------------------------


def pipeline(rank: int, world: int, folder: Path) -> None:
    """Each stage makes its own tables: positions (batch, seq) travel with micro-batches, which torch cuts along dimension 0."""
    del folder
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

    if world != 2:
        return
    x, positions = data(), (torch.arange(TOKENS) * 5).expand(4, -1).contiguous()
    one, _ = one_process(x, positions=positions)
    for schedule in (ScheduleGPipe, Schedule1F1B):
        stage_module = model().layers[rank]
        stage = PipelineStage(stage_module, rank, 2, torch.device("cpu"))
        run = schedule(stage, n_microbatches=2, loss_fn=lambda y, t: loss_of(y - t))
        if rank == 0:
            run.step(x, positions=positions)
        else:
            run.step(target=torch.zeros_like(x), positions=positions)
        for name, p in stage_module.named_parameters():
            expected = dict(one.layers[rank].named_parameters())[name].grad
            torch.testing.assert_close(p.grad, expected, rtol=1e-5, atol=1e-7)


def stored(rank: int, world: int, folder: Path) -> None:
    """A checkpoint of a sharded model: no key of ours, and of any world size; this one reads what two processes wrote."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
    from torch.distributed.fsdp import fully_shard

    del rank
    pair = dist.new_group([0, 1])
    one = model()

    def sharded(mesh: Any, seed: int) -> Model:
        torch.manual_seed(seed)
        made = Model()
        fully_shard(made, mesh=mesh)
        return made

    path = folder / f"checkpoint-{world}"
    if dist.get_rank() < 2:
        from torch.distributed.device_mesh import DeviceMesh

        two = DeviceMesh.from_group(pair, "cpu") if world > 2 else init_device_mesh("cpu", (2,))
        first = sharded(two, 0)
        state = get_model_state_dict(first)
        assert not any("rope" in key for key in state)
        dcp.save({"model": state}, checkpoint_id=path, process_group=pair)
    dist.barrier()
    other = sharded(init_device_mesh("cpu", (world,)), 5)
    state = {"model": get_model_state_dict(other)}
    dcp.load(state, checkpoint_id=path)
    set_model_state_dict(other, state["model"])
    assert torch.equal(other(data()), one(data()))


def patched(rank: int, world: int, folder: Path) -> None:
    """A model of transformers under its own plan of tensor parallelism, patched: its heads are local, and the kernel runs."""
    del rank, folder
    try:
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError:
        return
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    import rotary.transformers

    if KV % world:
        return
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "intermediate_size": 64, "num_attention_heads": HEADS, "num_key_value_heads": KV}
    config = LlamaConfig(**sizes, num_hidden_layers=2, vocab_size=64, attn_implementation="eager")
    alone = LlamaForCausalLM(config).eval()
    spread = copy.deepcopy(alone)
    tokens = torch.randint(64, (2, TOKENS))
    with torch.no_grad():
        expected = alone(tokens).logits
    styles = {"colwise": ColwiseParallel, "rowwise": RowwiseParallel}
    mesh = init_device_mesh("cpu", (world,))
    plan = {name: styles[style]() for name, style in config.base_model_tp_plan.items() if style in styles}
    assert len(plan) == 7
    parallelize_module(spread.model, mesh, plan)
    for tables in (None, "exact"):
        handle = rotary.transformers.patch(spread, **({"tables": tables} if tables else {}))
        with warnings.catch_warnings(), torch.no_grad(), counting() as counted:
            warnings.simplefilter("error")
            found = spread(tokens).logits
        handle.remove()
        assert counted.kernel == 2 and counted.formula == 0, (tables, vars(counted))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def seen_by_modes(rank: int, world: int, folder: Path) -> None:
    """FlopCounterMode around plain tensors: one operator, the kernel, the bits without it."""
    del rank, world, folder
    from torch.utils.flop_counter import FlopCounterMode

    rope, x = RotaryEmbedding(HEAD_DIM), torch.randn(2, 4, 8, HEAD_DIM)
    expected = rope.rotate(x, x)
    with FlopCounterMode(display=False), counting() as counted:
        found = rope.rotate(x, x)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert (counted.formula, counted.kernel) == (0, 1)
    assert not _torch.tracing()
