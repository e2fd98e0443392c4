"""Models that are not plain transformers models: what a patch must leave alone, and what it must put back (F47 to F49)."""

from __future__ import annotations

import functools
import types
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rotary.transformers import patch


def half_turned(x: Tensor) -> Tensor:
    h = x.shape[-1] // 2
    return torch.cat((-x[..., h:], x[..., :h]), -1)


def with_options(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, position_ids: Any = None, inverse: bool = False, scale: float = 1.0
):
    if position_ids is not None:
        cos, sin = cos[position_ids].unsqueeze(1), sin[position_ids].unsqueeze(1)
    sin = -sin if inverse else sin
    return (q * cos + half_turned(q) * sin) * scale, (k * cos + half_turned(k) * sin) * scale


def in_place(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor):
    for x in (q, k):
        x.copy_(x * cos + half_turned(x) * sin)
    return q, k


def plain(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor):
    return q * cos + half_turned(q) * sin, k * cos + half_turned(k) * sin


class WithOptions(nn.Module):
    def forward(self, q, k, cos, sin, *more, **options):
        return with_options(q, k, cos, sin, *more, **options)


class InPlace(nn.Module):
    def forward(self, q, k, cos, sin):
        q, k = q.clone(), k.clone()
        in_place(q, k, cos, sin)
        return q, k


class Plain(nn.Module):
    def forward(self, q, k, cos, sin):
        return plain(q, k, cos, sin)


def inputs(rows: tuple[int, ...] = (2, 1)) -> tuple[Tensor, ...]:
    angles = torch.arange(5.0)[:, None] * torch.logspace(0, -3, 8)
    angles = torch.cat((angles, angles), -1).expand(*rows, 5, 16) if rows else torch.cat((angles, angles), -1)
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 2, 3, 5, 16, generator=generator)
    return q, k, angles.cos(), angles.sin()


IDS = torch.tensor([[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]])


@pytest.mark.parametrize(
    ("more", "options", "rows"),
    [
        ((), {"inverse": True}, (2, 1)),
        ((), {"scale": 2.0}, (2, 1)),
        ((), {"position_ids": IDS}, ()),
        ((IDS,), {}, ()),
        ((None, True), {}, (2, 1)),
        ((None, False, 0.5), {}, (2, 1)),
    ],
)
def test_F47_an_argument_that_differs_from_its_default_goes_to_the_original(more, options, rows):
    """Every argument beside tensors, tables and unsqueeze_dim was dropped: off by 2 to 12."""
    model, arguments = WithOptions(), inputs(rows)
    expected = model(*arguments, *more, **options)
    with patch(model) as handle:
        result = model(*arguments, *more, **options)
        assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True)) and handle.calls == 0
        model(*inputs(), position_ids=None, inverse=False, scale=1.0)
        assert handle.calls == 1  # the defaults, spelled out, are what was probed


def test_F48_a_function_that_writes_into_its_arguments_is_left():
    """Its callers may ignore what it returns; q and k then stayed unrotated."""
    model, arguments = InPlace(), inputs()
    expected = model(*arguments)
    with pytest.warns(UserWarning, match="writes into its arguments"):
        handle = patch(model)
    assert all(torch.equal(a, b) for a, b in zip(model(*arguments), expected, strict=True))
    assert "writes into its arguments" in str(handle.report())
    both = nn.ModuleList([InPlace(), Plain()])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert patch(both).report().replaced


STEPS: list[int] = []


def log_metrics(step: Tensor, q: Tensor, k: Tensor):
    STEPS.append(1)
    return step, q


class Logging(nn.Module):
    def forward(self, q, k, cos, sin):
        log_metrics(q, k, cos)
        return plain(q, k, cos, sin)


def test_F48_functions_without_a_word_of_rotations_are_not_called():
    """A logger ran 86 times; a collective of a distributed job would have hung."""
    state = torch.random.get_rng_state()
    patch(Logging())
    assert STEPS == [] and torch.equal(torch.random.get_rng_state(), state)


def dictionaries(model: nn.Module) -> list[dict[str, Any]]:
    return [dict(module.__dict__) for module in model.modules()]


def same(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> bool:
    return all(a.keys() == b.keys() and all(a[key] is b[key] for key in a) for a, b in zip(before, after, strict=True))


def own_method(module: nn.Module, calls: list[int]) -> None:
    def forward(self, *arguments):
        calls.append(1)
        return Plain.forward(self, *arguments)

    module.forward = types.MethodType(forward, module)


def hook(module: nn.Module, calls: list[int]) -> None:
    """As accelerate's add_hook_to_module."""
    module._old_forward = module.forward

    def forward(module, *arguments):
        calls.append(1)
        return module._old_forward(*arguments)

    module.forward = functools.partial(forward, module)


@pytest.mark.parametrize(("override", "replaced"), [(own_method, 1), (hook, 2)])
def test_F49_a_method_on_the_instance_is_called_and_put_back(override, replaced: int):
    """It was overwritten, and gone after remove(): hooks of accelerate were lost for good."""
    model, arguments, calls = nn.ModuleList([Plain(), Plain()]), inputs(), []
    expected = model[0](*arguments)
    override(model[0], calls)
    before = dictionaries(model)
    handle = patch(model)
    assert sum(handle.report().replaced.values()) == replaced
    for module in model:
        for a, b in zip(module(*arguments), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    assert len(calls) == 1 and handle.calls == replaced
    handle.remove()
    assert same(before, dictionaries(model))
    model[0](*arguments)
    assert len(calls) == 2 and handle.calls == replaced


def llama(**changes: Any):
    transformers = pytest.importorskip("transformers")
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 97,
    }
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**sizes, **changes})).eval()


def test_F50_frequencies_that_a_cast_rounded_are_not_made_exact():
    model = llama().to(torch.bfloat16)
    with pytest.warns(UserWarning, match="cast to torch.bfloat16"):
        handle = patch(model, tables="exact")
    assert "bfloat16" in str(handle.report()) and "forward" not in model.model.rotary_emb.__dict__


@pytest.mark.parametrize("write", ["assign", "data", "numpy", "inference"])
def test_F50_exact_tables_follow_every_write_to_inv_freq(write: str):
    """A key of id and version answered from older frequencies."""
    model = llama()
    module = model.model.rotary_emb
    patch(model, tables="exact")
    x, positions = torch.zeros(1, 3, 16), torch.tensor([[1, 2, 3]])
    for step in range(5):
        new = torch.linspace(1.0, 0.1 * (step + 1), 8)
        if write == "assign":
            module.inv_freq = None
            module.inv_freq = new
        elif write == "data":
            module.inv_freq.data.copy_(new)
        elif write == "numpy":
            module.inv_freq.numpy()[:] = new.numpy()
        else:
            with torch.inference_mode():
                module.inv_freq = new.clone()
        cos, _ = module(x, positions)
        expected = (positions[0, :, None] * new.double()).cos().float()
        torch.testing.assert_close(cos[0, :, :8], expected, rtol=0, atol=1e-6)


def test_F50_every_rotary_module_is_in_the_report():
    transformers = pytest.importorskip("transformers")
    config = transformers.Gemma3TextConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=97,
        layer_types=["sliding_attention", "full_attention"],
        sliding_window=8,
    )
    with pytest.warns(UserWarning, match="Gemma3RotaryEmbedding stay"):
        report = patch(transformers.Gemma3ForCausalLM(config), tables="exact").report()
    assert any(owner == "Gemma3RotaryEmbedding" for owner, _ in report.left)
