"""read(config) -> Arguments: the arguments of RotaryEmbedding, and notes on what the config requires besides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .._checks import WIDEST, describe, even_dim, flag, number, text
from .._torch import plain_torch
from ..scaling import Scheme
from ..scaling.temperature import Temperature
from .axial import Arrangement, Axial, Part
from .coordinates import axes_of, is_dealt_out, note, without
from .extras import cancelled, notes, temperatures, unrotated_layer_types
from .families import FAMILIES, REASONS, Family, unrotated
from .load import Config, rotary_keys
from .names import nearest
from .normalize import parameters
from .schemes import Parameters, make_scheme
from .spelling import Spelled, spelled
from .towers import axial_of, check_whole_width, mapped, notes_of, width_of_tower
from .widths import check_derived, first_integer, rotated_width, width_of_head

_UNSUPPORTED = {
    "use_dynamic_ntk": "changes the base with the length: NTK(2 ** ceil(log2(length / seq_length) + 1) - 1) beyond seq_length; set "
    "it to False for contexts within seq_length, or pass that scheme to RotaryEmbedding",
    "dual_chunk_attention_config": "restarts positions in every chunk; remove it for contexts within its "
    "original_max_position_embeddings",
}
"""Keys that change the rotation with the length in a way that no scheme of rotary.scaling does."""


@dataclass(frozen=True)
class Arguments:
    """The rotation that a config describes.

    dim: number of rotated channels. base: base of the frequencies. scaling: schemes, applied left to right.
    interleaved: true if neighbouring channels form a plane, false for half a head apart.
    head_dim: channels of a head, or of its rotated slice in models that rotate a separate slice (MLA).
    window: context length [token] before any extension; target: context length that the model is meant for. None if not in the config.
    temperatures: factors of the queries besides the rotation; RotaryEmbedding does not apply them.
    notes: what else the caller must do, one sentence each.
    axes: the coordinate that each plane reads, None where a position is one number.
    parts, order: where each axis has a spectrum of its own: (channels, coordinate, schemes) of each, as RotaryEmbedding.axial takes them.
    extent: the length of the interval of real coordinates, 2 for [-1, 1]; 0 where positions are integers.
    inv_freq: frequencies of planes that are no such spectra [rad per unit of its coordinate], or that the model computes in float64: dim/2
        numbers, or none.
    dialect: the dialect of the config.
    """

    dim: int
    base: float
    scaling: tuple[Scheme, ...]
    interleaved: bool
    head_dim: int
    window: int | None = None
    target: int | None = None
    temperatures: tuple[Temperature, ...] = ()
    notes: tuple[str, ...] = ()
    dialect: str = "transformers"
    axes: tuple[int, ...] | None = None
    parts: tuple[Part, ...] = ()
    order: Arrangement = "blocks"
    inv_freq: tuple[float, ...] = ()
    extent: float = 0.0


@plain_torch()  # numbers of a config become numbers of a rotation, under meta or fake tensors too
def read(
    config: Any,
    *,
    part: str | None = None,
    layer_type: str | None = None,
    head_dim: int | None = None,
    interleaved: bool | None = None,
) -> Arguments:
    """Read everything about rotation from a model's config.

    config: a dict, the path of a config file or of its folder, the name of a published config (see shipped()), or a config object of
        transformers; in any dialect of docs/configs.md: transformers 4 and 5 and the remote code that follows them, Meta's and Mistral's
        params.json, LitGPT, torchtune, Megatron-LM and NeMo, GGUF, and the transformers of diffusers. Of a composite config the text
        model is read.
    part: the key of another part of a composite config, "vision_config", or keys with dots between, "vlm_config.vision_config".
    layer_type: the type of the layers to read, if they differ ("full_attention", "sliding_attention").
    head_dim, interleaved: replace the values of the config, or supply those it lacks. Without interleaved, the pairing follows from
        model_type or the dialect; for an unknown model_type it is half, as in every checkpoint that was converted for transformers, and
        a dialect that does not fix it asks for it.

    ValueError or TypeError, with key, value and the nearest known name, for an unknown or missing key, conflicting values, an
    impossible number, and a rotation that RotaryEmbedding does not have. Keys that are not about rotation are not examined.
    """
    if layer_type is not None:
        text("layer_type", layer_type, "full_attention")
    translated = spelled(config, part)
    config = translated.config
    name = config.get("model_type")
    family: Family = FAMILIES.get(name, {})
    _check_rotates(config, name)
    config = {**family.get("sizes", {}), **mapped(config, family)}
    if "refused" in family:
        raise ValueError(f"models of type {name!r} are refused: {_reason(family['refused'], config, family, head_dim)}")
    if layer_type in unrotated_layer_types(config, family):
        raise ValueError(f"layers of type {layer_type!r} do not rotate in models of type {name!r}")
    rope = parameters(config, layer_type)
    if family.get("derived_head_dim") and head_dim is None:
        check_derived(config)
    if translated.axial is not None or "axial" in family:
        return _of_axes(translated, config, family, rope, head_dim, interleaved)
    return _of_one_spectrum(translated, config, family, rope, layer_type, head_dim, interleaved)


def _of_one_spectrum(
    translated: Spelled,
    config: Config,
    family: Family,
    rope: Parameters,
    layer_type: str | None,
    head_dim: int | None,
    interleaved: bool | None,
) -> Arguments:
    """The arguments of a rotation with one spectrum, whose planes may be dealt out to several coordinates."""
    target = first_integer(config, "max_position_embeddings")
    scheme = make_scheme(without(rope), config)
    base = number("rope_theta", rope["rope_theta"])
    head_dim = width_of_head(config, layer_type, head_dim)
    dim = rotated_width(rope, config, head_dim)
    dealt_out = is_dealt_out(rope, family)
    return Arguments(
        dim=dim,
        base=base,
        scaling=(*(() if scheme is None else (scheme,)), *translated.schemes),
        interleaved=_pairing(translated, family) if interleaved is None else flag("interleaved", interleaved),
        head_dim=head_dim,
        window=first_integer(rope, "original_max_position_embeddings") or target,
        target=target,
        temperatures=temperatures(rope, config),
        notes=(
            *notes(rope, config, family),
            *cancelled(config, scheme, base, dim),
            *translated.notes,
            *([note(config)] if dealt_out else []),
        ),
        axes=axes_of(rope, family, dim // 2) if dealt_out else None,
        dialect=translated.dialect,
    )


def _of_axes(
    translated: Spelled,
    config: Config,
    family: Family,
    rope: Parameters,
    head_dim: int | None,
    interleaved: bool | None,
) -> Arguments:
    """The arguments of a rotation with a spectrum for each axis. ValueError for more channels than a head has."""
    if translated.axial is not None:
        axial, lines = translated.axial, translated.notes
        width = first_integer(config, "head_dim", most=WIDEST) or axial.dim if head_dim is None else even_dim(head_dim)
    else:
        width = width_of_tower(config, family, head_dim)
        if family.get("width") == ["hidden_size"]:
            check_whole_width(rope, config, width)
        axial, lines = axial_of(rope, config, family, width), (*notes_of(config, family, width), *translated.notes)
    _check_fits(axial, width)
    return Arguments(
        dim=axial.dim,
        base=number("rope_theta", rope["rope_theta"]),
        scaling=(),
        interleaved=_pairing(translated, family) if interleaved is None else flag("interleaved", interleaved),
        head_dim=width,
        notes=lines,
        axes=axial.axes,
        parts=axial.parts,
        order=axial.order,
        inv_freq=axial.inv_freq,
        extent=axial.extent,
        dialect=translated.dialect,
    )


def _check_fits(axial: Axial, width: int) -> None:
    """ValueError for more channels than a head has."""
    if axial.dim > width:
        channels = " + ".join(str(2 * axial.axes.count(axis)) for axis in range(max(axial.axes) + 1))
        raise ValueError(f"the axes have {channels} = {axial.dim} channels, more than the {width} of a head")


def _check_rotates(config: Config, name: Any) -> None:
    """ValueError for a config that switches rotation off, needs code that is not here, or is of a model that does not rotate."""
    for key, off in (("use_mem_rope", False), ("use_rotary_embedding", False), ("rotary", False), ("alibi", True)):
        if config.get(key) is off and (key != "alibi" or name in FAMILIES or rotary_keys(config)):
            raise ValueError(f"the config has {key} = {off}: this model does not rotate")
    for key in ("rotary", "use_rotary_embedding", "use_mem_rope", "use_dynamic_ntk"):
        if config.get(key) is not None:
            flag(key, config[key])
    switch = FAMILIES[name].get("enabled_by") if name in FAMILIES else None
    if switch is not None and config.get(switch) not in ("rotary", "rope"):
        raise ValueError(f"the config has {switch} = {config.get(switch)!r}: this model does not rotate")
    for key, effect in _UNSUPPORTED.items():
        if config.get(key):
            raise ValueError(f"{key} ({describe(config[key])}) {effect}")
    if name not in FAMILIES and not rotary_keys(config):
        suggestion = nearest(name, FAMILIES) if isinstance(name, str) and "?" in nearest(name, FAMILIES) else ""
        raise ValueError(f"no rotary key in the config, and model_type {name!r} is not known to rotate{suggestion}")
    if name in unrotated():
        raise ValueError(
            f"models of type {name!r} do not rotate in transformers, though the config has {', '.join(rotary_keys(config))}; if other code "
            f"rotates it, remove model_type and pass interleaved="
        )


def _reason(refused: str, config: Config, family: Family, head_dim: int | None) -> str:
    try:
        rope = parameters(config, None)
        dim = rotated_width(rope, config, width_of_head(config, None, head_dim))
        plain = f"RotaryEmbedding({dim}, base={rope['rope_theta']}" + (
            ", interleaved=True)" if family.get("interleaved") else ")"
        )
    except (TypeError, ValueError):
        plain = "a plain RotaryEmbedding"
    return REASONS[refused].format(plain=plain)


def _pairing(translated: Spelled, family: Family) -> bool:
    """True for interleaved: by the dialect, or by rope_interleave where the config has it (as DeepSeek's have), else by the family.

    ValueError for an unknown model_type with qk_rope_head_dim, since such models exist with either pairing; and for a dialect that leaves
    it open.
    """
    config = translated.config
    if translated.pairing_unknown:
        raise ValueError(
            f"{translated.pairing_unknown}; pass interleaved=, True for neighbouring channels, False for half a head apart"
        )
    if translated.interleaved is not None:
        return translated.interleaved
    rope_interleave = config.get("rope_interleave")
    if (
        rope_interleave is None
        and config.get("qk_rope_head_dim") is not None
        and config.get("model_type") not in FAMILIES
    ):
        raise ValueError(
            f"unknown model_type {config.get('model_type')!r}, and models with qk_rope_head_dim differ in their pairing; pass "
            f"interleaved=, which is True in models that follow DeepSeek-V3"
        )
    if rope_interleave is None:
        return family.get("interleaved", False)
    return flag("rope_interleave", rope_interleave)
