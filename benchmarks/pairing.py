"""How often is the pairing of a checkpoint detected rightly, wrongly or not at all, while a small model is trained?

    python -m benchmarks.pairing        4 minutes; writes results/pairing.json and results/pairing.md

A Llama of four layers, 4 query and 2 key heads of 32 channels, is trained on sources of the standard library, with five seeds; its
checkpoint is judged as it is (half) and converted (interleaved). It has eight weights in all; a real model has ten times as many, and
so more evidence.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import inspect
import tempfile
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.record import circumstances, table, write
from rotary.checkpoints import by_text, by_weights, convert

STEPS, SEEDS, HELD_OUT = (0, 50, 100, 200, 400), 5, 600


def counted(found: str, truth: str) -> str:
    return "right" if found == truth else "unknown" if found == "unknown" else "wrong"


def judge(model: Any, held_out: torch.Tensor) -> list[tuple[str, str]]:
    """(way, right, unknown or wrong) for the checkpoint of a model, as it is and converted."""
    verdicts = []
    with tempfile.TemporaryDirectory() as folder:
        half, neighbours = Path(folder) / "half", Path(folder) / "interleaved"
        model.save_pretrained(half)
        convert(half, neighbours, to="interleaved")
        for path in (half, neighbours):
            loaded = LlamaForCausalLM.from_pretrained(path).eval()
            verdicts.append(("weights", counted(by_weights(path).pairing, path.name)))
            verdicts.append(("text", counted(by_text(loaded, held_out).pairing, path.name)))
    return verdicts


def main() -> None:
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    text = "".join(inspect.getsource(module) for module in (argparse, difflib, textwrap, ast))
    data = torch.tensor([min(ord(c), 127) for c in text])
    result: dict[tuple[int, str], Counter[str]] = {
        (step, way): Counter() for step in STEPS for way in ("weights", "text")
    }
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        sizes: Any = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "vocab_size": 128}
        model = LlamaForCausalLM(LlamaConfig(num_attention_heads=4, num_key_value_heads=2, head_dim=32, **sizes))
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
        for step in range(STEPS[-1] + 1):
            if step in STEPS:
                for way, verdict in judge(model, data[-HELD_OUT:][None]):
                    result[step, way][verdict] += 1
            batch = torch.stack([data[i : i + 128] for i in torch.randint(0, len(data) - HELD_OUT - 128, (8,))])
            model(batch, labels=batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        print(f"seed {seed} done", flush=True)
    rows = [
        [
            str(step),
            *(
                str(result[step, way][verdict])
                for way in ("weights", "text")
                for verdict in ("right", "unknown", "wrong")
            ),
        ]
        for step in STEPS
    ]
    at = circumstances("transformers")
    heads = [
        "steps of training",
        *(f"{way}: {verdict}" for way in ("weights", "text") for verdict in ("right", "unknown", "wrong")),
    ]
    made = f"""# Telling the pairing of a checkpoint

Verdicts on {2 * SEEDS} checkpoints, of {SEEDS} seeds in both pairings; the text is {HELD_OUT} characters that were not trained on.
`python -m benchmarks.pairing`, {at["device"]}, torch {at["versions"]["torch"]}, commit {at["commit"]}.

{table(heads, rows)}
"""
    write("pairing", {**at, "counts": {f"{step} {way}": dict(c) for (step, way), c in result.items()}}, made)
    print(made)


if __name__ == "__main__":
    main()
