"""A checkpoint from one pairing of channels to the other: shard by shard, a tensor at a time, checked before it is called done."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from ..pairing import permutation
from .files import File, header, read, shards
from .layout import Layout, Turned
from .verify import scores_differ

Pairing = Literal["half", "interleaved"]
MARK = "rotary_pairing"
TOLERANCE = 1e-9
"""Largest relative difference of attention scores, in float64, that a right conversion may show; a wrong one shows about 1."""

Progress = Callable[[str, int, int], None]
"""(file, bytes done, bytes in all)"""


@dataclass(frozen=True)
class Converted:
    """What was done: files and tensors written anew, layers whose scores were compared, and the largest difference of those."""

    files: int
    tensors: int
    layers: int
    difference: float


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    to: Pairing,
    given: Pairing | None = None,
    config: Any = None,
    like: str | None = None,
    progress: Progress = lambda file, done, total: None,
) -> Converted:
    """Write the checkpoint at `source` to `target` with its queries and keys paired as `to` says.

    source: a file of safetensors, or a folder of them; other files of the folder are copied. It is only read.
    target: what must not be there yet. It appears whole, after attention scores agree, or not at all.
    given: the pairing it has; default that of its family's code, or what an earlier conversion wrote into it.
    config: as RotaryEmbedding.from_config takes it; default the config.json (or Meta's params.json) beside the tensors.
    like: a family whose tensors are arranged the same way, for one that is not known.

    Weights, biases, norms of queries and keys, LoRA's B and DoRA's magnitudes; heads in groups, partial rotary, fused projections, MLA.
    The reordered rows are the same bytes, so there and back is the same file but for its header.

    ValueError where the config, a tensor or a pairing does not fit, naming it; RuntimeError where scores differ afterwards.
    """
    source, target = Path(source), Path(target)
    if not source.exists():
        raise ValueError(f"nothing at {str(source)!r}")
    if target.exists():
        raise ValueError(f"{str(target)!r} exists already; a conversion writes to a place of its own")
    layout = Layout(beside(source) if config is None else config, like=like)
    files = [read(path) for path in shards(source)]
    was = pairing_of(files, layout, given)
    if was == to:
        raise ValueError(f"{str(source)!r} is paired as {to} already; given= says otherwise where that is wrong")
    turned = {t.name: t for file in files for e in file.entries if (t := layout.turned(e.name, e.shape)) is not None}
    if not turned:
        raise ValueError(f"no tensor at {str(source)!r} makes queries or keys")
    total, done = sum(file.path.stat().st_size for file in files), 0
    with _whole(target, source.is_dir()) as partial:
        made: list[File] = []
        for file in files:
            path = partial if source.is_file() else partial / file.path.name
            for size in _write(file, path, turned, layout, to):
                done += size
                progress(file.path.name, done, total)
            made.append(read(path))
        if source.is_dir():
            _copy_others(source, partial, {file.path.name for file in files})
        layers, worst = scores_differ(files, made, turned.values(), layout, was, to)
        if not worst <= TOLERANCE:
            raise RuntimeError(f"attention scores differ by {worst:.1e} after conversion; nothing was written")
    return Converted(len(files), len(turned), layers, worst)


def pairing_of(files: list[File], layout: Layout, given: Pairing | None) -> Pairing:
    """What the caller says, else what an earlier conversion wrote, else what the family's code rotates by; ValueError for two answers."""
    marks = {mark for file in files if (mark := file.metadata.get(MARK)) is not None}
    if len(marks) > 1 or (given is not None and marks - {given}):
        raise ValueError(f"the files say {' and '.join(sorted(marks))}, and given= says {given}")
    if given is not None:
        return given
    if marks:
        return "interleaved" if marks == {"interleaved"} else "half"
    return "interleaved" if layout.interleaved else "half"


def beside(source: Path) -> Any:
    """The config beside a checkpoint: config.json, or Meta's params.json; ValueError where there is neither."""
    folder = source if source.is_dir() else source.parent
    for name in ("config.json", "params.json"):
        if (folder / name).is_file():
            return json.loads((folder / name).read_text(encoding="utf-8"))
    raise ValueError(f"no config.json beside {str(source)!r}; config= names one (for an adapter, its base model's)")


def reorder(rows: Tensor, turned: Turned, layout: Layout, to: Pairing) -> Tensor:
    """Rows in their new order. rows: (rows, ...) of any dtype, or a gain laid out (1, heads * dim) as DoRA's magnitudes may be."""
    found = layout.arguments(turned.layer)
    order = turned.order(rows.shape[0], permutation(found.dim, found.dim, to_interleaved=to == "interleaved"))
    return rows[order]


def _write(file: File, path: Path, turned: dict[str, Turned], layout: Layout, to: Pairing) -> Iterator[int]:
    """Write a file anew, and yield the bytes of each tensor."""
    with path.open("xb") as out:
        out.write(header(file, {**file.metadata, MARK: to}))
        for entry in file.entries:
            found = turned.get(entry.name)
            if found is None:
                file.copy(entry, out)
            else:
                rows = file.rows(entry)
                flat = rows.view(max(entry.shape), -1) if found.kind in ("gain", "shift") else rows
                out.write(reorder(flat, found, layout, to).numpy().tobytes())
            yield entry.end - entry.start
        out.flush()
        os.fsync(out.fileno())


@contextmanager
def _whole(target: Path, folder: bool) -> Generator[Path]:
    """A place beside the target that becomes it when all went well, and is gone otherwise."""
    partial = target.with_name(f".{target.name}.partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove(partial)  # left by a run that was killed
    if folder:
        partial.mkdir()
    try:
        yield partial
        os.replace(partial, target)
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _copy_others(source: Path, target: Path, done: set[str]) -> None:
    for path in source.iterdir():
        if path.name in done:
            continue
        if path.is_dir():
            shutil.copytree(path, target / path.name)
        else:
            shutil.copy2(path, target / path.name)
