"""Configs of published models that come with the package: their keys about rotation, and the sizes that these need."""

from __future__ import annotations

from pathlib import Path

from .._checks import text

_FOLDER = Path(__file__).parent / "published"


def shipped() -> tuple[str, ...]:
    """The names of the configs that come with the package, sorted."""
    return tuple(sorted(file.stem for file in _FOLDER.glob("*.json")))


def path(name: str) -> Path:
    """The file of the config of that name, in capital or small letters. TypeError for what is no string; ValueError, with the known names,
    for an unknown one."""
    if text("name", name, "llama-3.1-8b").lower() not in shipped():
        raise ValueError(f"no published config is named {name!r}; known: {', '.join(shipped())}")
    return _FOLDER / f"{name.lower()}.json"
