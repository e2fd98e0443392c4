"""Which layers rotate, read off the source of their attention: on all paths, on none, or as an argument says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rotary.transformers import patch
from rotary.transformers.layer_rotation import LayerRotation
from zoo.functions import rotate_half

Tables = tuple[Tensor, Tensor]


def turn(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    return rotate_half(q, cos, sin), rotate_half(k, cos, sin)


def turn_oddly(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    return q * cos + k * sin, k * cos - q * sin


turn_oddly.__name__ = "apply_rotary_oddly"
apply_rotary_oddly = turn_oddly


class Attention(nn.Module):
    def __init__(self, layer_idx: int = 0, **attributes: Any) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.__dict__.update(attributes)


class Always(Attention):
    def forward(self, q: Tensor, k: Tensor, tables: Tables, cache: Any) -> Any:
        q, k = turn(q, k, *tables)
        return q, cache.update(k, k, self.layer_idx)


class ByAttribute(Attention):
    def forward(self, q: Tensor, k: Tensor, tables: Tables, cache: Any) -> Any:
        if self.window is not None and not self.full:
            q, k = turn(q, k, *tables)
        return q, cache.update(k, k, self.layer_idx)


class ByExpression(Attention):
    def forward(self, q: Tensor, k: Tensor, tables: Tables, cache: Any) -> Any:
        q, k = turn(q, k, *tables) if self.window is not None else (q, k)
        return q, cache.update(k, k, self.layer_idx)


class ByReturn(Attention):
    def forward(self, q: Tensor, k: Tensor, tables: Tables, cache: Any) -> Any:
        if self.window is None:
            return q, cache.update(k, k, self.layer_idx)
        if tables is None:
            raise ValueError("tables")
        q, k = turn(q, k, *tables)
        return q, cache.update(k, k, self.layer_idx)


class ByHelper(Attention):
    def positioned(this, q: Tensor, k: Tensor, tables: Tables) -> Any:
        with torch.no_grad():
            return turn(q, k, *tables) if this.window else (q, k)

    def forward(self, q: Tensor, k: Tensor, tables: Tables, cache: Any) -> Any:
        q, k = self.positioned(q, k, tables)
        return q, cache.update(k, k, self.layer_idx)


class BySuper(ByAttribute):
    def forward(self, *args: Any) -> Any:
        return super().forward(*args)


class ByArgument(Attention):
    def forward(self, q: Tensor, k: Tensor, tables: Tables | None, cache: Any) -> Any:
        if tables is not None:
            q, k = turn(q, k, *tables)
        return q, cache.update(k, k, self.layer_idx)


class Oddly(Attention):
    def forward(self, q: Tensor, k: Tensor, tables: Tables, cache: Any) -> Any:
        q, k = apply_rotary_oddly(q, k, *tables)
        return q, cache.update(k, k, self.layer_idx)


class Never(Attention):
    def forward(self, q: Tensor, k: Tensor, cache: Any) -> Any:
        return q, cache.update(k, k, self.layer_idx)


class Decoder(Attention):
    """A layer around an attention, with its number and a dict that it updates."""

    def forward(self, attention: Any, **kwargs: Any) -> Any:
        kwargs.update(cache=None)
        return attention(**kwargs)


def layers(*modules: nn.Module, **config: Any) -> LayerRotation:
    """Layer 0 rotates always, so that there is something to patch; the modules follow."""
    for index, module in enumerate(modules):
        module.layer_idx = index + 1
    model = nn.ModuleList([Always(0), Decoder(0), Decoder(1), *modules])
    return LayerRotation(model, SimpleNamespace(**config), patch(model).report())


@pytest.mark.parametrize("kind", [ByAttribute, ByExpression, ByReturn, ByHelper, BySuper])
def test_what_the_attributes_of_a_module_decide(kind: type[Attention]):
    rotation = layers(kind(window=8, full=False), kind(window=None, full=True), Never())
    assert [rotation.of_layer(index) for index in range(4)] == [True, True, False, False]
    assert rotation.count == 4


@pytest.mark.parametrize(
    ("config", "rotates"),
    [
        ({"layer_rope_theta": [1e4, 0, 1e4]}, [False, True]),
        ({"rope_parameters": {"full": None, "near": {}}, "layer_types": ["near", "full", "near"]}, [False, True]),
        ({"position_embedding_type": "rope"}, [True, True]),
        ({"position_embedding_type": "nope"}, [False, False]),
        ({"alibi": True}, [False, False]),
        ({"alibi": False}, [True, True]),
    ],
)
def test_what_an_argument_decides_is_read_in_the_config(config: dict[str, Any], rotates: list[bool]):
    rotation = layers(ByArgument(), ByArgument(), **config)
    assert [rotation.of_layer(index) for index in (0, 1, 2)] == [True, *rotates]


def test_what_nothing_decides_is_refused():
    rotation = layers(ByArgument())
    assert rotation.of_layer(0)
    with pytest.raises(
        ValueError, match=r"ByArgument .* keys of layer 1 are rotated \(tables is not None\), and the config"
    ):
        rotation.of_layer(1)


def test_one_layer_of_two_attentions_is_refused():
    cross = Never()
    rotation = layers(ByAttribute(window=8, full=False), cross)
    cross.layer_idx = 1
    with pytest.raises(ValueError, match=r"ByAttribute and Never .* \(only one of them rotates\)"):
        rotation.of_layer(1)


def test_a_rotation_that_the_patch_left_is_refused():
    with pytest.raises(
        ValueError,
        match="layer 1 rotates by apply_rotary_oddly, which the patch left: it takes no queries.*move keys by",
    ):
        layers(Oddly()).of_layer(1)


def test_a_source_that_cannot_be_read_is_refused():
    names: dict[str, Any] = {"Attention": Attention, "turn": turn}
    exec(
        "class Hidden(Attention):\n def forward(self, q, k, cos, sin, cache):\n  q, k = turn(q, k, cos, sin)\n"
        "  return cache.update(k, k, self.layer_idx)",
        names,
    )
    with pytest.raises(ValueError, match="the source of forward cannot be read"):
        layers(names["Hidden"]()).of_layer(1)


def test_layers_that_no_module_has_are_refused():
    with pytest.raises(ValueError, match="no module of ModuleList with layer_idx 7 caches keys"):
        layers(Never()).of_layer(7)


def test_modules_without_a_number_stand_for_every_layer():
    class Unnumbered(nn.Module):
        def forward(self, q: Tensor, k: Tensor, tables: Tables) -> Any:
            return turn(q, k, *tables)

    model = Unnumbered()
    rotation = LayerRotation(model, None, patch(model).report())
    assert rotation.of_layer(0) and rotation.of_layer(31) and rotation.count == 0
