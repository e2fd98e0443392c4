"""Configs of published models that travel with the package: the keys about rotation and the sizes they need."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent / "published"


def shipped() -> tuple[str, ...]:
    """Their names."""
    return tuple(sorted(file.stem for file in _FOLDER.glob("*.json")))


def path(name: str) -> Path:
    """Where the config of that name lies; ValueError names those there are."""
    if name not in shipped():
        raise ValueError(f"no config named {name!r} is shipped; there are {', '.join(shipped())}")
    return _FOLDER / f"{name}.json"
