"""Layers of the kernels hub: alone, by their tables, and in the place of functions of many kinds."""

from __future__ import annotations

import copy
import gc
import importlib
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rotary import RotaryEmbedding
from rotary.transformers import layers
from rotary.transformers.layers import apply_rotary_transformers, apply_rotary_transformers_one

kernels = pytest.importorskip("kernels")

SEQ, DIM = 7, 16


def double(cos: Tensor, interleaved: bool = False) -> Tensor:
    return cos.repeat_interleave(2, -1) if interleaved else torch.cat((cos, cos), -1)


def angles(dim: int = DIM, seq: int = SEQ, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.outer(torch.arange(seq, dtype=dtype), 100.0 ** (-torch.arange(dim // 2, dtype=dtype) / 4))


def turned(x: Tensor, a: Tensor, interleaved: bool = False) -> Tensor:
    """By complex numbers in float64: the judge, which shares no line with the layers. a: (..., seq, planes) [rad]."""
    x = x.double()
    dim = 2 * a.shape[-1]
    first, second = (x[..., 0:dim:2], x[..., 1:dim:2]) if interleaved else (x[..., : dim // 2], x[..., dim // 2 : dim])
    z = torch.complex(first, second) * torch.polar(torch.ones_like(a), a)
    y = torch.stack((z.real, z.imag), -1).flatten(-2) if interleaved else torch.cat((z.real, z.imag), -1)
    return torch.cat((y, x[..., dim:]), -1)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("head_dim", [DIM, DIM + 6])
@pytest.mark.parametrize("axis", [1, 2])
def test_a_layer_goes_by_its_tables(interleaved: bool, head_dim: int, axis: int):
    a = angles(dtype=torch.float64)
    cos, sin = (double(t, interleaved)[None].float() for t in (a.cos(), a.sin()))
    q, k = torch.randn(2, 4, SEQ, head_dim), torch.randn(2, 2, SEQ, head_dim)
    given = (q, k) if axis == 1 else (q.transpose(1, 2), k.transpose(1, 2))
    ys = apply_rotary_transformers()(*given, cos, sin, axis)
    for x, y in zip((q, k), ys, strict=True):
        assert (y if axis == 1 else y.transpose(1, 2)).sub(turned(x, a, interleaved)).abs().max() < 1e-6


def test_queries_alone():
    a = angles(dtype=torch.float64)
    cos, sin, q = double(a.cos()).float(), double(a.sin()).float(), torch.randn(2, 4, SEQ, DIM)
    y = apply_rotary_transformers_one()(q, cos[None], sin[None])
    assert (y - turned(q, a)).abs().max() < 1e-6
    both = apply_rotary_transformers()(q, None, cos[None], sin[None])
    assert torch.equal(both[0], y) and both[1] is None


@pytest.mark.parametrize("interleaved", [False, True])
def test_gradients_are_the_adjoint(interleaved: bool):
    a = angles(dtype=torch.float64)
    cos, sin = (double(t, interleaved)[None] for t in (a.cos(), a.sin()))
    q, k = (torch.randn(1, 2, SEQ, DIM, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda q, k: apply_rotary_transformers()(q, k, cos, sin), (q, k))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(dtype: torch.dtype):
    a = angles(dtype=torch.float64)
    cos, sin, q = double(a.cos()).float(), double(a.sin()).float(), torch.randn(1, 2, SEQ, DIM).to(dtype)
    y = apply_rotary_transformers_one()(q, cos[None], sin[None])
    assert y.dtype == dtype
    assert (y.double() - turned(q, a)).abs().max() <= turned(q, a).abs().max() * torch.finfo(dtype).eps


def test_tables_that_say_no_pairing_are_refused():
    cos, sin, q = torch.rand(1, SEQ, DIM), torch.rand(1, SEQ, DIM), torch.randn(1, 2, SEQ, DIM)
    with pytest.raises(ValueError, match=r"cos \(1, 7, 16\) and sin are equal.*apply_rotary_qk"):
        apply_rotary_transformers()(q, q, cos, sin)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"cos": 1}, TypeError, "cos must be a floating tensor, got"),
        (
            {"q": torch.ones(1, 2, SEQ, DIM, dtype=torch.int64)},
            TypeError,
            "q must be a floating tensor, got Tensor int64",
        ),
        ({"cos": torch.ones(1, SEQ, DIM + 2)}, ValueError, r"\(1, 7, 18\) and \(1, 7, 16\)"),
        ({"q": torch.ones(1, 2, SEQ + 1, DIM)}, ValueError, r"do not go with Tensor float32 \(1, 2, 8, 16\)"),
        ({"q": torch.ones(1, 2, SEQ, DIM - 2)}, ValueError, "16 channels do not go with"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], error: type[Exception], message: str):
    arguments = {
        "q": torch.ones(1, 2, SEQ, DIM),
        "k": None,
        "cos": torch.ones(1, SEQ, DIM),
        "sin": torch.ones(1, SEQ, DIM),
    }
    with pytest.raises(error, match=message):
        apply_rotary_transformers()(**(arguments | change))


def test_the_hub_accepts_the_classes():
    """No constructor, no members but two flags, the signature of the decorated function: as kernels checks it itself."""
    from kernels.layer.layer import _create_func_module, _validate_layer

    def two(q, k, cos, sin, unsqueeze_dim=1): ...
    def one(x, cos, sin, unsqueeze_dim=1): ...

    for function, layer in ((two, apply_rotary_transformers), (one, apply_rotary_transformers_one)):
        _validate_layer(check_cls=_create_func_module(function), cls=layer, repo="here")


def family(name: str) -> Callable[..., Any]:
    module = importlib.import_module(f"transformers.models.{name}.modeling_{name}")
    function = module.apply_rotary_pos_emb
    return getattr(function, "__wrapped__", function)


class Holder(nn.Module):
    """A module with a decorated function, as transformers attaches it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self._kernel_funcs = {"apply": kernels.use_kernel_forward_from_hub("rotary_pos_emb")(function)}

    def forward(self, *arguments: Any) -> Any:
        return self._kernel_funcs["apply"](*arguments)


def kernelized(function: Callable[..., Any], mode: Any = None, **how: Any) -> tuple[Holder, Any]:
    from rotary.transformers import use_kernels

    holder = Holder(function)
    with use_kernels(**how):
        kernels.kernelize(holder, mode=mode or kernels.Mode.TRAINING, device="cpu")
    return holder, holder._kernel_funcs["apply"]


# One of each kind that transformers decorates under this one name: the common one, tables in float32, no rotate_half of its own with
# tables of half width, and the opposite direction.
@pytest.mark.parametrize("name", ["llama", "olmo2", "gpt_oss", "nanochat", "modernbert"])
def test_a_family_keeps_its_function(name: str):
    function = family(name)
    holder, layer = kernelized(function)
    a = angles()
    width = (lambda t: t) if name == "gpt_oss" else double
    cos, sin = width(a.cos())[None], width(a.sin())[None]
    q, k = torch.randn(2, 4, SEQ, DIM, requires_grad=True), torch.randn(2, 2, SEQ, DIM, requires_grad=True)
    wanted, got = function(q, k, cos, sin), holder(q, k, cos, sin)
    for a_, b in zip(wanted, got, strict=True):
        assert torch.allclose(a_, b, rtol=0, atol=1e-6)
    gradients = [
        torch.autograd.grad(sum(y.square().mul(torch.arange(DIM)).sum() for y in ys), (q, k)) for ys in (wanted, got)
    ]
    for a_, b in zip(*gradients, strict=True):
        assert torch.allclose(a_, b, rtol=1e-5, atol=1e-5)
    assert layers._replacements[layer].calls == 1


def test_the_opposite_direction_is_kept_where_a_layer_for_all_turns_wrongly():
    """nanochat turns by minus the angle under the same name: a layer that goes by the name alone turns its queries the other way."""
    function, a = family("nanochat"), angles()
    cos, sin, q = double(a.cos())[None], double(a.sin())[None], torch.randn(1, 2, SEQ, DIM)
    holder, _ = kernelized(function)
    by_name = apply_rotary_transformers()(q, q, cos, sin)[0]
    wanted = function(q, q, cos, sin)[0]
    assert torch.allclose(holder(q, q, cos, sin)[0], wanted, rtol=0, atol=1e-6)
    assert (by_name - wanted).abs().max() > 0.5


def test_a_function_of_one_tensor_gemma4():
    from transformers.models.gemma4.modeling_gemma4 import apply_rotary_pos_emb as function

    holder, _ = kernelized(function, layer="apply_rotary_transformers_one")
    a, q = angles(dtype=torch.float64), torch.randn(2, 4, SEQ, DIM)
    cos, sin = double(a.cos())[None].float(), double(a.sin())[None].float()
    assert (holder(q, cos, sin) - turned(q, a)).abs().max() < 1e-6


def test_a_function_that_is_no_rotation_runs_as_it_is():
    holder, _ = kernelized(lambda q, k, cos, sin, unsqueeze_dim=1: (q * q, k))
    q = torch.randn(1, 2, SEQ, DIM)
    with pytest.warns(UserWarning, match="is no known rotation"):
        assert torch.equal(holder(q, q, q, q)[0], q * q)


def test_under_compile_the_function_itself_runs():
    function = family("llama")
    holder, layer = kernelized(function, kernels.Mode.TRAINING | kernels.Mode.TORCH_COMPILE)
    a, q = angles(), torch.randn(1, 2, SEQ, DIM)
    cos, sin = double(a.cos())[None], double(a.sin())[None]
    compiled = torch.compile(holder, backend="eager", fullgraph=True)
    assert torch.equal(compiled(q, q, cos, sin)[0], function(q, q, cos, sin)[0])
    assert layer not in layers._replacements


def test_nothing_is_kept_of_a_model_that_is_gone():
    function = family("llama")
    holder, layer = kernelized(copy.copy(function))
    cos, q = torch.ones(1, SEQ, DIM), torch.randn(1, 2, SEQ, DIM)
    holder(q, q, cos, cos)
    gone = weakref.ref(layer)
    del holder, layer
    gc.collect()
    assert gone() is None


def test_by_itself_under_compile_a_layer_does_not_guess_the_pairing():
    """Tables that say "interleaved" would be read as halves, and nobody would be told."""
    cos, sin = (t.repeat_interleave(2, -1)[None] for t in RotaryEmbedding(8).cos_sin(5))
    q = torch.randn(1, 2, 5, 8)
    layer = layers.apply_rotary_transformers()
    with pytest.raises(Exception, match="cannot be compared"):
        torch.compile(layer, backend="eager", fullgraph=True)(q, q, cos, sin)
    torch.compiler.reset()
    found = torch.compile(layer, backend="eager")(q, q, cos, sin)[
        0
    ]  # falls back to eager mode, where values are compared
    assert torch.equal(found, RotaryEmbedding(8, interleaved=True).rotate(q))
