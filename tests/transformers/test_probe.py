"""A function is recognised by what it computes, whatever its name and its source."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

import rotary.transformers
from rotary import apply_rotary
from rotary.transformers import RotationSpec, probe
from rotary.transformers.spec import COMPLEX, GATHERED, JOINED, STACKED, formula
from zoo.functions import Conformer, complex_table, gathered_tables, joined_table, prefix, rotate_half, trailing


def pair(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> Any:
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return rotate_half(q, cos, sin), rotate_half(k, cos, sin)


def test_the_function_of_most_models():
    assert probe(pair) == RotationSpec(promotes=True, unsqueeze="argument")


def test_the_former_name_of_a_spec():
    with pytest.warns(DeprecationWarning, match="Body is now RotationSpec; the old name goes in 0.4") as caught:
        former = rotary.transformers.Body
    assert former is RotationSpec and caught[0].filename == __file__
    with pytest.raises(AttributeError, match="has no attribute 'Bodies'"):
        _ = rotary.transformers.Bodies


def test_the_source_of_a_function_decides_nothing():
    """Both functions have the same source; one rotates by minus the angle, because of a helper that it calls."""

    def backwards(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> Any:
        return pair(q, k, cos, -sin, unsqueeze_dim)

    spec = probe(backwards)
    assert isinstance(spec, RotationSpec) and spec.conjugate


def test_one_tensor_sin_first_half_width_and_rounded_to_its_dtype():
    def rotate(tensor: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
        cos, sin = cos[:, :, None].repeat_interleave(2, -1), sin[:, :, None].repeat_interleave(2, -1)
        crossed = torch.stack((-tensor[..., 1::2], tensor[..., ::2]), -1).flatten(-2)
        return (tensor * cos + crossed * sin).to(tensor.dtype)

    assert probe(rotate) == RotationSpec(interleaved=True, widths="half", sin_first=True, tensors=1, unsqueeze=2)


def test_partial_and_permuted():
    def partial(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:
        n = cos.shape[-1]
        return tuple(torch.cat((rotate_half(x[..., :n], cos, sin), x[..., n:]), -1) for x in (q, k))

    spec = probe(partial)
    assert isinstance(spec, RotationSpec) and spec.partial and not spec.interleaved

    def deepseek(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> Any:
        q, k = (torch.cat((x[..., ::2], x[..., 1::2]), -1) for x in (q, k))
        return pair(q, k, cos, sin, unsqueeze_dim)

    spec = probe(deepseek)
    assert isinstance(spec, RotationSpec) and spec.interleaved and spec.to_half


def test_trailing_channels_and_tokens_that_pass_through():
    assert probe(trailing) == RotationSpec(tensors=1, partial="trailing", promotes=True)
    assert probe(prefix) == RotationSpec(prefix=True, promotes=True)


def test_every_form_of_tables():
    assert probe(complex_table) == RotationSpec(
        interleaved=True, widths="half", form=COMPLEX, promotes=True, unsqueeze=2
    )
    assert probe(joined_table) == RotationSpec(
        interleaved=True, widths="half", form=JOINED, sin_first=True, promotes=True
    )
    assert probe(gathered_tables) == RotationSpec(form=GATHERED, tensors=3, promotes=True, unsqueeze="argument")
    assert probe(Conformer().rotate, [(3, 8), (12, 6), (6, 12)]) == RotationSpec(form=STACKED, tensors=1, promotes=True)
    assert isinstance(probe(Conformer().rotate), str)


def interleaving(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:
    """Half-paired input, interleaved output."""
    return tuple(torch.stack(rotate_half(x, cos, sin).chunk(2, -1), -1).flatten(-2) for x in (q, k))


def crossing(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:
    """Pairs channels (j, dim - 1 - j)."""
    return tuple(x * cos + x.flip(-1) * sin for x in (q, k))


def scaled_tables(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """A rotation for tables with equal rows, which the first probe uses."""
    return rotate_half(x, cos.flip(0), sin)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda q, k, cos, sin: (q + cos, k + sin), "does not rotate pairs|takes no queries"),
        (lambda q, k, cos, sin: (q, k), "does not rotate pairs"),
        (lambda q, k, cos, sin: (q * cos - q * sin, k * cos), "does not rotate pairs|takes no queries"),
        (lambda q: q, "takes no queries, keys and two tables"),
        (lambda q, k, cos, sin: 3, "takes no queries, keys and two tables"),
        (lambda q, k, cos, sin: (q.flip(-1) * cos + q * sin, k), "does not rotate|unsupported order|takes no queries"),
        (interleaving, "its input is half-paired and its output interleaved, which is not supported"),
        (crossing, "it pairs channels or table columns in an unsupported order"),
        (scaled_tables, "its tables broadcast against the input in an unsupported way"),
        (print, "takes no queries|cannot be read|does not rotate"),
    ],
)
def test_a_function_that_is_no_rotation_is_left_with_a_reason(function: Any, reason: str):
    result = probe(function)
    assert isinstance(result, str) and re.search(reason, result), result


@pytest.mark.parametrize(("interleaved", "conjugate"), [*itertools.product((False, True), repeat=2)])
def test_the_formula_is_the_rotation(interleaved: bool, conjugate: bool):
    x, (cos, sin) = torch.randn(3, 5, 8), torch.randn(2, 5, 4)
    ours = apply_rotary(x, cos, sin, interleaved=interleaved, conjugate=conjugate)
    spec = RotationSpec(interleaved=interleaved, widths="half", conjugate=conjugate)
    torch.testing.assert_close(formula(spec, x, cos, sin), ours, rtol=0, atol=1e-6)
    for widths, wide in (("cat", lambda t: torch.cat((t, t), -1)), ("repeat", lambda t: t.repeat_interleave(2, -1))):
        spec = RotationSpec(interleaved=interleaved, widths=widths, conjugate=conjugate)
        torch.testing.assert_close(formula(spec, x, wide(cos), wide(sin)), ours, rtol=0, atol=1e-6)


FAMILIES = (
    *("llama", "gemma3", "glm", "cohere", "deepseek_v3", "gptj", "nanochat", "blt", "qwen2_vl", "ernie4_5", "gpt_oss"),
    *("llama4", "deepseek_v2", "deepseek_v4", "dinov3_vit", "clvp"),
)


def test_the_functions_of_transformers_are_reproduced():
    """The formula of the recognised spec, against the function itself, on random tensors with tables whose halves differ."""
    pytest.importorskip("transformers")
    from rotary.transformers.probe import DIM, HEADS, Trial, expected, shapes
    from zoo import families

    reproduced = 0
    for family in FAMILIES:
        for module in families.modeling(family):
            for name, spec in families.specs(family).items():
                if isinstance(spec, str):
                    continue
                axis = 1 if spec.unsqueeze == "argument" else spec.unsqueeze
                for layout, rows in shapes(HEADS, spec.form, spec.unsqueeze == "argument"):
                    call = Trial(getattr(module, name), spec.form, spec.tensors, layout, rows, DIM)
                    inputs = call.random_inputs(4 if spec.widths == "half" else 8)
                    y = call(*inputs)
                    if y is not None:
                        torch.testing.assert_close(y, expected(call, spec, axis, *inputs), rtol=0, atol=1e-5)
                        reproduced += 1
                        break
    assert reproduced >= 16


def usual(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    return rotate_half(q, cos, sin), rotate_half(k, cos, sin)


CHANGES: dict[str, Callable[[], Any]] = {
    "the random state of torch": lambda: torch.rand(1),
    "the random state of Python": random.random,
    "the random state of numpy": lambda: numpy.random.rand(),
    "grad mode": lambda: torch.set_grad_enabled(True),
    "the default dtype": lambda: torch.set_default_dtype(torch.float64),
    "the default device": lambda: torch.set_default_device("meta"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_F48_what_a_function_changes_is_put_back_and_the_function_left(name: str):
    def function(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        y = usual(q, k, cos, sin)
        CHANGES[name]()
        return y

    def state() -> tuple[Any, ...]:
        random_states = torch.get_rng_state().tolist(), random.getstate(), str(numpy.random.get_state())
        return *random_states, torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_default_device()

    with torch.no_grad():
        before = state()
        assert isinstance(probe(usual), RotationSpec) and state() == before
        assert isinstance(probe(function), str) and state() == before
