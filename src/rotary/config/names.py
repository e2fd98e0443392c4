"""Names of keys: which are about rotation, in any spelling; the known name that is nearest to an unknown one; values given twice."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from .._checks import describe


def words(text: str) -> frozenset[str]:
    """The names in a text, separated by blanks."""
    return frozenset(text.split())


SCHEME_KEYS = frozenset(
    {
        "factor",
        "alpha",
        "beta_fast",
        "beta_slow",
        "low_freq_factor",
        "high_freq_factor",
        "short_factor",
        "long_factor",
        "attention_factor",
        "attn_factor",
        "extrapolation_factor",
        "mscale",
        "mscale_all_dim",
        "short_mscale",
        "long_mscale",
        "llama_4_scaling_beta",
        "mixed_b",
        "truncate",
    }
)
"""Keys that belong to a scheme, and mean nothing where no scheme is named."""

SCHEME_NAMES = words(
    "yarn longrope llama3 ntk ntkmixed ntk_mixed ntk_by_parts ntk_aware dynamic_ntk dynamic_yarn mrope "
    "xpos proportional su"
)
"""Values that name a scheme wherever they occur. linear and dynamic are not among them: keys of other things have these values too."""

_WORDS = re.compile(
    r"(^|_)(m?rope|rotar|rotat|yarn|ntk|longrope|llama_?3|xpos|no_?pe(_|$)|norope|alibi|theta|mscale|inv_?freq|compress_pos|logn)"
    r"|freq(s|uency)?_(base|scale|scaling|factor|constant)|interpolation_(factor|scale)"
    r"|(^|_)pos(ition(al)?)?(_emb(edding)?s?)?_(scal|interp|factor|base)|^dual_chunk_attention_config$|^original_max_"
)
_HARMLESS = frozenset({"qk_nope_head_dim", "nope_head_dim", "ignore_keys_at_rope_validation"})

_FLAGS = {"rope_interleave", "rotary", "rotary_value", "alibi"}
_BLOCKS = {"rope_scaling", "rope_parameters", "dual_chunk_attention_config"}
_LISTS = {"rope_scaling_layers", "layer_rope_theta", "no_rope_layers", "short_factor", "long_factor"}
_TEXTS = {"rope_type", "type"}
_ANYTHING: Any = object()


def snake(key: str) -> str:
    """The key in small letters with underscores: ropeScaling, ROPE_SCALING and rope-scaling are rope_scaling.

    >>> snake("ropeScaling"), snake("ROPE-THETA")
    ('rope_scaling', 'rope_theta')
    """
    return re.sub(r"[\s\-.]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key)).lower()


def about_rotation(key: str) -> bool:
    """Whether a name is about rotation, a scheme or the absence of positions, in any spelling."""
    name = snake(key)
    return name not in _HARMLESS and (name in SCHEME_KEYS or _WORDS.search(name) is not None)


def contains_one(key: str, known: frozenset[str]) -> bool:
    """Whether a known name of eight letters or more is part of the key, in any spelling.

    >>> contains_one("myScaleFactor", frozenset({"scale_factor"}))
    True
    """
    squeezed = snake(key).replace("_", "")
    return any(len(name) >= 8 and name.replace("_", "") in squeezed for name in known)


def names_a_scheme(value: Any) -> bool:
    return isinstance(value, str) and snake(value) in SCHEME_NAMES


def nearest(name: str, known: Iterable[str], value: Any = _ANYTHING) -> str:
    """The end of an error message about an unknown name: the nearest known name, or all of them if none is near.

    Where a value is given, only names that could have such a value are proposed.
    """
    known = sorted(known)
    candidates = [candidate for candidate in known if value is _ANYTHING or _fits(candidate, value)]
    spelled_alike = [candidate for candidate in candidates if candidate == snake(name)]
    close = spelled_alike or difflib.get_close_matches(name, candidates, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


def _fits(name: str, value: Any) -> bool:
    """Whether the key of that name could have this value, by its type."""
    if name in _FLAGS or name.startswith("use_"):
        return isinstance(value, bool)
    if name in _BLOCKS:
        return isinstance(value, Mapping)
    if name in _LISTS:
        return isinstance(value, (list, tuple))
    if name in _TEXTS or name.endswith(".type"):
        return isinstance(value, str)
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def differ(a: Any, b: Any) -> bool:
    """Whether two values of a key differ; True for tensors and arrays of several numbers, which no key has."""
    try:
        return bool(a != b)
    except (RuntimeError, ValueError, NotImplementedError):  # "the truth value ... is ambiguous", of torch and of numpy
        return True


class Contradiction(ValueError):
    """A config says two things about one number."""


def same(key: str, a: Any, b: Any, a_source: str, b_source: str) -> Any:
    """The value of a key that two sources give, None counting as absent; Contradiction where they differ."""
    if a is not None and b is not None and differ(a, b):
        raise Contradiction(f"conflicting {key}: {describe(a)} in {a_source}, {describe(b)} in {b_source}; keep one")
    return b if a is None else a
