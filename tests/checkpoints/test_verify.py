"""The comparison of scores detects two exchanged rows in any tensor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("safetensors")
from safetensors.torch import save_file

from rotary.checkpoints.layout import Layout
from rotary.checkpoints.safetensors import File, read_header
from rotary.checkpoints.verify import compare_scores

CONFIG = {"model_type": "qwen3", "hidden_size": 16, "num_attention_heads": 4, "head_dim": 4, "rope_theta": 1e4}
LAYOUT = Layout(CONFIG)


def weights(stem: str, scale: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    projections = {f"{stem}.{role}_proj.weight": scale * torch.randn(16, 16, generator=generator) for role in "qk"}
    return projections | {f"{stem}.q_norm.weight": torch.rand(1, 1, 16, generator=generator)}


def converted(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors in interleaved pairing: each head of four channels is reordered as 0 2 1 3."""
    order = torch.arange(16).view(4, 2, 2).transpose(1, 2).flatten()
    return {name: t[..., order] if "norm" in name else t[order] for name, t in tensors.items()}


def difference(folder: Path, before: dict[str, Tensor], after: dict[str, Tensor]) -> tuple[int, float]:
    files: list[File] = []
    for name, tensors in (("before", before), ("after", after)):
        save_file({key: t.contiguous() for key, t in tensors.items()}, folder / f"{name}.safetensors")
        files.append(read_header(folder / f"{name}.safetensors"))
    rotated = [t for entry in files[0].entries if (t := LAYOUT.rotated(entry.name, entry.shape)) is not None]
    assert len(rotated) == len(before)
    return compare_scores(files[:1], files[1:], rotated, LAYOUT, "half", "interleaved")


def test_a_correct_conversion_has_no_difference_and_two_exchanged_rows_have_one(tmp_path: Path):
    before = weights("model.layers.0.self_attn")
    after = converted(before)
    layers, worst = difference(tmp_path, before, after)
    assert layers == 1 and worst < 1e-14
    for name, tensor in after.items():
        wrong = tensor.clone().flatten(0, 1) if "norm" not in name else tensor.clone().flatten()
        half = len(wrong) // 2
        wrong[half : half + 2] = wrong[half : half + 2].flip(0)
        assert difference(tmp_path, before, after | {name: wrong.view(tensor.shape)})[1] > 1e-3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["q_proj.weight", "k_proj.weight", "q_norm.weight"])
def test_a_value_that_is_not_finite_is_refused_by_the_name_of_its_tensor(name: str, value: float, tmp_path: Path):
    """No difference with it exceeds a tolerance, and max() passes NaN over: a wrong conversion would have no difference."""
    before = weights("model.layers.0.self_attn")
    name = f"model.layers.0.self_attn.{name}"
    before[name].view(-1)[3] = value
    for after in (converted(before), before):
        with pytest.raises(ValueError, match=f"{name} has values that are not finite"):
            difference(tmp_path, before, after)


def test_scores_that_overflow_are_refused(tmp_path: Path):
    before = {name: w.double() for name, w in weights("model.layers.0.self_attn", 1e30).items()}
    before = {name: w * 1e130 if "proj" in name else w for name, w in before.items()}
    with pytest.raises(ValueError, match="scores of model.layers.0.self_attn overflow float64"):
        difference(tmp_path, before, converted(before))


def test_an_error_in_a_tower_with_small_scores_is_not_hidden_by_one_with_large_scores(tmp_path: Path):
    """Both have a layer 0; scores of one are 1e24 times those of the other."""
    large, small = weights("model.layers.0.self_attn", 1e12), weights("draft.layers.0.self_attn")
    assert difference(tmp_path, large | small, converted(large | small))[0] == 2
    layers, worst = difference(tmp_path, large | small, converted(large) | small)
    assert layers == 2 and worst > 0.1
