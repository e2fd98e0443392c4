"""`rotary check`: the rotation that a config describes, its contradictions, and whether a model built from it has that rotation."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..axes import shown
from ..config.names import Contradiction
from .document import as_json
from .show import layers_of
from .source import source_of

if TYPE_CHECKING:
    from ..transformers import Findings


_REMEDIES = {
    "add it, or pass head_dim=": "add it",
    "remove it, or pass head_dim=": "remove it",
    "pass head_dim=": "write head_dim into the config",
    "pass part=": "check a file that has",
    "pass interleaved=": "call rotary.config.read with interleaved=",
}
"""What rotary.config advises -> what to do, in a command that takes a config alone."""


def register(commands: Any) -> None:
    """Add `check` to the commands of `rotary`."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "check",
        help="the rotation that a config describes, its contradictions, and whether a model built from it has that rotation",
        description="Exit status: 0 without findings, 1 with contradictions or modules that disagree, 2 for a config that cannot be read. "
        "Warnings about a scheme are printed and are no findings.",
    )
    parser.add_argument("folder", help="a folder with a config.json, the file itself, or the name of a shipped config")
    parser.add_argument(
        "--model",
        action="store_true",
        help="build the model without memory for weights, its rotary modules apart, and check these; needs transformers",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print rotation, contradictions and findings; return 1 if there is a problem, else 0. ValueError or TypeError for a config that cannot
    be read."""
    source = source_of(options.folder)
    document: dict[str, Any] = {"config": options.folder, "contradictions": [], "layers": []}
    try:
        document |= _shown(source, options.folder)
    except Contradiction as error:
        document["contradictions"] = [str(error).removeprefix(f"{source}: ")]
    findings = _findings(source) if options.model else None
    if options.json:
        print(json.dumps(document | (json.loads(findings.as_json()) if findings is not None else {}), indent=1))
    else:
        print("\n".join([*_lines(document), *([str(findings)] if findings is not None else [])]))
    return 1 if document["contradictions"] or (findings is not None and findings.problems) else 0


def _shown(source: Path, name: str) -> dict[str, Any]:
    """The document of `rotary show --json` for the config, without the planes."""
    options = {
        "config": name,
        "part": None,
        "grid": None,
        "compare": [],
        "length": None,
        "window": None,
        "layer_type": None,
        "head_dim": None,
        "xpos": None,
    }
    dialect, layers = layers_of(source, argparse.Namespace(**options), _REMEDIES)
    document: dict[str, Any] = {"dialect": dialect, "layers": [as_json(*layer) for layer in layers]}
    for layer in document["layers"]:
        schemes, several = layer.pop("schemes"), layer.pop("coordinates")
        own = (
            schemes[0]
            if schemes
            else {"scaling": [], "attention_factor": 1.0, "window": None, "length": None, "warnings": []}
        )
        layer |= {key: own[key] for key in ("scaling", "attention_factor", "window", "length", "warnings")}
        layer["axes"] = None if several is None else several["axes"]
        layer["notes"] += own.get("notes", [])
    return document


def _findings(source: Path) -> Findings:
    """What rotary.transformers.check finds in a model that is built from the config, compared with what rotary.config reads in it."""
    from ..transformers import check
    from ..transformers.skeleton import skeleton

    return check(skeleton(source), source)


def _lines(document: dict[str, Any]) -> Iterator[str]:
    """The document as text, one line for each fact."""
    yield f"{document['config']}, read as {document.get('dialect', 'transformers')}"
    yield from (f"CONTRADICTION  {text}" for text in document["contradictions"])
    for layer in document["layers"]:
        of_layers = "" if layer["layer_type"] is None else f", layers of type {layer['layer_type']}"
        pairing = "interleaved" if layer["interleaved"] else "half"
        scheme = " then ".join(layer["scaling"]) or "no scheme"
        axes = "" if layer["axes"] is None else f", {shown(tuple(layer['axes']))}"
        channels = f"{layer['dim']} of {layer['head_dim']} channels{axes}"
        yield f"rotation   {channels}, base {layer['base']:,.10g}, {pairing} pairing, {scheme}{of_layers}"
        yield from (f"warning    {text}" for text in layer["warnings"])
        yield from (f"note       {text}" for text in layer["notes"])
