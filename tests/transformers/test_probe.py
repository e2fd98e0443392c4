"""A function is recognised by what it does, whatever it is called and however it is written."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from rotary import apply_rotary
from rotary.transformers import Body, probe
from rotary.transformers.probe import formula

HALF = Body(False, False, "cat", False, False, True, False, True, None)


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


def pair(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> Any:
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return turn(q, cos, sin), turn(k, cos, sin)


def test_the_usual_one():
    assert probe(pair) == Body(False, False, "cat", False, False, True, False, True, "argument")


def test_a_name_says_nothing():
    """Of two functions of one text, one turns backwards, because the helper that it calls does."""

    def backwards(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> Any:
        return pair(q, k, cos, -sin, unsqueeze_dim)

    found = probe(backwards)
    assert isinstance(found, Body) and found.conjugate


def test_one_tensor_sin_first_half_width_and_rounded_to_its_dtype():
    def rotate(tensor: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
        cos, sin = cos[:, :, None].repeat_interleave(2, -1), sin[:, :, None].repeat_interleave(2, -1)
        crossed = torch.stack((-tensor[..., 1::2], tensor[..., ::2]), -1).flatten(-2)
        return (tensor * cos + crossed * sin).to(tensor.dtype)

    assert probe(rotate) == Body(True, False, "half", False, True, False, False, False, 2)


def test_partial_and_permuted():
    def partial(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:
        n = cos.shape[-1]
        return tuple(torch.cat((turn(x[..., :n], cos, sin), x[..., n:]), -1) for x in (q, k))

    found = probe(partial)
    assert isinstance(found, Body) and found.partial and not found.interleaved

    def deepseek(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> Any:
        q, k = (torch.cat((x[..., ::2], x[..., 1::2]), -1) for x in (q, k))
        return pair(q, k, cos, sin, unsqueeze_dim)

    found = probe(deepseek)
    assert isinstance(found, Body) and found.interleaved and found.to_half


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda q, k, cos, sin: (q + cos, k + sin), "does not turn pairs|takes no queries"),
        (lambda q, k, cos, sin: (q, k), "does not turn pairs"),
        (lambda q, k, cos, sin: (q * cos - q * sin, k * cos), "does not turn pairs|takes no queries"),
        (lambda q: q, "takes no queries, keys and two tables"),
        (lambda q, k, cos, sin: 3, "takes no queries, keys and two tables"),
        (lambda q, k, cos, sin: (q.flip(-1) * cos + q * sin, k), "does not turn|order of its own|takes no queries"),
        (print, "takes no queries|cannot be read|does not turn"),
    ],
)
def test_what_is_no_rotation_is_left_with_a_reason(function: Any, words: str):
    import re

    found = probe(function)
    assert isinstance(found, str) and re.search(words, found)


@pytest.mark.parametrize(
    ("interleaved", "conjugate"), itertools.product((False, True), (False, True)), ids=lambda value: str(value)
)
def test_the_formula_is_the_rotation(interleaved: bool, conjugate: bool):
    x, (cos, sin) = torch.randn(3, 5, 8), torch.randn(2, 5, 4)
    ours = apply_rotary(x, cos, sin, interleaved=interleaved, conjugate=conjugate)
    body = Body(interleaved, False, "half", conjugate, False, False, False, False, None)
    torch.testing.assert_close(formula(body, x, cos, sin), ours, rtol=0, atol=1e-6)
    for widths, wide in (("cat", lambda t: torch.cat((t, t), -1)), ("repeat", lambda t: t.repeat_interleave(2, -1))):
        body = Body(interleaved, False, widths, conjugate, False, False, False, False, None)
        torch.testing.assert_close(formula(body, x, wide(cos), wide(sin)), ours, rtol=0, atol=1e-6)


def test_every_function_of_transformers_that_is_known_is_reproduced():
    """The formula of the body that was read off, against the function itself, on random tensors with tables whose halves differ."""
    pytest.importorskip("transformers")
    import model_families as families
    from rotary.transformers.probe import _LAYOUTS, _numbers, call

    known = 0
    for family in (
        "llama",
        "gemma3",
        "glm",
        "cohere",
        "deepseek_v3",
        "gptj",
        "nanochat",
        "blt",
        "qwen2_vl",
        "ernie4_5",
        "gpt_oss",
    ):
        for module in families.modeling(family):
            for name, body in families.bodies(family).items():
                if isinstance(body, str):
                    continue
                function = getattr(module, name)
                where = 1 if body.unsqueeze == "argument" else body.unsqueeze
                for layout, tables in _LAYOUTS.items():
                    x, given = _numbers(body, layout, tables[0], 4 if body.widths == "half" else 8)
                    y = call(function, (x, x) if body.pair else (x,), given)
                    cos, sin = reversed(given) if body.sin_first else given
                    if y is not None:
                        cos, sin = (t if where is None else t.unsqueeze(where) for t in (cos, sin))
                        torch.testing.assert_close(y[0], formula(body, x, cos, sin), rtol=0, atol=1e-5)
                        known += 1
                        break
    assert known >= 11
