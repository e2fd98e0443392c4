"""What a patch finds in the methods of a module, and that looking changes nothing: a probe calls the model's own code."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rotary.transformers import handle_of, patch
from support.attention import Attention, rotate


def weird(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    return q * cos + k * sin, k * cos


def arguments() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    angle = torch.rand(1, 5, 4).repeat(1, 1, 2)
    return torch.randn(1, 2, 5, 8), torch.randn(1, 2, 5, 8), angle.cos(), angle.sin()


class Scaled(Attention):
    """A method that is named as a rotation and writes what it is given into its module."""

    def __init__(self) -> None:
        super().__init__()
        self.kind, self.factor = "linear", 1.0
        self.seen: dict[str, int] = {}
        self.register_buffer("table", torch.zeros(3))

    def forward(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        return rotate(q, k, cos, sin)

    def set_rope_scaling(self, kind: Any, factor: Any) -> None:
        self.kind, self.factor = kind, factor
        self.seen["calls"] = self.seen.get("calls", 0) + 1
        self.table += 1


def test_a_method_that_is_probed_leaves_its_module_as_it_was():
    model = Scaled()
    with patch(model) as handle:
        assert (model.kind, model.factor, model.seen) == ("linear", 1.0, {})
        assert not model.table.any()
        assert "set_rope_scaling" in str(handle.report())


class Counting(nn.Module):
    """A rotation that counts its calls."""

    calls = 0

    def apply_rotary(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        self.calls += 1
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat((-b, a), -1) * sin

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return self.apply_rotary(x, cos, sin)


def test_a_size_that_is_first_met_in_a_call_is_tried_without_a_trace():
    model = Counting()
    angle = torch.rand(1, 5, 6).repeat(1, 1, 2)
    x = torch.randn(1, 2, 5, 12)
    with patch(model) as handle:
        y = model(x, angle.cos(), angle.sin())
        assert handle.calls == 1 and model.calls == 0
    torch.testing.assert_close(y, model(x, angle.cos(), angle.sin()))


class ByClass(nn.Module):
    """A static rotation, called through the class."""

    @staticmethod
    def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat((-b, a), -1) * sin

    def forward(self, q: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        return type(self).apply_rotary(q, cos, sin), self.apply_rotary(q, cos, sin)


def test_a_static_rotation_is_replaced_where_it_is_called_through_the_class_too():
    model = ByClass()
    q, _, cos, sin = arguments()
    expected = model(q, cos, sin)
    with patch(model) as handle:
        torch.testing.assert_close(model(q, cos, sin), expected, rtol=0, atol=1e-6)
        assert handle.calls == 2
    torch.testing.assert_close(model(q, cos, sin), expected, rtol=0, atol=0)


class OfSuper(Attention):
    def forward(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        q, k = super().forward(q, k, cos, sin)
        return q * 1.0, k


class Overridden(Attention):
    def forward(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        return q, k


def test_a_rotation_that_is_reached_through_super_is_named_in_the_report():
    model = OfSuper()
    with pytest.warns(UserWarning, match=r"OfSuper: rotate, because OfSuper\.forward reaches it through Attention"):
        handle = patch(model)
    expected = Attention()(*(given := arguments()))
    torch.testing.assert_close(model(*given), expected)
    handle.remove()
    both = nn.ModuleList([OfSuper(), Attention()])
    with patch(both) as handle:
        assert set(handle.report().left) == {("OfSuper", "rotate")}
    with pytest.raises(ValueError, match="nothing in Overridden rotates in a recognised way$"):
        patch(Overridden())


class Weird(nn.Module):
    def forward(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        return weird(q, k, cos, sin)


def test_a_function_of_cos_and_sin_that_is_not_recognised_is_named():
    with pytest.raises(ValueError, match="nothing in Weird rotates in a recognised way: weird: "):
        patch(Weird())


CALLS: list[Any] = []


def rotate_log(path: Any, size: Any, keep: Any) -> None:
    CALLS.append(path)


class Logs(Attention):
    def forward(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        if self.training and q.shape[0] > 99:
            rotate_log("run.log", 2**20, 3)
        return rotate(q, k, cos, sin)


def test_a_function_that_rotates_log_files_is_not_called():
    with patch(Logs()):
        assert CALLS == []


class Proxy:
    """A client whose attributes are remote calls: each has each name."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__rotary__":
            raise AttributeError(name)
        return self


def test_an_attribute_that_has_every_name_is_not_taken_for_a_patch():
    model = Attention()
    model.client = Proxy()
    with patch(model) as handle:
        model(*arguments())
        assert handle.calls == 1


def test_a_warning_that_is_an_error_leaves_no_patch(monkeypatch: pytest.MonkeyPatch):
    def warn(wrong: Any) -> None:
        warnings.warn("frequencies that are not those of the config", stacklevel=1)

    monkeypatch.setattr(sys.modules["rotary.transformers.patch"], "_warn_of", warn)
    model = Attention()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="frequencies"):
            patch(model)
    assert type(model) is Attention and handle_of(model) is None
