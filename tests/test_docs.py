"""The pages under docs: their examples run, their tables are what the code says, their links lead somewhere."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

from benchmarks import schemes
from test_readme import foreign_rows

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_run(page: Path):
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    assert doctest.testfile(str(page), module_relative=False, optionflags=flags, encoding="utf-8").failed == 0


@pytest.mark.parametrize("page", [*PAGES, DOCS.parent / "README.md"], ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_rows_of_measured_tables_are_rows_of_their_results(page: Path):
    assert foreign_rows(page.read_text(encoding="utf-8")) == []


def test_the_table_of_schemes_is_what_they_do():
    page = schemes.PAGE.read_text(encoding="utf-8")
    shown = page.partition(schemes.BEGIN)[2].partition(schemes.END)[0]
    assert shown == schemes.table(), "run python -m benchmarks.schemes"


def test_the_families_of_checkpoints_are_those_that_convert_knows():
    from rotary.checkpoints.projections import PROJECTIONS

    page = (DOCS / "checkpoints.md").read_text(encoding="utf-8")
    line = page.partition("<!-- families -->\nKnown families: ")[2].partition(";")[0]
    assert line.split(", ") == sorted(PROJECTIONS)


def test_the_pairing_table_is_the_measured_one():
    measured = (DOCS.parent / "benchmarks" / "results" / "pairing.md").read_text(encoding="utf-8")
    assert measured[measured.index("| steps") :].strip() in (DOCS / "checkpoints.md").read_text(encoding="utf-8")


def test_tests_that_pages_name_are_there():
    root = DOCS.parent
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (root / "tests").rglob("*.py"))
    for page in PAGES:
        for name in re.findall(r"\b(test_\w+)`", page.read_text(encoding="utf-8")):
            assert f"def {name}(" in tests, f"{page.name} names {name}"
