"""Train a transformers model with its rotation on this library's kernels: equal losses, and checkpoints that work with and without.

    python examples/train.py [--steps N]        needs transformers; half a minute on two cores

A small Llama is trained on the bytes of a text, three times from the same weights: unpatched; patched; and patched from the middle on,
starting with the unpatched run's checkpoint. Prints the largest difference of losses; the exit status is 0 if all are small, else 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from rotary.transformers import patch

TEXT = Path(__file__).with_name("rabbit_hole.txt")
TOKENS, BATCH = 96, 4
ALLOWED = 1e-5


def batches(steps: int) -> Iterator[Tensor]:
    """Random pieces of the text, the same at each call."""
    data = torch.tensor(list(TEXT.read_bytes()))
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        starts = torch.randint(0, len(data) - TOKENS, (BATCH,), generator=generator).tolist()
        yield torch.stack([data[start : start + TOKENS] for start in starts])


def fresh() -> tuple[LlamaForCausalLM, torch.optim.Optimizer]:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=2, vocab_size=256, max_position_embeddings=TOKENS))
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3)


def train(model: Any, optimizer: torch.optim.Optimizer, data: list[Tensor]) -> list[float]:
    losses: list[float] = []
    for tokens in data:
        optimizer.zero_grad()
        loss = model(tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    steps = parser.parse_args(arguments).steps
    data, half = list(batches(steps)), steps // 2

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "half.pt"
        model, optimizer = fresh()
        unpatched = train(model, optimizer, data[:half])
        torch.save((model.state_dict(), optimizer.state_dict()), checkpoint)
        unpatched += train(model, optimizer, data[half:])

        model, optimizer = fresh()
        with patch(model) as handle:
            print(handle.report())
            patched = train(model, optimizer, data)
            print(f"rotations by rotary's kernels: {handle.calls:,} forward, and as many backward")

        model, optimizer = fresh()
        weights, state = torch.load(checkpoint)
        model.load_state_dict(weights)
        optimizer.load_state_dict(state)
        with patch(model):
            continued = train(model, optimizer, data[half:])

    print(f"loss after {steps} steps of {BATCH} x {TOKENS} bytes: {unpatched[0]:.4f} -> {unpatched[-1]:.4f}")
    worst = max(abs(a - b) for a, b in zip(unpatched, patched, strict=True))
    worst_continued = max(abs(a - b) for a, b in zip(unpatched[half:], continued, strict=True))
    print(f"largest difference of a loss, patched:                        {worst:.1e}")
    print(f"largest difference, patched from the unpatched checkpoint on: {worst_continued:.1e}")
    good = max(worst, worst_continued) <= ALLOWED and unpatched[-1] < unpatched[0]
    print(f"train: {'every loss agrees' if good else 'FAILED'} within {ALLOWED:g}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
