"""A file of torch.save, or several tensor-parallel ones as one, with the methods of a safetensors file: entries, rows, bytes.

The offsets of its entries are not those of its own bytes, but those of the safetensors file that is written from it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from .safetensors import CHUNK, Entry, finite
from .tensor_parallel import Axis, axis_of
from .torch_archive import DTYPES, tensors_of


@dataclass(frozen=True)
class Pieces:
    """A tensor in pieces, one from each file, and the axis along which they join."""

    tensors: Sequence[Tensor]
    axis: Axis = None

    @property
    def shape(self) -> tuple[int, ...]:
        sizes = list(self.tensors[0].shape)
        if self.axis is not None:
            sizes[self.axis] = sum(tensor.shape[self.axis] for tensor in self.tensors)
        return tuple(sizes)

    def rows(self, start: int, stop: int) -> Tensor:
        """These rows of the joined tensor; no other rows of the pieces are read."""
        if self.axis is None:
            return self.tensors[0][start:stop]
        if self.axis == 1:
            return torch.cat([tensor[start:stop] for tensor in self.tensors], 1)
        parts: list[Tensor] = []
        for tensor in self.tensors:
            if start < tensor.shape[0] and stop > 0:
                parts.append(tensor[max(start, 0) : stop])
            start, stop = start - tensor.shape[0], stop - tensor.shape[0]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


@dataclass(frozen=True)
class TorchFile:
    """The tensors of a file, or of several that were joined.

    path: the file, or the first of several; paths: all. entries: in the order of the safetensors file that is written. tensors: by name.
    metadata: empty, since the format has none.
    """

    path: Path
    paths: tuple[Path, ...]
    entries: tuple[Entry, ...]
    tensors: Mapping[str, Pieces]
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return self.entries[-1].end if self.entries else 0

    def float64_rows(self, entry: Entry, rows: slice) -> Tensor:
        """(rows, columns) float64. ValueError for a dtype that is not floating, and for values that are not finite."""
        pieces = self.tensors[entry.name]
        if not pieces.tensors[0].is_floating_point():
            raise ValueError(f"{entry.name} is {entry.dtype}: dequantise the checkpoint first")
        if len(entry.shape) == 1 and len(pieces.shape) != 1:  # a norm of several dimensions, by its elements
            values = pieces.rows(0, pieces.shape[0]).reshape(-1)[rows]
        else:
            values = pieces.rows(rows.start, rows.stop)
        return finite(entry.name, values.reshape(rows.stop - rows.start, -1).double())

    def write_reordered(self, entry: Entry, order: Sequence[int], to: BinaryIO) -> None:
        """Write the tensor with its len(order) rows reordered: new row i is old row order[i]."""
        pieces = self.tensors[entry.name]
        whole = pieces.rows(0, pieces.shape[0]).reshape(len(order), -1)
        to.write(_bytes(whole[torch.tensor(order, dtype=torch.int64)]))

    def write_copy(self, entry: Entry, to: BinaryIO) -> None:
        """Write the tensor unchanged, about one MiB at a time."""
        pieces = self.tensors[entry.name]
        if not pieces.shape:
            to.write(_bytes(pieces.tensors[0]))
            return
        count = pieces.shape[0]
        step = max(1, CHUNK * count // max(1, entry.end - entry.start))
        for start in range(0, count, step):
            to.write(_bytes(pieces.rows(start, min(count, start + step))))


def _bytes(tensor: Tensor) -> bytes:
    tensor = tensor.contiguous()
    return ctypes.string_at(tensor.data_ptr(), tensor.numel() * tensor.element_size()) if tensor.numel() else b""


def read_torch_file(path: Path) -> TorchFile:
    """The tensors of one file. ValueError as tensors_of()."""
    return _file([path], {name: Pieces([tensor]) for name, tensor in tensors_of(path).items()})


def read_tensor_parallel(paths: Sequence[Path], config: Mapping[str, Any]) -> TorchFile:
    """The tensors of files that each have a part of every one, joined. ValueError for files with different names, or parts that do not
    join."""
    if len(paths) == 1:
        return read_torch_file(paths[0])
    opened = [tensors_of(path) for path in paths]
    for path, tensors in zip(paths[1:], opened[1:], strict=True):
        different = tensors.keys() ^ opened[0].keys()
        if different:
            raise ValueError(
                f"{min(different)} is in one of {paths[0]} and {path}, not in both; are they of one model?"
            )
    joined: dict[str, Pieces] = {}
    for name in opened[0]:
        pieces = [tensors[name] for tensors in opened]
        joined[name] = Pieces(pieces, axis_of(name, pieces, config))
    return _file(paths, joined)


def _file(paths: Sequence[Path], tensors: Mapping[str, Pieces]) -> TorchFile:
    entries: list[Entry] = []
    end = 0
    # The widest dtypes first, so that each tensor begins at a multiple of its own, as the safetensors library requires.
    for name, pieces in sorted(tensors.items(), key=lambda item: -item[1].tensors[0].element_size()):
        first = pieces.tensors[0]
        size = first.element_size()
        for length in pieces.shape:
            size *= length
        entries.append(Entry(name, DTYPES[first.dtype], pieces.shape, end, end + size))
        end += size
    return TorchFile(paths[0], tuple(paths), tuple(entries), tensors)
