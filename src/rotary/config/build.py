"""Rope parameters -> schemes of rotary.scaling. Each type knows its keys; a key it does not know is an error, not a guess."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..scaling import NTK, DynamicNTK, Linear, Llama3, LongRoPE, Proportional, Scheme, YaRN
from ..scaling.parts import mscale
from ..scaling.scheme import check_window
from .families import REASONS
from .parameters import nearest
from .source import Config

Parameters = Mapping[str, Any]
_COMMON = {"rope_type", "rope_theta", "partial_rotary_factor", "max_position_embeddings"}
# What Hunyuan's configs carry along beside alpha, and nothing reads.
INERT_WITH_ALPHA = {"factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"}


class RopeType(NamedTuple):
    """A value of rope_type: the keys it needs, those it may have, and what makes its scheme of them."""

    needs: frozenset[str]
    may: frozenset[str]
    make: Callable[[Parameters, Config], Scheme | None]


def scheme(found: Parameters, config: Config) -> Scheme | None:
    """The scheme that these rope parameters describe, None for plain rotation.

    ValueError for an unknown rope_type, a missing key or an impossible number; TypeError for an unknown key or a wrong type.
    """
    kind = found["rope_type"]
    if kind in ("axial", "mrope") or "mrope_section" in found:
        what = f"mrope_section {found['mrope_section']}" if "mrope_section" in found else f"rope_type {kind!r}"
        reason = REASONS["axial" if kind == "axial" else "mrope"].format(
            plain=f"RotaryEmbedding(..., base={found['rope_theta']})"
        )
        raise ValueError(f"{what} is not a rotation by one position: {reason}")
    if kind not in TYPES:
        raise ValueError(f"unknown rope_type {kind!r}{nearest(str(kind), TYPES)}")
    rope_type = TYPES[kind]
    needs, may = rope_type.needs, rope_type.may | _COMMON
    if kind == "dynamic" and found.get("alpha"):
        needs, may = frozenset({"alpha"}), may | INERT_WITH_ALPHA
    for key in found:
        if key not in needs | may:
            raise TypeError(
                f"unexpected key {key!r} = {found[key]!r} for rope_type {kind!r}{nearest(key, needs | may)}"
            )
    for key in sorted(needs):
        if key not in found:
            raise ValueError(f"missing key {key!r} for rope_type {kind!r}{_remedy(key, config)}")
    said, known = found.get("max_position_embeddings"), config.get("max_position_embeddings")
    if said is not None and known is not None and said != known:
        raise ValueError(
            f"conflicting max_position_embeddings: rope parameters say {said!r}, config says {known!r}; keep one"
        )
    try:
        return rope_type.make(found, config)
    except (TypeError, ValueError) as error:
        raise type(error)(f"rope_type {kind!r}: {error}") from None


def _remedy(key: str, config: Config) -> str:
    if key == "original_max_position_embeddings":
        return (
            f": the length the model was trained at before it was extended (max_position_embeddings is "
            f"{config.get('max_position_embeddings')!r}, and libraries differ in what they take instead)"
        )
    return ""


def _target_over_trained(found: Parameters, config: Config) -> float:
    longest = config.get("max_position_embeddings")
    if longest is None:
        raise ValueError("missing key 'factor', and no max_position_embeddings to derive it from")
    check_window(found["original_max_position_embeddings"])
    return longest / found["original_max_position_embeddings"]


def _some(found: Parameters, *keys: str) -> dict[str, Any]:
    return {key: found[key] for key in keys if key in found}


def _linear(found: Parameters, config: Config) -> Scheme:
    return Linear(found["factor"])


def _dynamic(found: Parameters, config: Config) -> Scheme:
    if found.get("alpha"):
        return NTK(found["alpha"])
    window, original = config.get("max_position_embeddings"), found.get("original_max_position_embeddings")
    if window is None:
        raise ValueError("missing max_position_embeddings, beyond which the dynamic stretch begins")
    if original is not None and original != window:
        raise ValueError(
            f"original_max_position_embeddings {original!r} beside max_position_embeddings {window!r}: transformers stretches from the "
            f"second and ignores the first; write the trained window as both"
        )
    return DynamicNTK(found["factor"], window)


def _yarn(found: Parameters, config: Config) -> Scheme:
    factor = found["factor"] if "factor" in found else _target_over_trained(found, config)
    fields = _some(found, "beta_fast", "beta_slow", "truncate", "attention_factor", "mscale", "mscale_all_dim")
    if found.get("extrapolation_factor", 1) != 1:
        raise ValueError(
            f"extrapolation_factor must be 1, its only value in use, got {found['extrapolation_factor']!r}"
        )
    if "attn_factor" in found:
        if fields.keys() & {"attention_factor", "mscale", "mscale_all_dim"}:
            raise ValueError(
                f"attn_factor {found['attn_factor']!r} multiplies 0.1 ln factor + 1, and attention_factor, mscale and mscale_all_dim "
                f"replace it; keep one of them"
            )
        fields["attention_factor"] = found["attn_factor"] * mscale(factor)
    else:
        _check_mscale(factor, found)
    return YaRN(factor, found["original_max_position_embeddings"], **fields)


def _check_mscale(factor: float, found: Parameters) -> None:
    """One of the pair alone is read in two ways; where they differ, nobody can say which the checkpoint was trained with."""
    first, second = found.get("mscale"), found.get("mscale_all_dim")
    if found.get("attention_factor") is not None or (first and second):
        return
    theirs, deepseek = mscale(factor), mscale(factor, 1.0 if first is None else first) / mscale(factor, second or 0.0)
    if abs(theirs - deepseek) > 1e-12:
        raise ValueError(
            f"mscale {first!r} and mscale_all_dim {second!r}: transformers takes {theirs:.6g} for the attention factor, DeepSeek's own "
            f"code {deepseek:.6g}; give both, or attention_factor"
        )


def _longrope(found: Parameters, config: Config) -> Scheme:
    fields = _some(found, "factor", "attention_factor", "short_mscale", "long_mscale")
    if not fields:
        fields["factor"] = _target_over_trained(found, config)
    return LongRoPE(found["short_factor"], found["long_factor"], found["original_max_position_embeddings"], **fields)


def _llama3(found: Parameters, config: Config) -> Scheme:
    keys = ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
    return Llama3(**{key: found[key] for key in keys})


def _proportional(found: Parameters, config: Config) -> Scheme:
    return Proportional(**_some(found, "partial_rotary_factor", "factor"))


def _plain(found: Parameters, config: Config) -> None:
    return None


def _keys(*keys: str) -> frozenset[str]:
    return frozenset(keys)


_WINDOW = "original_max_position_embeddings"
TYPES: dict[str, RopeType] = {
    "default": RopeType(_keys(), _keys(_WINDOW), _plain),
    "linear": RopeType(_keys("factor"), _keys(_WINDOW), _linear),
    "dynamic": RopeType(_keys("factor"), _keys(_WINDOW, "alpha"), _dynamic),
    "yarn": RopeType(
        _keys(_WINDOW),
        _keys(
            "factor",
            "attention_factor",
            "attn_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "truncate",
        )
        | _keys("extrapolation_factor", "finetuned", "llama_4_scaling_beta"),
        _yarn,
    ),
    "longrope": RopeType(
        _keys("short_factor", "long_factor", _WINDOW),
        _keys("factor", "attention_factor", "short_mscale", "long_mscale"),
        _longrope,
    ),
    "llama3": RopeType(_keys("factor", "low_freq_factor", "high_freq_factor", _WINDOW), _keys(), _llama3),
    "proportional": RopeType(_keys(), _keys("factor"), _proportional),
}
