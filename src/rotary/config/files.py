"""The content of a config file as a dict: JSON, YAML, or the metadata of a GGUF file."""

from __future__ import annotations

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any, cast

from .._checks import describe
from .dialects.gguf import TENSORS
from .names import same

FOLDER = ("config.json", "params.json", "model_config.yaml", "lit_config.json")
"""Files of a folder, in the order of their precedence."""


def content(path: Path) -> dict[str, Any]:
    """The file as a dict, by its ending: .yaml and .yml (PyYAML), .gguf (the gguf package), and JSON otherwise.

    TypeError where the file contains something else; ImportError, with what to install, where the package is missing; ValueError for a
    damaged file, and for a key that it gives twice with different values, of which parsers keep the last.
    """
    if path.suffix == ".gguf":
        return _gguf(path)
    is_yaml = path.suffix in (".yaml", ".yml")
    try:
        if is_yaml:
            parsed = _yaml(path)
        else:
            parsed = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unambiguous)
    except RecursionError:
        raise ValueError(f"{str(path)!r} nests too deeply to be a config") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{str(path)!r} is not {'YAML' if is_yaml else 'JSON'}: {error}") from None
    if not isinstance(parsed, dict):
        expected = "a YAML mapping" if is_yaml else "a JSON object"
        raise TypeError(f"{str(path)!r} contains {describe(parsed)}, not {expected}")
    return cast("dict[str, Any]", parsed)


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs as a dict; ValueError for a key that occurs twice with different values."""
    block: dict[str, Any] = {}
    for key, value in pairs:
        block[key] = same(key, block[key], value, "config", "the same block again") if key in block else value
    return block


def _yaml(path: Path) -> Any:
    try:
        import yaml
    except ImportError:
        raise ImportError(f"reading {str(path)!r} needs PyYAML; pip install pyyaml") from None

    class Loader(yaml.SafeLoader):
        """The safe loader, which makes no objects, with an error for a key that a block itself has twice with different values.

        Keys that a block merges (<<) are defaults, which its own keys replace.
        """

        def __init__(self, stream: str):
            super().__init__(stream)
            self.own: dict[Any, list[Any]] = {}

        def flatten_mapping(self, node: Any) -> None:
            merge = "tag:yaml.org,2002:merge"
            self.own.setdefault(node, [pair for pair in node.value if pair[0].tag != merge])  # the node changes below
            super().flatten_mapping(node)

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            self.flatten_mapping(node)
            pairs = [self.pair(*nodes) for nodes in node.value]
            return dict(pairs) | _unambiguous([self.pair(*nodes) for nodes in self.own[node]])

        def pair(self, key_node: Any, value_node: Any) -> tuple[Any, Any]:
            key = self.construct_object(key_node, True)
            if not isinstance(key, Hashable):
                raise ValueError(f"{str(path)!r} has {describe(key)} as a key; the keys of a config are names")
            return key, self.construct_object(value_node, True)

    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{str(path)!r} is not YAML: {error}") from None


def _gguf(path: Path) -> dict[str, Any]:
    """Every value of the metadata, and the tensors of the rotation as lists, None where the file has none. Weights are not read."""
    try:
        from gguf import GGUFReader
    except ImportError:
        raise ImportError(f"reading {str(path)!r} needs the gguf package; pip install 'rotary[gguf]'") from None
    try:
        reader: Any = GGUFReader(path)
    except (ValueError, KeyError, IndexError) as error:
        raise ValueError(f"{str(path)!r} is not a whole GGUF file: {error}") from None
    metadata: dict[str, Any] = {
        name: field.contents() for name, field in reader.fields.items() if not name.startswith(("GGUF.", "tokenizer."))
    }
    tensors = {tensor.name: tensor for tensor in reader.tensors if tensor.name in TENSORS}
    for name in TENSORS:
        metadata[name] = [float(value) for value in tensors[name].data.reshape(-1)] if name in tensors else None
    return metadata
