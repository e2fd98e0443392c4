"""Convert a checkpoint to the other pairing of channels and back, and detect its pairing. The model is trained here, in a few seconds.

python examples/convert.py
"""

from __future__ import annotations

import inspect
import tempfile
import textwrap
from pathlib import Path

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from rotary.checkpoints import by_text, convert

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
torch.manual_seed(0)
text = torch.tensor([min(ord(c), 127) for c in inspect.getsource(textwrap)])
sizes = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 128}
model = LlamaForCausalLM(LlamaConfig(num_attention_heads=4, num_key_value_heads=2, **sizes))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
for _ in range(150):
    batch = torch.stack([text[i : i + 96] for i in torch.randint(0, len(text) - 96, (8,))])
    model(batch, labels=batch).loss.backward()
    optimizer.step()
    optimizer.zero_grad()

with tempfile.TemporaryDirectory() as folder:
    half, interleaved, back = (Path(folder) / name for name in ("half", "interleaved", "back"))
    model.save_pretrained(half)
    converted = convert(half, interleaved, to="interleaved")
    print(
        f"{converted.tensors} tensors converted; attention scores of {converted.layers} layers agree to {converted.difference:.0e}"
    )
    convert(interleaved, back, to="half")
    for path in (half, interleaved, back):
        loaded = LlamaForCausalLM.from_pretrained(path).eval()
        verdict = by_text(loaded, text[None, :600])
        print(f"{path.name:12} is {verdict.pairing:12} {verdict.why}")
    same = all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
    print(f"there and back: {'the same bits' if same else 'DIFFERENT'}")
