"""The rotation and write into a cache: every pair of memories that may not be shared, and where nothing may be stored at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from rotary import use_backend
from rotary._fused import backends, storing
from rotary._fused.work import Norm, Store

NORM = Norm(1e-5, 0.0, False, False)
TABLE = torch.randn(3, 4), torch.randn(3, 4)


def given() -> dict[str, Tensor]:
    """q and k (tokens, heads, head_dim), v and caches as they are stored, in separate memory."""
    return {
        "q": torch.randn(3, 2, 8),
        "k": torch.randn(3, 2, 8),
        "v": torch.randn(1, 3, 2, 8),
        "cache_k": torch.zeros(1, 6, 2, 8),
        "cache_v": torch.zeros(1, 6, 2, 8),
        "slots": torch.tensor([[4, -1, 0]]),
    }


def store(tensors: dict[str, Tensor], *, in_place: bool = False, norm: Norm | None = None, **changes: Any) -> Any:
    t = {**tensors, **changes}
    stored = Store(t["v"], t["cache_k"], t["cache_v"], t["slots"])
    weights = t.get("q_weight"), t.get("k_weight")
    tables = t.get("table", TABLE), TABLE
    return storing.store(
        (t["q"], t["k"]), weights, tables, norm, stored, seq_dim=0, interleaved=False, in_place=in_place
    )


@pytest.mark.parametrize("norm", [None, NORM])
@pytest.mark.parametrize("in_place", [False, True])
def test_rotated_and_stored(norm: Norm | None, in_place: bool):
    tensors = given()
    before = {name: t.clone() for name, t in tensors.items()}
    q, k = store(tensors, in_place=in_place, norm=norm)
    assert (q is tensors["q"] and k is tensors["k"]) == in_place
    assert in_place or all(torch.equal(tensors[name], before[name]) for name in "qk")
    for x, y in (("q", q), ("k", k)):
        a, b = before[x].chunk(2, -1)
        cos, sin = (t[:, None] for t in TABLE)
        r = torch.rsqrt(before[x].square().mean(-1, keepdim=True) + 1e-5) if norm else 1.0
        torch.testing.assert_close(y, torch.cat((a * cos - b * sin, b * cos + a * sin), -1) * r)
    assert torch.equal(tensors["cache_k"][0, [4, 0]], k[[0, 2]])
    assert torch.equal(tensors["cache_v"][0, [4, 0]], before["v"][0, [0, 2]])
    assert int(tensors["cache_k"].any(-1).sum()) == int(tensors["cache_v"].any(-1).sum()) == 4


PAIRS: dict[tuple[str, str], tuple[bool, str]] = {
    ("cache_v", "cache_k"): (False, "cache_v and cache_k share memory"),
    ("v", "cache_k"): (False, "cache_k and v share memory"),
    ("v", "cache_v"): (False, "cache_v and v share memory"),
    ("q", "cache_k"): (False, "cache_k and q share memory"),
    ("q", "cache_v"): (False, "cache_v and q share memory"),
    ("k", "cache_k"): (False, "cache_k and k share memory"),
    ("k", "cache_v"): (False, "cache_v and k share memory"),
    ("v", "q"): (True, "v shares memory with what is rotated in place"),
    ("v", "k"): (True, "v shares memory with what is rotated in place"),
    ("k", "q"): (True, "q and k share memory"),
}


@pytest.mark.parametrize(("pair", "in_place_only", "words"), [(k, *v) for k, v in PAIRS.items()], ids=str)
@pytest.mark.parametrize("in_place", [False, True])
def test_memory_that_is_written_is_no_other_s(pair: tuple[str, str], in_place_only: bool, words: str, in_place: bool):
    tensors = given()
    first, second = pair
    shape = tensors[first].shape
    tensors[first] = tensors[second].flatten()[: shape.numel()].view(shape)
    before = {name: t.clone() for name, t in tensors.items()}
    if in_place_only and not in_place:
        store(tensors)
        return
    with pytest.raises(RuntimeError, match=words):
        store(tensors, in_place=in_place)
    assert all(torch.equal(tensors[name], t) for name, t in before.items()), "before anything is written"


@pytest.mark.parametrize("name", ["cache_k", "cache_v"])
def test_caches_that_cannot_be_written(name: str):
    with pytest.raises(RuntimeError, match=rf"{name} requires a gradient, and a cache has none: pass {name}.detach"):
        store(given(), **{name: torch.zeros(1, 6, 2, 8, requires_grad=True)})
    with pytest.raises(RuntimeError, match=rf"{name} with shape \(1, 6, 2, 8\) and strides .* overlaps itself"):
        store(given(), **{name: torch.zeros(1, 1, 2, 8).expand(1, 6, 2, 8)})


WANTS: dict[str, Callable[[], Tensor | tuple[Tensor, Tensor]]] = {
    "q": lambda: torch.randn(3, 2, 8, requires_grad=True),
    "k": lambda: torch.randn(3, 2, 8, requires_grad=True),
    "v": lambda: torch.randn(1, 3, 2, 8, requires_grad=True),
    "q_weight": lambda: torch.randn(8, requires_grad=True),
    "k_weight": lambda: torch.randn(8, requires_grad=True),
    "table": lambda: (TABLE[0], TABLE[1].clone().requires_grad_()),
}


@pytest.mark.parametrize("name", WANTS)
def test_nothing_is_stored_where_a_gradient_is_wanted(name: str):
    tensors = given()
    with pytest.raises(RuntimeError, match="what a cache holds carries none"):
        store(tensors, norm=NORM, **{name: WANTS[name]()})
    assert not tensors["cache_k"].any() and not tensors["cache_v"].any()
    with torch.no_grad():
        store(tensors, norm=NORM, **{name: WANTS[name]()})
    assert tensors["cache_k"].any() and tensors["cache_v"].any()


def test_nothing_is_stored_under_a_transform_forward_mode_or_fake_tensors():
    tensors = given()
    with pytest.raises(RuntimeError, match="under torch.func transforms"):
        torch.func.vmap(lambda q: store(tensors, q=q))(tensors["q"][None])
    with torch.autograd.forward_ad.dual_level(), pytest.raises(RuntimeError, match="forward-mode"):
        store(tensors)
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(RuntimeError, match="fake tensors"):
        store(tensors)
    assert not tensors["cache_k"].any() and not tensors["cache_v"].any()


def test_the_chosen_backend_stores(monkeypatch: pytest.MonkeyPatch):
    ran: list[str | None] = []
    run = backends.run
    monkeypatch.setattr(backends, "run", lambda name, *rest: (ran.append(name), run(name, *rest)))
    store(given())
    with use_backend("eager"):
        store(given())
    assert ran == [None, "eager"]


@pytest.mark.parametrize("in_place", [False, True])
def test_on_the_meta_device_shapes_go_through_and_nothing_is_stored(in_place: bool):
    """All addresses are 0 there: two caches were said to share memory."""
    tensors = {name: t.to("meta") for name, t in given().items()}
    table = tuple(t.to("meta") for t in TABLE)
    stored = Store(tensors["v"], tensors["cache_k"], tensors["cache_v"], tensors["slots"])
    q, k = storing.store(
        (tensors["q"], tensors["k"]),
        (None, None),
        (table, table),
        None,
        stored,
        seq_dim=0,
        interleaved=False,
        in_place=in_place,
    )
    assert q.is_meta and k.shape == tensors["k"].shape and (k is tensors["k"]) == in_place
