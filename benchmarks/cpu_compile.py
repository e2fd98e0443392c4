"""Under torch.compile on a CPU: the plain formula, which the compiler fuses, or an opaque operator around the kernel?

    python benchmarks/cpu_compile.py        a minute or two; writes results/cpu_compile.json and .md

What rotary does is the formula. The rivals are operators made here as a user could make them: defined and implemented in a Library
with an autograd.Function around it, and by torch.library.custom_op with a registered backward.
"""

from __future__ import annotations

from typing import Any

import torch
from record import circumstances, table, write
from torch import Tensor

from rotary import apply_rotary_qk
from rotary.bench import Contender, Work, alternate
from rotary.kernels import cpu as kernel

Pair = tuple[Tensor, Tensor]


def _run(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, conjugate: bool) -> Pair:
    outs = torch.empty_like(q), torch.empty_like(k)
    reason = kernel.rotate((q, k), outs, ((cos, sin),) * 2, seq_dim=2, interleaved=False, conjugate=conjugate)
    assert reason is None, reason
    return outs


def _fake(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, conjugate: bool) -> Pair:
    return torch.empty_like(q), torch.empty_like(k)


library = torch.library.Library("rotary_benchmark", "DEF")
library.define("defined(Tensor q, Tensor k, Tensor cos, Tensor sin, bool conjugate) -> (Tensor, Tensor)")
library.impl("defined", _run, "CPU")
torch.library.register_fake("rotary_benchmark::defined", _fake)
defined = torch.ops.rotary_benchmark.defined.default
custom = torch.library.custom_op("rotary_benchmark::custom", _run, mutates_args=())
custom.register_fake(_fake)


class _Defined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Pair:
        ctx.save_for_backward(cos, sin)
        return defined(q, k, cos, sin, False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return (*defined(*(g.contiguous() for g in grads), *ctx.saved_tensors, True), None, None)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Pair) -> None:
    ctx.save_for_backward(inputs[2], inputs[3])


def _backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    return (*custom(*(g.contiguous() for g in grads), *ctx.saved_tensors, True), None, None, None)


custom.register_autograd(_backward, setup_context=_setup)

WAYS = {
    "the formula": lambda q, k, cos, sin: apply_rotary_qk(q, k, cos, sin),
    "an operator, defined and implemented": lambda q, k, cos, sin: _Defined.apply(q, k, cos, sin),
    "a custom_op": lambda q, k, cos, sin: custom(q, k, cos, sin, False),
}


def neighbours(way: Any) -> Any:
    """The rotation between what stands around it in attention: a norm's multiplication before, a scale after."""

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
    truth = neighbours(lambda *given: apply_rotary_qk(*given))(q, k, weight, cos, sin)
    for name, way in WAYS.items():
        compiled = torch.compile(neighbours(way), fullgraph=True, dynamic=False)
        if backward:
            a, b = q.clone().requires_grad_(), k.clone().requires_grad_()
            calls[name] = lambda f=compiled, a=a, b=b: torch.autograd.grad(f(a, b, weight, cos, sin), (a, b), grads)
        else:
            calls[name] = lambda f=compiled: f(q, k, weight, cos, sin)
            for x, y in zip(calls[name](), truth, strict=True):
                torch.testing.assert_close(x, y, rtol=0, atol=32 * torch.finfo(work.dtype).eps)
    calls["eager, the kernel"] = lambda: neighbours(WAYS["the formula"])(q, k, weight, cos, sin)
    if backward:
        del calls["eager, the kernel"]
    with torch.set_grad_enabled(backward):
        return alternate(calls, 2.0)


def main() -> None:
    torch.set_num_threads(
        1
    )  # the compiler's own pool and torch's wait for each other on few cores, which is another question
    found: dict[str, Any] = {}
    for dtype in (torch.float32, torch.bfloat16):
        for seq in (1, 128, 4096):
            for backward in (False, True):
                way = "forward and backward" if backward else "forward"
                title = f"{seq:,} tokens, {str(dtype)[6:]}, {way}"
                found[title] = measure(Work(seq, dtype=dtype), backward=backward)
                print(title, {name: f"{t.median * 1e6:.1f} us" for name, t in found[title].items()}, flush=True)
    names = [*WAYS, "eager, the kernel"]
    rows = [
        [title, *(f"{timings[n].median * 1e6:,.1f} µs" if n in timings else "–" for n in names)]
        for title, timings in found.items()
    ]
    at = circumstances()
    said = f"{at['device']}; torch {at['versions']['torch']}; commit {at['commit']}.\n"
    said += "torch.compile(fullgraph=True), a multiplication before and after the rotation."
    write("cpu_compile", {**at, "timings": found}, f"{said}\n\n{table(['', *names], rows)}")


if __name__ == "__main__":
    main()
