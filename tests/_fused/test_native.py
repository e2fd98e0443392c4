"""The CPU kernel of norm, rotation and write apart from its arithmetic: unserved tensors, and writes that autograd must see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rotary._fused import eager, native
from rotary._fused.work import Norm, Store, by_token

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))
NORM = Norm(1e-5, 0.0, False, False)
COS, SIN = torch.randn(2, 5, 4)
HOW: dict[str, Any] = {"seq_dim": 1, "interleaved": False}


def forward(x: Tensor, cos: Tensor = COS, sin: Tensor = SIN, weight: Tensor | None = None, **how: Any) -> str | None:
    return native.norm_rotate((x,), (torch.empty_like(x),), (weight,), ((cos, sin),), NORM, **{**HOW, **how})


def backward(x: Tensor, cos: Tensor = COS, sin: Tensor = SIN, weight: Tensor | None = None, **how: Any) -> str | None:
    grad, of_x = torch.ones(x.shape, dtype=x.dtype, device=x.device), torch.empty_like(x)
    of_weight = None if weight is None else torch.empty(x.shape[-1])
    return native.norm_rotate_backward(
        (grad,), (x,), (of_x,), (of_weight,), (weight,), ((cos, sin),), NORM, **{**HOW, **how}
    )


def without_memory() -> Tensor:
    x = torch.randn(2, 5, 3, 8)
    x.untyped_storage().resize_(0)
    return x


def unaligned() -> Tensor:
    return torch.frombuffer(bytearray(4 * 240 + 2), dtype=torch.float32, offset=2).view(2, 5, 3, 8)


NOT_SERVED: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "channels with steps": (lambda: {"x": torch.randn(2, 5, 3, 16)[..., ::2]}, "channels of a tensor are not adjacent"),
    "columns with steps": (lambda: {"cos": torch.randn(5, 8)[:, ::2]}, "columns of a table are not adjacent"),
    "seventeen dimensions": (lambda: {"x": torch.randn(*[1] * 15, 5, 8), "seq_dim": 15}, "more than 16 dimensions"),
    "no alignment": (lambda: {"x": unaligned()}, "not aligned to its elements"),
    "no memory": (lambda: {"x": without_memory()}, "a tensor without memory"),
    "an axis beside the dimensions": (lambda: {"seq_dim": 7}, "a rank, an axis or a size that does not fit"),
    "a wide head": (lambda: {"x": torch.randn(2, 5, 1025)}, "more than 1024 channels"),
    "integers": (lambda: {"x": torch.ones(2, 5, 3, 8, dtype=torch.int32)}, "no loop for torch.int32"),
    "another device": (lambda: {"x": torch.ones(2, 5, 3, 8, device="meta")}, "tensors on meta"),
}


@pytest.mark.parametrize("name", NOT_SERVED)
@pytest.mark.parametrize("call", [forward, backward])
def test_what_is_not_served_has_its_reason(call: Callable[..., str | None], name: str):
    make, reason = NOT_SERVED[name]
    given = {"x": torch.randn(2, 5, 3, 8), **make()}
    result = call(**given)
    assert result is not None and reason in result
    assert call(torch.randn(2, 5, 3, 8)) is None


def test_an_unavailable_library_serves_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(native, "unavailable", lambda: "it is off")
    assert forward(torch.randn(2, 5, 3, 8)) == backward(torch.randn(2, 5, 3, 8)) == "it is off"


@pytest.mark.parametrize("norm", [None, NORM])
def test_what_is_not_served_is_not_stored(norm: Norm | None):
    k = torch.randn(2, 5, 3, 16)[..., ::2]
    store = Store(k, torch.zeros(2, 5, 3, 8), torch.zeros(2, 5, 3, 8), torch.arange(10).view(2, 5))
    done = native.rotate_and_store((k,), (torch.empty(2, 5, 3, 8),), (None,), ((COS, SIN),), norm, store, **HOW)
    assert done is not None and not store.cache_k.any() and not store.cache_v.any()


def test_an_error_of_the_pool_is_raised():
    with pytest.raises(RuntimeError, match="torch's thread pool reported an error"):
        native._status(-1)
    assert native._status(0) is None and [native._status(i + 1) for i in range(8)] == list(native._REASONS)


@pytest.mark.parametrize("inference", [False, True])
def test_a_write_in_place_is_seen_by_autograd(inference: bool):
    with torch.inference_mode(inference):
        q, k = torch.randn(2, 2, 5, 3, 8).unbind()
        k = k.clone()
        versions = [0, 0] if inference else [q._version, k._version]
        for outs in ((torch.empty_like(q), torch.empty_like(k)), (q, k)):
            assert native.norm_rotate((q, k), outs, (None, None), ((COS, SIN),) * 2, NORM, **HOW) is None
            if not inference:
                assert (q._version > versions[0]) == (k._version > versions[1]) == (outs[0] is q)


@pytest.mark.parametrize("rows", [0, 1, 63, 64, 65, 129])
@pytest.mark.parametrize("wanted", [(True, True), (True, False), (False, True), (False, False)])
def test_gradients_of_the_wanted_weights_over_chunks_of_rows(rows: int, wanted: tuple[bool, bool]):
    xs = torch.randn(rows, 8), torch.randn(rows, 8)
    grads, weights = (torch.randn(rows, 8), torch.randn(rows, 8)), (torch.randn(16)[::2], torch.randn(8))
    tables = ((torch.randn(rows, 4), torch.randn(rows, 4)),) * 2
    result = []
    for kernel in (native, eager):
        of_xs = tuple(torch.full_like(x, torch.nan) for x in xs)
        of_weights = tuple(torch.full((8,), torch.nan) if want else None for want in wanted)
        done = kernel.norm_rotate_backward(
            grads, xs, of_xs, of_weights, weights, tables, NORM, seq_dim=0, interleaved=False
        )
        assert done is None
        result.append([*of_xs, *(t for t in of_weights if t is not None)])
    assert all(torch.equal(a, b) for a, b in zip(*result, strict=True))


@pytest.mark.parametrize("stepped", ["cache_k", "cache_v", "values", None])
@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("kernel", [native, eager])
def test_values_and_caches_with_steps_between_channels(kernel: Any, stepped: str | None, width: int):
    """Those that the loops do not read are written by torch, and one channel has no step."""
    k = torch.randn(5, 3, 8)
    parts = {
        "values": torch.randn(5, 3, width),
        "cache_k": torch.zeros(2, 4, 3, 8),
        "cache_v": torch.zeros(2, 4, 3, width),
    }
    if stepped is not None:
        t = parts[stepped]
        parts[stepped] = torch.stack((t, t), -1).flatten(-2)[..., ::2]
    slots = torch.tensor([[7, -1, 0, 2, 5]])
    store = Store(by_token(parts["values"], 0), parts["cache_k"], parts["cache_v"], slots)
    versions = store.cache_k._version, store.cache_v._version
    out = torch.empty_like(k)
    how: dict[str, Any] = {"seq_dim": 0, "interleaved": False}
    assert kernel.rotate_and_store((k,), (out,), (None,), ((COS, SIN),), None, store, **how) is None
    assert store.cache_k._version > versions[0] and store.cache_v._version > versions[1]
    kept = [0, 2, 3, 4]
    for cache, x in ((store.cache_k, out), (store.cache_v, parts["values"])):
        assert torch.equal(cache.flatten(0, 1)[slots[0, kept]], x[kept]) and not cache.flatten(0, 1)[[1, 3, 4, 6]].any()
