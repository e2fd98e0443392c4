"""The README is true: its tables are rows of the results, its links and commands exist, its examples run as doctests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
MARKED = re.compile(r"<!-- rows of (\S+) -->\n((?:\|.*\n)+)")
PRINTED = re.compile(r"<!-- lines of (\S+) -->\n```text\n(.*?)```", re.S)


def foreign_rows(readme: str) -> list[str]:
    """Rows of marked tables that are not, word for word, in the results file that the mark names."""
    return [
        row
        for file, table in MARKED.findall(readme)
        for row in table.splitlines()
        if row not in (ROOT / file).read_text().splitlines()
    ]


def foreign_lines(page: str) -> list[str]:
    """Lines of marked blocks of text that are not, word for word, in the results file that the mark names."""
    return [
        line
        for file, block in PRINTED.findall(page)
        for line in block.splitlines()
        if line not in (ROOT / file).read_text(encoding="utf-8").splitlines()
    ]


def test_every_row_of_a_measured_table_is_a_row_of_its_results_file() -> None:
    assert len(MARKED.findall(README)) == README.count("<!-- rows of") > 0
    assert foreign_rows(README) == []


def test_a_figure_changed_by_hand_is_found() -> None:
    changed = README.replace("3.0e-08", "2.0e-08", 1)
    assert len(foreign_rows(changed)) == 1
    page = "<!-- lines of benchmarks/results/printed.md -->\n```text\nno line of it\n```\n"
    assert foreign_lines(page) == ["no line of it"]


@pytest.mark.parametrize("link", sorted({link for link in re.findall(r"\]\(([^)]+)\)", README) if ":" not in link}))
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


@pytest.mark.parametrize("command", sorted(set(re.findall(r"\bmake (\w+)\b(?=`|  )", README))))
def test_make_commands_exist(command: str) -> None:
    assert re.search(rf"^{command}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_versions_agree() -> None:
    from rotary import __version__

    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
