"""rerotate(cache, handle, old, new): the keys in a cache of transformers, moved in place. transformers itself is not imported."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._checks import describe
from ..embedding import RotaryEmbedding
from ..functional import apply_rotary
from .configs import Configs
from .coordinates import understood
from .handle import Handle
from .measured import Rotary, holders
from .spec import RotationSpec
from .spectra import AGREE

_SERVED = ("DynamicLayer", "StaticLayer")
_NORM_AFTER = ("HunYuan", "TimesFm", "Idefics")
"""Classes of attention that normalise keys after they are rotated, with a weight for each channel: what is cached is no rotation."""
_BY_LENGTH = ("dynamic", "longrope")


def rerotate(
    cache: Any,
    handle: Handle,
    old_positions: int | Tensor,
    new_positions: int | Tensor,
    *,
    old_length: int | Tensor | None = None,
    new_length: int | Tensor | None = None,
) -> None:
    """Move the keys of a cache in place, as RotaryEmbedding.rerotate does, in every layer of a model whose rotation `patch` knows.

    cache: a DynamicCache or StaticCache of transformers with layers of full attention. Nothing else in it changes: after tokens are
        dropped, crop or gather keys and values yourself.
    handle: what patch(model) returned, active. Frequencies are those that the model's rotary modules hold, in its float32 arithmetic, or
        exactly where patch(model, tables="exact") made them so; for schemes that depend on the length those of its config.
    old_positions, new_positions: of all tokens in the cache: ints, (seq,), or (1 or batch, seq).
    old_length, new_length: as in RotaryEmbedding.rerotate, for models with LongRoPE or dynamic NTK. transformers takes the largest
        position + 1 of each call, over all rows.

    At LongRoPE's switch transformers drops the cache and prefills again. rerotate(cache, handle, 0, 0, old_length=n, new_length=n + 1)
    keeps it, with keys as the long factors rotate them. That is not equal to a new prefill: keys of the first layer are, within the
    roundings of rerotate; those of deeper layers, and all values, come from hidden states that saw the short factors.

    TypeError for what is no cache of transformers, and for quantised, offloaded, sliding and other layers, by name; ValueError for a
    model whose cached keys are not the rotation that was recognised, for positions that do not fit. All before anything is written.
    """
    if not isinstance(handle, Handle):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"handle must be what patch(model) returned, got {describe(handle)}")
    model = handle.model
    layers = _layers(cache)
    spec = _spec(handle)
    ropes = _Ropes(model, handle, spec)
    moves: list[tuple[Tensor, tuple[Tensor, Tensor]]] = []
    tables: dict[tuple[int, torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}
    for index, layer in layers:
        rope = ropes.of_layer(index)
        if rope is None:
            continue
        keys = _keys(layer, rope, spec)
        work = torch.float64 if keys.dtype == torch.float64 else torch.float32
        known = id(rope), keys.device, work
        if known not in tables:
            counted = not isinstance(old_positions, Tensor) and not isinstance(new_positions, Tensor)
            tables[known] = rope.to(keys.device).rerotation(
                old_positions,
                new_positions,
                work,
                rows=keys.shape[-2] if counted else None,
                old_length=old_length,
                new_length=new_length,
            )
        cos, sin = tables[known]
        if cos.shape[-2] != keys.shape[-2] or (cos.ndim == 3 and cos.shape[0] not in (1, keys.shape[0])):
            raise ValueError(
                f"positions for {tuple(cos.shape[:-1])} tokens do not fit layer {index}, whose cache holds {keys.shape[-2]} in a batch of "
                f"{keys.shape[0]}: give a position for each"
            )
        moves.append((keys, (cos, sin)))
    with torch.no_grad():
        for keys, (cos, sin) in moves:
            apply_rotary(keys, cos, sin, interleaved=_paired(spec), conjugate=spec.conjugate, inplace=True)


def _layers(cache: Any) -> list[tuple[int, Any]]:
    """The layers that hold keys, with their numbers; or the error that names what is not served."""
    name, layers = type(cache).__name__, getattr(cache, "layers", None)
    if not isinstance(layers, list):
        raise TypeError(f"cache must be a DynamicCache or StaticCache of transformers, got {name}")
    if getattr(cache, "offloading", False):
        raise TypeError(
            f"this {name} is offloaded: its layers come and go while the model runs; move keys in a cache that stays"
        )
    for index, layer in enumerate(layers):
        kind = type(layer).__name__
        if kind in _SERVED:
            continue
        why = "keys of this kind are not served"
        if "Quant" in kind:
            why = "quantised keys cannot be turned as they are: dequantise, move, quantise"
        elif "Sliding" in kind:
            why = "a sliding window drops tokens by itself, and so has positions of its own"
        raise TypeError(f"layer {index} of the cache is a {kind}: {why}; served are {' and '.join(_SERVED)}")
    filled = [(i, layer) for i, layer in enumerate(layers) if layer.is_initialized and int(layer.get_seq_length())]
    if not filled:
        raise ValueError(f"this {name} is empty: there are no keys to move")
    return filled


def _spec(handle: Handle) -> RotationSpec:
    """The one rotation of the model, as far as cached keys show it."""
    found = [(owner, spec) for owner, _, _, spec in handle.report().replaced if isinstance(spec, RotationSpec)]
    after = sorted({owner for owner, _ in found if owner.startswith(_NORM_AFTER)})
    if after:
        raise ValueError(
            f"{after[0]} normalises keys after their rotation: what is cached is no rotation, and cannot be moved"
        )
    looks = {(_paired(spec), spec.conjugate, spec.partial) for _, spec in found}
    if len(looks) != 1:
        raise ValueError(
            f"the model has {len(looks)} kinds of rotation, and a cache does not say which made its keys:\n{handle.report()}"
        )
    return found[0][1]


def _paired(spec: RotationSpec) -> bool:
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
            f"{rope.dim} of {keys.shape[-1]} channels of a cached key turn, and the model cuts them out itself, which is not looked into; "
            f"move keys by RotaryEmbedding.rerotate"
        )
    return keys[..., passing:] if spec.partial == "trailing" else keys[..., : rope.dim]


class _Ropes:
    """The rotation of each layer of a model, as RotaryEmbedding."""

    def __init__(self, model: nn.Module, handle: Handle, spec: RotationSpec) -> None:
        exact = {owner for owner, _, what, _ in handle.report().replaced if what == "cos and sin"}
        configs = Configs(model, None)
        self._config: Any = getattr(model, "config", None)
        self._config = getattr(self._config, "get_text_config", lambda: self._config)()
        self._ropes: dict[str | None, RotaryEmbedding] = {}
        for rotary in holders(model):
            rope = _rope(rotary, configs, type(rotary.module).__name__ in exact, _paired(spec))
            known = self._ropes.setdefault(rotary.layer_type, rope)
            if known._tables != rope._tables:
                raise ValueError(
                    f"{type(model).__name__} has rotary modules with different frequencies, and a cache does not say which made its keys"
                )
        if not self._ropes:
            raise ValueError(f"no rotary module in {type(model).__name__} holds its frequencies")

    def of_layer(self, index: int) -> RotaryEmbedding | None:
        """None for a layer that does not rotate."""
        turning = getattr(
            self._config, "no_rope_layers", None
        )  # 1 where a layer rotates, as Llama 4 and SmolLM3 have it
        if turning and not turning[index]:
            return None
        if len(self._ropes) == 1:
            return next(iter(self._ropes.values()))
        types = getattr(self._config, "layer_types", None)
        if not types or types[index] not in self._ropes:
            raise ValueError(
                f"the frequencies differ by layer type ({', '.join(map(str, self._ropes))}), and layer {index} has none"
            )
        return self._ropes[types[index]]


def _rope(rotary: Rotary, configs: Configs, exact: bool, interleaved: bool) -> RotaryEmbedding:
    """The frequencies that a module holds; its config's where they depend on the length."""
    held, name = rotary.inv_freq, type(rotary.module).__name__
    assert held is not None
    if held.ndim != 1 or held.dtype != torch.float32 or not bool(held.isfinite().all()):
        raise ValueError(
            f"the inv_freq of {name} is {held.dtype} {tuple(held.shape)}: keys are moved by finite float32 ones, (dim/2,)"
        )
    angles: Any = "exact" if exact else "float32"
    rope_type = getattr(rotary.module, "rope_type", "default")
    if isinstance(rope_type, dict):
        rope_type = rope_type[rotary.layer_type]
    if understood(rotary.module, held) is not None:
        raise ValueError(
            f"{name} takes several positions per token (M-RoPE): move keys by RotaryEmbedding(axes=...).rerotate"
        )
    if rope_type not in _BY_LENGTH:
        return RotaryEmbedding.from_inv_freq(
            held, attention_factor=rotary.factor or 1.0, interleaved=interleaved, angles=angles
        )
    readings = configs.readings(rotary)
    if isinstance(readings, str) or len(readings) != 1:
        raise ValueError(f"the frequencies of {name} depend on the length ({rope_type}), and {readings}")
    read = readings[0].arguments
    rope = RotaryEmbedding(read.dim, base=read.base, scaling=read.scaling, interleaved=interleaved, angles=angles)
    original = getattr(rotary.module, "original_inv_freq", held).cpu()
    if rope.inv_freq.shape != original.shape or not torch.allclose(rope.inv_freq, original, rtol=AGREE, atol=0):
        raise ValueError(
            f"the frequencies of {name} are not those of its config, by which keys at other lengths are moved"
        )
    return rope
