"""The transformers of diffusers as a dialect: the class that _class_name names decides which keys mean what.

Their configs hold widths (axes_dims_rope, rope_axes_dim, axes_dims, axes_dim, rope_dim_list, or none) and a base (rope_theta, theta, or
none). diffusers_frequencies.py makes frequencies from them; here every other key about rotation is refused.
"""

from __future__ import annotations

from ..._checks import describe
from ..widths import first_integer
from .dialect import Config, Dialect, Spelled, keys
from .diffusers_classes import BY_WIDTHS
from .diffusers_frequencies import frequencies_of

_WIDTHS = "axes_dims_rope axes_dim_rope rope_axes_dim axes_dims axes_dim rope_dim_list rope_freq_dim mrope_section"
_HARMLESS = (
    "axes_lens rope_max_seq_len rope_temporal_skip_len time_theta interpolation_scale_t interpolation_scale_h interpolation_scale_w "
    "interpolation_scale spatial_interpolation_scale temporal_interpolation_scale audio_pos_embed_max_pos "
    "use_rotary_positional_embeddings use_layer3d_rope rope_double_precision pos_embed_max_pos "
    "unified_3d_mrope_reset_spatial_ids unified_3d_mrope_temporal_modality_margin time_position_encoding_type"
)
"""Keys that change no frequency: longest tables, grids of training and fields of positions."""
_KEYS = keys(f"{_WIDTHS} {_HARMLESS} rope_theta theta rope_scale rope_type rope_scaling rope_scaling/*")

_OWN: dict[str, frozenset[str]] = {
    "LTX2VideoTransformer3DModel": keys("rope_theta rope_type"),
    "CosmosTransformer3DModel": keys("rope_scale"),
    "MiniMaxH3Transformer3DModel": keys("rope_theta rope_freq_dim"),
    "Ideogram4Transformer2DModel": keys("rope_theta mrope_section"),
    "Cosmos3OmniTransformer": keys("rope_theta rope_scaling rope_axes_dim"),
    "JoyImageEditTransformer3DModel": keys("rope_dim_list theta rope_type"),
    "JoyImageEditPlusTransformer3DModel": keys("rope_dim_list theta rope_type"),
    "CogView4Transformer2DModel": keys("rope_axes_dim"),
}
"""Class -> the keys about widths, base and scaling that it reads, where these are others than those of its row in BY_WIDTHS."""


def _check_owned(config: Config, name: str) -> None:
    """TypeError for a width or a base that another class reads, and this one does not."""
    axes = BY_WIDTHS.get(name)
    own = _OWN.get(name, frozenset((axes.key, axes.base_key)) if axes else frozenset[str]())
    for key in keys(f"{_WIDTHS} rope_theta theta rope_scale rope_type rope_scaling") - own:
        if config.get(key) is not None:
            raise TypeError(f"{key} ({describe(config[key])}) is not read by {name}; remove it")


def _translate(config: Config) -> Spelled:
    name = str(config["_class_name"])
    frequencies = frequencies_of(config, name)
    _check_owned(config, name)
    own: Config = {"rope_theta": frequencies.base, **(frequencies.keys or {})}
    if frequencies.axial is not None and name not in _OVER_ALL_HEADS:
        own = {"head_dim": first_integer(config, "attention_head_dim"), **own}
    return Spelled(
        {key: value for key, value in own.items() if value is not None},
        interleaved=frequencies.interleaved,
        notes=(frequencies.note,),
        axial=frequencies.axial,
    )


_OVER_ALL_HEADS = ("LTXVideoTransformer3DModel", "LTX2VideoTransformer3DModel")
"""Classes that rotate before the channels are cut into heads."""

DIFFUSERS = Dialect(
    "diffusers transformer",
    "huggingface/diffusers, src/diffusers/models/transformers/transformer_*.py, of the class in _class_name",
    lambda config: isinstance(config.get("_class_name"), str),
    _KEYS,
    _translate,
    stems=("rope", "axes", "mrope"),
)
