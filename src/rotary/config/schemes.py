"""The scheme of rotary.scaling that rope parameters describe. A key that does not belong to the rope_type is an error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .._checks import describe, number
from ..scaling import NTK, DynamicNTK, Linear, Llama3, LongRoPE, NTKMixed, Proportional, Scheme, YaRN
from ..scaling.by_parts import mscale
from ..scaling.scheme import check_window
from .load import Config
from .names import Contradiction, differ, nearest
from .widths import first_integer

Parameters = Mapping[str, Any]
_COMMON = {"rope_type", "rope_theta", "partial_rotary_factor", "max_position_embeddings"}
INERT_WITH_ALPHA = {"factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"}
"""Keys that Hunyuan's configs have besides alpha, and that its code does not read."""
FIXED_NTK = {"new", "gte"}
"""Models of Alibaba's GTE, whose rope_type "ntk" divides plane i by factor^(2 (i + 1) / dim) (kexue.fm/archives/9706, equation 6)."""


class RopeType(NamedTuple):
    """A value of rope_type: its required keys, its optional keys, and the function that makes its scheme from them."""

    required: frozenset[str]
    optional: frozenset[str]
    make: Callable[[Parameters, Config], Scheme | None]


def make_scheme(rope: Parameters, config: Config) -> Scheme | None:
    """The scheme that these rope parameters describe, None for plain rotation.

    ValueError for an unknown rope_type, a missing key or an impossible number; TypeError for an unknown key or a wrong type.
    """
    rope_type = rope["rope_type"]
    if rope_type == "axial":
        raise ValueError(
            f"rope_type {rope_type!r} is that of vision towers, and model_type {config.get('model_type')!r} is none that is known: make it "
            f"by RotaryEmbedding.axial"
        )
    if rope_type not in TYPES:
        raise ValueError(f"unknown rope_type {rope_type!r}{nearest(rope_type, TYPES)}")
    _check_keys(rope, config)
    try:
        return TYPES[rope_type].make(rope, config)
    except (TypeError, ValueError) as error:
        raise type(error)(f"rope_type {rope_type!r}: {error}") from None


def _check_keys(rope: Parameters, config: Config) -> None:
    rope_type = rope["rope_type"]
    required, optional = TYPES[rope_type].required, TYPES[rope_type].optional | _COMMON
    if rope_type == "dynamic" and rope.get("alpha"):
        required, optional = frozenset({"alpha"}), optional | INERT_WITH_ALPHA
    for key in rope:
        if key not in required | optional:
            raise TypeError(
                f"unexpected key {key!r} ({describe(rope[key])}) for rope_type {rope_type!r}{nearest(key, required | optional)}"
            )
    for key in sorted(required):
        if key not in rope:
            raise ValueError(f"missing key {key!r} for rope_type {rope_type!r}{_remedy(key, config)}")
    inner, outer = rope.get("max_position_embeddings"), config.get("max_position_embeddings")
    if inner is not None and outer is not None and inner != outer:
        raise Contradiction(
            f"conflicting max_position_embeddings: {describe(inner)} in rope parameters, {describe(outer)} in config; keep one"
        )


def _remedy(key: str, config: Config) -> str:
    if key == "original_max_position_embeddings":
        return (
            f": the context length of the model before its extension (max_position_embeddings is "
            f"{config.get('max_position_embeddings')!r}; libraries differ in the value they use if the key is missing)"
        )
    return ""


def factor_of(rope: Parameters, config: Config) -> float:
    """The factor of a scheme; without one its longest context over the trained window, as transformers derives it."""
    if "factor" in rope:
        number("factor", rope["factor"])
        return rope["factor"]
    longest = first_integer(config, "max_position_embeddings")
    if longest is None:
        raise ValueError("missing key 'factor', and the config lacks max_position_embeddings to derive it from")
    check_window(rope["original_max_position_embeddings"])
    return longest / rope["original_max_position_embeddings"]


def _some(rope: Parameters, *keys: str) -> dict[str, Any]:
    """Those of these keys that the rope parameters have, with their values."""
    return {key: rope[key] for key in keys if key in rope}


def _linear(rope: Parameters, config: Config) -> Scheme:
    return Linear(rope["factor"])


def _ntk(rope: Parameters, config: Config) -> Scheme:
    """Alibaba-NLP/new-impl, modeling.py, and vLLM's rotary_embedding/ntk_scaling_rope.py: with mixed_b the mixed form, else fixed."""
    if rope.get("mixed_b") is not None:
        return NTKMixed(rope["factor"], rope["mixed_b"])
    return NTKMixed(rope["factor"], 1.0) if config.get("model_type") in FIXED_NTK else NTK(rope["factor"])


def _ntk_mixed(rope: Parameters, config: Config) -> Scheme:
    """vivo-ai/BlueLM-7B-Chat-32K (Hugging Face), modeling_bluelm.py: power is the exponent."""
    return NTKMixed(rope["factor"], rope["power"])


def _dynamic(rope: Parameters, config: Config) -> Scheme:
    if rope.get("alpha"):
        return NTK(rope["alpha"])
    window, original = config.get("max_position_embeddings"), rope.get("original_max_position_embeddings")
    if window is None:
        raise ValueError("missing max_position_embeddings, the length beyond which the base changes")
    if original is not None and original != window:
        raise Contradiction(
            f"original_max_position_embeddings {original!r} differs from max_position_embeddings {window!r}: transformers takes the "
            f"second for the trained window and ignores the first; write the trained window as both"
        )
    return DynamicNTK(rope["factor"], window)


def _yarn(rope: Parameters, config: Config) -> Scheme:
    factor = factor_of(rope, config)
    fields = _some(rope, "beta_fast", "beta_slow", "truncate", "attention_factor", "mscale", "mscale_all_dim")
    if differ(rope.get("extrapolation_factor", 1), 1):
        raise ValueError(
            f"extrapolation_factor must be 1, the only supported value, got {describe(rope['extrapolation_factor'])}"
        )
    if "attn_factor" in rope:
        if fields.keys() & {"attention_factor", "mscale", "mscale_all_dim"}:
            raise ValueError(
                f"attn_factor {describe(rope['attn_factor'])} multiplies 0.1 ln factor + 1, while attention_factor, mscale and "
                f"mscale_all_dim replace that formula; keep one of them"
            )
        fields["attention_factor"] = number("attn_factor", rope["attn_factor"]) * mscale(factor)
    else:
        _check_mscale(factor, rope)
    return YaRN(factor, rope["original_max_position_embeddings"], **fields)


def _check_mscale(factor: float, rope: Parameters) -> None:
    """ValueError if only one of mscale and mscale_all_dim is given and two readings of it differ.

    transformers then ignores both, while DeepSeek's code divides m(mscale or 1) by m(mscale_all_dim or 0). The config does not tell
    which attention factor the checkpoint was trained with.
    """
    first, second = (
        None if rope.get(key) is None else number(key, rope[key], at_least=0.0) for key in ("mscale", "mscale_all_dim")
    )
    if rope.get("attention_factor") is not None or (first and second):
        return
    in_transformers = mscale(factor)
    in_deepseek = mscale(factor, 1.0 if first is None else first) / mscale(factor, second or 0.0)
    if abs(in_transformers - in_deepseek) > 1e-12:
        raise ValueError(
            f"mscale {first!r} and mscale_all_dim {second!r}: the attention factor is {in_transformers:.6g} in transformers and "
            f"{in_deepseek:.6g} in DeepSeek's own code; write both keys, or attention_factor"
        )


def _longrope(rope: Parameters, config: Config) -> Scheme:
    fields = _some(rope, "factor", "attention_factor", "short_mscale", "long_mscale")
    if not fields:
        fields["factor"] = factor_of(rope, config)
    return LongRoPE(rope["short_factor"], rope["long_factor"], rope["original_max_position_embeddings"], **fields)


def _llama3(rope: Parameters, config: Config) -> Scheme:
    keys = ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
    return Llama3(**{key: rope[key] for key in keys})


def _proportional(rope: Parameters, config: Config) -> Scheme:
    return Proportional(**_some(rope, "partial_rotary_factor", "factor"))


def _plain(rope: Parameters, config: Config) -> None:
    return None


def _keys(*keys: str) -> frozenset[str]:
    return frozenset(keys)


_WINDOW = "original_max_position_embeddings"
TYPES: dict[str, RopeType] = {
    "default": RopeType(_keys(), _keys(_WINDOW), _plain),
    "linear": RopeType(_keys("factor"), _keys(_WINDOW), _linear),
    "dynamic": RopeType(_keys("factor"), _keys(_WINDOW, "alpha"), _dynamic),
    "ntk": RopeType(_keys("factor"), _keys(_WINDOW, "mixed_b"), _ntk),
    "ntkmixed": RopeType(_keys("factor", "power"), _keys(_WINDOW), _ntk_mixed),
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
