"""rerotate(cache, handle, old, new): move the keys in a cache of transformers to other positions, in place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._checks import describe
from .._types import CosSin
from ..embedding import RotaryEmbedding
from ..functional import apply_rotary
from .configs import Configs
from .coordinates import plane_orders
from .handle import Handle
from .layer_rotation import LayerRotation
from .measured import Rotary, holders
from .spec import RotationSpec
from .spectra import AGREE
from .surroundings import defaults

_SERVED = ("DynamicLayer", "StaticLayer")
"""Classes of cache layers whose keys are plain tensors of all tokens."""
_NORM_AFTER = ("HunYuan", "TimesFm", "Idefics")
"""Beginnings of classes of attention that normalise keys after their rotation, with a weight for each channel: cached keys are then no
rotated keys."""
_BY_LENGTH = ("dynamic", "longrope")
"""rope_types whose frequencies depend on the length of the context."""


def rerotate(
    cache: Any,
    handle: Handle,
    old_positions: int | Tensor,
    new_positions: int | Tensor,
    *,
    old_length: int | Tensor | None = None,
    new_length: int | Tensor | None = None,
) -> None:
    """Move the keys of a cache in place, as RotaryEmbedding.rerotate does, in every layer of a model whose rotation `patch` recognises.

    cache: a DynamicCache or StaticCache of transformers with layers of full attention. Layers that the model does not rotate are left.
        Nothing else in it changes: where tokens are to be dropped, crop or gather keys and values yourself.
    handle: what patch(model) returned, active. Frequencies are those of the model's rotary modules, in float32 arithmetic, or exact after
        patch(model, tables="exact"); for schemes that depend on the length those of its config.
    old_positions, new_positions: of all tokens in the cache: ints, (seq,), or (1 or batch, seq).
    old_length, new_length: as in RotaryEmbedding.rerotate, for models with LongRoPE or dynamic NTK. transformers takes the largest
        position + 1 of each call, over all rows.

    Where LongRoPE changes to its long factors transformers drops the cache and prefills again. rerotate(cache, handle, 0, 0, old_length=n,
    new_length=n + 1) keeps it, with keys rotated by the long factors. That differs from a new prefill: keys of the first layer are equal
    within the roundings of rerotate; those of deeper layers, and all values, come from hidden states that the short factors made.

    TypeError for what is no cache of transformers or no handle, and for quantised, offloaded, sliding and other layers, by name; ValueError
    for a model whose cached keys are not rotated as was recognised, whose code does not show which layers rotate, or which has fewer layers
    than the cache, and for positions that do not fit. Errors come before anything is written.
    """
    if not isinstance(handle, Handle):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"handle must be what patch(model) returned, got {describe(handle)}")
    model = handle.model
    layers = _layers(cache)
    spec = _spec(handle)
    with defaults("cpu"):
        ropes = _Ropes(model, handle, spec)
    ropes.check_depth(1 + layers[-1][0])
    moves: list[tuple[Tensor, CosSin]] = []
    tables: dict[tuple[int, torch.device, torch.dtype], CosSin] = {}
    for index, layer in layers:
        rope = ropes.of_layer(index)
        if rope is None:
            continue
        keys = _keys(layer, rope, spec)
        work = torch.float64 if keys.dtype == torch.float64 else torch.float32
        table = id(rope), keys.device, work
        if table not in tables:
            counted = not isinstance(old_positions, Tensor) and not isinstance(new_positions, Tensor)
            tables[table] = rope.to(keys.device).rerotation(
                old_positions,
                new_positions,
                work,
                rows=keys.shape[-2] if counted else None,
                old_length=old_length,
                new_length=new_length,
            )
        cos, sin = tables[table]
        if cos.shape[-2] != keys.shape[-2] or (cos.ndim == 3 and cos.shape[0] not in (1, keys.shape[0])):
            raise ValueError(
                f"positions for {tuple(cos.shape[:-1])} tokens do not fit layer {index}, whose cache has {keys.shape[-2]} in a batch of "
                f"{keys.shape[0]}: give a position for each"
            )
        moves.append((keys, (cos, sin)))
    with torch.no_grad():
        for keys, (cos, sin) in moves:
            apply_rotary(keys, cos, sin, interleaved=_interleaved(spec), conjugate=spec.conjugate, inplace=True)


def _layers(cache: Any) -> list[tuple[int, Any]]:
    """The layers with keys, and their numbers. TypeError for a cache or layer of another kind; ValueError for an empty cache."""
    name, layers = type(cache).__name__, getattr(cache, "layers", None)
    if not isinstance(layers, list):
        raise TypeError(f"cache must be a DynamicCache or StaticCache of transformers, got {name}")
    if getattr(cache, "offloading", False):
        raise TypeError(
            f"this {name} is offloaded: its layers are on the device only while they are used; move keys in a cache without offloading"
        )
    for index, layer in enumerate(layers):
        layer_class = type(layer).__name__
        if layer_class in _SERVED:
            continue
        reason = "keys of this class are not served"
        if "Quant" in layer_class:
            reason = "quantised keys cannot be rotated: dequantise, move, quantise"
        elif "Sliding" in layer_class:
            reason = "a sliding window drops tokens itself, so that its positions are not those of the sequence"
        raise TypeError(f"layer {index} of the cache is a {layer_class}: {reason}; served are {' and '.join(_SERVED)}")
    filled = [(i, layer) for i, layer in enumerate(layers) if layer.is_initialized and int(layer.get_seq_length())]
    if not filled:
        raise ValueError(f"this {name} is empty: there are no keys to move")
    return filled


def _spec(handle: Handle) -> RotationSpec:
    """The rotation of cached keys. ValueError where a norm follows it, or where the model has several that differ in cached keys."""
    specs = [(owner, spec) for owner, _, _, spec in handle.report().replaced if isinstance(spec, RotationSpec)]
    normalising = sorted({owner for owner, _ in specs if owner.startswith(_NORM_AFTER)})
    if normalising:
        raise ValueError(
            f"{normalising[0]} normalises keys after their rotation: cached keys are no rotated keys, and cannot be moved"
        )
    forms = {(_interleaved(spec), spec.conjugate, spec.partial) for _, spec in specs}
    if len(forms) != 1:
        raise ValueError(
            f"the model has {len(forms)} kinds of rotation, and a cache does not record which made its keys:\n{handle.report()}"
        )
    return specs[0][1]


def _interleaved(spec: RotationSpec) -> bool:
    """Whether cached keys are interleaved."""
    return spec.interleaved and not spec.to_half


def _keys(layer: Any, rope: RotaryEmbedding, spec: RotationSpec) -> Tensor:
    """The keys of all tokens in a layer, a view (batch, heads, seq, dim) of the channels that turn."""
    keys: Tensor = layer.keys[..., : int(layer.get_seq_length()), :]
    passing = keys.shape[-1] - rope.dim
    if passing < 0:
        raise ValueError(f"the rotary modules turn {rope.dim} channels, cached keys have {keys.shape[-1]}")
    if passing and not spec.partial:
        raise ValueError(
            f"{rope.dim} of {keys.shape[-1]} channels of a cached key turn, which the model's own code cuts out, at a place that is not "
            f"recognised; move keys by RotaryEmbedding.rerotate"
        )
    return keys[..., passing:] if spec.partial == "trailing" else keys[..., : rope.dim]


class _Ropes:
    """The rotation of each layer of a model, as RotaryEmbedding."""

    def __init__(self, model: nn.Module, handle: Handle, spec: RotationSpec) -> None:
        exact = {owner for owner, _, what, _ in handle.report().replaced if what == "cos and sin"}
        configs = Configs(model, None)
        self._config: Any = getattr(model, "config", None)
        self._config = getattr(self._config, "get_text_config", lambda: self._config)()
        self._rotation = LayerRotation(model, self._config, handle.report())
        self._ropes: dict[str | None, RotaryEmbedding] = {}
        for rotary in holders(model):
            rope = _rope(rotary, configs, type(rotary.module).__name__ in exact, _interleaved(spec))
            first = self._ropes.setdefault(rotary.layer_type, rope)
            if first._tables != rope._tables:
                raise ValueError(
                    f"{type(model).__name__} has rotary modules with different frequencies, and a cache does not record which made its keys"
                )
        if not self._ropes:
            raise ValueError(f"no rotary module in {type(model).__name__} has an inv_freq")

    def check_depth(self, layers: int) -> None:
        """ValueError for a cache with more layers than the model."""
        count = self._rotation.count
        if 0 < count < layers:
            raise ValueError(f"the cache has {layers} layers, the model {count}: pass a cache that this model filled")

    def of_layer(self, index: int) -> RotaryEmbedding | None:
        """None for a layer that does not rotate."""
        if not self._rotation.of_layer(index):
            return None
        if len(self._ropes) == 1:
            return next(iter(self._ropes.values()))
        types = getattr(self._config, "layer_types", None)
        if not types or index >= len(types) or types[index] not in self._ropes:
            raise ValueError(
                f"the frequencies differ by layer type ({', '.join(map(str, self._ropes))}), and layer {index} has none"
            )
        return self._ropes[types[index]]


def _rope(rotary: Rotary, configs: Configs, exact: bool, interleaved: bool) -> RotaryEmbedding:
    """A module with the frequencies of a model's rotary module; with those of its config where they depend on the length."""
    inv_freq, name = rotary.inv_freq, type(rotary.module).__name__
    assert inv_freq is not None
    if inv_freq.ndim != 1 or inv_freq.dtype != torch.float32 or not bool(inv_freq.isfinite().all()):
        raise ValueError(
            f"the inv_freq of {name} is {inv_freq.dtype} {tuple(inv_freq.shape)}: keys are moved by finite float32 ones, (dim/2,)"
        )
    angles: Any = "exact" if exact else "float32"
    rope_type = getattr(rotary.module, "rope_type", "default")
    if isinstance(rope_type, dict):
        rope_type = rope_type[rotary.layer_type]
    if plane_orders(rotary.module, inv_freq) is not None:
        raise ValueError(
            f"{name} takes several positions per token (M-RoPE): move keys by RotaryEmbedding(axes=...).rerotate"
        )
    if rope_type not in _BY_LENGTH:
        return RotaryEmbedding.from_inv_freq(
            inv_freq, attention_factor=rotary.factor or 1.0, interleaved=interleaved, angles=angles
        )
    readings = configs.readings(rotary)
    if isinstance(readings, str) or len(readings) != 1:
        raise ValueError(f"the frequencies of {name} depend on the length ({rope_type}), and {readings}")
    read = readings[0].arguments
    rope = RotaryEmbedding(read.dim, base=read.base, scaling=read.scaling, interleaved=interleaved, angles=angles)
    original = getattr(rotary.module, "original_inv_freq", inv_freq).cpu()
    if rope.inv_freq.shape != original.shape or not torch.allclose(rope.inv_freq, original, rtol=AGREE, atol=0):
        raise ValueError(
            f"the frequencies of {name} are not those of its config, from which those of other lengths are computed"
        )
    return rope
