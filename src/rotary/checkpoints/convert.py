"""A checkpoint from one pairing of channels to the other: shard by shard, a tensor at a time, checked before it is called done."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..config.source import load, text_part
from .families import TOLD
from .files import File, header, read, read_all
from .layout import Layout, Turned
from .verify import scores_differ

Pairing = Literal["half", "interleaved"]
MARK = "rotary_pairing"
# Files that hold weights, or an optimizer's state beside them, by their endings.
_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".msgpack", ".h5", ".npz", ".onnx", ".onnx_data"}
TOLERANCE = 1e-9
"""Largest relative difference of attention scores, in float64, that a right conversion may show; a wrong one shows about 1."""

Progress = Callable[[str, int, int], None]
"""(file, bytes done, bytes in all)"""


@dataclass(frozen=True)
class Converted:
    """What was done: files and tensors written anew, layers whose scores were compared, and the largest difference of those.

    left_out: names of what was neither converted nor copied: other files of weights, which would keep the old pairing, and links that
        lead nowhere or back up.
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
    given: Pairing | None = None,
    config: Any = None,
    like: str | None = None,
    progress: Progress = lambda file, done, total: None,
) -> Converted:
    """Write the checkpoint at `source` to `target` with its queries and keys paired as `to` says.

    source: a file of safetensors, or a folder of them. It is only read. Other files of the folder are copied, but for weights in other
        formats, which would keep the old pairing; rope_interleave in its config.json is set to the new one, where it is there or the
        family's code asks for it.
    target: what must not be there yet, nor lie in the source. It appears whole, after attention scores agree, or not at all.
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
    if os.path.lexists(target):
        raise ValueError(f"{str(target)!r} exists already; a conversion writes to a place of its own")
    if target.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"{str(target)!r} lies in {str(source)!r}, which is only read")
    layout = Layout(beside(source) if config is None else config, like=like)
    files = read_all(source)
    was = pairing_of(files, layout, given)
    if was == to:
        raise ValueError(f"{str(source)!r} is paired as {to} already; given= says otherwise where that is wrong")
    turned = {t.name: t for file in files for e in file.entries if (t := layout.turned(e.name, e.shape)) is not None}
    if not turned:
        raise ValueError(f"no tensor at {str(source)!r} makes queries or keys")
    told = _told(source / "config.json", to)
    total, done = sum(file.path.stat().st_size for file in files), 0
    with _whole(target, source.is_dir()) as partial:
        made: list[File] = []
        for file in files:
            path = partial if source.is_file() else partial / file.path.name
            for size in _write(file, path, turned, to):
                done += size
                progress(file.path.name, done, total)
            made.append(read(path))
        left_out = _copy_others(source, partial, {file.path for file in files}) if source.is_dir() else []
        if told is not None:
            (partial / "config.json").unlink()  # the copy of a file that nobody may write to is another such
            (partial / "config.json").write_text(told, encoding="utf-8")
        layers, worst = scores_differ(files, made, turned.values(), layout, was, to)
        if not worst <= TOLERANCE:
            raise RuntimeError(f"attention scores differ by {worst:.1e} after conversion; nothing was written")
    return Converted(len(files), len(turned), layers, worst, tuple(left_out))


def pairing_of(files: list[File], layout: Layout, given: Pairing | None) -> Pairing:
    """What the caller says, else what an earlier conversion wrote, else what the family's code rotates by; ValueError for two answers."""
    marks = {file.metadata.get(MARK, "nothing") for file in files}
    said = marks - {"nothing"}
    if len(said) > 1 or (given is None and len(marks) > 1) or (given is not None and said - {given}):
        raise ValueError(f"the files say {' and '.join(sorted(marks))}, and given= says {given}")
    answer = given or (said.pop() if said else "interleaved" if layout.interleaved else "half")
    if answer == "half" or answer == "interleaved":
        return answer
    raise ValueError(f"{MARK} must be half or interleaved, got {answer!r}")


def beside(source: Path) -> Any:
    """The config beside a checkpoint: config.json, or Meta's params.json; ValueError where there is neither."""
    folder = source if source.is_dir() else source.parent
    for name in ("config.json", "params.json"):
        if (folder / name).is_file():
            return json.loads((folder / name).read_text(encoding="utf-8"))
    raise ValueError(f"no config.json beside {str(source)!r}; config= names one (for an adapter, its base model's)")


def _write(file: File, path: Path, turned: dict[str, Turned], to: Pairing) -> Iterator[int]:
    """Write a file anew, and yield the bytes of each tensor."""
    with path.open("xb", buffering=1 << 20) as out:
        out.write(header(file, {**file.metadata, MARK: to}))
        for entry in file.entries:
            found = turned.get(entry.name)
            if found is None:
                file.copy(entry, out)
            else:
                flat = found.kind in ("gain", "shift")
                rows = math.prod(entry.shape) if flat else entry.shape[0]
                file.reorder(entry, found.order(rows, to).tolist(), out)
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


def _copy_others(source: Path, target: Path, done: set[Path]) -> list[str]:
    """Copy what is no weight, and what links lead to; the names of what was left out, below the source."""
    left_out: list[str] = []
    for path in sorted(source.iterdir()):
        if path in done:
            continue
        copy, endless = target / path.name, source.resolve().is_relative_to(path.resolve())
        if endless or not path.exists() or (path.suffix in _WEIGHTS and path.is_file()):
            left_out.append(path.name)
        elif path.is_dir():
            copy.mkdir()
            left_out += [f"{path.name}/{below}" for below in _copy_others(path, copy, done)]
        else:
            shutil.copy2(path, copy)
    return left_out


def _told(path: Path, to: Pairing) -> str | None:
    """The config with rope_interleave as it is now, by which DeepSeek's models are told their pairing; None where it says nothing of it."""
    if not path.is_file():
        return None
    config = load(path)
    text = text_part(config)
    if "rope_interleave" not in text and text.get("model_type") not in TOLD:
        return None
    text["rope_interleave"] = to == "interleaved"
    return json.dumps(config, indent=2, ensure_ascii=False) + "\n"
