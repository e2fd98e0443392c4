"""Run the rotation of a transformers model on this library's kernels, and undo it: python examples/patch.py (needs transformers)."""

from __future__ import annotations

import sys

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from rotary.transformers import patch


def main() -> int:
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
    }
    model = Qwen3ForCausalLM(Qwen3Config(**sizes, num_hidden_layers=3, vocab_size=256, eos_token_id=None)).eval()
    prompt = torch.tensor([list(b"Down, down, down. ")])
    settings = {"max_new_tokens": 24, "do_sample": False, "pad_token_id": 0}
    expected = model.generate(prompt, **settings)

    with patch(model) as handle:  # or handle = patch(model), and handle.remove() later
        print(handle.report())
        patched = model.generate(prompt, **settings)
    print(
        f"{handle.calls} rotations ran on our kernels; tokens {'agree' if torch.equal(patched, expected) else 'DIFFER'}"
    )

    restored = torch.equal(model.generate(prompt, **settings), expected)
    print(f"removed: {'as before' if restored else 'NOT as before'}")

    with patch(model, tables="exact") as handle:
        print(handle.report())
        model.generate(prompt, **settings)
    return 0 if restored and torch.equal(patched, expected) else 1


if __name__ == "__main__":
    sys.exit(main())
