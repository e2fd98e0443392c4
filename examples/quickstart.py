"""Attention with rotary embeddings over a text: bytes -> embedding -> q, k, v -> rotated q, k -> causal attention, as a prefill and
token by token.

    python examples/quickstart.py [--out FOLDER] [--rounds N]

Every printed number is measured in this run. The exit status is 0, or 1 if one of the checks failed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mpmath
import torch
from picture import draw, usual_cos_sin
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from rotary import RotaryEmbedding, apply_rotary_qk, backends

TEXT = Path(__file__).with_name("rabbit_hole.txt")
FAR = 1_000_000


class Attention(nn.Module):
    """One causal attention layer over bytes, with random weights and more query heads than key heads."""

    def __init__(self, heads: int = 8, key_heads: int = 2, head_dim: int = 64, width: int = 256) -> None:
        super().__init__()
        self.shape = (heads, key_heads, head_dim)
        self.embed = nn.Embedding(256, width)
        self.query = nn.Linear(width, heads * head_dim, bias=False)
        self.key = nn.Linear(width, key_heads * head_dim, bias=False)
        self.value = nn.Linear(width, key_heads * head_dim, bias=False)
        self.rope = RotaryEmbedding(head_dim)

    def project(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, seq) bytes -> q (batch, heads, seq, head_dim), k and v (batch, key_heads, seq, head_dim)."""
        heads, key_heads, head_dim = self.shape
        x = self.embed(tokens)
        q = self.query(x).unflatten(-1, (heads, head_dim)).transpose(1, 2)
        k = self.key(x).unflatten(-1, (key_heads, head_dim)).transpose(1, 2)
        v = self.value(x).unflatten(-1, (key_heads, head_dim)).transpose(1, 2)
        return q, k, v

    def prefill(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """All tokens at once: (attended, rotated k)."""
        q, k = self.rope.rotate(q, k)
        return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True), k

    def decode(self, q: Tensor, k: Tensor, v: Tensor, show: Callable[[int, int], None]) -> tuple[Tensor, Tensor]:
        """Token by token, with a cache of rotated keys: (attended, the cache)."""
        cache, attended, n = torch.empty_like(k), [], q.shape[-2]
        for t in range(n):
            one, cache[..., t : t + 1, :] = self.rope.rotate(q[..., t : t + 1, :], k[..., t : t + 1, :], offset=t)
            past = (cache[..., : t + 1, :], v[..., : t + 1, :])
            attended.append(scaled_dot_product_attention(one, *past, enable_gqa=True))
            show(t + 1, n)
        return torch.cat(attended, -2), cache


def usual_formula(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """The formula of most models, x cos + rotate_half(x) sin, with full-width tables in the dtype of x."""

    def rotate_half(x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return torch.cat((-b, a), -1)

    return q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin


def errors(rope: RotaryEmbedding, position: int) -> tuple[float, float]:
    """Largest |error| of cos and sin over all planes at a position, against mpmath: (rotary's, the usual float32 product's)."""
    mpmath.mp.dps = 60
    truth = [mpmath.cos_sin(position * mpmath.mpf(f)) for f in rope.inv_freq.tolist()]
    exact = torch.tensor([(float(c), float(s)) for c, s in truth], dtype=torch.float64)

    def worst(cos: Tensor, sin: Tensor) -> float:
        return (torch.stack((cos, sin), -1).flatten(0, -2) - exact).abs().max().item()

    at = torch.tensor([position])
    return worst(*rope.cos_sin(at)), worst(*usual_cos_sin(rope.inv_freq, at))


def in_turn(first: Callable[[], object], second: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Median milliseconds of both, measured A B A B after one round of warm-up."""
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        for work, times in zip((first, second), taken, strict=True):
            start = time.perf_counter()
            work()
            times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(taken[0][1:]), statistics.median(taken[1][1:])


def speed(dtype: torch.dtype, rounds: int) -> tuple[float, float]:
    """Milliseconds to rotate q and k of Llama-3-8B, 4,096 tokens, with ready tables: (rotary, the usual formula)."""
    rope = RotaryEmbedding(128, base=500_000)
    q, k = torch.randn(1, 32, 4096, 128).to(dtype), torch.randn(1, 8, 4096, 128).to(dtype)
    cos, sin = rope.cos_sin(4096)
    wide = [torch.cat((t, t), -1)[None, None].to(dtype) for t in (cos, sin)]
    return in_turn(lambda: apply_rotary_qk(q, k, cos, sin), lambda: usual_formula(q, k, *wide), rounds)


def progress(done: int, of: int) -> None:
    if done % 256 == 0 or done == of:
        print(f"\r  decoding, one token at a time: {done:,} of {of:,}", end="\n" if done == of else "", flush=True)


@torch.no_grad()
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Rotary embeddings on a real text.")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of the picture")
    parser.add_argument("--rounds", type=int, default=7, help="of each measurement of time")
    options = parser.parse_args(arguments)
    checks: dict[str, bool] = {}
    torch.manual_seed(0)

    print("1  the documented module")
    freqs, scale = RotaryEmbedding(dim=64, use_xpos=True)(10)
    print(
        f"  RotaryEmbedding(dim=64, use_xpos=True)(10) -> freqs {tuple(freqs.shape)} [rad], scale {tuple(scale.shape)}"
    )
    print(f"  freqs[9, :4] = {[round(x, 4) for x in freqs[9, :4].tolist()]}")
    print(f"  scale[9, :4] = {[round(x, 4) for x in scale[9, :4].tolist()]}")

    text = TEXT.read_bytes()
    print(f"2  attention over the {len(text):,} bytes of {TEXT.name}")
    layer = Attention()
    tokens = torch.tensor(list(text))[None]
    q, k, v = layer.project(tokens)
    whole, keys = layer.prefill(q, k, v)
    steps, cache = layer.decode(q, k, v, progress)
    checks["keys of prefill and decode are equal in every bit"] = torch.equal(keys, cache)
    apart = (whole - steps).abs().max().item()
    checks["attention of prefill and decode agrees to 1e-5"] = apart < 1e-5
    print(f"  rotated keys, prefill = decode: {'equal in every bit' if torch.equal(keys, cache) else 'DIFFERENT'}")
    print(f"  attention itself, which adds in another order: {apart:.1e} apart at most")

    print(f"3  cos and sin at position {FAR:,}, largest error of 64 planes, judged by mpmath")
    ours, usual = errors(RotaryEmbedding(128), FAR)
    print(f"  rotary                    {ours:.1e}")
    print(f"  the usual float32 product {usual:.1e}   {usual / ours:,.0f} times as far off")
    checks[f"error at {FAR:,} is at most 3.1e-8"] = ours <= 3.1e-8

    where = ", ".join(f"{name}: {state}" for name, state in backends().items())
    print(f"4  Llama-3-8B's q and k, 4,096 tokens, {torch.get_num_threads()} threads ({where})")
    for dtype in (torch.bfloat16, torch.float32):
        fast, slow = speed(dtype, options.rounds)
        print(f"  {str(dtype)[6:]:8}  rotary {fast:7.1f} ms   usual eager formula {slow:7.1f} ms   {slow / fast:.1f} x")

    print(f"5  the picture: {draw(text, options.out / 'quickstart.png')}")

    for failed in (name for name, passed in checks.items() if not passed):
        print(f"FAILED: {failed}")
    print("quickstart: FAILED" if not all(checks.values()) else f"quickstart: all {len(checks)} checks passed")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
