"""Source: the files of a checkpoint, their format, and the names of the safetensors files that are written from them.

*.safetensors                       file by file, under their names; an index stays
pytorch_model.bin, its index        file by file, as model.safetensors, model-00001-of-00002.safetensors, with a new index
consolidated.00.pth, .01.pth, ...   Meta's, joined into one: consolidated.safetensors
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .safetensors import File, read_header
from .shards import Index, check_once, read_index
from .tensor_parallel import check_numbers
from .torch_file import TorchFile, read_tensor_parallel, read_torch_file

AnyFile = File | TorchFile
_TORCH = frozenset([".pth", ".bin", ".pt", ".ckpt"])
_META, _BIN = "consolidated.*.pth", "pytorch_model*.bin"
_CHECKSUMS = "checklist.chk"
_ALONE = {"model.safetensors", "consolidated.safetensors"}
"""Names under which programs look for a model in one file; under another name they need an index."""


@dataclass(frozen=True)
class Source:
    """A checkpoint that is read.

    path: its file or folder. files: those with its tensors. names: of the files that are written, one for each.
    read_indexes: the indexes that named the files.
    """

    path: Path
    files: tuple[AnyFile, ...]
    names: tuple[str, ...]
    read_indexes: tuple[Path, ...] = ()

    @property
    def paths(self) -> set[Path]:
        """Files whose content goes into the converted ones; an index too, if the converted files have other names."""
        paths = {path for file in self.files for path in (file.paths if isinstance(file, TorchFile) else (file.path,))}
        return paths | (set(self.read_indexes) if self._torch else set())

    @property
    def indexes(self) -> set[Path]:
        """Indexes that are right after a conversion too: copied, where others are left out."""
        return set() if self._torch else set(self.read_indexes)

    @property
    def outdated(self) -> set[Path]:
        """Other files of the folder that would be wrong after a conversion, and that no conversion writes: checksums."""
        return {self.path / _CHECKSUMS} if self._torch else set()

    @property
    def _torch(self) -> bool:
        return isinstance(self.files[0], TorchFile)

    @property
    def size(self) -> int:
        """Bytes of tensors (torch.save) or of files (safetensors), for a progress bar."""
        return sum(file.size if isinstance(file, TorchFile) else file.path.stat().st_size for file in self.files)

    def index(self) -> str | None:
        """The index of the files that are written, if they need one and the source has no safetensors index to copy; else None."""
        if not self._torch or self.path.is_file() or (len(self.names) == 1 and self.names[0] in _ALONE):
            return None
        weights = {e.name: name for name, file in zip(self.names, self.files, strict=True) for e in file.entries}
        return json.dumps({"metadata": {"total_size": self.size}, "weight_map": weights}, indent=2) + "\n"


def read_source(path: Path, config: Mapping[str, Any]) -> Source:
    """The Source at a path; headers are read, tensors are not.

    path: a file, or a folder. config: that of the model in transformers' words, for joining tensor-parallel files.
    ValueError where there are none, or several formats of torch.save, or a part alone, or not all; else as the readers of each format.
    """
    if path.is_file():
        return _of_file(path)
    meta, bins, safetensors = (sorted(path.glob(pattern)) for pattern in (_META, _BIN, "*.safetensors"))
    if safetensors or any(path.glob("*.safetensors.index.json")):
        return _of_shards(read_index(path, "model.safetensors"), safetensors, read_header)
    if meta and (bins or any(path.glob("*.bin.index.json"))):
        raise ValueError(f"{path} holds {meta[0].name} and pytorch_model.bin: two models, or one twice; pass one file")
    if meta:
        check_numbers([file.name for file in meta])
        return Source(path, (read_tensor_parallel(meta, config),), ("consolidated.safetensors",))
    if bins or any(path.glob("*.bin.index.json")):
        return _of_shards(read_index(path, "pytorch_model.bin"), bins, read_torch_file)
    others = sorted(file.name for file in path.glob("*") if file.suffix.lower() in _TORCH) if path.is_dir() else []
    raise ValueError(
        f"no safetensors file at {str(path)!r}, nor consolidated.00.pth or pytorch_model.bin"
        f"{f'; if {others[0]} is the model, pass that file' if others else ''}"
    )


def _of_file(path: Path) -> Source:
    if path.suffix.lower() not in _TORCH:
        return Source(path, (read_header(path),), (path.name,))
    parts = sorted(path.parent.glob(_META)) if path.match(_META) else []
    if len(parts) > 1:
        raise ValueError(
            f"{path} is one of {len(parts)} tensor-parallel files, each with a part of every tensor: pass the folder"
        )
    return Source(path, (read_torch_file(path),), (path.with_suffix(".safetensors").name,))


def _of_shards(index: Index, paths: Sequence[Path], read: Callable[[Path], AnyFile]) -> Source:
    """The Source of those files of a folder that its index names, or all."""
    shards = index.shards(paths)
    files = [read(path) for path in shards]
    check_once((file.path, entry.name) for file in files for entry in file.entries)
    index.check(entry.name for file in files for entry in file.entries)
    names = [
        path.with_suffix(".safetensors").name.replace("pytorch_model", "model") if path.suffix == ".bin" else path.name
        for path in shards
    ]
    return Source(index.folder, tuple(files), tuple(names), index.paths)
