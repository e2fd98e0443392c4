"""Shards: which files of a folder make up one checkpoint, by its index or by the numbers in their names, and whether all of it is there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .files import regular

# Of names as transformers writes them: model-00001-of-00002.safetensors.
_NUMBERED = re.compile(r"(?P<stem>.*?)(?P<number>\d+)-of-(?P<count>\d+)(?P<suffix>\.\w+)")
# Tensors that an index may name although no file has them, and the model is complete: embeddings and output layers are often one tensor,
# stored under one of its names (safetensors' own converter drops the others and keeps the index), and code makes its buffers again.
_STORED_ELSEWHERE = re.compile(
    r"(.*\.)?((\w*embed\w*|wte|shared|\w*head|output|decoder)\.(weight|bias)|inv_freq|masked_bias|(attn|attention)\.bias)"
)


@dataclass(frozen=True)
class Index:
    """What the indexes of a folder say; empty without one.

    folder: the folder. paths: the indexes that were read. weight_map: tensor -> name of its file.
    """

    folder: Path
    paths: tuple[Path, ...] = ()
    weight_map: Mapping[str, str] = field(default_factory=dict)

    def shards(self, files: Sequence[Path]) -> list[Path]:
        """Those of the files that the index names, or without an index all of them. ValueError if one is missing: that the index names, or
        that the others number, or if they are two checkpoints."""
        named = set(self.weight_map.values())
        missing = sorted(named - {path.name for path in files})
        if missing:
            raise ValueError(f"{self.folder} lacks {missing[0]}, which its index names; download it again")
        if named:
            return [path for path in files if path.name in named]
        _check_numbers(self.folder, [path.name for path in files])
        _check_layouts(self.folder, [path.name for path in files])
        return list(files)

    def check(self, tensors: Iterable[str]) -> None:
        """ValueError unless these tensors, those of the shards, are all that the index names."""
        missing = sorted(self.weight_map.keys() - set(tensors))
        missing = [name for name in missing if _STORED_ELSEWHERE.fullmatch(name) is None]
        if missing:
            raise ValueError(
                f"{self.folder} is not complete: its index names {missing[0]} in {self.weight_map[missing[0]]}, and no file has it"
                f"{f', nor {len(missing) - 1} others' if len(missing) > 1 else ''}; download files and index again"
            )


def read_index(folder: Path, name: str) -> Index:
    """The index of that name, model.safetensors, which transformers reads: model.safetensors.index.json. Without it, all other indexes of
    files of this kind as one. ValueError for what is no index."""
    kind = name.rpartition(".")[2]
    indexes = sorted(folder.glob(f"*.{kind}.index.json"))
    standard = [path for path in indexes if path.name == f"{name}.index.json"]
    weight_map: dict[str, str] = {}
    for path in standard or indexes:
        try:
            files = dict(json.loads(regular(path).read_text(encoding="utf-8"))["weight_map"])
            if not all(isinstance(file, str) for file in files.values()):
                raise TypeError("weight_map must map names of tensors to names of files")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path} is not a {kind} index: {error}") from error
        weight_map |= files
    return Index(folder, tuple(standard or indexes), weight_map)


def check_once(names: Iterable[tuple[Path, str]]) -> None:
    """ValueError for a tensor that two files contain: the folder may hold a model twice. names: (file, tensor)."""
    paths: dict[str, Path] = {}
    for path, name in names:
        if name in paths:
            raise ValueError(f"{name} is both in {paths[name]} and in {path}; pass a single file")
        paths[name] = path


def _check_numbers(folder: Path, names: Sequence[str]) -> None:
    """ValueError if one of model-00001-of-00002, model-00002-of-00002 is missing; some programs count from 0."""
    numbers: dict[tuple[str, str, str], dict[int, str]] = {}
    for name in names:
        match = _NUMBERED.fullmatch(name)
        if match is not None:
            group = numbers.setdefault((match["stem"], match["count"], match["suffix"]), {})
            group[int(match["number"])] = match["number"]
    for (stem, count, suffix), group in numbers.items():
        first, width = min(*group, 1), len(next(iter(group.values())))
        missing = next((n for n in range(first, first + int(count)) if n not in group), None)
        if missing is not None:
            raise ValueError(
                f"{folder} is not complete: it lacks {stem}{missing:0{width}}-of-{count}{suffix}; download it, or pass a single file to "
                f"read that alone"
            )


def _check_layouts(folder: Path, names: Sequence[str]) -> None:
    """ValueError if Mistral's consolidated.safetensors lies beside transformers' model.safetensors: one model under two sets of names."""
    sets = [next((name for name in names if name.startswith(stem)), None) for stem in ("model", "consolidated")]
    if all(sets):
        raise ValueError(
            f"{folder} holds two checkpoints, {sets[0]} and {sets[1]}; pass one of these files, or move the other away"
        )
