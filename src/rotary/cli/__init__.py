"""`rotary` on the command line: one file per command, each with `register(commands)`; main.py parses and prints errors."""

from .main import main

__all__ = ["main"]
