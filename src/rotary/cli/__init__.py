"""The command `rotary`. Each command is a file with register(commands), which adds its parser."""

from .main import main

__all__ = ["main"]
