"""Stream a text through a window of 512 tokens and 4 sinks, with the sinks moved: the same perplexity as rotating raw keys afresh.

    python examples/streaming.py              6 minutes on two cores: trains for two of them, then reads 20,000 bytes
    python examples/streaming.py --quick      ten seconds: a model that has learned next to nothing, 700 bytes

A byte-level model with rotary embeddings is trained on the repository's pages, and then reads other pages of it as a stream (Xiao et al.
2023, arXiv:2309.17453). Five ways to keep the past, of which the first four read side by side:

    moved sinks        the window stays where it is; the 4 sinks are moved before it each step, from their first rotation
    raw, float64       raw keys of sinks and window, rotated afresh at their slots each step in float64: the truth for positions
    re-rotated bf16    keys in bfloat16 at their slots: the window is turned by -1 each step, 512 times until a key leaves
    left alone         keys as they were first rotated: the sinks stay at 0 .. 3
    recomputed         the last 516 tokens read again for each token: another model of the past, since nothing older shines through

Prints the perplexity of each, and a verdict: exit status 0 if moved sinks agree with raw keys in float64, else 1.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rotary import RotaryEmbedding, apply_rotary, positions

ROOT = Path(__file__).resolve().parents[1]
SINKS, WINDOW, TRAINED = 4, 512, 576
LAYERS, HEADS, HEAD_DIM = 2, 4, 32
WIDTH = HEADS * HEAD_DIM
WAYS = ("moved sinks", "raw, float64", "re-rotated bf16", "left alone")
ROPE = RotaryEmbedding(HEAD_DIM)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v, each (batch, heads, seq, head_dim), not rotated."""
        q, k, v = self.qkv(self.before(x)).unflatten(-1, (3, HEADS, HEAD_DIM)).permute(2, 0, 3, 1, 4)
        return q, k, v

    def join(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.after(x))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm, self.head = nn.RMSNorm(WIDTH), nn.Linear(WIDTH, 256, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            q, k, v = block.split(x)
            q, k = ROPE.rotate(q, k)
            x = block.join(x, F.scaled_dot_product_attention(q, k, v, is_causal=True))
        return self.head(self.norm(x))


class Past:
    """Keys and values of one layer, for each way: sinks, then the window. values: (ways, heads, slots, head_dim)."""

    def __init__(self) -> None:
        empty = torch.empty(len(WAYS), HEADS, 0, HEAD_DIM)
        self.keys: list[Tensor] = [empty[i] for i in range(len(WAYS))]
        self.keys[1], self.keys[2] = self.keys[1].double(), self.keys[2].bfloat16()
        self.values = empty
        self.step = ROPE.rerotation(1, 0, rows=WINDOW - 1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, n: int) -> Tensor:
        """What the token n reads: q, k, v (ways, heads, 1, head_dim), not rotated."""
        slot = min(n, SINKS + WINDOW - 1)
        if n >= SINKS + WINDOW:  # the oldest token of the window goes
            self.keys = [torch.cat((key[:, :SINKS], key[:, SINKS + 1 :]), 1) for key in self.keys]
            self.values = torch.cat((self.values[:, :, :SINKS], self.values[:, :, SINKS + 1 :]), 2)
            apply_rotary(self.keys[2][:, SINKS:], *self.step, inplace=True)
        absolute = ROPE.rotate(k, offset=n)
        arriving = [absolute[0], k[1].double(), ROPE.rotate(k[2], offset=slot).bfloat16(), absolute[3]]
        self.keys = [torch.cat((key, new), 1) for key, new in zip(self.keys, arriving, strict=True)]
        self.values = torch.cat((self.values, v), 2)
        old, new = positions.streaming(n + 1, SINKS, WINDOW)
        moved = torch.cat(
            (ROPE.rerotate(self.keys[0][:, :SINKS], old[: n + 1], new[: n + 1]), self.keys[0][:, SINKS:]), 1
        )
        raw = ROPE.rotate(self.keys[1]).float()
        keys = torch.stack((moved, raw, self.keys[2].float(), self.keys[3]))
        at = torch.tensor([n, slot, slot, n])
        return F.scaled_dot_product_attention(ROPE.rotate(q, offset=at), keys, self.values)


def pages(streamed: bool) -> Tensor:
    """The bytes of the repository's pages: the design notes and guides are streamed, the others are for training."""
    files = sorted((ROOT / "docs").rglob("*.md"))
    chosen = [file for file in files if (file.parent.name in ("design", "guide")) == streamed]
    if not streamed:
        chosen += [ROOT / "README.md", ROOT / "examples" / "rabbit_hole.txt"]
    return torch.tensor(list(b"\n".join(file.read_bytes() for file in chosen)))


def train(model: Model, seconds: float) -> float:
    text, generator = pages(streamed=False), torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    start, loss = time.monotonic(), torch.zeros(())
    while (spent := time.monotonic() - start) < seconds:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (0.05 + 0.95 * (1 - spent / seconds))
        starts = torch.randint(0, len(text) - TRAINED - 1, (8,), generator=generator).tolist()
        batch = torch.stack([text[s : s + TRAINED + 1] for s in starts])
        loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


@torch.inference_mode()
def stream(model: Model, text: Tensor) -> Tensor:
    """Losses (tokens, ways) [nats] of each next byte, read one by one."""
    pasts, losses = [Past() for _ in model.blocks], []
    for n in range(len(text) - 1):
        x = model.embedding(text[n].expand(len(WAYS), 1))
        for block, past in zip(model.blocks, pasts, strict=True):
            q, k, v = block.split(x)
            x = block.join(x, past.attend(q, k, v, n))
        logits = model.head(model.norm(x))[:, 0]
        losses.append(F.cross_entropy(logits, text[n + 1].expand(len(WAYS)), reduction="none"))
    return torch.stack(losses)


@torch.inference_mode()
def recomputed(model: Model, text: Tensor, at: list[int]) -> Tensor:
    """Losses of the byte after each of these tokens, from the last 516 alone."""
    losses = []
    for i in range(0, len(at), 16):
        ends = at[i : i + 16]
        windows = torch.stack([text[n + 1 - SINKS - WINDOW : n + 1] for n in ends])
        losses.append(F.cross_entropy(model(windows)[:, -1], text[[n + 1 for n in ends]], reduction="none"))
    return torch.cat(losses)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args(arguments).quick
    torch.manual_seed(0)
    model = Model()
    loss = train(model, 3.0 if quick else 120.0)
    text = pages(streamed=True)[: 700 if quick else 20_000]
    print(f"trained: {math.exp(loss):.2f} perplexity of a byte; streaming {len(text):,} bytes")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one token is too little work for two
    losses = stream(model.eval(), text)
    torch.set_num_threads(threads)
    full = list(range(SINKS + WINDOW, len(text) - 1, 16))
    again = recomputed(model, text, full)
    found: dict[str, Any] = {way: losses[SINKS + WINDOW :, i] for i, way in enumerate(WAYS)}
    for way, of_way in found.items():
        print(
            f"{way:18} {float(of_way.mean().exp()):8.4f}    on every 16th byte {float(of_way[::16].mean().exp()):8.4f}"
        )
    print(f"{'recomputed':18} {'':8}                       {float(again.mean().exp()):8.4f}")
    apart = (found["moved sinks"] - found["raw, float64"]).abs()
    drifted = (found["re-rotated bf16"] - found["raw, float64"]).abs()
    print(
        f"largest difference of a loss from raw keys in float64: moved sinks {float(apart.max()):.1e}, bf16 {float(drifted.max()):.1e}"
    )
    good = bool(apart.max() <= 1e-3) and bool(apart.mean() < drifted.mean())
    print(f"streaming: moved sinks {'are raw keys rotated afresh' if good else 'FAILED: they differ from raw keys'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
