"""What does the rotation cost a whole model on a CPU? A Llama-shaped model runs with its own rotation, with ours, and with none.

Part of benchmarks.cpu.run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama

from benchmarks.cpu.measured import MEMORY, Effort, Record
from rotary import apply_rotary_qk
from rotary.cli.bench import show

TOKENS = 1024


def none(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    return q, k


def ours(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """In place where no gradient is required: nothing else uses the output of a projection."""
    half = cos.shape[-1] // 2
    inplace = not torch.is_grad_enabled()
    return apply_rotary_qk(q, k, cos[..., :half], sin[..., :half], inplace=inplace)


ROTATIONS: dict[str, Callable[..., Any]] = {
    "transformers": modeling_llama.apply_rotary_pos_emb,
    "rotary": ours,
    "no rotation at all": none,
}


def model(effort: Effort, pages: str) -> list[Record]:
    """Prefill of 1,024 tokens, a decoding step after them, and a training step over 512, float32, 4 layers, hidden 2,048."""
    torch.manual_seed(0)
    hidden, layers, tokens = (64, 1, 8) if effort.quick else (2048, 4, TOKENS)
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=4,
        vocab_size=8192,
        max_position_embeddings=4096,
    )
    llama = LlamaForCausalLM(config)
    ids = torch.randint(0, 8192, (1, tokens))

    def prefill() -> None:
        with torch.no_grad():
            llama(ids, use_cache=False, logits_to_keep=1)

    cache = DynamicCache(config=config)
    with torch.no_grad():
        llama(ids, past_key_values=cache, logits_to_keep=1)

    def decode() -> None:
        with torch.no_grad():
            llama(ids[:, :1], past_key_values=cache, logits_to_keep=1)
        cache.crop(-1)

    def train() -> None:
        llama.zero_grad(set_to_none=True)
        llama(ids[:, :512], labels=ids[:, :512], use_cache=False).loss.backward()

    def with_rotation(step: Callable[[], None], rotation: Callable[..., Any]) -> Callable[[], None]:
        def run() -> None:
            modeling_llama.apply_rotary_pos_emb = rotation
            try:
                step()
            finally:
                modeling_llama.apply_rotary_pos_emb = ROTATIONS["transformers"]

        return run

    works = {
        f"prefill of {TOKENS:,} tokens": prefill,
        f"decoding step after {TOKENS:,} tokens": decode,
        "training step, 512 tokens": train,
    }
    records: list[Record] = []
    for name, step in works.items():
        calls = {r: with_rotation(step, rotation) for r, rotation in ROTATIONS.items()}
        timings = effort.timed(calls, 10.0)
        print(f"model: {name}")
        show(timings, "transformers")
        records.append({"part": "model", "case": name, "pages": pages, "state": MEMORY, "timings": timings})
    return records
