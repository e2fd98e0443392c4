"""Frequencies found in old checkpoints: accepted where they agree, refused by name and value where they do not."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from rotary import RotaryEmbedding
from rotary._buffers import disagreement


def mirrors(rope: RotaryEmbedding) -> bool:
    fresh = copy.deepcopy(rope)
    fresh.reset_parameters()
    return torch.equal(fresh.inv_freq, rope.inv_freq) and torch.equal(fresh.scale, rope.scale)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("assign", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_legacy_keys_that_agree(strict: bool, assign: bool, dtype: torch.dtype):
    rope = RotaryEmbedding(64, use_xpos=True)
    before = rope.cos_sin(9, role="key")
    held = {"inv_freq": rope.inv_freq.to(dtype), "scale": rope.scale.to(dtype)}
    rope.load_state_dict(held, strict=strict, assign=assign)
    assert len(held) == 2 and torch.equal(rope.cos_sin(9, role="key")[0], before[0])
    assert mirrors(rope)
    parent = nn.ModuleDict({"layer": nn.ModuleDict({"rope": rope})})
    parent.load_state_dict({f"layer.rope.{name}": value for name, value in held.items()}, strict=strict, assign=assign)
    assert mirrors(rope)


def test_legacy_keys_made_by_other_arithmetic_agree():
    theirs = 1.0 / (500000.0 ** (torch.arange(0, 128, 2).float() / 128))
    ours = RotaryEmbedding(128, base=500000.0)
    assert not torch.equal(theirs, ours.inv_freq)
    ours.load_state_dict({"inv_freq": theirs})


@pytest.mark.parametrize("strict", [True, False])
def test_legacy_keys_that_do_not_agree_are_refused_by_name_and_value(strict: bool):
    theirs, rope = RotaryEmbedding(64), RotaryEmbedding(64, base=500000)
    with pytest.raises(RuntimeError, match=r"inv_freq.*0\.74989.*0\.6636"):
        rope.load_state_dict({"inv_freq": theirs.inv_freq}, strict=strict)
    with pytest.raises(RuntimeError, match=r"model\.rope\.inv_freq"):
        nn.ModuleDict({"model": nn.ModuleDict({"rope": rope})}).load_state_dict(
            {"model.rope.inv_freq": theirs.inv_freq}, strict=strict
        )
    near = theirs.inv_freq.clone()
    near[5] *= 1 + 2.0**-19
    with pytest.raises(RuntimeError, match="entry 5"):
        theirs.load_state_dict({"inv_freq": near}, strict=strict)
    near[5] = float("nan")
    with pytest.raises(RuntimeError, match="nan"):
        theirs.load_state_dict({"inv_freq": near}, strict=strict)
    with pytest.raises(RuntimeError, match=r"\(16,\)"):
        theirs.load_state_dict({"inv_freq": near[:16]}, strict=strict)
    with pytest.raises(RuntimeError, match="use_xpos=False"):
        theirs.load_state_dict({"scale": torch.ones(32)}, strict=strict)
    with pytest.raises(RuntimeError, match="int64"):
        theirs.load_state_dict({"inv_freq": torch.ones(32, dtype=torch.int64)}, strict=strict)


def test_other_keys_are_still_unexpected():
    with pytest.raises(RuntimeError, match="Unexpected"):
        RotaryEmbedding(64).load_state_dict({"angles": torch.ones(32)})


def test_what_has_no_values_cannot_disagree():
    assert disagreement(torch.ones(2, device="meta"), (1.0, 0.5)) is None
    assert "(3,)" in (disagreement(torch.ones(3, device="meta"), (1.0, 0.5)) or "")
    assert "str" in (disagreement("inv_freq", (1.0, 0.5)) or "")


def test_the_tolerance_is_two_to_the_minus_21():
    values = (1.0, 0.5)
    assert disagreement(torch.tensor([1 + 2.0**-21, 0.5]), values) is None
    assert disagreement(torch.tensor([1 + 2.0**-20.5, 0.5]), values) is not None
    assert disagreement(torch.tensor([1.0, 0.5 - 2.0**-21.5]), values) is not None
    one = torch.tensor([1.0, 0.5], dtype=torch.bfloat16)
    assert disagreement(one, (1 + 2.0**-9, 0.5)) is None
    assert disagreement(one, (1 + 2.0**-7, 0.5)) is not None
