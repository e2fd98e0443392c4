"""Read and write safetensors files as bytes, one tensor at a time.

The format (github.com/huggingface/safetensors, README): 8 bytes with the length of the header, little endian; the header, JSON that
maps a name to dtype, shape and the range of its bytes; the bytes. Rows are reordered as bytes, so that every dtype is supported.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from .._checks import describe
from .files import regular
from .signature import mistaken

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
_BITS = {
    **dict.fromkeys(["F4"], 4), **dict.fromkeys(["F6_E2M3", "F6_E3M2"], 6),
    **dict.fromkeys(["BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"], 8),
    **dict.fromkeys(["I16", "U16", "F16", "BF16"], 16), **dict.fromkeys(["I32", "U32", "F32"], 32),
    **dict.fromkeys(["C64", "F64", "I64", "U64"], 64),
}  # fmt: skip
CHUNK = 1 << 20
"""How many bytes are copied at a time."""
_LONGEST_HEADER = 100_000_000  # as in the safetensors library


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
        width, remainder = divmod(len(rows), len(order))
        if remainder:
            raise ValueError(f"{entry.name} is {entry.dtype}: a row of it ends inside a byte, so that rows cannot move")
        for row in order:
            to.write(rows[row * width : (row + 1) * width])

    def float64_rows(self, entry: Entry, rows: slice) -> Tensor:
        """(rows, columns) float64: only these rows are read. ValueError for a dtype other than floats of 8 to 64 bits, and for values that
        are not finite."""
        if entry.dtype not in _DTYPES:
            raise ValueError(
                f"{entry.name} is {entry.dtype}: dequantise the checkpoint first; supported: {', '.join(_DTYPES)}"
            )
        width = (entry.end - entry.start) // entry.shape[0]
        with self.path.open("rb") as file:
            file.seek(self.offset + entry.start + rows.start * width)
            data = bytearray(file.read((rows.stop - rows.start) * width))
        values = torch.frombuffer(data, dtype=_DTYPES[entry.dtype]).view(rows.stop - rows.start, -1)
        return finite(entry.name, values.double())

    def write_copy(self, entry: Entry, to: BinaryIO) -> None:
        """Write the tensor unchanged, one MiB at a time."""
        with self.path.open("rb") as file:
            file.seek(self.offset + entry.start)
            left = entry.end - entry.start
            while left:
                data = file.read(min(left, CHUNK))
                if not data:
                    raise ValueError(f"{self.path} ends inside {entry.name}")
                to.write(data)
                left -= len(data)


def read_header(path: str | os.PathLike[str]) -> File:
    """Read the header of a file. ValueError for what the safetensors library refuses, and for a name that occurs twice.

    A dtype that is unknown here is accepted: rows are moved as bytes, without their values.
    """
    path = regular(Path(path))
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_LONGEST_HEADER, size):
            what = mistaken(path) or "its first 8 bytes are not the length of a header; is it complete?"
            raise ValueError(f"{path} is not a safetensors file: {what}")
        try:
            header = _json(file.read(length))
            metadata = _metadata(header.pop("__metadata__", None))
            entries = [_entry(name, **e) for name, e in header.items()]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path} is not a safetensors file: {error}") from error
    entries.sort(key=lambda entry: (entry.start, entry.end))
    _check_bytes(path, entries, size - 8 - length)
    return File(path, tuple(entries), metadata, 8 + length)


def _json(data: bytes) -> dict[str, Any]:
    """A JSON object in UTF-8, without the constants Infinity and NaN, names that occur twice, and halves of surrogate pairs."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        items = dict(pairs)
        if len(items) < len(pairs):
            twice = next(name for i, (name, _) in enumerate(pairs) if name in dict(pairs[:i]))
            raise ValueError(f"{describe(twice)} occurs twice")
        return items

    def constant(text: str) -> Any:
        raise ValueError(f"{text} is no number of JSON")

    header = json.loads(data.decode(), object_pairs_hook=unique, parse_constant=constant)
    if not isinstance(header, dict):
        raise TypeError(f"the header is {describe(header)}, not an object")
    json.dumps(header, ensure_ascii=False).encode()
    return cast("dict[str, Any]", header)


def _metadata(entry: Any) -> dict[str, str]:
    if entry is None:
        return {}
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        raise TypeError(f"__metadata__ must map names to strings, got {describe(entry)}")
    return cast("dict[str, str]", entry)


def _entry(name: str, dtype: Any, shape: Any, data_offsets: Any) -> Entry:
    if not isinstance(dtype, str) or not dtype:
        raise TypeError(f"the dtype of {name} must be a string, got {describe(dtype)}")
    start, end = _sizes(f"the data_offsets of {name}", data_offsets)
    return Entry(name, dtype, tuple(_sizes(f"the shape of {name}", shape)), start, end)


def _sizes(name: str, values: Any) -> list[int]:
    """A list of integers from 0 to the largest that a file can have."""
    if not isinstance(values, list) or not all(type(value) is int and 0 <= value < 2**63 for value in values):
        raise ValueError(f"{name} must be integers from 0 to 2^63 - 1, got {describe(values)}")
    return cast("list[int]", values)


def _check_bytes(path: Path, entries: list[Entry], available: int) -> None:
    """ValueError unless the entries, in order, cover the bytes after the header, each with the size of its shape."""
    end = 0
    for entry in entries:
        if entry.start != end or entry.end < entry.start:
            raise ValueError(f"{path} is not a safetensors file: {entry.name} begins at {entry.start}, not at {end}")
        end, bits = entry.end, _BITS.get(entry.dtype)
        size, taken = math.prod(entry.shape) * (bits or 1), 8 * (end - entry.start)
        if taken != size if bits else taken < size:  # no dtype has less than one bit
            raise ValueError(
                f"{path} is not a safetensors file: {entry.name} takes {end - entry.start} bytes, not {-(-size // 8)}"
            )
    if end > available:
        raise ValueError(f"{path} ends inside {entries[-1].name}")
    if end < available:
        raise ValueError(f"{path} is not a safetensors file: {available - end} bytes follow its last tensor")


def finite(name: str, values: Tensor) -> Tensor:
    """The values of that tensor. ValueError if one is NaN or infinite: nothing that is computed from it could be compared."""
    # A sum is read in one pass, and is finite only if they all are; it may overflow by itself.
    if not values.sum().isfinite() and not values.isfinite().all():
        raise ValueError(
            f"{name} has values that are not finite (NaN or infinity), so that its pairing cannot be checked; a model computes NaN with "
            f"them: take a checkpoint without them"
        )
    return values


def header_bytes(entries: Iterable[Entry], metadata: dict[str, str]) -> bytes:
    """The header of a file with these entries at these offsets, and this metadata."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    header |= {e.name: {"dtype": e.dtype, "shape": e.shape, "data_offsets": [e.start, e.end]} for e in entries}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
