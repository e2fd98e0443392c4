"""Prints the requirements of extras of pyproject.toml, one a line: pip installs them without building rotary once more.

python -I tools/extras.py dev docs
"""

from __future__ import annotations

import sys
from pathlib import Path

import tomllib

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"

if __name__ == "__main__":
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    print("\n".join(requirement for extra in sys.argv[1:] for requirement in extras[extra]))
