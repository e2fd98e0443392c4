"""How long do tables of cos and sin take on a GPU: by our kernel, by torch's operations, and by transformers' module?

Part of benchmarks.gpu.run.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu import clock
from benchmarks.record import table
from rotary import RotaryEmbedding, use_backend

BASE, HEAD_DIM = 500_000, 128
TOKENS = (1, 256, 4096, 131072)
HOST_UP_TO = 256


def contenders(tokens: int, device: str) -> dict[str, Callable[[], Any]]:
    """Each makes what it hands to the layers of a model whose queries are bfloat16, from positions on the device."""
    rope = RotaryEmbedding(HEAD_DIM, base=BASE, device=device)
    positions = torch.arange(tokens, device=device)[None]

    def by_operations() -> Any:
        with use_backend("eager"):
            return rope.cos_sin(positions)

    result: dict[str, Callable[[], Any]] = {
        "rotary": lambda: rope.cos_sin(positions),
        "rotary by torch's operations": by_operations,
    }
    if importlib.util.find_spec("transformers") is not None:
        from transformers import LlamaConfig
        from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

        scheme = {"rope_type": "default", "rope_theta": float(BASE)}
        llama = LlamaRotaryEmbedding(
            LlamaConfig(hidden_size=HEAD_DIM, num_attention_heads=1, rope_parameters=scheme)
        ).to(device)
        x = torch.empty(1, tokens, HEAD_DIM, dtype=torch.bfloat16, device=device)
        result["transformers"] = lambda: llama(x, positions)
    return result


@torch.no_grad()
def measure(device: str) -> dict[str, dict[str, dict[str, Any]]]:
    """tokens -> contender -> time on the device, on the host for few tokens, launches."""
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for tokens in TOKENS:
        for name, call in contenders(tokens, device).items():
            one = result.setdefault(str(tokens), {}).setdefault(name, {})
            one["warm"], one["launches"] = clock.warm(call), clock.launches(call)
            if tokens <= HOST_UP_TO:
                one["host"] = clock.host(call)
            print("tables", tokens, name, one, sep="   ", flush=True)
    return result


def report(found: dict[str, dict[str, dict[str, Any]]]) -> str:
    names = list(next(iter(found.values())))
    rows = [[f"{int(tokens):,}", *(_shown(by_name[name]) for name in names)] for tokens, by_name in found.items()]
    return f"""## Tables, made once for all layers

Microseconds on the device, one call over and over; in brackets those of the host, where it is what is waited for, and launches.

{table(["tokens", *names], rows)}"""


def _shown(one: dict[str, Any]) -> str:
    more = [*([f"host {one['host'][0]:.1f}"] if "host" in one else []), f"{one['launches']} launches"]
    return f"{one['warm'][0]:.2f} ({', '.join(more)})"
