"""docs/configs.md: each dialect of the table has an example that is read as that dialect."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from rotary.config import read
from rotary.config.dialects import DIALECTS

PAGE = Path(__file__).parents[2] / "docs" / "configs.md"
TABLE = PAGE.read_text(encoding="utf-8").partition("<!-- dialects:")[2].partition("<!-- end of dialects -->")[0]
ROWS = re.findall(r"^\| (.+?) \| `(\{.*\})` \| (.+?) \|$", TABLE, re.M)


def test_every_dialect_is_in_the_table():
    assert {name for name, _, _ in ROWS} == {dialect.name for dialect in DIALECTS} | {"GGUF"}


@pytest.mark.parametrize(("name", "example", "pairing"), ROWS)
def test_the_example_is_read_as_that_dialect(name: str, example: str, pairing: str):
    layer_type = "full_attention" if name == "MiMo-V2-Flash" else None
    arguments = read(json.loads(example), layer_type=layer_type)
    assert arguments.dialect == name
    if pairing.startswith(("half", "interleaved")):
        assert arguments.interleaved is pairing.startswith("interleaved")
