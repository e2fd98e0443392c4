"""The README is short, and true: its tables are rows of the results. Its examples run as doctests; test_stale.py tests its links,
commands and names, as those of every page."""

from __future__ import annotations

import re
from pathlib import Path

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


def test_it_has_at_most_2200_words() -> None:
    assert len(README.split()) <= 2_200  # as `wc -w` counts them


def test_the_first_screen_has_a_sentence_two_numbers_the_installation_six_lines_a_picture_and_links() -> None:
    screen = README.partition("\n## ")[0]
    order = [
        "# rotary",
        "- **Accuracy.**",
        "- **Speed.**",
        "pip install .",
        ">>> import torch",
        "![Four panels",
        "[Guide]",
    ]
    assert [screen.index(part) for part in order] == sorted(screen.index(part) for part in order)
    assert screen.count(">>> ") == 6
    assert (
        "[plane](docs/glossary.md#plane)" in screen
        and "plane" not in screen.partition("[plane]")[0].partition("](docs/pictures")[2]
    )


def test_limits_accuracy_and_speed_have_four_rows_each() -> None:
    def section(heading: str) -> str:
        return README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]

    assert len(re.findall(r"^- ", section("Limits"), re.MULTILINE)) == 4
    assert len(re.findall(r"^\*\*", section("Use"), re.MULTILINE)) == 4
    assert [
        [len(table.splitlines()) - 2 for _, table in MARKED.findall(section(h))] for h in ("Accuracy", "Speed")
    ] == [[4], [4, 4]]


def test_the_two_commands_open_the_section_for_developers() -> None:
    assert re.match(r"\n+    make run  .*\n    make test  ", README.partition("\n## Developing\n")[2])


def test_the_versions_agree() -> None:
    from rotary import __version__

    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
