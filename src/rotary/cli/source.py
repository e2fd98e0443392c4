"""The source of a config on the command line: its file, by a path or a published name, and messages that name it."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Generator, Mapping
from pathlib import Path

from .. import config as configs


def source_of(name: str) -> Path:
    """The file of a config by its path or published name; an existing path comes first. ValueError where there is neither."""
    path = Path(name)
    if path.exists():
        return path
    if name.lower() in configs.shipped():
        return configs.path(name)
    close = difflib.get_close_matches(name.lower(), configs.shipped(), n=1)
    hint = f"did you mean {close[0]}?" if close else f"configs by name: {', '.join(configs.shipped())}"
    raise ValueError(f"no config and no file named {name!r}; {hint}")


@contextlib.contextmanager
def naming(source: Path | str, remedies: Mapping[str, str] | None = None) -> Generator[None]:
    """Put a source, or a flag, in front of a message that names neither; an ImportError becomes a ValueError.

    remedies: the advice of rotary.config, as "pass head_dim=", -> what to do on the command line.
    """
    try:
        yield
    except (ValueError, TypeError) as error:
        text = str(error)
        for advice, remedy in (remedies or {}).items():
            text = re.sub(rf"{advice} ?(?=[\w'])", f"{remedy} ", text).replace(advice, remedy)
        named = str(source) in text or re.match(r"--[a-z]", text)
        error.args = (text if named else f"{source}: {text}",)
        raise
    except ImportError as error:
        raise ValueError(str(error)) from None
