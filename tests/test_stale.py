"""Statements that go stale: commands, files and names that pages mention are there, and links lead somewhere."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import rotary
from rotary.cli import main

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
OF_THE_ROOT = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG", "RELEASING", "SECURITY")]
OF_FOLDERS = [ROOT / name / "README.md" for name in ("benchmarks", "examples", "tools")]
FORGE = [path for path in sorted((ROOT / ".github").rglob("*")) if path.suffix in (".md", ".yml")]
PAGES = [*sorted(DOCS.rglob("*.md")), *OF_THE_ROOT, *OF_FOLDERS]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in [*PAGES, *FORGE]}
every_text = pytest.mark.parametrize("name", TEXTS)


def code(text: str) -> Iterator[str]:
    """What a page sets as code: inline, and each line of a block, fenced or indented."""
    fenced = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
    for block in fenced.findall(text):
        yield from block.splitlines()
    text = fenced.sub("", text)
    yield from (" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text))
    yield from re.findall(r"^    +(\S.*)$", text, re.MULTILINE)


# --- commands ------------------------------------------------------------------------------------------------------------------


@every_text
def test_make_targets_exist(name: str):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert make_targets(TEXTS[name]) <= set(re.findall(r"^([a-z][\w-]*):", makefile, re.MULTILINE))


@pytest.mark.parametrize("target", ["test", "core", "gpu", "sanitize", "aarch64", "examples", "distributed", "fuzz"])
def test_files_and_modules_of_a_recipe_exist(target: str):
    recipe = subprocess.run(
        ("make", "-n", target, "PYTHON=python3"), capture_output=True, text=True, cwd=ROOT, check=True
    ).stdout
    paths = re.findall(r"(?<![\w./-])((?:tests|examples)/[\w/.-]*\w)", recipe)
    modules = [module.replace(".", "/") + ".py" for module in re.findall(r"-m ((?:benchmarks|tools)[\w.]*)", recipe)]
    assert paths or modules
    assert [path for path in paths + modules if "$" not in path and not (ROOT / path).exists()] == []


def make_targets(text: str) -> set[str]:
    return {target for line in code(text) for target in re.findall(r"(?:^|: |&& )make ([a-z][\w-]*)", line)}


@every_text
def test_modules_and_scripts_that_are_run_exist(name: str):
    def there(path: str) -> bool:
        return any((base / path).exists() for base in (ROOT, ROOT / "src"))

    files = [path for line in code(TEXTS[name]) for path in re.findall(r"python (?:-I )?([\w/]+\.py)", line)]
    modules = [
        module.replace(".", "/") for line in code(TEXTS[name]) for module in re.findall(r"python -m ([\w.]+)", line)
    ]
    ours = [module for module in modules if module.split("/")[0] in ("benchmarks", "tools", "rotary")]
    assert [path for path in files if path != "examples/NAME.py" and not there(path)] == []
    assert [module for module in ours if not there(f"{module}.py") and not there(f"{module}/__main__.py")] == []


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").glob("*.md")), ids=lambda path: path.stem)
def test_the_command_that_a_results_page_names_exists(path: Path):
    modules = set(re.findall(r"python -m ([\w.]+)", path.read_text(encoding="utf-8")))
    assert [m for m in sorted(modules) if not (ROOT / f"{m.replace('.', '/')}.py").exists()] == []


@cache
def options_of(command: str) -> set[str]:
    """The options that `rotary COMMAND --help` lists; KeyError for a command that does not exist."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), pytest.raises(SystemExit) as end:
        main([command, "--help"])
    if end.value.code:
        raise KeyError(command)
    return set(re.findall(r"--[a-z][a-z-]*", printed.getvalue()))


def wrong_commands(text: str) -> list[str]:
    """Lines that run `rotary` with a command or an option that it does not have."""
    wrong: list[str] = []
    for line in code(text):
        match = re.match(r"(?:\$ )?rotary ([a-z]+)(?: (.*))?$", line)
        if match is None:
            continue
        try:
            known = options_of(match[1])
        except KeyError:
            wrong.append(line)
            continue
        given = set(re.findall(r"(?:^|[ \[])(--[a-z][a-z-]*)", re.split(r" [|>&] |  +", match[2] or "")[0]))
        wrong += [line] if given - known else []
    return wrong


@every_text
def test_commands_of_rotary_exist_with_these_options(name: str):
    assert wrong_commands(TEXTS[name]) == []


@every_text
def test_lines_that_a_command_prints_are_those_of_the_page(name: str):
    assert foreign_output(TEXTS[name]) == []


def foreign_output(text: str) -> list[str]:
    """Lines of blocks below "printed by: rotary ..." that the command does not print."""
    foreign: list[str] = []
    for command, block in re.findall(r"<!-- printed by: rotary ([^\n]*) -->\n```text\n(.*?)```", text, re.DOTALL):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            assert main(command.split()) == 0
        foreign += [line for line in block.splitlines() if line not in printed.getvalue().splitlines()]
    return foreign


# --- files and names -----------------------------------------------------------------------------------------------------------

SUFFIXES = "py|md|cpp|h|c|json|txt|toml|sh|yml|cff"
ELSEWHERE = re.compile(
    r"^(config|params|tokenizer|model_config|lit_config|build)\.(json|toml|txt|yaml)$"  # of a model, of the hub, of a build
    r"|^(path/to|original|models)/|_llama_weights_|^a-book\.txt$|^zeta/__init__\.py$|/NAME\.py$"
)


def file_names(text: str) -> set[str]:
    """Paths of files that a page sets as code, `a/{b,c}.py` apart."""
    names: set[str] = set()
    for line in code(text):
        for path in re.findall(
            rf"(?<![\w/.{{}}*<-])((?:[\w.-]+/|\{{[\w,]+\}}/)*(?:[\w.-]+|\{{[\w,]+\}})\.(?:{SUFFIXES}))(?![\w*])", line
        ):
            choices = re.search(r"\{([\w,]+)\}", path)
            names |= {path.replace(choices[0], c) for c in choices[1].split(",")} if choices else {path}
    return {path for path in names if not ELSEWHERE.search(path)}


@cache
def tree() -> set[str]:
    """Every way to name a file of this tree by the end of its path."""
    folders = (".github", ".ci", "benchmarks", "docs", "examples", "src", "tests", "tools")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*")] + list(ROOT.glob("*"))
    parts = [path.relative_to(ROOT).parts for path in files if "__pycache__" not in path.parts]
    return {"/".join(names[i:]) for names in parts for i in range(len(names))}


@every_text
def test_files_that_pages_name_are_there(name: str):
    assert file_names(TEXTS[name]) - tree() == set()


OURS = r"(?:\.\./|src/rotary/|tests/|tools/|benchmarks/|_[a-z]+/|(?:kernels|config|scaling|positions|transformers|checkpoints|cli)/)"
SOURCES = sorted((ROOT / "src").rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT / "src").as_posix())
def test_files_of_this_tree_that_the_source_names_are_there(path: Path):
    """Names without a folder may be those of other projects, whose files the source cites."""
    named = re.findall(rf"(?<![\w/.-])({OURS}[\w/]*\w\.(?:py|cpp|h|md))\b", path.read_text(encoding="utf-8"))
    assert [name for name in named if re.sub(r"^(\.\./)+", "", name) not in tree()] == []


OPERATORS = {"rotary.rotate", "rotary.rotate_"}
"""What torch calls its operators, torch.ops.rotary.rotate."""
GONE = TEXTS["CHANGELOG.md"].partition("### Changed: the house\n")[2].partition("\n- **bits changed**")[0]
"""The line of the CHANGELOG that lists what was renamed."""


@every_text
def test_names_of_rotary_can_be_imported(name: str):
    text = TEXTS[name].replace(GONE, "")
    named = {word for line in code(text) for word in re.findall(r"(?<![\w./-])(rotary(?:\.[A-Za-z_]\w*)+)", line)}
    assert {word for word in named - OPERATORS if not importable(word)} == set()


def importable(dotted: str) -> bool:
    names = dotted.split(".")
    for i in range(len(names), 0, -1):
        try:
            value: object = importlib.import_module(".".join(names[:i]))
        except ImportError:
            continue
        return all((value := getattr(value, part, None)) is not None for part in names[i:])
    return False


# --- links ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "page",
    [*OF_THE_ROOT, *OF_FOLDERS, *(p for p in FORGE if p.suffix == ".md")],
    ids=lambda page: page.parent.name + page.stem,
)
def test_links_lead_to_a_file_and_a_heading_of_it(page: Path):
    """`make docs` says the same of the pages of the site."""
    broken: list[str] = []
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]+))?\)", page.read_text(encoding="utf-8")):
        path = page.parent / target if target else page
        if not path.exists() or (anchor and anchor not in anchors(path.read_text(encoding="utf-8"))):
            broken.append(f"{target}#{anchor}")
    assert broken == []


def anchors(text: str) -> set[str]:
    """Of the headings of a page, as forges and MkDocs make them."""
    return {
        re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-")
        for h in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }


# --- the tests can fail --------------------------------------------------------------------------------------------------------


def test_the_tests_of_stale_statements_can_fail():
    assert make_targets("run `make nothing`, then\n\n    make more    words\n") == {"nothing", "more"}
    assert wrong_commands("`rotary show CONFIG --compare yarn:4`, `rotary check FOLDER`") == []
    wrong = ["rotary show --no-such-option", "rotary nothing x"]
    assert wrong_commands(f"`{wrong[0]}` and\n\n    {wrong[1]}\n") == wrong
    shown = "<!-- printed by: rotary show plain -->\n```text\nplanes              0-63 kept\nno line\n```\n"
    assert foreign_output(shown) == ["no line"]
    assert file_names("see `src/rotary/gone.py`, `_fused/{eager,gone}.py` and `config.json`") - tree() == {
        "src/rotary/gone.py",
        "_fused/gone.py",
    }
    assert (
        importable("rotary.scaling.YaRN") and not importable("rotary.nothing") and not importable("rotary.scaling.YaRM")
    )
    assert anchors("# A b\n## What `x` is, and why\n") == {"a-b", "what-x-is-and-why"}


def test_a_deprecated_name_works_for_two_more_minor_releases():
    """RELEASING.md: what is deprecated in 0.1 works in 0.1, 0.2 and 0.3, and goes in 0.4."""
    major, minor = map(int, rotary.__version__.split(".")[:2])
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "src" / "rotary").rglob("*.py")]
    removals = {tuple(map(int, match)) for text in sources for match in re.findall(r"goes in (\d+)\.(\d+)", text)}
    assert removals and all((major, minor) < removal <= (major, minor + 3) for removal in removals), removals
    assert (major, minor) != (0, 1) or removals == {(0, 4)}


def test_tests_that_tools_and_the_makefile_name_are_there():
    files = [*(ROOT / "tools").glob("*.py"), ROOT / "Makefile", ROOT / ".ci" / "run"]
    named = {path for file in files for path in re.findall(r"\btests/[\w/]+\.(?:py|sh)\b", file.read_text())}
    assert len(named) > 20 and [path for path in sorted(named) if not (ROOT / path).is_file()] == []
