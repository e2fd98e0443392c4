"""What a distributed tensor (DTensor) costs: the rotation by tables, beside plain tensors and beside the formula over DTensors.

python -m benchmarks.sharded            3 minutes on two cores; writes results/sharded.json and results/sharded.md
python -m benchmarks.sharded --quick    the first two shapes, in half a minute; writes nothing

One process, a mesh of one, so that nothing but the host's work is added: 8 heads of queries and 2 of keys, 128 channels. One thread, and
its own CPU time, which other work on the machine touches little. Medians over rounds in which all ways take turns; a ratio is the
median of the ratios of the rounds. "formula" is what
apply_rotary_qk did with DTensors before the operators had a rule for them: the plain formula, in DTensor's own operations.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from benchmarks import record
from rotary import RotaryEmbedding, apply_rotary_qk
from rotary._rotation.autograd import by_formula

HEADS, KV, DIM = 8, 2, 128
SHAPES = [
    (dtype, tokens) for tokens in (1, 4096) for dtype in (torch.float32, torch.bfloat16)
]  # the first two are those of --quick
ROUNDS, SECONDS = 21, 0.004  # of a round, for each way


def ways(dtype: torch.dtype, tokens: int, mesh: Any) -> dict[str, Callable[[], Any]]:
    """name -> one call, forward. All give the same bits."""
    rope = RotaryEmbedding(DIM)
    made = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, heads, tokens, DIM, generator=made).to(dtype) for heads in (HEADS, KV))
    cos, sin = rope.cos_sin(tokens)
    q_d, k_d = (DTensor.from_local(x, mesh, [Shard(1)], run_check=False) for x in (q, k))
    cos_d, sin_d = (DTensor.from_local(t, mesh, [Replicate()], run_check=False) for t in (cos, sin))
    how: Any = {"seq_dim": 2, "interleaved": False, "conjugate": False}
    own_q, own_k = (DTensor.from_local(x.clone(), mesh, [Shard(1)], run_check=False) for x in (q, k))
    leaves = [x.clone().requires_grad_() for x in (q, k)]
    leaves_d = [DTensor.from_local(x.clone(), mesh, [Shard(1)], run_check=False).requires_grad_() for x in (q, k)]

    def back(ys: Any, xs: Any, gs: Any) -> Any:
        return torch.autograd.grad(ys, xs, gs)

    result: dict[str, Callable[[], Any]] = {
        "plain": lambda: apply_rotary_qk(q, k, cos, sin),
        "DTensor, plain tables": lambda: apply_rotary_qk(q_d, k_d, cos, sin),
        "DTensor, DTensor tables": lambda: apply_rotary_qk(q_d, k_d, cos_d, sin_d),
        "DTensor, formula": lambda: by_formula((q_d, k_d), ((cos_d, sin_d),) * 2, how),
        "DTensor, in place": lambda: apply_rotary_qk(own_q, own_k, cos, sin, inplace=True),
        "plain, rotate": lambda: rope.rotate(q, k),
        "DTensor, rotate": lambda: rope.rotate(q_d, k_d),
        "plain, with backward": lambda: back(apply_rotary_qk(leaves[0], leaves[1], cos, sin), leaves, [q, k]),
        "DTensor, with backward": lambda: back(
            apply_rotary_qk(leaves_d[0], leaves_d[1], cos, sin), leaves_d, [q_d, k_d]
        ),
        "DTensor, formula with backward": lambda: back(
            by_formula(tuple(leaves_d), ((cos_d, sin_d),) * 2, how), leaves_d, [q_d, k_d]
        ),
    }
    one = apply_rotary_qk(q, k, cos, sin)
    for name in ("DTensor, plain tables", "DTensor, DTensor tables", "DTensor, formula", "DTensor, rotate"):
        assert all(torch.equal(y.to_local(), o) for y, o in zip(result[name](), one, strict=True)), name
    return result


def measured(calls: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """name -> microseconds of a call, one number a round."""
    counts: dict[str, int] = {}
    for name, call in calls.items():
        for _ in range(3):
            call()
        start = time.thread_time()
        call()
        counts[name] = max(1, int(SECONDS / max(time.thread_time() - start, 1e-6)))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            start = time.thread_time()
            for _ in range(counts[name]):
                call()
            times[name].append((time.thread_time() - start) / counts[name] * 1e6)
    return times


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        mesh = init_device_mesh("cpu", (1,))
        torch.set_num_threads(1)
        rows: list[dict[str, Any]] = []
        for dtype, tokens in SHAPES[: 2 if "--quick" in sys.argv else None]:
            times = measured(ways(dtype, tokens, mesh))

            def ratio(name: str, base: str, times: dict[str, list[float]] = times) -> float:
                return statistics.median(a / b for a, b in zip(times[name], times[base], strict=True))

            for name in times:
                base = (
                    "plain, with backward" if "backward" in name else "plain, rotate" if "rotate" in name else "plain"
                )
                formula = "DTensor, formula with backward" if "backward" in name else "DTensor, formula"
                rows.append(
                    {
                        "dtype": str(dtype).removeprefix("torch."),
                        "tokens": tokens,
                        "way": name,
                        "us": statistics.median(times[name]),
                        "of_plain": ratio(name, base),
                        "of_formula": ratio(name, formula),
                    }
                )
                print(f"{dtype} {tokens:5d} {name:32s} {rows[-1]['us']:9.1f} us  {rows[-1]['of_plain']:6.2f} x plain  "
                      f"{rows[-1]['of_formula']:6.3f} x formula", flush=True)  # fmt: skip
        dist.destroy_process_group()
    if "--quick" not in sys.argv:
        at = record.circumstances()
        record.write("sharded", {**at, "rows": rows}, report(at, rows))


def report(at: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    head = (
        f"# What a distributed tensor costs\n\n{at['device']}, torch {at['versions']['torch']}, commit {at['commit']}; one process, a mesh "
        f"of one, {HEADS} + {KV} heads of {DIM}. CPU time of one thread, medians, all ways in turn; `rotate` makes its tables too. "
        f"`python -m benchmarks.sharded`."
    )
    body: list[list[str]] = []
    for r in rows:
        of_formula = "" if "rotate" in r["way"] else f"{r['of_formula']:.3f}"  # which makes no tables
        body.append([r["way"], r["dtype"], f"{r['tokens']:,}", f"{r['us']:.1f}", f"{r['of_plain']:.2f}", of_formula])
    return head + "\n\n" + record.table(["way", "dtype", "tokens", "us", "of plain", "of the formula"], body)


if __name__ == "__main__":
    main()
