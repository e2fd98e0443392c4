"""The pages under docs: their examples run, their tables and counts are what the code says, their links lead somewhere."""

from __future__ import annotations

import doctest
import importlib
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

import rotary
from benchmarks import schemes
from rotary.cli import main
from test_guides import PAGES as GUIDES
from test_guides import idle_blocks
from test_readme import foreign_lines, foreign_rows
from test_stale import anchors

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
OF_THE_ROOT = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


@pytest.mark.parametrize("page", [page for page in PAGES if page not in GUIDES], ids=lambda page: page.stem)
def test_examples_run(page: Path):
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    assert doctest.testfile(str(page), module_relative=False, optionflags=flags, encoding="utf-8").failed == 0


@pytest.mark.parametrize("page", [*PAGES, *OF_THE_ROOT], ids=lambda page: page.stem)
def test_every_block_of_python_runs_or_says_why_not(page: Path):
    assert idle_blocks(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", [*PAGES, *OF_THE_ROOT], ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_rows_of_measured_tables_are_rows_of_their_results(page: Path):
    assert foreign_rows(page.read_text(encoding="utf-8")) == []
    assert foreign_lines(page.read_text(encoding="utf-8")) == []


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
    measured = (ROOT / "benchmarks" / "results" / "pairing.md").read_text(encoding="utf-8")
    assert measured[measured.index("| steps") :].strip() in (DOCS / "checkpoints.md").read_text(encoding="utf-8")


def test_tests_that_pages_name_are_there():
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    for page in PAGES:
        for name in re.findall(r"\b(test_\w+)`", page.read_text(encoding="utf-8")):
            assert f"def {name}(" in tests, f"{page.name} names {name}"


# --- tables of scripts -------------------------------------------------------------------------------------------------------


def scripts(folder: Path) -> set[str]:
    """The runnable modules of a folder: "benchmarks.cpu.run"."""
    paths = [path for path in folder.rglob("*.py") if '__name__ == "__main__"' in path.read_text(encoding="utf-8")]
    return {".".join(path.relative_to(folder.parent).with_suffix("").parts) for path in paths}


def commands(table: str) -> set[str]:
    """The modules of the commands in the first column of a table."""
    started = re.findall(r"^\| `python (?:-m ([\w.]+)|-I ([\w/]+)\.py)", table, re.M)
    return {module or path.replace("/", ".") for module, path in started}


@pytest.mark.parametrize("folder", ["benchmarks", "tools"])
def test_each_script_has_a_row_and_each_row_a_script(folder: str):
    page = (ROOT / folder / "README.md").read_text(encoding="utf-8")
    assert commands(page) == scripts(ROOT / folder)
    rows = re.findall(r"^\| `(python [^`]+)`", page, re.M)
    assert sorted(rows) == sorted(set(rows)), "a command has two rows"


def test_the_test_of_rows_can_fail(tmp_path: Path):
    (tmp_path / "new.py").write_text('if __name__ == "__main__":\n    pass\n')
    (tmp_path / "part.py").write_text("")
    assert scripts(tmp_path) == {f"{tmp_path.name}.new"}
    assert commands("| `python -m tools.new [FILE]` | ? | 1 | nothing |\n| `part.py` |") == {"tools.new"}


# --- statements that go stale: counts and lists that prose repeats ------------------------------------------------------------


def numbers(pattern: str, texts: Iterable[str]) -> set[tuple[int, ...]]:
    """The groups of a pattern in any of the texts, as numbers."""
    matches = {match.groups() for text in texts for match in re.finditer(pattern, text)}
    return {tuple(int(group.replace(",", "")) for group in groups) for groups in matches}


def texts() -> list[str]:
    return [page.read_text(encoding="utf-8") for page in [*PAGES, *OF_THE_ROOT]]


FILES = r"\b(\d[\d,]*) (?:source |Python )?files\b"
FAMILIES = r"\b(\d[\d,]*) of (?:the )?(\d[\d,]*) families\b"


def test_a_number_of_source_files_is_that_of_src():
    count = len(list((ROOT / "src" / "rotary").rglob("*.py")))
    assert numbers(FILES, texts()) <= {(count,)}


def test_the_number_of_families_is_that_of_the_table():
    page = (DOCS / "models.md").read_text(encoding="utf-8")
    passing, left = (len(rows(page, header)) for header in ("| family | model |", "| family | why |"))
    assert numbers(FAMILIES, texts()) == {(passing, passing + left)}


def rows(page: str, header: str) -> list[str]:
    """The rows of the table with that header."""
    lines = page.partition(header)[2].splitlines()[2:]
    return lines[: next(i for i, line in enumerate(lines) if not line.startswith("|"))]


def test_the_tests_of_counts_can_fail():
    assert numbers(FILES, ["over all 38 files but one", "1,038 source files"]) == {(38,), (1038,)}
    assert numbers(FAMILIES, ["the 192 of 212 families of transformers"]) == {(192, 212)}
    assert rows("| a |\n| --- |\n| 1 |\n| 2 |\n\n| 3 |", "| a |") == ["| 1 |", "| 2 |"]


NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")


def test_contributing_lists_what_ci_runs():
    listed, word = commands_of_ci((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    run = re.findall(r"^ *make (\w+)", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)
    assert listed == run
    assert word == NUMBERS[len(run)]


def commands_of_ci(contributing: str) -> tuple[list[str], str]:
    """The make targets listed above `.ci/run`, and how many "these" are."""
    above, _, below = contributing.partition("    .ci/run ")
    word = re.match(r"\s*these (\w+)", below)
    assert word, "the line of .ci/run does not say 'these five'"
    return re.findall(r"^    make (\w+)", above, re.MULTILINE), word[1]


def test_the_list_of_ci_is_read_as_written():
    text = "    make test    every test\n    make lint    ruff\n    .ci/run      these two\n    make more\n"
    assert commands_of_ci(text) == (["test", "lint"], "two")


@pytest.mark.parametrize("command", ["info", "show", "convert", "pairing", "bench"])
def test_the_page_of_the_command_line_has_every_option(command: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    page = (DOCS / "reference" / "command-line.md").read_text(encoding="utf-8")
    section = page.partition(f"\n## rotary {command}\n")[2].partition("\n## ")[0]
    option = r"--[a-z][a-z-]*"
    assert set(re.findall(option, section)) == set(re.findall(option, capsys.readouterr().out)) - {"--help"}


NAMESPACES = (
    "analysis",
    "checkpoints",
    "config",
    "fused",
    "onnx",
    "operators",
    "pairing",
    "positions",
    "scaling",
    "tables",
    "testing",
    "transformers",
)


def documented() -> set[str]:
    """Names that the reference documents: "rotary.scaling.YaRN", and "rotary.testing" for a whole module."""
    pages = [page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md")]
    return set(re.findall(r"^::: (\S+)$", "\n".join(pages), re.MULTILINE))


@pytest.mark.parametrize("name", [*(n for n in rotary.__all__ if n != "__version__"), *NAMESPACES])
def test_every_public_name_is_in_the_reference(name: str):
    known = documented()
    if name not in NAMESPACES:
        assert f"rotary.{name}" in known
    elif f"rotary.{name}" not in known:
        module = importlib.import_module(f"rotary.{name}")
        # a function that hides the module of its name is documented as that module's
        missing = {n for n in module.__all__ if {f"rotary.{name}.{n}", f"rotary.{name}.{n}.{n}"}.isdisjoint(known)}
        assert missing == set()


WORDS = """plane, pairing, angle, turn, conjugate, in place, head_dim, dim, packed projection, half a unit in the last place, base,
inv_freq, wavelength, table, cos_sin, amplitude, attention factor, scale (xPos), role, positions, offset, packed, padded, prefill,
decode, coordinate, axes, sections, axial, patch, grid, learned directions, tower, scheme, window, kept, ramped, interpolated,
critical dimension, reach, cache, re-rotation, sink, store, slot, kernel, backend, formula, operator, norm, fused, instruction set,
same bits, mirror buffer, rank, world, shard, DTensor, context parallel, zig-zag, patch (a model), rotation spec, layer of the hub,
adapter, dialect, composite config, text model"""
GLOSSARY = (DOCS / "glossary.md").read_text(encoding="utf-8")


def test_the_glossary_explains_each_word_and_says_where_it_is_used():
    entries = dict(re.findall(r"^### ([^\n]*)\n(.*?)(?=^#|\Z)", GLOSSARY, re.MULTILINE | re.DOTALL))
    assert {word for heading in entries for word in heading.split(", ")} == set(re.split(r",\s", WORDS))
    assert [heading for heading, text in entries.items() if "](" not in text] == []


def test_every_entry_of_the_glossary_is_linked_from_a_page():
    linked = {anchor for page in PAGES for anchor in glossary_links(page.read_text(encoding="utf-8")).values()}
    assert anchors(GLOSSARY) - linked - anchors("\n".join(re.findall(r"^##? .*$", GLOSSARY, re.MULTILINE))) == set()


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.stem)
def test_a_word_of_the_glossary_is_linked_where_a_page_uses_it_first(page: Path):
    prose = without_code(page.read_text(encoding="utf-8"))
    links = glossary_links(prose)
    assert set(links.values()) <= anchors(GLOSSARY)
    assert {text for text in links if used_before_its_link(text, prose)} == set()


def glossary_links(text: str) -> dict[str, str]:
    """The text of a link into the glossary -> the anchor."""
    return {
        " ".join(t.split()): a for t, a in re.findall(r"\[([^][]+)\]\((?:[./]|docs/)*glossary\.md#([\w-]+)\)", text)
    }


def without_code(page: str) -> str:
    """Paragraphs alone, on one line: no code, no tables, no headings, no pictures."""
    page = re.sub(
        r"^```.*?^```|^    .*?$|^#.*?$|!\[[^]]*\]|<!--.*?-->|^\|.*?$", "", page, flags=re.MULTILINE | re.DOTALL
    )
    return " ".join(page.split())


def used_before_its_link(text: str, prose: str) -> bool:
    before = prose.partition(f"[{text}](")[0]
    return (
        re.search(rf"(?<![\w/-]){re.escape(text.strip('*`'))}(?![\w/-])", re.sub(r"\]\([^)]*\)|`[^`]*`", " ", before))
        is not None
    )


def test_a_late_link_is_found():
    prose = "A shard is cut. See [shard](../glossary.md#shard) and [rank](glossary.md#rank-world)."
    assert glossary_links(prose) == {"shard": "shard", "rank": "rank-world"}
    assert used_before_its_link("shard", prose) and not used_before_its_link("rank", prose)
