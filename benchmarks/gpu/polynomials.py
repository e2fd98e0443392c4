"""Do exact tables on a GPU have the bits of a CPU's: by the kernel, by torch's operations, and under Inductor?

python -m benchmarks.gpu.polynomials        a minute; needs CUDA; writes results/gpu_polynomials.json and results/gpu_polynomials.md
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.record import circumstances, table, write
from rotary._angles import eager, exact, polynomials

VALUES = 1 << 24
STRICT = "emulate_precision_casts"
Makers = dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]]


def makers() -> Makers:
    return {
        "the kernel": lambda turns: exact.cos_sin_of_turns(turns, torch.float64),
        "torch's operations": lambda turns: eager.cos_sin_of_turns(turns, torch.float64),
        "torch.compile": torch.compile(polynomials.cos_sin),
    }


def counted(made: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> dict[str, float]:
    pairs = [(a.cpu(), b) for a, b in zip(made, wanted, strict=True)]
    return {
        "float64": sum(int((a != b).sum()) for a, b in pairs),
        "float32": sum(int((a.float() != b.float()).sum()) for a, b in pairs),
        "largest": max(float((a - b).abs().max()) for a, b in pairs),
    }


def main() -> None:
    torch.manual_seed(0)
    turns = torch.randint(-(2**63), 2**63 - 1, (VALUES // 64, 64))
    expected = eager.cos_sin_of_turns(turns, torch.float64)
    result = {name: counted(make(turns.cuda()), expected) for name, make in makers().items()}
    torch._dynamo.reset()
    inductor: Any = importlib.import_module("torch._inductor.config")
    with inductor.patch({STRICT: True}):
        result[f"torch.compile with {STRICT}"] = counted(torch.compile(polynomials.cos_sin)(turns.cuda()), expected)
    at = circumstances("triton")
    rows = [
        [name, f"{one['float64']:,}", f"{one['float32']:,}", f"{one['largest']:.1e}"] for name, one in result.items()
    ]
    page = f"""# Tables on a GPU beside those of a CPU

`python -m benchmarks.gpu.polynomials`, {at["device"]}, torch {at["versions"]["torch"]}, triton {at["versions"]["triton"]}, commit
{at["commit"]}. cos and sin of {VALUES:,} random angles in float64, {2 * VALUES:,} values.

{table(["made by", "differ in float64", "differ in float32", "largest difference"], rows)}
"""
    write("gpu_polynomials", {**at, "values": 2 * VALUES, "found": result}, page)
    print(page)


if __name__ == "__main__":
    main()
