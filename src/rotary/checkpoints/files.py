"""Files of a checkpoint from an untrusted source: only regular files are opened, and no link leads out of its folder."""

from __future__ import annotations

import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DEEPEST = 64
"""Folders inside folders, far more than any checkpoint has."""

# Endings of files with weights or optimizer states, and of their indexes and checksums.
_WEIGHTS = re.compile(
    r".*\.(safetensors|bin|pt|pt2|pth|ckpt|distcp|pkl|pickle|npy|npz|gguf|ggml|msgpack|h5|hdf5|keras|ot|onnx|onnx[._]data\w*|pb|tflite|nemo"
    r"|data-\d+-of-\d+)(\.index(\.[\w-]+)?\.json|\.(index|meta|sha256|sha1|md5))?",
    re.IGNORECASE | re.DOTALL,
)
_FILE_TYPES = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def regular(path: Path) -> Path:
    """The path itself if it is a regular file or a link to one. ValueError for others: reading a FIFO or a device may never end."""
    file_type = stat.S_IFMT(path.stat().st_mode)
    if file_type != stat.S_IFREG:
        raise ValueError(f"{str(path)!r} is {_FILE_TYPES.get(file_type, 'special')}, not a regular file; remove it")
    return path


@dataclass(frozen=True)
class Others:
    """The files of a folder that are not converted, by names relative to it.

    folders, files: to be copied; every folder comes before its content.
    left_out: other files of weights, their indexes and checksums, links to a missing file, and links to a folder.
    """

    folders: tuple[str, ...]
    files: tuple[str, ...]
    left_out: tuple[str, ...]

    def copy(self, source: Path, target: Path) -> None:
        """Copy them into that existing folder; a link is copied as the file it points to."""
        for name in self.folders:
            (target / name).mkdir()
        for name in self.files:
            shutil.copy2(regular(source / name), target / name)


def others(
    source: Path,
    converted: set[Path],
    outdated: set[Path] | frozenset[Path] = frozenset(),
    indexes: set[Path] | frozenset[Path] = frozenset(),
) -> Others:
    """The files of the folder and below that are not among the converted ones; nothing is opened. outdated: files to leave out, as other
    weights are. indexes: those to copy; others are left out with their weights.

    Links to folders are not followed: inside the source, the folder is copied under its own name. ValueError for a link that leaves
    the source, for a FIFO, socket or device, and for folders too deep in each other.
    """
    homes = _homes(source)
    folders: list[str] = []
    files: list[str] = []
    left_out: list[str] = []
    for path in _below(source):
        name, exists = path.relative_to(source).as_posix(), path.exists()
        if path.is_symlink() and exists:
            _check_link(path, source, homes)
        if path in converted:
            continue
        if path.is_dir():
            (left_out if path.is_symlink() else folders).append(name)
        elif not exists or path in outdated:
            left_out.append(name)
        else:
            other_weights = _WEIGHTS.fullmatch(regular(path).name) is not None and path not in indexes
            (left_out if other_weights else files).append(name)
    return Others(tuple(folders), tuple(files), tuple(left_out))


def _below(source: Path) -> Iterator[Path]:
    """All paths below that folder in order, a folder before its content; links are not followed."""
    waiting = sorted(source.iterdir(), reverse=True)
    while waiting:
        path = waiting.pop()
        yield path
        if path.is_dir() and not path.is_symlink():
            if len(path.relative_to(source).parts) > DEEPEST:
                raise ValueError(f"{str(path)!r} is more than {DEEPEST} folders below {str(source)!r}; remove it")
            waiting += sorted(path.iterdir(), reverse=True)


def _homes(source: Path) -> list[Path]:
    """Where links may lead: the source, and for a snapshot in the cache of the Hugging Face hub, the blobs that it consists of."""
    source = source.resolve()
    return [source, source.parent.parent / "blobs"] if source.parent.name == "snapshots" else [source]


def _check_link(path: Path, source: Path, homes: list[Path]) -> None:
    to = path.resolve()
    if not any(to.is_relative_to(home) for home in homes):
        raise ValueError(
            f"{str(path)!r} is a link that leaves {str(source)!r}: {str(to)!r} would become part of the copy; "
            f"put the file itself in its place, or remove the link"
        )
