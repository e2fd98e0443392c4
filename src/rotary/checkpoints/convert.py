"""Convert a checkpoint from one pairing of channels to the other, one tensor at a time, and check the result before it is published."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .._checks import describe, one_of, path
from ..config.files import content
from ..config.load import load
from ..config.parts import text_part
from .files import others, regular
from .layout import Layout, RotatedTensor
from .projections import READS_ROPE_INTERLEAVE
from .safetensors import File, header_bytes, read_header
from .source import AnyFile, read_source
from .target import whole
from .torch_file import TorchFile
from .verify import compare_scores

Pairing = Literal["half", "interleaved"]
PAIRING_KEY = "rotary_pairing"
"""Key of the metadata in the header of a converted file; its value is the pairing."""

TOLERANCE = 1e-9
"""Largest relative difference of attention scores, in float64, of a correct conversion; a wrong one differs by about 1."""

Progress = Callable[[str, int, int], None]
"""Callback with (file name, bytes written, bytes in total)."""


@dataclass(frozen=True)
class Converted:
    """The result of a conversion.

    files, tensors: how many files were rewritten, and how many of their tensors were reordered.
    layers, difference: how many layers were compared, and their largest relative difference of attention scores.
    left_out: names of files that were neither converted nor copied: other files with weights, whose pairing would still be the old one,
        with their indexes and checksums, links to a missing file, and links to a folder.
    """

    files: int
    tensors: int
    layers: int
    difference: float
    left_out: tuple[str, ...] = ()


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    to: Pairing,
    source_pairing: Pairing | None = None,
    config: Any = None,
    like: str | None = None,
    progress: Progress = lambda file, done, total: None,
    given: Pairing | None = None,
) -> Converted:
    """Write the checkpoint at `source` to `target`, with its queries and keys in the pairing `to`, and return what was done.

    source: a safetensors file, or a folder of them, or files of torch.save: Meta's consolidated.*.pth (tensor-parallel files are joined),
        pytorch_model.bin and its shards. It is only read; the result is safetensors. Other files of the folder are copied, except weights
        in other formats, whose pairing would still be the old one. Links may not lead out of the folder, except from a snapshot of the
        hub to its blobs. rope_interleave in its config.json is set to the new pairing if it is there or the family's code reads it. Names
        of tensors do not change.
    target: a path that does not exist and is not inside the source. It appears complete, after attention scores agree, or not at all.
    to: "half" or "interleaved".
    source_pairing: the pairing of the source. Default: the one that an earlier conversion wrote into it, else that of its family's code.
    config: as RotaryEmbedding.from_config takes it. Default: the config.json (or Meta's params.json) next to the tensors.
    like: a family whose tensors are arranged in the same way, for an unknown family.
    progress: a function that is called after each tensor, see Progress.
    given: the former name of source_pairing, deprecated; it goes in 0.4.

    Converts weights, biases, norms of queries and keys, LoRA's B and DoRA's magnitudes, also with grouped heads, partial rotary, fused
    projections and MLA. Rows are reordered as bytes: a conversion to the other pairing and back gives the same file except for its header.

    ValueError if the config, a tensor, a pairing or a link does not fit, with its name, if a file or tensor of the checkpoint is missing,
    and if a weight of queries or keys is not finite; TypeError for paths and families of another type; FileExistsError if something
    appeared at the target during the conversion, which stays as it is; RuntimeError if attention scores differ afterwards.
    """
    source, target = path("source", source), path("target", target)
    one_of("to", to, ("half", "interleaved"))
    if given is not None:
        if source_pairing is not None:
            raise TypeError("convert() takes source_pairing= or its former name given=, not both")
        warnings.warn(
            "convert(given=) is now convert(source_pairing=); the old name goes in 0.4",
            DeprecationWarning,
            stacklevel=2,
        )
        source_pairing = given
    if source_pairing is not None:
        one_of("source_pairing", source_pairing, ("half", "interleaved"))
    if not callable(progress):
        raise TypeError(f"progress must be a function of (file, done, total), got {describe(progress)}")
    _check_paths(source, target)
    layout = Layout(find_config(source) if config is None else config, like=like)
    reading = read_source(source, layout.config)
    files = reading.files
    if source.is_file() and target.suffix != ".safetensors" and isinstance(files[0], TorchFile):
        raise ValueError(f"{source} is written as safetensors: name the target {target.with_suffix('.safetensors')}")
    old = pairing_of(files, layout, source_pairing)
    if old == to:
        raise ValueError(
            f"{str(source)!r} already has {to} pairing; if that is wrong, pass its actual pairing as source_pairing="
        )
    rotated = {t.name: t for file in files for e in file.entries if (t := layout.rotated(e.name, e.shape)) is not None}
    if not rotated:
        raise ValueError(f"no tensor of queries or keys at {str(source)!r}")
    new_config = _updated_config(source / "config.json", to)
    other_files = others(source, reading.paths, reading.outdated, reading.indexes) if source.is_dir() else None
    total, done = reading.size, 0
    with whole(target, folder=source.is_dir()) as partial:
        written: list[File] = []
        for file, name in zip(files, reading.names, strict=True):
            place = partial if source.is_file() else partial / name
            for size in _write(file, place, rotated, to):
                done += size
                progress(name, done, total)
            written.append(read_header(place))
        if other_files is not None:
            other_files.copy(source, partial)
        index = reading.index()
        if index is not None:
            (partial / "model.safetensors.index.json").write_text(index, encoding="utf-8")
        if new_config is not None:
            (partial / "config.json").unlink()  # the copy of a read-only file is read-only: replace it
            (partial / "config.json").write_text(new_config, encoding="utf-8")
        layers, difference = compare_scores(files, written, rotated.values(), layout, old, to)
        if not difference <= TOLERANCE:
            raise RuntimeError(f"attention scores differ by {difference:.1e} after conversion; nothing was written")
    return Converted(len(files), len(rotated), layers, difference, other_files.left_out if other_files else ())


def _check_paths(source: Path, target: Path) -> None:
    if not source.exists():
        raise ValueError(f"no file or folder at {str(source)!r}")
    if os.path.lexists(target):
        raise ValueError(f"{str(target)!r} exists already; pass a path that does not exist")
    if target.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"{str(target)!r} is inside {str(source)!r}, which is only read")


def pairing_of(files: Sequence[AnyFile], layout: Layout, source_pairing: Pairing | None) -> Pairing:
    """The pairing that the caller passed, else the one in the files' metadata, else that of the family's code; ValueError if the first two
    conflict."""
    values = {file.metadata.get(PAIRING_KEY, "missing") for file in files}
    in_files = values - {"missing"}
    if (
        len(in_files) > 1
        or (source_pairing is None and len(values) > 1)
        or (source_pairing is not None and in_files - {source_pairing})
    ):
        raise ValueError(
            f"conflicting pairing: {PAIRING_KEY} is {' and '.join(sorted(values))} in the files, and source_pairing= is {source_pairing}"
        )
    pairing = source_pairing or (in_files.pop() if in_files else "interleaved" if layout.interleaved else "half")
    if pairing == "half" or pairing == "interleaved":
        return pairing
    raise ValueError(f"{PAIRING_KEY} must be half or interleaved, got {pairing!r}")


def find_config(source: Path) -> Any:
    """The content of the config.json, or Meta's params.json, next to a checkpoint. ValueError if there is neither."""
    folder = source if source.is_dir() else source.parent
    for name in ("config.json", "params.json"):
        if (folder / name).exists():
            return content(regular(folder / name))
    raise ValueError(f"no config.json next to {str(source)!r}; pass config= (for an adapter, its base model's)")


def _write(file: AnyFile, place: Path, rotated: dict[str, RotatedTensor], to: Pairing) -> Iterator[int]:
    """Write the converted file to that path, and yield the size of each tensor after it is written."""
    with place.open("xb", buffering=1 << 20) as out:
        out.write(header_bytes(file.entries, {**file.metadata, PAIRING_KEY: to}))
        for entry in file.entries:
            tensor = rotated.get(entry.name)
            if tensor is None:
                file.write_copy(entry, out)
            else:
                size = math.prod(entry.shape) if tensor.flat else entry.shape[0]
                file.write_reordered(entry, tensor.order(size, to).tolist(), out)
            yield entry.end - entry.start
        out.flush()
        os.fsync(out.fileno())


def _updated_config(file: Path, to: Pairing) -> str | None:
    """The config with rope_interleave updated (DeepSeek's models read their pairing from it), or None if the family does not use it."""
    if not file.is_file():
        return None
    config = load(file)
    text = text_part(config)
    if "rope_interleave" not in text and text.get("model_type") not in READS_ROPE_INTERLEAVE:
        return None
    text["rope_interleave"] = to == "interleaved"
    return json.dumps(config, indent=2, ensure_ascii=False) + "\n"
