"""Under torch.compile on a CPU: the plain formula, which the compiler fuses, or an opaque operator around the kernel?

    python -m benchmarks.cpu.compile        2 minutes; writes results/cpu_compile.json and results/cpu_compile.md

rotary gives the compiler the formula; rotary.operators is the operator, for users who choose it. A third contender is the same kernel
in a torch.library.custom_op with a registered backward, as a user could write it: it shows what this way of registering costs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.record import circumstances, table, write
from rotary import apply_rotary_qk, operators
from rotary._rotation import native as kernel
from rotary.cli.clock import Contender, alternate
from rotary.cli.work import Work

Pair = tuple[Tensor, Tensor]


@torch.library.custom_op("rotary_benchmark::custom", mutates_args=())
def custom(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, conjugate: bool) -> Pair:
    outs = torch.empty_like(q), torch.empty_like(k)
    reason = kernel.rotate((q, k), outs, ((cos, sin),) * 2, seq_dim=2, interleaved=False, conjugate=conjugate)
    assert reason is None, reason
    return outs


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Pair) -> None:
    ctx.save_for_backward(inputs[2], inputs[3])


def _backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    return (*custom(*(g.contiguous() for g in grads), *ctx.saved_tensors, True), None, None, None)


custom.register_fake(lambda q, k, *_: (torch.empty_like(q), torch.empty_like(k)))
custom.register_autograd(_backward, setup_context=_setup)

WAYS = {
    "the formula": apply_rotary_qk,
    "the operator": operators.apply_rotary_qk,
    "the operator, in place": lambda *given: operators.apply_rotary_qk(*given, inplace=True),
    "a custom_op": lambda *given: custom(*given, False),
}


def neighbours(way: Any) -> Any:
    """The rotation between its neighbours in attention: a norm's multiplication before it, a scale after it."""

    def step(q: Tensor, k: Tensor, weight: Tensor, cos: Tensor, sin: Tensor) -> Pair:
        q, k = way(q * weight, k * weight, cos, sin)
        return q * 0.125, k

    return step


def measure(work: Work, *, backward: bool) -> dict[str, Any]:
    torch._dynamo.reset()
    q, k = work.tensors()
    cos, sin = work.tables()
    weight = torch.rand(work.head_dim).to(work.dtype)
    grads = torch.ones_like(q), torch.ones_like(k)
    calls: dict[str, Contender] = {}
    truth = neighbours(apply_rotary_qk)(q, k, weight, cos, sin)
    for name, way in WAYS.items():
        if backward and name.endswith("in place"):  # a graph needs outputs of its own
            continue
        compiled = torch.compile(neighbours(way), fullgraph=True, dynamic=False)
        if backward:
            a, b = q.clone().requires_grad_(), k.clone().requires_grad_()
            calls[name] = lambda f=compiled, a=a, b=b: torch.autograd.grad(f(a, b, weight, cos, sin), (a, b), grads)
        else:
            calls[name] = lambda f=compiled: f(q, k, weight, cos, sin)
            for x, y in zip(calls[name](), truth, strict=True):
                torch.testing.assert_close(x, y, rtol=0, atol=32 * torch.finfo(work.dtype).eps)
    if not backward:
        calls["eager, the kernel"] = lambda: neighbours(apply_rotary_qk)(q, k, weight, cos, sin)
    with torch.set_grad_enabled(backward):
        return alternate(calls, 2.0)


def main() -> None:
    # One thread: on few cores the compiler's thread pool and torch's wait for each other, which is not measured here.
    torch.set_num_threads(1)
    result: dict[str, Any] = {}
    for dtype in (torch.float32, torch.bfloat16):
        for seq in (1, 128, 4096):
            for backward in (False, True):
                way = "forward and backward" if backward else "forward"
                title = f"{seq:,} tokens, {str(dtype)[6:]}, {way}"
                result[title] = measure(Work(seq, dtype=dtype), backward=backward)
                print(title, {name: f"{t.median * 1e6:.1f} us" for name, t in result[title].items()}, flush=True)
    names = [*WAYS, "eager, the kernel"]
    rows = [
        [title, *(f"{timings[n].median * 1e6:,.1f} µs" if n in timings else "–" for n in names)]
        for title, timings in result.items()
    ]
    at = circumstances()
    text = f"{at['device']}; torch {at['versions']['torch']}; commit {at['commit']}.\n"
    text += "torch.compile(fullgraph=True), a multiplication before and after the rotation."
    write("cpu_compile", {**at, "timings": result}, f"{text}\n\n{table(['', *names], rows)}")


if __name__ == "__main__":
    main()
