"""Configs of published models that come with the package: their keys about rotation, and the sizes that these need."""

from __future__ import annotations

from pathlib import Path

from .._checks import describe

_FOLDER = Path(__file__).parent / "published"


def shipped() -> tuple[str, ...]:
    """The names of these configs."""
    return tuple(sorted(file.stem for file in _FOLDER.glob("*.json")))


def path(name: str) -> Path:
    """The file of that config, in any case of letters. ValueError for an unknown name, with the known ones."""
    if name.lower() not in shipped():
        raise ValueError(f"no published config is named {describe(name)}; known: {', '.join(shipped())}")
    return _FOLDER / f"{name.lower()}.json"
