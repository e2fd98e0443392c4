"""Is the rotation on a GPU as fast for every dtype, head width, pairing and layout as for the usual case?

    python -m benchmarks.gpu.breadth          2 minutes; writes results/gpu_breadth.json and results/gpu_breadth.md

One case differs from the usual one, bfloat16 heads of 128 channels in (batch, seq, heads, head_dim), in one or two respects. Each is
judged in float64 before it is timed, cold (benchmarks/gpu/clock.py), beside a copy of the same q and k and, where there is one,
transformers' function on tensors of that dtype.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks import record as results
from benchmarks.gpu import clock, workers
from rotary import RotaryEmbedding, apply_rotary_qk

BATCH, SEQ, HEADS, BASE = 2, 4096, (32, 8), 500_000
LIMIT = {"bfloat16": 4e-3, "float16": 5e-4, "float32": 1e-6, "float64": 1e-6}
"""|y - exact| / |exact|: the rounding of x's dtype and of float32 tables."""
EAGER = {False: "llama", True: "cohere"}  # families whose function rotates halves, and neighbours


class Case(NamedTuple):
    dtype: str = "bfloat16"
    head_dim: int = 128
    turned: int = 128
    interleaved: bool = False
    heads_first: bool = False
    """Memory as (batch, heads, seq, head_dim), as after a copy; else as a projection leaves it."""
    mode: str = "forward"

    def draw(self) -> list[Tensor]:
        """New q and k, (batch, heads, seq, head_dim)."""
        dtype = getattr(torch, self.dtype)
        if self.heads_first:
            return [torch.randn(BATCH, n, SEQ, self.head_dim, device="cuda", dtype=dtype) for n in HEADS]
        return [torch.randn(BATCH, SEQ, n, self.head_dim, device="cuda", dtype=dtype).transpose(1, 2) for n in HEADS]

    @property
    def bytes(self) -> int:
        """Channels that are read once and written once: in place only those that turn."""
        channels = self.turned if self.mode == "in place" else self.head_dim
        return 2 * BATCH * SEQ * sum(HEADS) * channels * getattr(torch, self.dtype).itemsize

    def __str__(self) -> str:
        width = f"{self.turned} of {self.head_dim}" if self.turned != self.head_dim else str(self.head_dim)
        words = (self.dtype, width, "interleaved" if self.interleaved else "half")
        return ", ".join((*words, "heads before tokens" if self.heads_first else "tokens before heads", self.mode))


def cases() -> Iterator[Case]:
    for dtype in LIMIT:
        for head_dim in (64, 80, 96, 128, 256):
            for interleaved in (False, True):
                yield Case(dtype, head_dim, head_dim, interleaved)
    for dtype in ("bfloat16", "float16", "float32"):
        for mode in ("in place", "backward"):
            yield Case(dtype, mode=mode)
        yield Case(dtype, heads_first=True)
        yield Case(dtype, turned=32)
        yield Case(dtype, turned=32, mode="in place")
        yield Case(dtype, 192, 64, interleaved=True)


def tables(case: Case) -> tuple[Tensor, Tensor]:
    rope = RotaryEmbedding(case.turned, base=BASE, device="cuda")
    return rope.cos_sin(torch.arange(SEQ, device="cuda")[None])


def prepared(case: Case, cos: Tensor, sin: Tensor) -> Callable[[], Any]:
    q, k = case.draw()
    how: dict[str, Any] = {"interleaved": case.interleaved, "inplace": case.mode == "in place"}
    if case.mode != "backward":
        return lambda: apply_rotary_qk(q, k, cos, sin, **how)
    leaves = [t.requires_grad_() for t in (q, k)]
    outs = apply_rotary_qk(leaves[0], leaves[1], cos, sin, **how)
    grads = case.draw()
    return lambda: torch.autograd.grad(outs, leaves, grads, retain_graph=True)


def copy(case: Case) -> Callable[[], Any]:
    """A copy of q and k: into new memory, or, in place, what copy_ does to the channels that turn."""
    q, k = (t[..., : case.turned] if case.mode == "in place" else t for t in case.draw())
    outs = [torch.empty_like(t) for t in (q, k)]
    return lambda: [out.copy_(t) for out, t in zip(outs, (q, k), strict=True)]


def eager(case: Case, cos: Tensor, sin: Tensor) -> Callable[[], Any] | None:
    if case.mode != "forward" or case.turned != case.head_dim:
        return None
    name = EAGER[case.interleaved]
    module = __import__(f"transformers.models.{name}.modeling_{name}", fromlist=["apply_rotary_pos_emb"])
    double = (lambda t: t.repeat_interleave(2, -1)) if case.interleaved else (lambda t: torch.cat((t, t), -1))
    full = [double(t).to(getattr(torch, case.dtype)) for t in (cos, sin)]
    q, k = case.draw()
    return lambda: module.apply_rotary_pos_emb(q, k, *full)


def error(case: Case, cos: Tensor, sin: Tensor) -> float:
    """|y - exact| / |exact| of q, judged in float64 by the definition of the rotation."""
    q, k = case.draw()
    inv_freq = RotaryEmbedding(case.turned, base=BASE, device="cuda").inv_freq
    angles = torch.arange(SEQ, device="cuda", dtype=torch.float64)[:, None] * inv_freq.double()
    x = q.double()
    turned, rest = x[..., : case.turned], x[..., case.turned :]
    a, b = (turned[..., ::2], turned[..., 1::2]) if case.interleaved else turned.chunk(2, -1)
    s = -angles.sin() if case.mode == "backward" else angles.sin()
    y = [a * angles.cos() - b * s, b * angles.cos() + a * s]
    exact = torch.cat((torch.stack(y, -1).flatten(-2) if case.interleaved else torch.cat(y, -1), rest), -1)
    how: dict[str, Any] = {"interleaved": case.interleaved, "inplace": case.mode == "in place"}
    if case.mode == "backward":
        leaf = torch.zeros_like(q).requires_grad_()
        (result,) = torch.autograd.grad(apply_rotary_qk(leaf, k, cos, sin, **how)[0], leaf, q)
    else:
        result = apply_rotary_qk(q, k, cos, sin, **how)[0]
    return float((result.double() - exact).norm() / exact.norm())


def measure(case: Case) -> dict[str, Any]:
    cos, sin = tables(case)
    wrong = error(case, cos, sin)
    if not wrong < LIMIT[case.dtype]:
        raise RuntimeError(f"{case}: relative error {wrong:.1e}")
    count = clock.cold_calls(case.bytes)
    with torch.set_grad_enabled(case.mode == "backward"):
        ours = clock.cold([prepared(case, cos, sin) for _ in range(count)]).median
    with torch.no_grad():
        copied = clock.cold([copy(case) for _ in range(count)]).median
        calls = [eager(case, cos, sin) for _ in range(count)]
        theirs = clock.cold([call for call in calls if call is not None]).median if calls[0] is not None else None
    return {"case": str(case), "bytes": case.bytes, "error": wrong, "ours": ours, "copy": copied, "eager": theirs}


def report(result: dict[str, Any]) -> str:
    rows = [
        [
            one["case"],
            f"{one['ours']:.1f}",
            f"{one['bytes'] / (one['ours'] * 1e-6) / result['bandwidth']:.0%}",
            f"{one['ours'] / one['copy']:.2f}",
            f"{one['eager'] / one['ours']:.1f}" if one["eager"] else "",
        ]
        for one in result["records"]
    ]
    header = ["case", "us", "share of copy bandwidth", "ours over copy_", "transformers over ours"]
    return f"""# The rotation on a GPU over dtypes, widths and layouts

`python -m benchmarks.gpu.breadth`, {result["device"]}, commit {result["commit"]}. q and k of {HEADS[0]} and {HEADS[1]} heads,
{BATCH} x {SEQ} tokens, cold, medians; share of the bandwidth of a large copy, {result["bandwidth"] / 1e12:.2f} TB/s; copy_ of the same
tensors in their layout, two launches; transformers' function in the dtype of the tensors.

{results.table(header, rows)}"""


def main() -> None:
    if not torch.cuda.is_available():
        print("no CUDA device: nothing measured")
        return
    if len(sys.argv) == 2 and workers.is_part(sys.argv[1]):
        for case in workers.part_of(list(cases()), sys.argv[1]):
            error(case, *tables(case))
        return
    from benchmarks.gpu.run import bandwidth

    workers.compiled("benchmarks.gpu.breadth")
    result: dict[str, Any] = {**results.circumstances("triton", "transformers"), "records": []}
    with clock.aside():
        result["bandwidth"] = bandwidth()
        for case in cases():
            result["records"].append(measure(case))
            print(result["records"][-1], flush=True)
            torch.cuda.empty_cache()
    results.write("gpu_breadth", result, report(result))
    print(report(result))


if __name__ == "__main__":
    main()
