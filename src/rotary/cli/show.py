"""`rotary show`: what the scheme of a model's config does to each plane, as text, as JSON or as pictures."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import _checks
from .. import config as configs
from ..analysis import Coordinates, Diagnosis, coordinates_text, draw, draw_coordinates, report_text
from ..analysis.lines import COLUMNS, columns, field
from ..config.load import load
from ..config.normalize import layer_types
from ..config.parts import key_of_text_part, rotating
from ..config.spelling import spelled
from ..config.widths import first_integer
from ..scaling import NTKByParts, Scheme, YaRN
from .document import as_json
from .grid import coordinates_of, grid_of
from .schemes import SPELLINGS, schemes
from .source import naming, source_of


def register(commands: Any) -> None:
    """Add `show` to the commands of `rotary`."""
    spellings = ", ".join(f"{name}:{number.upper()}" if number else name for name, (number, _) in SPELLINGS.items())
    parser: argparse.ArgumentParser = commands.add_parser(
        "show",
        help="what the scheme in a model's config does to its frequencies: a table, --json or --plot",
        description="Prints which planes a scheme keeps, ramps and interpolates, warnings, and wavelengths and turns of some planes; "
        "with --all of each.",
        epilog=f"Schemes to compare with: {spellings}; chained with +, as in yarn:4+resonance. 'config' is the config's own scheme; as a "
        "FACTOR, auto is the smallest one that reaches the context shown.",
    )
    parser.add_argument(
        "config",
        nargs="?",
        default="plain",
        help="a config.json, params.json, model_config.yaml or .gguf file, its folder, or one of: "
        + ", ".join(configs.shipped()),
    )
    parser.add_argument(
        "--compare",
        nargs="+",
        default=[],
        metavar="SCHEME",
        help="schemes to compare with the config's own, as in yarn:4",
    )
    parser.add_argument(
        "--length", type=int, metavar="TOKENS", help="the context to show (default: the config's longest)"
    )
    parser.add_argument("--window", type=int, metavar="TOKENS", help="the trained window (default: the config's)")
    parser.add_argument("--part", help="a part of a composite config, as vision_config (default: the text model)")
    parser.add_argument(
        "--grid",
        type=float,
        nargs="+",
        metavar="SIZE",
        help="with several coordinates: the size of each (default: the window of a text model, the config's image, or 32 patches)",
    )
    parser.add_argument("--layer-type", help="one kind of layer, if the config has several (default: all)")
    parser.add_argument("--head-dim", type=int, help="channels of a head (default: the config's)")
    parser.add_argument(
        "--xpos", type=float, metavar="SCALE_BASE", help="with xPos: also warn if its scale leaves the range of a dtype"
    )
    parser.add_argument("--all", action="store_true", help="print a row for every plane")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="write pictures to FILE (.png, .pdf, .svg); needs matplotlib"
    )
    parser.add_argument(
        "--picture",
        choices=("all", "spectrum", "decay", "error", "axes"),
        help="which picture --plot draws (default: all)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print or draw what the options ask for. ValueError or TypeError for options or a config that cannot be used."""
    if options.picture and not options.plot:
        raise ValueError(f"--picture {options.picture} says what --plot FILE draws; pass --plot too")
    source = source_of(options.config)
    dialect, layers = layers_of(source, options, _REMEDIES)
    if options.json:
        document = {"config": options.config, "dialect": dialect}
        print(json.dumps(document | {"layers": [as_json(*layer) for layer in layers]}, indent=1))
    elif not options.plot:
        shown = options.part or key_of_text_part(load(source))
        other_parts = [part for part in rotating(load(source)) if part != shown]
        width = columns(shutil.get_terminal_size((COLUMNS, 0)).columns)
        reports = (_report(*layer, all_planes=options.all, width=width) for layer in layers)
        print("\n\n".join(_with_lines(report, dialect, other_parts, width) for report in reports))
    if options.plot:
        _draw(options.plot, layers, options.picture or "all")
        if not options.json:
            print(f"drawn into {options.plot}")
    return 0


def layers_of(source: Path, options: argparse.Namespace, remedies: Mapping[str, str]) -> tuple[str, list[Layer]]:
    """The dialect of a config, and what is shown of each type of its layers. ValueError or TypeError for options or a config that cannot
    be used; remedies are those of naming()."""
    _check_numbers(options)
    with naming(source, remedies):
        translated = spelled(source, options.part)
        types = (options.layer_type,) if options.layer_type else layer_types(translated.config) or (None,)
        return translated.dialect, [_layer(source, layer_type, options) for layer_type in types]


def _check_numbers(options: argparse.Namespace) -> None:
    for flag, tokens in (("--length", options.length), ("--window", options.window)):
        if tokens is not None:
            _checks.count(flag, tokens)
    if options.xpos is not None:
        _checks.number("--xpos", options.xpos)
    if options.head_dim is not None:
        with naming("--head-dim"):
            _checks.even_dim(options.head_dim)


def _report(
    layer_type: str | None,
    arguments: configs.Arguments,
    diagnoses: list[Diagnosis],
    several: Coordinates | None,
    *,
    all_planes: bool,
    width: int,
) -> str:
    if several is not None and not diagnoses:
        return coordinates_text(arguments, several, all_planes=all_planes, width=width)
    return report_text(arguments, diagnoses, all_planes=all_planes, several=several, width=width)


def _with_lines(report: str, dialect: str, parts: list[str], width: int) -> str:
    """The report with the dialect below its title, and the other parts of the config that rotate, if any."""
    name, rule, body = report.split("\n", 2)
    line_of_parts = [field("other parts", f"{', '.join(parts)}; --part shows one", width)] if parts else []
    return "\n".join((name, rule, field("dialect", dialect, width), *line_of_parts, body))


def _draw(file: Path, layers: list[Layer], picture: str) -> None:
    several = [coordinates for _, _, _, coordinates in layers if coordinates is not None]
    if several and (
        picture == "axes" or (picture == "all" and not any(diagnoses[1:] for _, _, diagnoses, _ in layers))
    ):
        draw_coordinates(file, several)
    elif picture == "axes":
        raise ValueError("--picture axes: this config has one coordinate")
    elif any(not diagnoses for _, _, diagnoses, _ in layers):
        raise ValueError(f"--picture {picture} is of one spectrum; this config has one for each axis: --picture axes")
    else:
        draw(file, [diagnoses for _, _, diagnoses, _ in layers], picture)


_REMEDIES = {
    "pass head_dim=": "pass --head-dim",
    "pass layer_type=": "pass --layer-type",
    "pass part=": "pass --part",
    "pass interleaved=": "call rotary.config.read with interleaved=",
}
"""What rotary.config advises -> the flag for it."""

Layer = tuple[str | None, configs.Arguments, list[Diagnosis], Coordinates | None]
"""(layer type, arguments of its rotation, diagnoses of the config's own scheme and of those it is compared with, its coordinates or None).

Where each axis has a spectrum of its own there are no diagnoses."""


def _layer(source: Path, layer_type: str | None, options: argparse.Namespace) -> Layer:
    """What is shown of layers of one type. ValueError for options that do not apply to them."""
    arguments = configs.read(source, part=options.part, layer_type=layer_type, head_dim=options.head_dim)
    own = options.config if options.part is None else f"{options.config}, {options.part}"
    own = own if layer_type is None else f"{own}, {layer_type}"
    if arguments.parts or arguments.inv_freq:
        for name in ("compare", "window", "length", "xpos"):
            if getattr(options, name):
                raise ValueError(
                    f"--{name} is of one spectrum; this config has one for each axis, or frequencies of its own"
                )
        return (
            layer_type,
            arguments,
            [],
            coordinates_of(own, arguments, grid_of(arguments, spelled(source, options.part).config, options)),
        )
    window = options.window or arguments.window or arguments.target or options.length
    if window is None:
        raise ValueError(
            "the config states neither max_position_embeddings nor a trained window; write one into it, or pass `rotary show` --window"
        )
    length = options.length or max(arguments.target or 0, _extended_to(arguments.scaling), window)
    is_sliding = layer_type is not None and "sliding" in layer_type
    sliding = first_integer(spelled(source, options.part).config, "sliding_window") if is_sliding else None
    if sliding is not None:
        window, length = min(window, sliding), min(length, sliding)
        note = f"distances in these layers are below sliding_window = {sliding:,}, which is shown as their window"
        arguments = replace(arguments, notes=(*arguments.notes, note))
    stated = options.window or any(hasattr(s, "original_max_position_embeddings") for s in arguments.scaling)
    if arguments.scaling and not stated:
        note = "the config does not state the window that was trained before the scheme; max_position_embeddings is used; --window sets it"
        arguments = replace(arguments, notes=(*arguments.notes, note))

    def diagnosis(name: str, scaling: tuple[Scheme, ...], published: bool = False) -> Diagnosis:
        return Diagnosis(name, arguments.dim, arguments.base, scaling, window, length, options.xpos, published)

    several = (
        None if arguments.axes is None else coordinates_of(own, arguments, grid_of(arguments, {}, options, window))
    )
    if options.grid and several is None:
        raise ValueError("--grid: this config has one coordinate; --length sets its size")

    def reach(scaling: tuple[Scheme, ...]) -> float:
        return diagnosis("", scaling).reach

    published = length <= (arguments.target or 0) and _is_published(arguments)
    with naming("--compare"):
        compared = [
            diagnosis(spelling, schemes(spelling, window, arguments.scaling, length=length, reach=reach))
            for spelling in options.compare
        ]
    return layer_type, arguments, [diagnosis(own, arguments.scaling, published), *compared], several


def _is_published(arguments: configs.Arguments) -> bool:
    """Whether the rotation is that of a published config, whatever the name of the file."""
    rotation = (arguments.dim, arguments.base, arguments.scaling, arguments.target)
    for name in configs.shipped():
        for layer_type in layer_types(spelled(configs.path(name)).config) or (None,):
            published = configs.read(configs.path(name), layer_type=layer_type)
            if (published.dim, published.base, published.scaling, published.target) == rotation:
                return True
    return False


def _extended_to(scaling: tuple[Scheme, ...]) -> int:
    """The context [token] that the schemes extend to, if they state a factor and their trained window, and otherwise 0."""
    contexts = [s.factor * s.original_max_position_embeddings for s in scaling if isinstance(s, (YaRN, NTKByParts))]
    return round(min(max(contexts, default=0.0), 2.0**62))
