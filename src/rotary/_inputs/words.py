"""Words and arguments of other libraries: a call with them is a TypeError that says what they are here."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def _words(meaning: str, names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), meaning)


CONSTRUCTOR: Mapping[str, str] = {
    **_words("base", "theta rope_theta rotary_base rotary_emb_base freq_base rope_base rope_freq_base temperature"),
    **_words(
        "dim, the channels that turn", "head_dim head_size dim_head d_head rotary_dim rot_dim rope_dim n_elem embed_dim"
    ),
    **_words(
        "int(share * head_dim) as dim",
        "partial_rotary_factor rotary_pct rotary_percent rotary_percentage rotary_fraction",
    ),
    **_words(
        "not needed: no table is kept, and every position works",
        "max_seq_len max_seq_length max_position_embeddings max_position max_seqlen max_length seq_len end cache_max_seq_len "
        "cache_if_possible cache_freqs",
    ),
    **_words("base_rescale_factor, or scaling=NTK(factor)", "theta_rescale_factor ntk_factor ntk_alpha"),
    **_words(
        "interpolation_factor, or scaling=Linear(factor)",
        "interpolate_factor scaling_factor scale_factor factor seq_len_interpolation_factor linear_factor",
    ),
    **_words(
        "scaling, a value of rotary.scaling such as YaRN(4.0, 4096); from_config reads a config",
        "rope_scaling rope_parameters rope_type scaling_type use_scaled use_scaled_rope",
    ),
    **_words("scale_base", "xpos_scale_base"),
    **_words("use_xpos", "xpos"),
    **_words("interleaved", "is_interleaved rotary_interleaved rope_interleave rope_interleaved"),
    **_words("interleaved, which is the opposite", "is_neox_style is_neox neox_style rotate_half half"),
    **_words("RotaryEmbedding.from_inv_freq(values)", "inv_freq custom_freqs freqs bands"),
    **_words(
        "RotaryEmbedding.axial or axes=, with positions of rotary.positions.grid",
        "freqs_for max_freq num_freqs feat_shape in_pixels",
    ),
    **_words("rotary.cos_sin_of, which takes a Parameter", "learned_freq trainable"),
    **_words("an argument of each call: rotate(..., seq_dim=)", "seq_before_head_dim seq_dim default_seq_dim"),
    **_words(
        "an argument of cos_sin(positions, dtype); rotate takes tensors of every dtype",
        "dtype pos_idx_in_fp32 precision",
    ),
    **_words("RotaryEmbedding.from_config(config)", "config"),
}
"""Word -> what it is here, for the constructor."""

FROM_CONFIG: Mapping[str, str] = {
    **_words(
        "in the config; rotary.config.overridden(config, {...}) changes a copy of it",
        "theta rope_theta base rope_scaling rope_parameters scaling max_position_embeddings max_seq_len partial_rotary_factor rotary_pct",
    ),
    **_words("head_dim", "dim dim_head head_size rotary_dim d_head"),
    **_words("interleaved", "is_interleaved rotary_interleaved rope_interleave"),
    **_words("interleaved, which is the opposite", "is_neox_style is_neox"),
    **_words("an argument of cos_sin(positions, dtype)", "dtype"),
    **_words("not in a config of rotary: RotaryEmbedding(..., use_xpos=True)", "use_xpos scale_base"),
}
"""The same for from_config."""


def explained(words: Mapping[str, str]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A function whose TypeError for an unknown keyword among the words says what that is here. Its signature stays."""

    def around(function: Callable[P, R]) -> Callable[P, R]:
        known = inspect.signature(function).parameters

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if not kwargs.keys() <= known.keys():
                for name in kwargs:
                    if name in words and name not in known:
                        where = "from_config()" if function.__name__ == "from_config" else "RotaryEmbedding()"
                        raise TypeError(f"{where} has no argument {name!r}; here it is {words[name]}")
            return function(*args, **kwargs)

        return call

    return around


def of_one_tensor(function: Callable[P, R]) -> Callable[P, R]:
    """apply_rotary_pos_emb, with a TypeError for the arguments of other libraries' function of that name. Its signature stays."""
    known = inspect.signature(function).parameters

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if len(args) > len(known) or not kwargs.keys() <= known.keys():
            raise TypeError(
                "apply_rotary_pos_emb(t, freqs, scale) rotates one tensor by the pair of RotaryEmbedding.forward(); what is "
                "(q, k, cos, sin) elsewhere is apply_rotary_qk(q, k, *rotary.tables.from_full_width(cos, sin))"
            )
        return function(*args, **kwargs)

    return call
