"""Models whose tables are no rotations: by how much norms and differences of positions are broken, as the refusals say."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rotary.config import read

Turn = Callable[[Tensor, list[int]], Tensor]
"""(x (rows, channels), position) -> their rotation of the rows."""


def matrix(turn: Turn, dim: int, position: list[int]) -> Tensor:
    """What they multiply a head by at a position, (dim, dim): columns are the images of unit vectors."""
    return turn(torch.eye(dim, dtype=torch.float64), position).T


def broken(turn: Turn, dim: int, places: list[list[int]]) -> tuple[float, float]:
    """(largest |R R^T - 1|, largest change of R(a)^T R(b) when a and b move together), over some positions."""
    norms = max(float((m @ m.T - torch.eye(dim)).abs().max()) for m in (matrix(turn, dim, p) for p in places))
    moved = 0.0
    first, second = places[0], places[1]
    still = matrix(turn, dim, first).T @ matrix(turn, dim, second)
    for shift in places:
        a, b = ([x + s for x, s in zip(p, shift, strict=True)] for p in (first, second))
        moved = max(moved, float((matrix(turn, dim, a).T @ matrix(turn, dim, b) - still).abs().max()))
    return norms, moved


def vjepa(x: Tensor, position: list[int]) -> Tensor:
    from transformers.models.vjepa2.modeling_vjepa2 import rotate_queries_or_keys

    n = 2 * (x.shape[-1] // 3 // 2)
    parts = [
        rotate_queries_or_keys(x[None, None, :, i * n : (i + 1) * n], torch.full((1, 1, len(x)), p, dtype=x.dtype))[
            0, 0
        ]
        for i, p in enumerate(position)
    ]
    return torch.cat([*parts, x[:, 3 * n :]], -1)


def hunyuan(x: Tensor, position: list[int]) -> Tensor:
    """Four coordinates; its tables are recomposed at full width."""
    module = importlib.import_module("transformers.models.hunyuan_vl.modeling_hunyuan_vl")
    kind = module.HunYuanVLRotaryEmbedding
    rotary = kind.__new__(kind)
    torch.nn.Module.__init__(rotary)
    rotary.mrope_section = [16, 16, 16, 16]
    inv_freq = 10000.0 ** (-torch.arange(64, dtype=torch.float64) / 64)
    angles = torch.tensor(position, dtype=torch.float64)[:, None, None, None] * inv_freq
    cos, sin = (rotary.recomposition_frequencies(table)[0] for table in (angles.cos(), angles.sin()))
    return x * cos + module.rotate_half(x) * sin


CASES: dict[str, tuple[Turn, int, list[list[int]]]] = {
    "vjepa2": (vjepa, 64, [[0, 3, 5], [1, 0, 2], [2, 7, 11], [7, 15, 15]]),
    "hunyuan_vl": (hunyuan, 128, [[3, 0, 5, 1], [10, 2, 0, 1], [40, 7, 11, 1], [90, 15, 15, 1]]),
}


@pytest.mark.parametrize("name", CASES)
def test_norms_and_differences_are_broken_by_what_the_refusal_says(name: str):
    pytest.importorskip("transformers")
    norms, moved = broken(*CASES[name])
    with pytest.raises(ValueError, match="no rotation") as raised:
        read({"model_type": name if name == "vjepa2" else "hunyuan_vl_text"})
    figures = [float(number) for number in re.findall(r"by up to (\d\.\d+)", str(raised.value))]
    assert figures == [round(norms, 2), round(moved, 2)], (norms, moved)


def test_hunyuans_text_is_a_rotation():
    pytest.importorskip("transformers")
    norms, moved = broken(hunyuan, 128, [[3] * 4, [10] * 4, [90] * 4])
    assert norms <= 1e-14 and moved <= 1e-13


def test_ernie_image():
    """diffusers 0.42: angles of neighbours, halves of a head rotated."""
    pytest.importorskip("diffusers")
    module = importlib.import_module("diffusers.models.transformers.transformer_ernie_image")
    tables = module.ErnieImageEmbedND3(128, 256, (32, 48, 48))

    def turn(x: Tensor, position: list[int]) -> Tensor:
        angles = tables(torch.tensor([[position]], dtype=torch.float64))[0, 0, 0].double()
        first, second = x.chunk(2, -1)
        return x * angles.cos() + torch.cat((-second, first), -1) * angles.sin()

    norms, moved = broken(turn, 128, [[0, 3, 5], [1, 0, 2], [2, 7, 11], [7, 15, 15]])
    with pytest.raises(ValueError, match="no rotation") as raised:
        read({"_class_name": "ErnieImageTransformer2DModel"})
    figures = [float(number) for number in re.findall(r"by up to (\d\.\d+)", str(raised.value))]
    assert figures == [round(norms, 2), round(moved, 2)], (norms, moved)


def test_a_rotation_passes_the_same_measure():
    from rotary import RotaryEmbedding

    rope = RotaryEmbedding.axial(20, 20, 20)

    def turn(x: Tensor, position: list[int]) -> Tensor:
        return rope.rotate(x, positions=torch.tensor([position]).expand(len(x), -1))

    norms, moved = broken(turn, 60, [[0, 3, 5], [1, 0, 2], [2, 7, 11], [7, 15, 15]])
    assert norms <= 1e-14 and moved <= 1e-13
