"""Where a norm's result goes inside a method, as its source tells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from rotary.transformers import flow


def rope(q: Any, k: Any, cos: Any, sin: Any) -> Any: ...


class Attention(nn.Module):
    """Methods under test; the names of those whose norms may wait begin with ok."""

    q_norm: Any = "a module, and true as one"
    k_norm: Any = q_norm
    o_norm: Any
    cache: Any
    is_local = True
    window: int | None = None

    def ok_views(self, q, k, cos, sin):
        q = self.q_norm(q.view(1, 2, -1)).transpose(1, 2)
        k = self.k_norm(k).reshape(2, 3, -1).contiguous().unsqueeze(0)
        q, k = rope(q, k, cos, sin)
        return q, k

    def ok_one_branch(self, q, k, cos, sin, other):
        if other:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rope(q, k, cos, sin)
        return q, k

    def ok_decided_by_the_module(self, q, k, cos, sin):
        q, k = self.q_norm(q), self.k_norm(k)
        if self.window is None or self.is_local:
            q, k = rope(q, k, cos, sin)
        return q, k

    def ok_facts(self, q, k, cos, sin):
        q = self.q_norm(q)
        shape = q.shape[:-1]
        k = self.k_norm(k) if q.dtype == k.dtype else self.k_norm(k).view(shape)
        return rope(q, k, cos, sin)

    def ok_in_a_loop(self, q, k, cos, sin):
        for _ in range(2):
            a, b = rope(self.q_norm(q), self.k_norm(k), cos, sin)
        return a, b

    def ok_early_return(self, q, k, cos, sin, other):
        if other:
            return self.o_norm(q)
        return rope(self.q_norm(q), self.k_norm(k), cos, sin)

    def ok_other_statements(self, q, k, cos, sin):
        q: Any = self.q_norm(q)
        later: Any
        with self.cache(k) as kept:
            k = self.k_norm(kept)
        assert cos is not None
        later = cos
        return rope(q, k, later, sin)

    def ok_named_in_the_call(self, q, k, cos, sin):
        return rope((a := self.q_norm(q)), (b := self.k_norm(k)), cos, sin), a.dtype, b.shape

    def ok_an_expression_decided_by_the_module(self, q, k, cos, sin):
        q = self.q_norm(q) if self.is_local else self.q_norm(q) + 1.0
        return rope(q, self.k_norm(k), cos, sin)

    def ok_overwritten(self, q, k, cos, sin):
        both = self.q_norm(q)
        rope(both, self.k_norm(k), cos, sin)
        both = cos
        return both, sin

    def ok_where_it_is_made(self, q, k, cos, sin):
        """Constructors are methods too."""
        self.q_norm, self.k_norm = nn.Identity(), nn.Identity()
        self.q_norm.weight = cos
        return rope(self.q_norm(q), self.k_norm(k), cos, sin)

    def ok_where_there_is_one(self, q, k, cos, sin):
        if self.q_norm is not None and self.k_norm:
            q, k = self.q_norm(q).view(2, -1), self.k_norm(k.to(self.k_norm.weight.dtype))
        return rope(q, k, cos, sin)

    def ok_unpacked_of_either(self, q, k, cos, sin, other):
        a, b = self.q_norm(q) if other else self.k_norm(k)
        return rope(a, b, cos, sin)

    def arithmetic(self, q, k, cos, sin):
        q = self.q_norm(q) * 2.0
        return rope(q, self.k_norm(k), cos, sin)

    def to_a_cache(self, q, k, cos, sin):
        q, k = self.q_norm(q), self.k_norm(k)
        self.cache.update(q)
        return rope(q, k, cos, sin)

    def returned(self, q, k, cos, sin):
        q = self.q_norm(q)
        return q, rope(q, self.k_norm(k), cos, sin)

    def stored(self, q, k, cos, sin):
        self.cache.last = self.q_norm(q)
        return rope(self.q_norm(q), self.k_norm(k), cos, sin)

    def perhaps_not_rotated(self, q, k, cos, sin, other):
        q, k = self.q_norm(q), self.k_norm(k)
        if other:
            q, k = rope(q, k, cos, sin)
        return self.cache(q, k)

    def indexed(self, q, k, cos, sin):
        q = self.q_norm(q)
        return rope(q[..., :8], self.k_norm(k), cos, sin)

    def as_a_table(self, q, k, cos, sin):
        return rope(q, k, self.q_norm(cos), self.k_norm(sin))

    def captured(self, q, k, cos, sin):
        q = self.q_norm(q)
        later = lambda: q + 1.0  # noqa: E731
        return later, rope(q, self.k_norm(k), cos, sin)

    def named_by_a_string(self, q, k, cos, sin):
        q, k = self.q_norm(q), self.k_norm(k)
        print(locals())
        return rope(q, k, cos, sin)

    def with_more_arguments(self, q, k, cos, sin):
        return rope(self.q_norm(q, scale=2.0), self.k_norm(k), cos, sin)

    def in_a_try(self, q, k, cos, sin):
        try:
            q = self.q_norm(q)
        finally:
            pass
        return rope(q, self.k_norm(k), cos, sin)

    def second_round(self, q, k, cos, sin):
        kept = None
        for _ in range(2):
            self.cache(kept)
            kept = self.q_norm(q)
        return rope(self.q_norm(q), self.k_norm(k), cos, sin)

    def captured_before(self, q, k, cos, sin):
        later = lambda: q + 1.0  # noqa: E731
        q = self.q_norm(q)
        return later(), rope(q, self.k_norm(k), cos, sin)

    def left_by_a_break(self, q, k, cos, sin, other):
        while True:
            q = self.q_norm(q)
            if other:
                break
            q, k = rope(q, self.k_norm(k), cos, sin)
        return self.cache(q, k)

    def skipped_by_a_continue(self, q, k, cos, sin, other):
        for _ in range(2):
            self.cache(k)
            k = self.q_norm(k)
            if other:
                continue
            q, k = rope(k, self.k_norm(q), cos, sin)
        return q, self.k_norm(q)

    def starred(self, q, k, cos, sin):
        both = [self.q_norm(q), self.k_norm(k)]
        return rope(*both, cos, sin)

    def unpacked_by_a_star(self, q, k, cos, sin):
        q, *rest = self.q_norm(q), cos, sin
        return rope(q, self.k_norm(k), *rest)

    def named_and_returned(self, q, k, cos, sin):
        rope((a := self.q_norm(q)), self.k_norm(k), cos, sin)
        return a

    def with_an_operator(self, q, k, cos, sin):
        q = self.q_norm(q)
        q += 1.0
        return rope(q, self.k_norm(k), cos, sin)

    def of_a_local_name(self, q, k, cos, sin):
        rope = self.cache
        return rope(self.q_norm(q), self.k_norm(k), cos, sin)

    def by_keyword(self, q, k, cos, sin):
        return rope(k=self.k_norm(k), q=self.q_norm(q), cos=cos, sin=sin)

    def in_a_text(self, q, k, cos, sin):
        print(f"{self.q_norm(q)}")
        return rope(self.q_norm(q), self.k_norm(k), cos, sin)

    def in_a_test(self, q, k, cos, sin):
        if self.q_norm(q):
            return None
        return rope(self.q_norm(q), self.k_norm(k), cos, sin)

    def in_the_test_of_a_loop(self, q, k, cos, sin):
        while self.q_norm(q):
            pass
        return rope(self.q_norm(q), self.k_norm(k), cos, sin)

    def in_the_test_of_an_expression(self, q, k, cos, sin):
        return rope(self.q_norm(q), self.k_norm(k), cos if self.q_norm(q) else sin, sin)

    def walked_through(self, q, k, cos, sin):
        for row in self.q_norm(q):
            self.cache(row)
        return rope(self.q_norm(q), self.k_norm(k), cos, sin)

    def after_a_loop(self, q, k, cos, sin):
        for _ in range(2):
            q = self.q_norm(q)
        else:
            self.cache(q)
        return rope(q, self.k_norm(k), cos, sin)

    def entered(self, q, k, cos, sin):
        with self.cache(self.q_norm(q)):
            return rope(self.q_norm(q), self.k_norm(k), cos, sin)

    def raised(self, q, k, cos, sin, other):
        q = self.q_norm(q)
        if other:
            raise ValueError(q)
        return rope(q, self.k_norm(k), cos, sin)

    def ok_written_before_and_after(self, q, k, cos, sin):
        q += 1.0
        count = 0
        count += 1
        k[0] = q.mul_(2.0)[0]
        q, k = self.q_norm(q), self.k_norm(k)
        q, k = rope(q, k, cos, sin)
        q[0] = k.add_(1.0)[0]
        return q, k

    def written_by_an_assignment_with_an_operator(self, q, k, cos, sin):
        a, b = self.q_norm(q), self.k_norm(k)
        q += 1.0
        return rope(a, b, cos, sin)

    def written_in_a_buffer(self, q, k, cos, sin):
        self.cache.copy_(q)
        a = self.q_norm(self.cache)
        self.cache.copy_(k)
        b = self.k_norm(self.cache)
        return rope(a, b, cos, sin)

    def written_at_an_element(self, q, k, cos, sin):
        a, b = self.q_norm(q), self.k_norm(k)
        q[..., 0] = 1.0
        return rope(a, b, cos, sin)

    def written_as_out(self, q, k, cos, sin):
        a, b = self.q_norm(q), self.k_norm(k)
        self.cache.add(k, 1.0, out=q)
        return rope(a, b, cos, sin)

    def written_in_a_branch(self, q, k, cos, sin):
        a, b = self.q_norm(q), self.k_norm(k)
        try:
            q.mul_(2.0)
        finally:
            pass
        return rope(a, b, cos, sin)

    def written_in_the_next_round(self, q, k, cos, sin):
        a, b = self.q_norm(q), self.k_norm(k)
        for _ in range(2):
            q, k = rope(a, b, cos, sin)
            a = self.q_norm(q)
            q.mul_(2.0)
        return q, k

    def into_an_element(self, q, k, cos, sin):
        q = self.q_norm(q)
        kept = [None]
        kept[0], k = q, self.k_norm(k)
        return rope(q, k, cos, sin)

    def as_an_index(self, q, k, cos, sin):
        q = self.q_norm(q)
        k[q] = 0.0
        return rope(q, self.k_norm(k), cos, sin)

    def in_an_argument_of_a_view(self, q, k, cos, sin):
        q = self.q_norm(q)
        return rope(q, self.k_norm(k.view(q)), cos, sin)

    def decided_by_a_call(self, q, k, cos, sin):
        q = self.q_norm(q)
        if self.modules():
            q, k = rope(q, self.k_norm(k), cos, sin)
        return self.cache(q, k)

    def by_another_name(self, q, k, cos, sin):
        norm = self.q_norm
        self.cache.update(norm(q))
        return rope(self.q_norm(q), self.k_norm(k), cos, sin)

    def by_its_forward(self, q, k, cos, sin):
        self.cache.update(self.q_norm.forward(q))
        return rope(self.q_norm(q), self.k_norm(k), cos, sin)

    def called_by_another(self, q, k, cos, sin):
        return rope(self.cache(self.q_norm, q), self.k_norm(k), cos, sin)

    def after_three_rounds(self, q, k, cos, sin):
        q, first, second, third = self.q_norm(q), k, k, k
        for _ in range(4):
            third, second, first = second, first, q
        return rope(q, self.k_norm(k), cos, sin), third

    def in_a_nested_function(self, q, k, cos, sin):
        def normed(x):
            return self.q_norm(x)

        return rope(normed(q), self.k_norm(k), cos, sin)


NORMS = frozenset({"q_norm", "k_norm", "o_norm"})
METHODS = {name: value for name, value in vars(Attention).items() if not name.startswith("_") and callable(value)}


def reasons(method: Callable[..., Any], module: nn.Module | None = None) -> dict[str, str | None]:
    return flow.uses(method, module or Attention(), NORMS, {"rope": 2}).reasons


@pytest.mark.parametrize("name", METHODS)
def test_a_norm_may_wait_where_nothing_but_a_rotation_takes_it(name: str):
    found = reasons(METHODS[name])
    assert found["q_norm"] is None if name.startswith("ok") else found["q_norm"] is not None, found
    assert ("o_norm" in found) == (name == "ok_early_return")


def test_the_reason_names_the_use():
    assert reasons(Attention.named_by_a_string)["q_norm"] == "the method calls locals()"
    used = "its result is used otherwise than by a rotation: "
    assert reasons(Attention.arithmetic)["q_norm"] == used + "self.q_norm(q)"
    assert reasons(Attention.raised)["q_norm"] == used + "q"
    written = "a tensor may be written between it and the rotation: "
    assert reasons(Attention.written_by_an_assignment_with_an_operator)["q_norm"] == written + "q += 1.0"
    assert reasons(Attention.written_in_a_buffer) == {"q_norm": written + "self.cache.copy_(k)", "k_norm": None}


def test_which_norms_meet_in_one_rotation():
    (pair,) = flow.uses(Attention.ok_views, Attention(), NORMS, {"rope": 2}).rotated
    assert pair == ({"q_norm"}, {"k_norm"})
    assert flow.uses(Attention.as_a_table, Attention(), NORMS, {"rope": 2}).rotated == [(frozenset(), frozenset())]


def test_another_module_takes_the_other_branch():
    other = Attention()
    other.is_local, other.window = False, 4
    assert reasons(Attention.ok_decided_by_the_module, other)["q_norm"] is not None


def test_a_function_that_is_no_rotation_is_a_use():
    found = flow.uses(Attention.ok_views, Attention(), NORMS, {})
    assert all(found.reasons[name] for name in ("q_norm", "k_norm")) and not found.rotated


def test_what_has_no_source_may_not_wait():
    code: dict[str, Any] = {}
    exec("def made(self, q, k, cos, sin):\n    return rope(self.q_norm(q), self.k_norm(k), cos, sin)", code)
    assert reasons(code["made"])["q_norm"] == "the source of the method cannot be read"
    assert reasons(len)["q_norm"] == "the source of the method cannot be read"
