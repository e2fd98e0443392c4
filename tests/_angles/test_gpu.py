"""Tables made by a GPU kernel: exact, and used for every exact table. test_exact.py compares their bits."""

from __future__ import annotations

import mpmath
import pytest
import torch
from torch import Tensor

from _rotation.test_contract import DEVICE
from rotary import RotaryEmbedding, scaling, use_backend
from rotary._angles import exact, gpu
from rotary._angles.work import Work
from rotary._rotation import triton as launcher
from support import truth

pytestmark = pytest.mark.skipif(launcher.unavailable() is not None, reason=str(launcher.unavailable()))
HARD = (0, 1, -1, 2**24 - 1, 2**24, 2**24 + 1, -(2**24) - 1, 2**31 - 1, -(2**31), 1_000_000)
FLOAT32_BOUND = 3.1e-8


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shape of each table that the kernel makes while a test runs."""
    seen: list[tuple[int, ...]] = []
    fill = gpu.fill

    def noting(work: Work, cos: Tensor, sin: Tensor) -> bool:
        seen.append(tuple(cos.shape))
        return fill(work, cos, sin)

    monkeypatch.setattr(gpu, "fill", noting)
    return seen


@pytest.mark.parametrize("base", [1e4, 5e5])
def test_F4_exact_at_every_position(base: float, launched: list):
    rope = RotaryEmbedding(96, base=base, device=DEVICE["triton"])
    positions = [*HARD, *(int(n) for n in torch.randint(-(2**31), 2**31, (30,)))]
    cos, sin = (t.cpu() for t in rope.cos_sin(torch.tensor(positions, device=DEVICE["triton"])))
    for i, row in enumerate(truth.table(positions, rope.inv_freq.tolist())):
        for j, (c, s) in enumerate(row):
            assert abs(c - cos[i, j].item()) <= FLOAT32_BOUND and abs(s - sin[i, j].item()) <= FLOAT32_BOUND
    assert launched == [(40, 48)]


def test_around_every_eighth_of_a_turn():
    """Where the nearest quarter changes, where signs do, and where int64 wraps."""
    near = [n * 2**61 + d for n in range(-4, 4) for d in (-1, 0, 1) if n * 2**61 + d >= -(2**63)]
    made = exact.cos_sin_of_turns(torch.tensor([near], device=DEVICE["triton"]), torch.float32)
    cos, sin = (table.cpu() for table in made)
    for j, turns in enumerate(near):
        angle = 2 * mpmath.pi * mpmath.mpf(turns) / mpmath.mpf(2) ** 64
        assert (
            abs(mpmath.cos(angle) - cos[0, j].item()) <= FLOAT32_BOUND
            and abs(mpmath.sin(angle) - sin[0, j].item()) <= FLOAT32_BOUND
        )
    assert (cos[0, near.index(0)], sin[0, near.index(0)]) == (1, 0)
    assert (cos[0, near.index(2**62)], sin[0, near.index(2**62)]) == (0, 1)
    assert (cos[0, near.index(-(2**63))], sin[0, near.index(-(2**63))]) == (-1, 0)


def test_F28_prefill_and_decoding_have_the_same_bits(launched: list):
    rope = RotaryEmbedding(128, device=DEVICE["triton"])
    whole = rope.cos_sin(70)
    for p in (0, 1, 31, 69):
        one = rope.cos_sin(torch.tensor([[p]], device=DEVICE["triton"]))
        assert all(torch.equal(a[0, 0], b[p]) for a, b in zip(one, whole, strict=True))
    assert len(launched) == 5


def test_who_takes_the_kernel(launched: list):
    """Every exact table of whole positions; the arithmetic of transformers, real positions and what something traces do not."""
    device = DEVICE["triton"]
    positions = torch.arange(9, device=device)
    yarn = scaling.YaRN(factor=4.0, original_max_position_embeddings=64)
    dynamic = scaling.DynamicNTK(factor=2.0, original_max_position_embeddings=64)
    cos, _ = RotaryEmbedding(32, scaling=yarn, device=device).cos_sin(positions)
    assert launched == [(9, 16)] and cos[0, 0].item() == pytest.approx(0.1 * 1.3862943611198906 + 1)
    plain = RotaryEmbedding(32, device=device)
    for made in (
        lambda: RotaryEmbedding(32, scaling=yarn, device=device).cos_sin(positions, length=100),
        lambda: RotaryEmbedding(32, interpolation_factor=3.0, device=device).cos_sin(positions),
        lambda: RotaryEmbedding(32, scaling=dynamic, device=device).cos_sin(positions, length=100),
        lambda: RotaryEmbedding(32, use_xpos=True, device=device).cos_sin(positions, role="query"),
        lambda: RotaryEmbedding(32, axes=(0, 1) * 8, device=device).cos_sin(positions.view(3, 3)[:, :2]),
        lambda: plain.cos_sin(positions, torch.float64),
        lambda: plain.cos_sin(positions, torch.bfloat16),
        lambda: plain.cos_sin(positions * 2**33),
    ):
        before = len(launched)
        made()
        assert len(launched) == before + 1
    before = len(launched)
    RotaryEmbedding(32, angles="float32", device=device).cos_sin(positions)
    plain.cos_sin(positions.double())
    torch.compile(lambda p: RotaryEmbedding(32, device=device).cos_sin(p), backend="eager")(positions)
    torch.func.vmap(plain.cos_sin)(positions)
    with use_backend("eager"):
        plain.cos_sin(positions)
    assert len(launched) == before
    with use_backend("triton"):
        plain.cos_sin(positions)
    assert len(launched) == before + 1
