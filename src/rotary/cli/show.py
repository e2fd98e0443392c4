"""`rotary show`: what the scheme of a model's config does to each plane, as text, as JSON or as pictures."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import json
import shutil
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import config as configs
from ..analysis import Coordinates, Diagnosis, coordinates_text, draw, draw_coordinates, report_text
from ..analysis.report import COLUMNS
from ..config.load import load
from ..config.normalize import layer_types
from ..config.parts import key_of_text_part, rotating
from ..config.spelling import Spelled, spelled
from ..scaling import NTKByParts, Scheme, YaRN
from .document import as_json
from .grid import coordinates_of, grid_of
from .spelling import SPELLINGS, schemes


def register(commands: Any) -> None:
    """Add `show` to the commands of `rotary`."""
    spelled = ", ".join(f"{name}:{number.upper()}" if number else name for name, (number, _) in SPELLINGS.items())
    parser: argparse.ArgumentParser = commands.add_parser(
        "show",
        help="what the scheme in a model's config does to its frequencies: a table, --json or --plot",
        description="Prints wavelengths and turns of each plane, which planes a scheme keeps, ramps and interpolates, and warnings.",
        epilog=f"Schemes to compare with: {spelled}; chained with +, as in yarn:4+resonance. 'config' is the config's own scheme; as a "
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
        help="with several coordinates: the size of each (default: the config's image, or 32 patches)",
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
    for name in ("length", "window"):
        tokens: int | None = getattr(options, name)
        if tokens is not None and tokens <= 0:
            raise ValueError(f"--{name} must be > 0, got {tokens}")
    if options.picture and not options.plot:
        raise ValueError(f"--picture {options.picture} says what --plot FILE draws; pass --plot too")
    source = _source(options.config)
    with naming(source):
        translated = _spelled(source, options.part)
        types = (options.layer_type,) if options.layer_type else layer_types(translated.config) or (None,)
        layers = [_layer(source, layer_type, options) for layer_type in types]
    if options.json:
        document = {"config": options.config, "dialect": translated.dialect}
        print(json.dumps(document | {"layers": [as_json(*layer) for layer in layers]}, indent=1))
    elif not options.plot:
        shown = options.part or key_of_text_part(load(source))
        other_parts = [part for part in rotating(load(source)) if part != shown]
        width = shutil.get_terminal_size((COLUMNS, 0)).columns
        reports = (_report(*layer, all_planes=options.all, width=width) for layer in layers)
        print("\n\n".join(_with_lines(report, translated.dialect, other_parts) for report in reports))
    if options.plot:
        _draw(options.plot, layers, options.picture or "all")
        if not options.json:
            print(f"drawn into {options.plot}")
    return 0


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
        return coordinates_text(arguments, several, all_planes=all_planes)
    return report_text(arguments, diagnoses, all_planes=all_planes, several=several, width=width)


def _with_lines(report: str, dialect: str, parts: list[str]) -> str:
    """The report with the dialect below its title, and the other parts of the config that rotate, if any."""
    name, rule, body = report.split("\n", 2)
    line_of_parts = [f"{'other parts':20}{', '.join(parts)}; --part shows one"] if parts else []
    return "\n".join((name, rule, f"{'dialect':20}{dialect}", *line_of_parts, body))


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


Layer = tuple[str | None, configs.Arguments, list[Diagnosis], Coordinates | None]
"""(layer type, arguments of its rotation, diagnoses of the config's own scheme and of those it is compared with, its coordinates or None).

Where each axis has a spectrum of its own there are no diagnoses."""


def _source(name: str) -> Path:
    """The file of a config by its path or published name; an existing path comes first. ValueError where there is neither."""
    path = Path(name)
    if name in configs.shipped() or (not path.exists() and name.lower() in configs.shipped()):
        return configs.path(name)
    if not path.exists():
        close = difflib.get_close_matches(name.lower(), configs.shipped(), n=1)
        hint = f"did you mean {close[0]}?" if close else f"configs by name: {', '.join(configs.shipped())}"
        raise ValueError(f"no config and no file named {name!r}; {hint}")
    return path


def _spelled(source: Path, part: str | None) -> Spelled:
    try:
        return spelled(source, part)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{str(source)!r} is not JSON: {error}") from None
    except ImportError as error:
        raise ValueError(str(error)) from None


@contextlib.contextmanager
def naming(file: Path) -> Generator[None]:
    """Put the file's name in front of a message that does not have it; an ImportError becomes a ValueError."""
    try:
        yield
    except (ValueError, TypeError) as error:
        if str(file) in str(error):
            raise
        raise type(error)(f"{file}: {error}") from None
    except ImportError as error:
        raise ValueError(str(error)) from None


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
    sliding = spelled(source, options.part).config.get("sliding_window")
    if sliding and layer_type is not None and "sliding" in layer_type:
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
    return max(
        (round(s.factor * s.original_max_position_embeddings) for s in scaling if isinstance(s, (YaRN, NTKByParts))),
        default=0,
    )
