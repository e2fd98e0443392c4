"""Decode with a small model of Qwen3's shape and three caches: python examples/decode.py [--quick] (needs transformers).

    dynamic     transformers' DynamicCache, which joins old keys and new ones by torch.cat at every token
    static      transformers' StaticCache, whose attention reads all of it at every token
    slots       rotary.fused: norm, rotation and the write into a static cache in one pass, attention over what is there

All three make the same tokens. Prints tokens per second of each, in turn, medians; exit status 1 where tokens differ.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache, Qwen3Config, Qwen3ForCausalLM, StaticCache

from rotary import RotaryEmbedding, fused


class Slots:
    """The model's own weights, and a cache of pages (batch, tokens, heads, head_dim) for each layer."""

    def __init__(self, model: Qwen3ForCausalLM, batch: int, length: int) -> None:
        config = model.config
        self.layers, self.model = model.model.layers, model
        self.rope = RotaryEmbedding(config.head_dim, base=config.rope_parameters["rope_theta"])
        shape = (len(self.layers), 2, batch, length, config.num_key_value_heads, config.head_dim)
        self.pages, self.first = torch.zeros(shape, dtype=model.dtype), torch.arange(batch)[:, None] * length
        self.tokens, self.eps, self.head_dim = 0, config.rms_norm_eps, config.head_dim

    def __call__(self, ids: Tensor) -> Tensor:
        """Logits of the last token; ids (batch, seq) follow what is in the cache."""
        at = torch.arange(self.tokens, self.tokens + ids.shape[1])
        self.tokens += ids.shape[1]
        cos, sin = self.rope.cos_sin(at)
        slots, x = self.first + at, self.model.model.embed_tokens(ids)
        for layer, (cache_k, cache_v) in zip(self.layers, self.pages, strict=True):
            own, h = layer.self_attn, layer.input_layernorm(x)
            q, k, v = (p(h).unflatten(-1, (-1, self.head_dim)) for p in (own.q_proj, own.k_proj, own.v_proj))
            weights = {
                "q_weight": own.q_norm.weight,
                "k_weight": own.k_norm.weight,
                "eps": self.eps,
                "rounding": "model",
            }
            q, _ = fused.norm_rotate_and_store(k, v, cos, sin, cache_k, cache_v, slots, q=q, seq_dim=1, **weights)
            keys, values = (cache[:, : self.tokens].transpose(1, 2) for cache in (cache_k, cache_v))
            out = F.scaled_dot_product_attention(
                q.transpose(1, 2), keys, values, is_causal=len(at) > 1, enable_gqa=True
            )
            x = x + own.o_proj(out.transpose(1, 2).flatten(2))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return self.model.lm_head(self.model.model.norm(x[:, -1:]))


def decode(step: Callable[[Tensor], Tensor], prompt: Tensor, new: int) -> tuple[list[int], float]:
    """Greedy tokens, and tokens per second after the prompt."""
    token = step(prompt).argmax(-1)
    found, start = [int(token)], time.perf_counter()
    for _ in range(new - 1):
        token = step(token).argmax(-1)
        found.append(int(token))
    return found, (new - 1) / (time.perf_counter() - start)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a short prompt, few tokens")
    prompt_length, new, rounds = (16, 6, 1) if parser.parse_args().quick else (4096, 24, 5)
    torch.manual_seed(0)
    config = Qwen3Config(
        hidden_size=512, intermediate_size=1024, num_attention_heads=8, num_key_value_heads=4, head_dim=128, num_hidden_layers=8,
        vocab_size=512, max_position_embeddings=8192,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config).eval()
    prompt, length = torch.randint(512, (1, prompt_length)), prompt_length + new
    rates: dict[str, list[float]] = {"dynamic": [], "static": [], "slots": []}
    tokens: dict[str, list[int]] = {}
    with torch.inference_mode():
        for _ in range(rounds):
            caches = {
                "dynamic": DynamicCache(config=config),
                "static": StaticCache(config=config, max_cache_len=length),
            }
            for name in rates:
                cache = caches.get(name)
                step = (
                    Slots(model, 1, length)
                    if cache is None
                    else lambda ids, cache=cache: model(ids, past_key_values=cache, logits_to_keep=1).logits
                )
                tokens[name], rate = decode(step, prompt, new)
                rates[name].append(rate)
    for name, found in rates.items():
        print(f"{name:10}{statistics.median(found):8.1f} tokens/s after {prompt_length:,}")
    same = tokens["dynamic"] == tokens["static"] == tokens["slots"]
    print(f"decode: tokens {'agree' if same else 'DIFFER'}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
