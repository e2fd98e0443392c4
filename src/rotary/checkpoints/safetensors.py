"""Read and write safetensors files as bytes, one tensor at a time.

The format (github.com/huggingface/safetensors, README): 8 bytes with the length of the header, little endian; the header, JSON that
maps a name to dtype, shape and the range of its bytes; the bytes. Rows are reordered as bytes, so that every dtype is supported.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: its name, dtype as the format spells it, shape, and the range of its bytes after the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class File:
    """An existing safetensors file: its entries in the order of their bytes, its metadata, and the offset of their first byte."""

    path: Path
    entries: tuple[Entry, ...]
    metadata: dict[str, str]
    offset: int

    def write_reordered(self, entry: Entry, order: Sequence[int], to: BinaryIO) -> None:
        """Write the tensor with its len(order) rows reordered: new row i is old row order[i]. Reads the whole tensor into memory, once."""
        with self.path.open("rb") as file:
            file.seek(self.offset + entry.start)
            rows = memoryview(file.read(entry.end - entry.start))
        width = len(rows) // len(order)
        for row in order:
            to.write(rows[row * width : (row + 1) * width])

    def float64_rows(self, entry: Entry, rows: slice) -> Tensor:
        """(rows, columns) float64: only these rows are read. ValueError for a dtype other than floats of 8 to 64 bits."""
        if entry.dtype not in _DTYPES:
            raise ValueError(
                f"{entry.name} is {entry.dtype}: dequantise the checkpoint first; supported: {', '.join(_DTYPES)}"
            )
        width = (entry.end - entry.start) // entry.shape[0]
        with self.path.open("rb") as file:
            file.seek(self.offset + entry.start + rows.start * width)
            data = bytearray(file.read((rows.stop - rows.start) * width))
        return torch.frombuffer(data, dtype=_DTYPES[entry.dtype]).view(rows.stop - rows.start, -1).double()

    def write_copy(self, entry: Entry, to: BinaryIO) -> None:
        """Write the tensor unchanged, one MiB at a time."""
        with self.path.open("rb") as file:
            file.seek(self.offset + entry.start)
            left = entry.end - entry.start
            while left:
                data = file.read(min(left, _CHUNK))
                if not data:
                    raise ValueError(f"{self.path} ends inside {entry.name}")
                to.write(data)
                left -= len(data)


def read_header(path: str | os.PathLike[str]) -> File:
    """Read the header of a file. ValueError if it is not a safetensors file, or shorter than its header requires."""
    path = Path(path)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(100 << 20, path.stat().st_size):
            raise ValueError(f"{path} is not a safetensors file")
        try:
            header: dict[str, Any] = json.loads(file.read(length))
            metadata = dict(header.pop("__metadata__", {}))
            entries = [_entry(name, **e) for name, e in header.items()]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} is not a safetensors file: {error}") from error
    entries.sort(key=lambda entry: (entry.start, entry.end))
    for left, right in zip((0, *(entry.end for entry in entries)), entries, strict=False):
        if right.start != left or right.end < left:
            raise ValueError(f"{path} is not a safetensors file: {right.name} begins at {right.start}, not at {left}")
        size = _DTYPES[right.dtype].itemsize * math.prod(right.shape) if right.dtype in _DTYPES else right.end - left
        if right.end - left != size:
            raise ValueError(
                f"{path} is not a safetensors file: {right.name} takes {right.end - left} bytes, not {size}"
            )
    if entries and 8 + length + entries[-1].end > path.stat().st_size:
        raise ValueError(f"{path} ends inside {entries[-1].name}")
    return File(path, tuple(entries), metadata, 8 + length)


def _entry(name: str, dtype: str, shape: Sequence[int], data_offsets: Sequence[int]) -> Entry:
    start, end = data_offsets
    return Entry(name, str(dtype), tuple(map(int, shape)), int(start), int(end))


def header_bytes(file: File, metadata: dict[str, str]) -> bytes:
    """The header of a copy of that file: the same entries at the same offsets, with this metadata."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    header |= {e.name: {"dtype": e.dtype, "shape": e.shape, "data_offsets": [e.start, e.end]} for e in file.entries}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_headers(source: str | os.PathLike[str]) -> list[File]:
    """Read the headers of all files of a checkpoint. ValueError if two of them contain one tensor: the folder may hold a model twice."""
    files = [read_header(path) for path in shards(source)]
    paths: dict[str, Path] = {}
    for file in files:
        for entry in file.entries:
            if entry.name in paths:
                raise ValueError(f"{entry.name} is both in {paths[entry.name]} and in {file.path}; pass a single file")
            paths[entry.name] = file.path
    return files


def shards(source: str | os.PathLike[str]) -> list[Path]:
    """The files of a checkpoint: the source itself, or those that its index names, or all of a folder without an index.

    ValueError if there are none, or if a file that the index names is missing.
    """
    source = Path(source)
    if source.is_file():
        return [source]
    files = sorted(source.glob("*.safetensors"))
    indexed = _indexed(source)
    missing = sorted(indexed - {path.name for path in files})
    if missing:
        raise ValueError(f"{source} lacks {missing[0]}, which its index names")
    if not files:
        raise ValueError(f"no safetensors file at {str(source)!r}")
    return [path for path in files if not indexed or path.name in indexed]


def _indexed(folder: Path) -> set[str]:
    """File names in model.safetensors.index.json, which transformers reads; without it, those in all other indexes."""
    indexes = sorted(folder.glob("*.safetensors.index.json"))
    standard = [path for path in indexes if path.name == "model.safetensors.index.json"]
    names: set[str] = set()
    for path in standard or indexes:
        try:
            names |= set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} is not a safetensors index: {error}") from error
    return names
