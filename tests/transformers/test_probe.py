"""A function is recognised by what it does, whatever it is called and however it is written."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from model_bodies import Conformer, by_complex, by_joined, by_rows, prefix, trailing, turn
from rotary import apply_rotary
from rotary.transformers import Body, probe
from rotary.transformers.body import COMPLEX, GATHERED, JOINED, STACKED, formula

HALF = Body(promotes=True)


def pair(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> Any:
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return turn(q, cos, sin), turn(k, cos, sin)


def test_the_usual_one():
    assert probe(pair) == Body(promotes=True, unsqueeze="argument")


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

    assert probe(rotate) == Body(interleaved=True, widths="half", sin_first=True, tensors=1, unsqueeze=2)


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


def test_a_part_at_the_end_and_tokens_in_front():
    assert probe(trailing) == Body(tensors=1, partial="trailing", promotes=True)
    assert probe(prefix) == Body(prefix=True, promotes=True)


def test_other_ways_to_hand_tables_over():
    assert probe(by_complex) == Body(interleaved=True, widths="half", form=COMPLEX, promotes=True, unsqueeze=2)
    assert probe(by_joined) == Body(interleaved=True, widths="half", form=JOINED, sin_first=True, promotes=True)
    assert probe(by_rows) == Body(form=GATHERED, tensors=3, promotes=True, unsqueeze="argument")
    assert probe(Conformer().rotate, [(3, 8), (12, 6), (6, 12)]) == Body(form=STACKED, tensors=1, promotes=True)
    assert isinstance(probe(Conformer().rotate), str)


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


@pytest.mark.parametrize(("interleaved", "conjugate"), [*itertools.product((False, True), repeat=2)])
def test_the_formula_is_the_rotation(interleaved: bool, conjugate: bool):
    x, (cos, sin) = torch.randn(3, 5, 8), torch.randn(2, 5, 4)
    ours = apply_rotary(x, cos, sin, interleaved=interleaved, conjugate=conjugate)
    body = Body(interleaved=interleaved, widths="half", conjugate=conjugate)
    torch.testing.assert_close(formula(body, x, cos, sin), ours, rtol=0, atol=1e-6)
    for widths, wide in (("cat", lambda t: torch.cat((t, t), -1)), ("repeat", lambda t: t.repeat_interleave(2, -1))):
        body = Body(interleaved=interleaved, widths=widths, conjugate=conjugate)
        torch.testing.assert_close(formula(body, x, wide(cos), wide(sin)), ours, rtol=0, atol=1e-6)


def test_every_function_of_transformers_that_is_known_is_reproduced():
    """The formula of the body that was read off, against the function itself, on random tensors with tables whose halves differ."""
    pytest.importorskip("transformers")
    import model_families as families
    from rotary.transformers.probe import DIM, HEADS, _Call, _expected, _layouts

    known = 0
    for family in (
        *(
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
        ),
        *("llama4", "deepseek_v2", "deepseek_v4", "dinov3_vit", "clvp"),
    ):
        for module in families.modeling(family):
            for name, body in families.bodies(family).items():
                if isinstance(body, str):
                    continue
                where = 1 if body.unsqueeze == "argument" else body.unsqueeze
                for layout, rows in _layouts(HEADS, body.form, body.unsqueeze == "argument"):
                    call = _Call(getattr(module, name), body.form, body.tensors, layout, rows, DIM)
                    given = call.numbers(4 if body.widths == "half" else 8)
                    y = call(*given)
                    if y is not None:
                        torch.testing.assert_close(y, _expected(call, body, where, *given), rtol=0, atol=1e-5)
                        known += 1
                        break
    assert known >= 16
