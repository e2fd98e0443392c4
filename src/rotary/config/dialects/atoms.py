"""The atom encoder of ESMFold2, whose positions are x, y and z of an atom and the number of its molecule."""

from __future__ import annotations

from ..axial import of_atoms
from ..widths import first_integer, one_head
from .dialect import Config, Dialect, Spelled, keys, real, respelled

_KEYS = keys("spatial_rope_base_frequency num_spatial_rope_pairs_per_axis num_uid_rope_pairs uid_rope_base_frequency")
_NOTES = (
    "positions have four coordinates, float64 or float32: x, y and z of an atom, and the number of its molecule",
    "base is that of x, y and z; the number of the molecule has uid_rope_base_frequency",
)


def _translate(config: Config) -> Spelled:
    base = real(config, "spatial_rope_base_frequency", 20.0)
    heads = first_integer(config, "num_attention_heads") or 4
    head_dim = one_head(first_integer(config, "head_dim") or (first_integer(config, "hidden_size") or 128) // heads)
    spatial = first_integer(config, "num_spatial_rope_pairs_per_axis") or 2
    uid = first_integer(config, "num_uid_rope_pairs") or 10
    planes = head_dim // 2
    if 3 * spatial + uid > planes:
        raise ValueError(
            f"3 x num_spatial_rope_pairs_per_axis {spatial} + num_uid_rope_pairs {uid} are more planes than the {planes} of a head"
        )
    axial = of_atoms(planes, spatial, uid, base, real(config, "uid_rope_base_frequency", 10000.0))
    plain = respelled(config, _KEYS | {"model_type"}, rope_theta=base)
    return Spelled({**plain, "head_dim": head_dim}, interleaved=False, notes=_NOTES, axial=axial)


ATOMS = Dialect(
    "ESMFold2 atoms",
    "huggingface/transformers, models/esmfold2/modeling_esmfold2.py (EsmFold2RotaryEmbedding)",
    lambda config: config.get("spatial_rope_base_frequency") is not None,
    _KEYS,
    _translate,
)
