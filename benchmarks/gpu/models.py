"""What does a patched model's rotation cost on a GPU, by tables with a column per channel, which nothing may wait to compare?

    python -m benchmarks.gpu.models           under a minute; writes results/gpu_models.json and results/gpu_models.md

The function of a model (transformers' Llama, half pairing; Cohere, interleaved) is called on its own tables, of the dtype that it makes:

    patched          what patch() puts in its place: the kernel that reads tables of full width
    half width       the kernel on tables with one column per plane, as RotaryEmbedding.cos_sin makes them: what full width costs
    compared         patched, with the comparison of the two halves once per call, as before: it waits for the device
    formula          patched, without a kernel: the formula at full width
    the function     as transformers ships it

Cold (benchmarks/gpu/clock.py), medians; host time at one token. Results are compared with the function's in float64 before.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks import record as results
from benchmarks.gpu import clock
from rotary import RotaryEmbedding, apply_rotary_qk, use_backend
from rotary.transformers import RotationSpec, probe
from rotary.transformers.wrapper import Replacement

HEADS, HEAD_DIM, BASE = (32, 8), 128, 500_000
TOKENS = (1, 256, 4096, 32768)
FAMILIES = {"llama": False, "cohere": True}
LIMIT = 4e-3


def function_of(family: str) -> Callable[..., Any]:
    return importlib.import_module(f"transformers.models.{family}.modeling_{family}").apply_rotary_pos_emb


def replacement_of(family: str) -> Replacement:
    function = function_of(family)
    spec = probe(function)
    if not isinstance(spec, RotationSpec):
        raise RuntimeError(f"{family}: {spec}")
    return Replacement(function, spec, lambda: True)


def drawn(tokens: int) -> list[Tensor]:
    return [torch.randn(1, tokens, n, HEAD_DIM, device="cuda", dtype=torch.bfloat16).transpose(1, 2) for n in HEADS]


def wide_tables(tokens: int, dtype: torch.dtype, interleaved: bool) -> tuple[Tensor, Tensor]:
    cos, sin = RotaryEmbedding(HEAD_DIM, base=BASE, device="cuda").cos_sin(torch.arange(tokens, device="cuda")[None])
    double = (lambda t: t.repeat_interleave(2, -1)) if interleaved else (lambda t: torch.cat((t, t), -1))
    return double(cos).to(dtype), double(sin).to(dtype)


def contenders(family: str, tokens: int, dtype: torch.dtype, backward: bool) -> dict[str, Callable[[], Any]]:
    interleaved = FAMILIES[family]
    cos, sin = wide_tables(tokens, dtype, interleaved)
    half = [(t[..., ::2] if interleaved else t[..., : HEAD_DIM // 2]).float().contiguous() for t in (cos, sin)]
    ours, function = replacement_of(family), function_of(family)

    def plain(q: Tensor, k: Tensor) -> Any:
        with use_backend("eager"):
            return ours(q, k, cos, sin)

    calls: dict[str, Callable[[Tensor, Tensor], Any]] = {
        "patched": lambda q, k: ours(q, k, cos, sin),
        "half width": lambda q, k: apply_rotary_qk(q, k, *half, interleaved=interleaved),
        "formula": plain,
        "the function": lambda q, k: function(q, k, cos, sin),
    }
    q, k = drawn(tokens)
    exact = function(q.double(), k.double(), cos.double(), sin.double())
    for name, call in calls.items():
        for y, truth in zip(call(q, k), exact, strict=True):
            wrong = float((y.double() - truth).norm() / truth.norm())
            if not wrong < 2 * LIMIT:
                raise RuntimeError(f"{family}, {name}: relative error {wrong:.1e}")
    return {name: _bound(call, tokens, backward) for name, call in calls.items()}


def _bound(call: Callable[[Tensor, Tensor], Any], tokens: int, backward: bool) -> Callable[[], Any]:
    q, k = drawn(tokens)
    if not backward:
        return lambda: call(q, k)
    leaves = [t.requires_grad_() for t in (q, k)]
    outs, grads = call(*leaves), drawn(tokens)
    return lambda: torch.autograd.grad(outs, leaves, grads, retain_graph=True)


def measure(family: str, tokens: int, dtype: torch.dtype, backward: bool) -> dict[str, Any]:
    moved = 2 * 2 * tokens * sum(HEADS) * HEAD_DIM
    count = min(clock.cold_calls(moved), 128)
    drawn_calls = [contenders(family, tokens, dtype, backward) for _ in range(count)]
    times = {name: clock.cold([calls[name] for calls in drawn_calls]).median for name in drawn_calls[0]}
    result: dict[str, Any] = {
        "family": family,
        "tokens": tokens,
        "tables": str(dtype).removeprefix("torch."),
        "mode": "backward" if backward else "forward",
        "device_us": times,
    }
    if tokens == 1 and not backward:
        calls = contenders(family, tokens, dtype, backward)
        cos, _ = wide_tables(tokens, dtype, FAMILIES[family])
        columns = cos.chunk(2, -1)
        calls["compared"] = lambda: (torch.equal(*columns), torch.equal(*columns), drawn_calls[0]["half width"]())
        result["host_us"] = {name: clock.host(call, blocks=11, calls=100).median for name, call in calls.items()}
    return result


def report(result: dict[str, Any]) -> str:
    names = list(result["records"][0]["device_us"])
    rows = [
        [
            f"{one['family']}, {one['mode']}, {one['tables']} tables, {one['tokens']:,} tokens",
            f"{one['device_us']['patched']:.1f}",
            *(f"{one['device_us'][name] / one['device_us']['patched']:.2f}" for name in names[1:]),
        ]
        for one in result["records"]
    ]
    header = ["case", "patched [us]", *(f"{name} / patched" for name in names[1:])]
    hosts = [one for one in result["records"] if "host_us" in one]
    host_names = list(hosts[0]["host_us"])
    host_rows = [
        [f"{one['family']}, {one['tables']} tables", *(f"{one['host_us'][name]:.0f}" for name in host_names)]
        for one in hosts
    ]
    return f"""# A patched model's rotation on a GPU

`python -m benchmarks.gpu.models`, {result["device"]}, commit {result["commit"]}. bfloat16 q and k of {HEADS[0]} and {HEADS[1]} heads of
{HEAD_DIM} channels, cold, medians of device time; a ratio above 1 is slower than patched.

{results.table(header, rows)}

Host time of one call at one token [us]; *compared* waits for the device twice.

{results.table(["case", *host_names], host_rows)}"""


def main() -> None:
    if not torch.cuda.is_available():
        print("no CUDA device: nothing measured")
        return
    result: dict[str, Any] = {**results.circumstances("triton", "transformers"), "records": []}
    with clock.aside():
        for family in FAMILIES:
            for dtype in (torch.bfloat16, torch.float32):
                for tokens in TOKENS:
                    for backward in (False, True):
                        with torch.set_grad_enabled(backward):
                            result["records"].append(measure(family, tokens, dtype, backward))
                        print(result["records"][-1], flush=True)
                        torch.cuda.empty_cache()
    results.write("gpu_models", result, report(result))
    print(report(result))


if __name__ == "__main__":
    main()
