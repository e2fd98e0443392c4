"""`rotary show`: what a model's config does to its planes, as a table, as JSON, or as a picture."""

from __future__ import annotations

import argparse
import difflib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import config as configs
from ..analysis.diagnosis import Diagnosis
from ..analysis.report import text
from ..config.load import load, text_part
from ..config.normalize import layer_types
from ..scaling import (
    NTK,
    Clipped,
    DynamicNTK,
    Linear,
    Llama3,
    NTKByParts,
    NTKMixed,
    Power,
    Proportional,
    Resonance,
    Scheme,
    Truncated,
    YaRN,
)

# name -> scheme from its one number and the trained window; the number's meaning for the help.
SPELLINGS: dict[str, tuple[str, Callable[[float, int], Scheme]]] = {
    "linear": ("factor", lambda x, window: Linear(x)),
    "ntk": ("factor", lambda x, window: NTK(x)),
    "dynamic": ("factor", DynamicNTK),
    "mixed": ("factor", lambda x, window: NTKMixed(x)),
    "parts": ("factor", NTKByParts),
    "yarn": ("factor", YaRN),
    "llama3": ("factor", Llama3),
    "proportional": ("share", lambda x, window: Proportional(x)),
    "power": ("exponent", lambda x, window: Power(x)),
    "clipped": ("planes", lambda x, window: Clipped(int(x))),
    "truncated": ("", lambda x, window: Truncated(window)),
    "resonance": ("", lambda x, window: Resonance()),
}


def register(commands: Any) -> None:
    """Add `show` to the commands of `rotary`."""
    spelled = ", ".join(f"{name}:{said.upper()}" if said else name for name, (said, _) in SPELLINGS.items())
    parser: argparse.ArgumentParser = commands.add_parser(
        "show",
        help="what a model's config does to its frequencies: a table, --json or --plot",
        description="Planes, wavelengths and turns inside the trained window; what a scheme keeps, blends and interpolates; warnings.",
        epilog=f"Schemes to compare with: {spelled}; chained with +, as in yarn:4+resonance; 'config' is the config's own.",
    )
    parser.add_argument(
        "config",
        nargs="?",
        default="plain",
        help="a config.json, its folder, or one of: " + ", ".join(configs.shipped()),
    )
    parser.add_argument(
        "--compare", nargs="+", default=[], metavar="SCHEME", help="schemes beside the config's own, as yarn:4"
    )
    parser.add_argument("--length", type=int, metavar="TOKENS", help="the context to show, default the config's target")
    parser.add_argument(
        "--window", type=int, metavar="TOKENS", help="the trained window, where the config does not say"
    )
    parser.add_argument("--layer-type", help="which layers, where the config has several kinds; default all in turn")
    parser.add_argument("--head-dim", type=int, help="where the config does not say")
    parser.add_argument(
        "--xpos", type=float, metavar="SCALE_BASE", help="with xPos: warn where its scale leaves a dtype"
    )
    parser.add_argument("--all", action="store_true", help="a row for every plane")
    parser.add_argument("--json", action="store_true", help="everything, for programs")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw into FILE (.png, .pdf, .svg); needs matplotlib")
    parser.add_argument(
        "--picture", choices=("all", "spectrum", "decay", "error"), default="all", help="which picture --plot draws"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show what the options ask for; ValueError or TypeError for what cannot be honoured."""
    for name in ("length", "window"):
        tokens: int | None = getattr(options, name)
        if tokens is not None and tokens <= 0:
            raise ValueError(f"--{name} must be > 0, got {tokens}")
    source = _source(options.config)
    types = (options.layer_type,) if options.layer_type else layer_types(text_part(load(source))) or (None,)
    layers = [_layer(source, layer_type, options) for layer_type in types]
    if options.json:
        print(json.dumps({"config": options.config, "layers": [_as_json(*layer) for layer in layers]}, indent=1))
    elif not options.plot:
        print("\n\n".join(text(found, compared, every=options.all) for _, found, compared in layers))
    if options.plot:
        from ..analysis import plots

        plots.draw(options.plot, [found for _, _, found in layers], options.picture)
        if not options.json:
            print(f"drawn into {options.plot}")
    return 0


Layer = tuple[str | None, "configs.Arguments", list[Diagnosis]]


def _source(name: str) -> Path:
    if name in configs.shipped():
        return configs.path(name)
    path = Path(name)
    if not path.exists():
        close = difflib.get_close_matches(name, configs.shipped(), n=1)
        hint = f"did you mean {close[0]}?" if close else f"shipped are {', '.join(configs.shipped())}"
        raise ValueError(f"no config named {name!r}, and no such file; {hint}")
    return path


def _layer(source: Path, layer_type: str | None, options: argparse.Namespace) -> Layer:
    found = configs.read(source, layer_type=layer_type, head_dim=options.head_dim)
    window = options.window or found.window or found.target or options.length
    if window is None:
        raise ValueError("the config says neither max_position_embeddings nor a trained window; pass --window")
    length = options.length or max(found.target or 0, _meant_for(found.scaling), window)
    sliding = text_part(load(source)).get("sliding_window")
    if sliding and layer_type is not None and "sliding" in layer_type:
        window, length = min(window, sliding), min(length, sliding)
        note = f"distances in these layers stay below sliding_window = {sliding:,}, which is shown as their window"
        found = replace(found, notes=(*found.notes, note))
    said = any(hasattr(scheme, "original_max_position_embeddings") for scheme in found.scaling) or options.window
    if found.scaling and not said:
        note = "the config does not say what was trained before the scheme; max_position_embeddings is taken; --window says it"
        found = replace(found, notes=(*found.notes, note))

    def diagnosis(name: str, scaling: tuple[Scheme, ...]) -> Diagnosis:
        return Diagnosis(name, found.dim, found.base, scaling, window, length, options.xpos)

    own = options.config if layer_type is None else f"{options.config}, {layer_type}"
    compared = [diagnosis(spec, schemes(spec, window, found.scaling)) for spec in options.compare]
    return layer_type, found, [diagnosis(own, found.scaling), *compared]


def _meant_for(scaling: tuple[Scheme, ...]) -> int:
    """The context [token] that schemes which know their trained window extend to."""
    return max(
        (round(s.factor * s.original_max_position_embeddings) for s in scaling if isinstance(s, (YaRN, NTKByParts))),
        default=0,
    )


def schemes(spec: str, window: int, own: tuple[Scheme, ...] = ()) -> tuple[Scheme, ...]:
    """The schemes that a spelling like "yarn:4+resonance" means for a trained window [token]; "config" means `own`, "plain" none."""
    made: list[Scheme] = []
    for part in spec.split("+"):
        name, _, value = part.partition(":")
        if part == "config":
            made += own
        elif name in SPELLINGS:
            said, make = SPELLINGS[name]
            if bool(said) != bool(value):
                raise ValueError(f"scheme {part!r} needs {'a number, as ' + name + ':4' if said else 'no number'}")
            try:
                made.append(make(float(value or 0), window))
            except ValueError as error:
                raise ValueError(f"scheme {part!r}: {error}") from None
        elif part != "plain":
            close = difflib.get_close_matches(name, SPELLINGS, n=1)
            raise ValueError(
                f"unknown scheme {part!r}; {'did you mean ' + close[0] if close else 'known: ' + ', '.join(SPELLINGS)}"
            )
    return tuple(made)


def _as_json(layer_type: str | None, found: configs.Arguments, compared: Sequence[Diagnosis]) -> dict[str, Any]:
    return {
        "layer_type": layer_type,
        "dim": found.dim,
        "head_dim": found.head_dim,
        "base": found.base,
        "interleaved": found.interleaved,
        "temperatures": [repr(temperature) for temperature in found.temperatures],
        "notes": list(found.notes),
        "schemes": [_scheme_as_json(d) for d in compared],
    }


def _scheme_as_json(d: Diagnosis) -> dict[str, Any]:
    return {
        "name": d.name,
        "scaling": [repr(scheme) for scheme in d.scaling],
        "window": d.window,
        "length": d.length,
        "attention_factor": d.attention_factor,
        "critical_dimension": d.critical_dimension,
        "reach": None if math.isinf(d.reach) else d.reach,
        "warnings": list(d.warnings),
        "planes": [
            {
                "index": plane.index,
                "trained_inv_freq": plane.trained,
                "inv_freq": plane.inv_freq,
                "wavelength": None if math.isinf(plane.wavelength) else plane.wavelength,
                "trained_turns": plane.trained_turns,
                "turns": plane.turns(d.length),
                "whole": plane.whole,
                "treatment": d.treatment(plane),
            }
            for plane in d.planes
        ],
    }
