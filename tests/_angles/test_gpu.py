"""Tables made by a GPU kernel: as exact as those of turns.py, bit for bit but next to the middle of two float32."""

from __future__ import annotations

import mpmath
import pytest
import torch
from torch import Tensor

from _rotation.test_contract import DEVICE
from rotary import RotaryEmbedding, scaling, use_backend
from rotary._angles import gpu
from rotary._angles.turns import cos_sin_of_turns
from rotary._constants import Constants
from rotary._rotation import triton as launcher
from support import truth

pytestmark = pytest.mark.skipif(launcher.unavailable() is not None, reason=str(launcher.unavailable()))
HARD = (0, 1, -1, 2**24 - 1, 2**24, 2**24 + 1, -(2**24) - 1, 2**31 - 1, -(2**31), 1_000_000)
G1 = 3.1e-8
ONE = Constants((1.0,), torch.float64)


def made(positions: Tensor, turns_per_token: Constants, amplitude: Constants = ONE) -> tuple[Tensor, Tensor]:
    found = gpu.cos_sin(positions.to(DEVICE["triton"]), turns_per_token, amplitude)
    assert found is not None
    return found[0].cpu(), found[1].cpu()


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shape of each table that the kernel makes while a test runs."""
    seen, make = [], gpu.cos_sin

    def noting(*given: Constants | Tensor) -> tuple[Tensor, Tensor] | None:
        made = make(*given)
        seen.extend([] if made is None else [tuple(made[0].shape)])
        return made

    monkeypatch.setattr(gpu, "cos_sin", noting)
    return seen


@pytest.mark.parametrize("base", [1e4, 5e5])
def test_F4_exact_at_every_position(base: float, launched: list):
    rope = RotaryEmbedding(96, base=base, device=DEVICE["triton"])
    positions = [*HARD, *(int(n) for n in torch.randint(-(2**31), 2**31, (30,)))]
    cos, sin = (t.cpu() for t in rope.cos_sin(torch.tensor(positions, device=DEVICE["triton"])))
    for i, row in enumerate(truth.table(positions, rope.inv_freq.tolist())):
        for j, (c, s) in enumerate(row):
            assert abs(c - cos[i, j].item()) <= G1 and abs(s - sin[i, j].item()) <= G1
    assert launched == [(40, 48)]


def test_the_bits_of_plain_torch_operations():
    torch.manual_seed(0)
    turns_per_token = torch.randint(-(2**63), 2**63 - 1, (64,))
    positions = torch.randint(-(2**31), 2**31, (500,))
    found = made(positions, Constants(tuple(turns_per_token.tolist()), torch.int64))
    wanted = cos_sin_of_turns(positions[:, None] * turns_per_token, torch.float32)
    for a, b in zip(found, wanted, strict=True):
        assert int((a != b).sum()) <= 1 and (a - b).abs().max() <= 2**-24


def test_around_every_eighth_of_a_turn():
    """Where the nearest quarter changes, where signs do, and where int64 wraps."""
    near = [n * 2**61 + d for n in range(-4, 4) for d in (-1, 0, 1) if n * 2**61 + d >= -(2**63)]
    cos, sin = made(torch.tensor([1]), Constants(tuple(near), torch.int64))
    for j, turns in enumerate(near):
        angle = 2 * mpmath.pi * mpmath.mpf(turns) / mpmath.mpf(2) ** 64
        assert abs(mpmath.cos(angle) - cos[0, j].item()) <= G1 and abs(mpmath.sin(angle) - sin[0, j].item()) <= G1
    assert (cos[0, near.index(0)], sin[0, near.index(0)]) == (1, 0)
    assert (cos[0, near.index(2**62)], sin[0, near.index(2**62)]) == (0, 1)
    assert (cos[0, near.index(-(2**63))], sin[0, near.index(-(2**63))]) == (-1, 0)


@pytest.mark.parametrize("shape", [(), (1,), (0,), (7,), (2, 5), (3, 1), (2, 0)], ids=str)
@pytest.mark.parametrize("planes", [1, 3, 48, 64, 600])
def test_shapes(shape: tuple[int, ...], planes: int):
    torch.manual_seed(1)
    turns_per_token = torch.randint(-(2**63), 2**63 - 1, (planes,))
    positions = torch.randint(-(2**31), 2**31, shape)
    cos, sin = made(positions, Constants(tuple(turns_per_token.tolist()), torch.int64))
    wanted = cos_sin_of_turns(positions[..., None] * turns_per_token, torch.float32)
    assert cos.shape == sin.shape == (*shape, planes) and cos.dtype == sin.dtype == torch.float32
    assert all((a - b).abs().max() <= 2**-24 for a, b in zip((cos, sin), wanted, strict=True) if a.numel())


def test_positions_that_are_views():
    positions = torch.arange(24).view(4, 6)
    words = Constants((2**55 + 12345, -(2**57)), torch.int64)
    for view in (positions[:, ::2], positions.T, positions[1, 2], positions[:1].expand(3, 6)):
        assert all(torch.equal(a, b) for a, b in zip(made(view, words), made(view.clone(), words), strict=True))


def test_F28_prefill_and_decoding_have_the_same_bits(launched: list):
    rope = RotaryEmbedding(128, device=DEVICE["triton"])
    whole = rope.cos_sin(70)
    for p in (0, 1, 31, 69):
        one = rope.cos_sin(torch.tensor([[p]], device=DEVICE["triton"]))
        assert all(torch.equal(a[0, 0], b[p]) for a, b in zip(one, whole, strict=True))
    assert len(launched) == 5


def test_who_takes_the_kernel(launched: list):
    """Static schemes with their factor do; another dtype, angles, xPos and lengths that matter take torch's operations."""
    device = DEVICE["triton"]
    yarn = scaling.YaRN(factor=4.0, original_max_position_embeddings=64)
    positions = torch.arange(9, device=device)
    cos, _ = RotaryEmbedding(32, scaling=yarn, device=device).cos_sin(positions)
    assert launched == [(9, 16)] and cos[0, 0].item() == pytest.approx(0.1 * 1.3862943611198906 + 1)
    RotaryEmbedding(32, scaling=yarn, device=device).cos_sin(positions, length=100)
    RotaryEmbedding(32, interpolation_factor=3.0, device=device).cos_sin(positions)
    assert len(launched) == 3
    dynamic = scaling.DynamicNTK(factor=2.0, original_max_position_embeddings=64)
    RotaryEmbedding(32, scaling=dynamic, device=device).cos_sin(positions, length=100)
    RotaryEmbedding(32, device=device).cos_sin(positions, torch.float64)
    RotaryEmbedding(32, device=device).cos_sin(positions, torch.bfloat16)
    RotaryEmbedding(32, angles="float32", device=device).cos_sin(positions)
    RotaryEmbedding(32, use_xpos=True, device=device).cos_sin(positions, role="query")
    torch.compile(lambda p: RotaryEmbedding(32, device=device).cos_sin(p), backend="eager")(positions)
    torch.func.vmap(RotaryEmbedding(32, device=device).cos_sin)(positions)
    with use_backend("eager"):
        RotaryEmbedding(32, device=device).cos_sin(positions)
    assert len(launched) == 3
    with use_backend("triton"):
        RotaryEmbedding(32, device=device).cos_sin(positions)
    assert len(launched) == 4


def test_each_plane_reads_its_coordinate():
    torch.manual_seed(0)
    turns_per_token = torch.randint(-(2**63), 2**63 - 1, (24,))
    positions, axes = torch.randint(-(2**31), 2**31, (3, 50, 3)), torch.randint(0, 3, (24,))
    words = Constants(tuple(turns_per_token.tolist()), torch.int64)
    found = gpu.cos_sin(positions.to(DEVICE["triton"]), words, ONE, Constants(tuple(axes.tolist()), torch.int64))
    assert found is not None
    for table, alone in zip(
        found, zip(*(made(positions[..., axis], words) for axis in range(3)), strict=True), strict=True
    ):
        wanted = torch.stack([alone[axis][..., plane] for plane, axis in enumerate(axes.tolist())], -1)
        assert torch.equal(table.cpu(), wanted)
