"""torch.ops.rotary.rotate_and_store, called by name as exported programs do: what it writes, and what it refuses before it writes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rotary import fused

STORE = torch.ops.rotary.rotate_and_store.default
TABLE = [torch.randn(4, 5), torch.randn(4, 5)]
NORM = (1e-5, 0.0, False, False)
NONE = (None, 0.0, False, False)


def given(**changes: Any) -> dict[str, Any]:
    """The arguments in the order of the schema, each in memory of its own."""
    xs = [torch.randn(1, 3, 4, 10), torch.randn(1, 2, 4, 10)]
    return {
        "xs": xs,
        "outs": [torch.empty_like(x) for x in xs],
        "weights": [torch.randn(10), torch.randn(10)],
        "tables": [*TABLE, *(t.flip(0) for t in TABLE)],
        "v": torch.randn(1, 2, 4, 10),
        "cache_k": torch.zeros(1, 6, 2, 10),
        "cache_v": torch.zeros(1, 6, 2, 10),
        "slots": torch.tensor([[5, 0, -1, 2]]),
        "norm": NORM,
        "seq_dim": 2,
        "interleaved": False,
        **changes,
    }


def call(arguments: dict[str, Any]) -> Any:
    *tensors, norm, seq_dim, interleaved = arguments.values()
    return STORE(*tensors, *norm, seq_dim, interleaved)


@pytest.mark.parametrize("norm", [NORM, (0.1, 1.0, False, True), (0.1, 0.0, True, False), NONE], ids=str)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("alone", [False, True])
def test_what_it_writes_is_what_the_functions_write(norm: Any, interleaved: bool, alone: bool):
    one = given(norm=norm, interleaved=interleaved)
    names = ("eps", "weight_offset", "rounding", "after")
    how: dict[str, Any] = dict(zip(names, (*norm[:2], "model" if norm[2] else "once", norm[3]), strict=True))
    how |= {"q_weight": one["weights"][0], "k_weight": one["weights"][1]}
    cos, sin, key_cos, key_sin = one["tables"]
    q, k = one["xs"]
    if alone:
        for name, count in (("xs", 1), ("outs", 1), ("weights", 1), ("tables", 2)):
            one[name] = one[name][-count:]
        q, cos, sin = None, key_cos, key_sin
        how["q_weight"] = None
    caches = one["cache_k"].clone(), one["cache_v"].clone()
    function = fused.norm_rotate_and_store
    if norm is NONE:
        function, how = fused.rotate_and_store, {}
    where: dict[str, Any] = {"key_cos": key_cos, "key_sin": key_sin, "interleaved": interleaved}
    wanted = function(k, one["v"], cos, sin, *caches, one["slots"], q=q, **how, **where)
    versions = [t._version for t in one["outs"]]
    assert call(one) is None
    for out, y, version in zip(one["outs"], [t for t in wanted if t is not None], versions, strict=True):
        assert torch.equal(out, y) and out._version > version
    assert torch.equal(one["cache_k"], caches[0]) and torch.equal(one["cache_v"], caches[1])


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "outs of another shape": ({"outs": [torch.empty(1, 3, 4, 10), torch.empty(1, 2, 4, 8)]}, ValueError, "outs"),
    "outs of another dtype": ({"outs": [torch.empty(1, n, 4, 10).half() for n in (3, 2)]}, ValueError, "outs"),
    "too few outs": ({"outs": [torch.empty(1, 3, 4, 10)]}, ValueError, "outs"),
    "too few weights": ({"weights": [None]}, ValueError, "a weight or None for each tensor"),
    "a slot outside": ({"slots": torch.tensor([[5, 0, -1, 6]])}, ValueError, "got 6"),
    "a cache of another shape": ({"cache_v": torch.zeros(1, 6, 2, 8)}, ValueError, "cache_v must have shape"),
    "another axis": ({"seq_dim": 1}, ValueError, "rows|shape"),
    "a gradient of xs": (
        {"xs": [torch.ones(1, n, 4, 10, requires_grad=True) for n in (3, 2)]},
        RuntimeError,
        "no_grad",
    ),
    "a gradient of v": ({"v": torch.ones(1, 2, 4, 10, requires_grad=True)}, RuntimeError, "no_grad"),
    "a gradient of a table": (
        {"tables": [*TABLE, TABLE[0], TABLE[1].clone().requires_grad_()]},
        RuntimeError,
        "no_grad",
    ),
    "a gradient of a weight": ({"weights": [None, torch.ones(10, requires_grad=True)]}, RuntimeError, "no_grad"),
    "a gradient of outs": (
        {"outs": [torch.ones(1, n, 4, 10, requires_grad=True) for n in (3, 2)]},
        RuntimeError,
        "no_grad",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_refuses(name: str):
    changes, error, words = REFUSED[name]
    arguments = given(**changes)
    with pytest.raises(error, match=words):
        call(arguments)
    assert not arguments["cache_k"].any() and not arguments["cache_v"].any()


def test_memory_that_is_shared_is_refused():
    arguments = given()
    arguments["v"] = arguments["cache_k"][:, :4].transpose(1, 2)
    with pytest.raises(RuntimeError, match="cache_k and v share memory"):
        call(arguments)


def test_what_is_only_read_may_be_shared():
    """Keys as values, and one tensor as queries and keys: outs are memory of their own."""
    arguments = given()
    k = arguments["v"] = arguments["xs"][1]
    arguments["xs"], arguments["outs"] = [k, k], [torch.empty_like(k), torch.empty_like(k)]
    kept, before = arguments["slots"][0] >= 0, k.clone()
    call(arguments)
    assert torch.equal(k, before)
    assert torch.equal(arguments["cache_v"][0, arguments["slots"][0, kept]], k[0].transpose(0, 1)[kept])


@pytest.mark.parametrize("in_place", [False, True])
def test_compiled_it_is_the_function(in_place: bool):
    def write(given: dict[str, Any]) -> tuple[Tensor | None, Tensor]:
        (q, k), (cos, sin, *_) = given["xs"], given["tables"]
        caches = given["cache_k"], given["cache_v"]
        return fused.rotate_and_store(k, given["v"], cos, sin, *caches, given["slots"], q=q, inplace=in_place)

    first, second = given(), given()
    second["xs"], second["v"] = [x.clone() for x in first["xs"]], first["v"].clone()
    q, k = torch.compile(write, fullgraph=True, backend="aot_eager")(first)
    y, z = write(second)
    assert torch.equal(q, y) and torch.equal(k, z) and (q is first["xs"][0]) == (k is first["xs"][1]) == in_place
    assert torch.equal(first["cache_k"], second["cache_k"]) and torch.equal(first["cache_v"], second["cache_v"])
    wants = {**first, "v": first["v"].clone().requires_grad_()}
    with pytest.raises(RuntimeError, match="a gradient is wanted"):
        torch.compile(write, fullgraph=True, backend="aot_eager")(wants)
