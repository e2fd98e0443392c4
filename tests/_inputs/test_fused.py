"""The borders of the arguments of rotary.fused: what is just accepted, what is just refused, and how it is passed on.

tests/test_fused.py has the calls of users; here are the numbers next to each limit.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rotary._fused.work import Norm
from rotary._inputs.fused import check_values, for_norm, for_norm_operator, for_store

X = torch.randn(1, 2, 3, 10)
W = torch.randn(10)
GIVEN = {
    "q": X,
    "k": X,
    "q_weight": W,
    "k_weight": W,
    "eps": 1e-5,
    "weight_offset": 0.0,
    "rounding": "once",
    "after": False,
}


@pytest.mark.parametrize(
    ("changes", "norm"),
    [
        ({}, Norm(1e-5, 0.0, False, False)),
        ({"rounding": "model"}, Norm(1e-5, 0.0, True, False)),
        ({"after": True}, Norm(1e-5, 0.0, False, True)),
        ({"weight_offset": -1}, Norm(1e-5, -1.0, False, False)),
        ({"weight_offset": 1.0, "q_weight": None}, Norm(1e-5, 1.0, False, False)),
        ({"weight_offset": 1.0, "k_weight": None}, Norm(1e-5, 1.0, False, False)),
        ({"eps": 1}, Norm(1.0, 0.0, False, False)),
        ({"eps": 2.0**-149}, Norm(2.0**-149, 0.0, False, False)),
        ({"q": None, "q_weight": "not read"}, Norm(1e-5, 0.0, False, False)),
        (
            {"q": X.double(), "k": X.double(), "q_weight": None, "k_weight": None, "eps": 1e-300},
            Norm(1e-300, 0, False, False),
        ),
    ],
)
def test_numbers_that_are_accepted(changes: dict[str, Any], norm: Norm):
    result = for_norm(**{**GIVEN, **changes})
    assert result == norm and [type(value) for value in result] == [float, float, bool, bool]


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"eps": 2.0**-150}, ValueError, "is 0 in float32, in which torch.float32 is normalised: use 1.4e-45 or more"),
        ({"eps": float("inf")}, ValueError, "eps must be a finite number > 0, got inf"),
        ({"eps": True}, TypeError, "eps"),
        ({"weight_offset": float("nan")}, ValueError, "weight_offset must be a finite number"),
        ({"weight_offset": "1"}, TypeError, "weight_offset"),
        ({"weight_offset": 0.5, "rounding": "model"}, ValueError, "rounds before the weight"),
        ({"k_weight": torch.ones(30)}, ValueError, "heads x head_dim = 30 channels"),
        (
            {"k_weight": torch.ones(15)},
            ValueError,
            r"shape \(15,\), k \(1, 2, 3, 10\) has head_dim 10: one weight of shape",
        ),
        ({"k_weight": torch.ones(1)}, ValueError, "one weight of shape"),
        ({"k_weight": torch.ones(20, 1)}, ValueError, "one weight of shape"),
        ({"k_weight": torch.ones(())}, ValueError, "one weight of shape"),
        ({"k_weight": torch.ones(10).to_sparse()}, TypeError, "k_weight"),
    ],
)
def test_numbers_that_are_refused(changes: dict[str, Any], error: type[Exception], words: str):
    with pytest.raises(error, match=words):
        for_norm(**{**GIVEN, **changes})


def test_an_operator_takes_a_weight_or_none_for_each_tensor():
    assert for_norm_operator([X], [W], 1e-5, 0.0, True, False) == Norm(1e-5, 0.0, True, False)
    assert for_norm_operator([X, X], [None, W], 1e-5, 1.0, False, True) == Norm(1e-5, 1.0, False, True)
    for xs, weights in (([X, X], [W]), ([X], [W, W])):
        with pytest.raises(ValueError, match=f"got {len(weights)} for {len(xs)}"):
            for_norm_operator(xs, weights, 1e-5, 0.0, False, False)
    with pytest.raises(ValueError, match="q_weight has shape"):
        for_norm_operator([X, X], [W[:5], W], 1e-5, 0.0, False, False)
    with pytest.raises(ValueError, match="k_weight has shape"):
        for_norm_operator([X], [W[:5]], 1e-5, 0.0, False, False)


def stored(k: Tensor, axis: int, **changes: Any) -> Any:
    batch, seq = (1, k.shape[axis]) if k.ndim == 3 else (k.shape[0], k.shape[axis])
    heads = k.shape[-3 if axis == k.ndim - 2 else -2]
    given = {"v": k, "slots": torch.arange(batch * seq).view(batch, seq)}
    given |= {name: torch.zeros(4, 3, heads, 10) for name in ("cache_k", "cache_v")}
    return for_store(k, **{**given, **changes}, axis=axis)


@pytest.mark.parametrize(
    ("shape", "axis"), [((2, 3, 4, 10), 2), ((2, 4, 3, 10), 1), ((8, 3, 10), 0), ((3, 8, 10), 1)], ids=str
)
def test_layouts_that_are_stored(shape: tuple[int, ...], axis: int):
    k = torch.randn(shape)
    result = stored(k, axis)
    assert result.values.shape[2:] == (3, 10) and result.values.shape[:2] == result.slots.shape
    for slots in (torch.arange(8).to(torch.int16), torch.arange(8).to(torch.uint8), torch.arange(8, dtype=torch.int32)):
        again = stored(k, axis, slots=slots).slots
        assert again.dtype == (torch.int32 if slots.dtype == torch.int32 else torch.int64), "all that kernels read"
        assert torch.equal(again, result.slots.to(again.dtype))
    values = stored(k, axis, v=k[..., :4], cache_v=torch.zeros(4, 3, 3, 4)).values
    assert values.shape == (*result.values.shape[:3], 4)
    for name in ("v", "cache_k", "cache_v"):
        with pytest.raises(TypeError, match=f"{name} is torch.float64, k is torch.float32"):
            stored(k, axis, **{name: torch.zeros(4, 3, 3, 10).double()})
        with pytest.raises(ValueError, match=f"{name} on meta, k on cpu"):
            stored(k, axis, **{name: torch.zeros(4, 3, 3, 10, device="meta")})
    with pytest.raises(ValueError, match="slots on meta, the cache on cpu"):
        stored(k, axis, slots=torch.zeros(8, dtype=torch.int64, device="meta"))


@pytest.mark.parametrize(("shape", "axis"), [((2, 3, 4, 10), 0), ((4, 10), 0), ((1, 1, 2, 3, 10), 3)], ids=str)
def test_layouts_that_are_not_stored(shape: tuple[int, ...], axis: int):
    k, cache = torch.randn(shape), torch.zeros(4, 3, 3, 10)
    with pytest.raises(ValueError, match=f"seq_dim {axis} cannot be stored"):
        for_store(k, k, cache, cache.clone(), torch.arange(8), axis)


@pytest.mark.parametrize("cache", [(4, 3, 10), (4, 3, 3, 8), (4, 2, 2, 10), (1, 4, 3, 3, 10)], ids=str)
@pytest.mark.parametrize("name", ["cache_k", "cache_v"])
def test_caches_that_do_not_fit(name: str, cache: tuple[int, ...]):
    with pytest.raises(ValueError, match=rf"{name} must have shape \(pages, page, 3, 10\)") as caught:
        stored(torch.randn(1, 3, 2, 10), 2, **{name: torch.zeros(cache)})
    assert "transpose" not in str(caught.value)
    with pytest.raises(ValueError, match=rf"passed as {name}.transpose\(1, 2\)"):
        stored(torch.randn(1, 3, 2, 10), 2, **{name: torch.zeros(4, 3, 7, 10)})
    with pytest.raises(ValueError, match="the same pages of the same length"):
        stored(torch.randn(1, 3, 2, 10), 2, **{name: torch.zeros(5, 3, 3, 10)})


def test_slots_on_a_device_are_not_read():
    """Reading them would wait for the device at every token."""
    k, cache = torch.randn(1, 3, 2, 10, device="meta"), torch.zeros(4, 3, 3, 10, device="meta")
    slots = torch.zeros(2, dtype=torch.int64, device="meta")
    assert for_store(k, k, cache, cache, slots, 2).slots.shape == (1, 2)


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 200])
def test_slots_few_and_many(count: int):
    slots = torch.arange(count).flip(0)
    check_values(slots, max(count, 1))
    check_values(torch.full((count,), -1), 0)
    if not count:
        return
    for slot, got in ((count, count), (-2, -2)):
        wrong = slots.clone()
        wrong[count // 2] = slot
        with pytest.raises(ValueError, match=rf"must lie in 0 .. {count - 1}, .* got {got}$"):
            check_values(wrong, count)
    if count > 2:
        wrong, lowest = slots.clone(), slots.clone()
        wrong[1], lowest[-2] = slots[2], 0
        wrong[0] = wrong[-1] = -1
        for values, twice in ((wrong, int(slots[2])), (lowest, 0)):
            with pytest.raises(ValueError, match=rf"slot {twice} is given twice"):
                check_values(values.view(1, -1), count)
