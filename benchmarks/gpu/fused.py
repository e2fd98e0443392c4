"""Norm and rotation in one pass on a GPU: what is won over two passes, over transformers' code, and over its compiled form.

    python -m benchmarks.gpu.fused            under a minute; writes results/gpu_fused.json and results/gpu_fused.md

bfloat16 q and k with the heads of Qwen3-8B, in the memory of a projection. Cold (benchmarks/gpu/clock.py), medians of device time.

    fused           rotary.fused.norm_rotate
    in two          torch.nn.functional.rms_norm, then rotary.apply_rotary_qk
    transformers    Qwen3RMSNorm of q and of k, then its rotation
    copy            copy_ of q and k
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks import record as results
from benchmarks.gpu import clock
from rotary import RotaryEmbedding, apply_rotary_qk
from rotary.fused import norm_rotate

HEADS, HEAD_DIM, EPS, BASE = (32, 8), 128, 1e-6, 1_000_000
TOKENS = (1, 256, 4096, 32768)
LIMIT = 8e-3
JUDGED = 4096  # tokens at most whose gradients are judged: in float64 they need memory


def drawn(tokens: int) -> list[Tensor]:
    return [torch.randn(1, tokens, n, HEAD_DIM, device="cuda", dtype=torch.bfloat16).transpose(1, 2) for n in HEADS]


def contenders(tokens: int, backward: bool) -> dict[str, Callable[[], Any]]:
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm, apply_rotary_pos_emb

    cos, sin = RotaryEmbedding(HEAD_DIM, base=BASE, device="cuda").cos_sin(torch.arange(tokens, device="cuda")[None])
    wide_cos, wide_sin = (torch.cat((t, t), -1).bfloat16() for t in (cos, sin))
    norms = [Qwen3RMSNorm(HEAD_DIM, EPS).to("cuda", torch.bfloat16) for _ in HEADS]
    for norm in norms:
        norm.weight.data.uniform_(0.5, 1.5)
    w = [norm.weight for norm in norms]

    def in_two(q: Tensor, k: Tensor) -> Any:
        q, k = (torch.nn.functional.rms_norm(x, (HEAD_DIM,), weight, EPS) for x, weight in zip((q, k), w, strict=True))
        return apply_rotary_qk(q, k, cos, sin)

    calls: dict[str, Callable[[Tensor, Tensor], Any]] = {
        "fused": lambda q, k: norm_rotate(q, k, cos, sin, q_weight=w[0], k_weight=w[1], eps=EPS),
        "in two": in_two,
        "transformers": lambda q, k: apply_rotary_pos_emb(norms[0](q), norms[1](k), wide_cos, wide_sin),
    }
    q, k = drawn(tokens)
    exact = [
        x.double() / (x.double().square().mean(-1, keepdim=True) + EPS).sqrt() * y.double()
        for x, y in zip((q, k), w, strict=True)
    ]
    exact = apply_rotary_pos_emb(
        exact[0], exact[1], torch.cat((cos, cos), -1).double(), torch.cat((sin, sin), -1).double()
    )
    for name, call in calls.items():
        for y, truth in zip(call(q, k), exact, strict=True):
            _judge(name, y, truth)
    if backward and tokens <= JUDGED:
        _judge_gradients(calls, w, (cos, sin), tokens)
    made = {name: _bound(call, tokens, backward, w) for name, call in calls.items()}
    outs = [torch.empty_like(x) for x in (q, k)]
    made["copy"] = lambda: [out.copy_(x) for out, x in zip(outs, (q, k), strict=True)]
    return made


def _judge(name: str, found: Tensor, truth: Tensor) -> None:
    wrong = float((found.double() - truth).norm() / truth.norm())
    if not wrong < LIMIT:
        raise RuntimeError(f"{name}: relative error {wrong:.1e}")


def _judge_gradients(
    calls: dict[str, Callable[..., Any]], w: Sequence[Tensor], tables: tuple[Tensor, Tensor], tokens: int
) -> None:
    """Gradients of q, k and both weights against autograd of the definition in float64."""
    leaves = [*(t.requires_grad_() for t in drawn(tokens)), *w]
    grads = drawn(tokens)
    wide = [t.detach().double().requires_grad_() for t in leaves]
    c, s = (t.double() for t in tables)
    outs: list[Tensor] = []
    for x, weight in zip(wide[:2], wide[2:], strict=True):
        a, b = (x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * weight).chunk(2, -1)
        outs.append(torch.cat((a * c - b * s, b * c + a * s), -1))
    truth = torch.autograd.grad(outs, wide, [g.double() for g in grads])
    for name, call in calls.items():
        result = torch.autograd.grad(call(*leaves[:2]), leaves, grads)
        for one, exact in zip(result, truth, strict=True):
            _judge(f"{name}, backward", one, exact)


def _bound(
    call: Callable[[Tensor, Tensor], Any], tokens: int, backward: bool, weights: Sequence[Tensor]
) -> Callable[[], Any]:
    q, k = drawn(tokens)
    if not backward:
        return lambda: call(q, k)
    leaves = [t.requires_grad_() for t in (q, k)]
    outs, grads = call(*leaves), drawn(tokens)
    return lambda: torch.autograd.grad(outs, [*leaves, *weights], grads, retain_graph=True)


def measure(tokens: int, backward: bool) -> dict[str, Any]:
    count = min(clock.cold_calls(4 * tokens * sum(HEADS) * HEAD_DIM), 64)
    every = [contenders(tokens, backward) for _ in range(count)]
    times = {name: clock.cold([calls[name] for calls in every]).median for name in every[0]}
    result: dict[str, Any] = {"tokens": tokens, "mode": "backward" if backward else "forward", "device_us": times}
    if tokens == 1 and not backward:
        result["host_us"] = {
            name: clock.host(call, blocks=11, calls=100).median for name, call in contenders(1, False).items()
        }
    return result


def report(result: dict[str, Any]) -> str:
    names = list(result["records"][0]["device_us"])
    rows = [
        [f"{one['tokens']:,} tokens, {one['mode']}", f"{one['device_us']['fused']:.1f}"]
        + [f"{one['device_us'][name] / one['device_us']['fused']:.2f}" for name in names[1:]]
        for one in result["records"]
    ]
    (host,) = [one["host_us"] for one in result["records"] if "host_us" in one]
    return f"""# Norm and rotation in one pass on a GPU

`python -m benchmarks.gpu.fused`, {result["device"]}, commit {result["commit"]}. bfloat16 q and k of {HEADS[0]} and {HEADS[1]} heads of
{HEAD_DIM} channels, cold, medians of device time; a ratio above 1 is slower than fused. Backward with gradients of both weights.

{results.table(["case", "fused [us]", *(f"{name} / fused" for name in names[1:])], rows)}

Host time of one call at one token [us]: {", ".join(f"{name} {host[name]:.0f}" for name in names)}."""


def main() -> None:
    if not torch.cuda.is_available():
        print("no CUDA device: nothing measured")
        return
    result: dict[str, Any] = {**results.circumstances("triton", "transformers"), "records": []}
    with clock.aside():
        for tokens in TOKENS:
            for backward in (False, True):
                with torch.set_grad_enabled(backward):
                    result["records"].append(measure(tokens, backward))
                print(result["records"][-1], flush=True)
                torch.cuda.empty_cache()
    results.write("gpu_fused", result, report(result))
    print(report(result))


if __name__ == "__main__":
    main()
