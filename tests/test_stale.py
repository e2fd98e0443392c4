"""Statements that go stale: commands, files, names, counts and versions that pages mention are those of this tree."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import rotary.config
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


# --- counts and lists ----------------------------------------------------------------------------------------------------------

WORDS = (
    *("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen"),
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def in_words(n: int) -> str:
    """36 -> thirty-six, for the numbers that these pages have."""
    if n < len(WORDS):
        return WORDS[n]
    return TENS[n // 10 - 2] + (f"-{WORDS[n % 10]}" if n % 10 else "")


def test_the_failures_are_numbered_and_counted_and_have_tests():
    page = TEXTS["docs/reliability.md"]
    numbers = [int(n) for n in re.findall(r"^\| F(\d+) \|", page, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
    intro = " ".join(page.partition("\n| class |")[0].split())
    assert f"{in_words(len(numbers)).capitalize()} classes of failures" in intro
    starts = [(int(n), word) for n, word in re.findall(r"from F(\d+) on ([a-z-]+)", intro)]
    assert starts[0][0] == int(in_number(re.findall(r": ([a-z-]+) collected", intro)[0])) + 1
    for (start, word), end in zip(starts, [start for start, _ in starts[1:]] + [len(numbers) + 1], strict=True):
        assert word == in_words(end - start), f"from F{start} on"
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert {n for n in numbers if not re.search(rf"def test_F0?{n}_", tests)} == set()


def in_number(word: str) -> int:
    return next(n for n in range(100) if (n < 16 or n > 19) and in_words(n) == word)


def test_numbers_of_families_are_those_of_the_tables():
    from rotary.checkpoints.projections import PROJECTIONS

    shown = re.search(r"\*\*(\d+) of (\d+) families pass", TEXTS["docs/models.md"])
    assert shown is not None
    known = {len(PROJECTIONS), int(shown[1]), int(shown[2])}
    for name, text in TEXTS.items():
        assert {int(n) for n in re.findall(r"\b(\d+) families\b", " ".join(text.split()))} <= known, name


def test_numbers_of_classes_and_cases_are_those_that_are_tested():
    from rotary.config.dialects import diffusers
    from test_operators import CASES

    classes = {*diffusers._BY_WIDTHS, *diffusers._BY_SHARE, *diffusers._SPECIAL}
    counted = {
        r"(\d+) (?:transformer )?classes of diffusers": len(classes),
        r"(\d+) arrangements": len(CASES),
        r"all (\d+)\]\([./]*/benchmarks/results/originals.md\)": rows_of("originals"),
        r"(\d+) cases\]\([./]*/benchmarks/results/gpu_breadth.md\)": rows_of("gpu_breadth"),
        r"tiles were timed over (\d+) shapes": rows_of("gpu_tiles"),
    }
    for pattern, count in counted.items():
        stated = {int(n) for text in TEXTS.values() for n in re.findall(pattern, " ".join(text.split()))}
        assert stated == {count}, pattern


def rows_of(results: str) -> int:
    """Rows of the tables of a results page, without the headers."""
    page = (ROOT / "benchmarks" / "results" / f"{results}.md").read_text(encoding="utf-8")
    return len(re.findall(r"^\| (?!---)", page, re.MULTILINE)) - len(re.findall(r"^\| ---", page, re.MULTILINE))


def test_configs_that_travel_with_the_package_are_listed():
    page = " ".join(TEXTS["docs/reference/command-line.md"].split())
    listed = page.partition("travels with the package, in any case: ")[2].partition(". ")[0]
    assert tuple(re.findall(r"`([^`]+)`", listed)) == rotary.config.shipped()


@pytest.mark.parametrize("folder", ["benchmarks", "examples", "tools"])
def test_every_script_is_listed_in_the_page_of_its_folder(folder: str):
    page = TEXTS[f"{folder}/README.md"]
    for path in sorted((ROOT / folder).rglob("*.py")):
        name = path.relative_to(ROOT / folder).with_suffix("").as_posix()
        runs = 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
        module = f"python -m {folder}.{name.replace('/', '.')}"
        assert module in page if runs and folder == "benchmarks" else re.search(rf"\b{name.split('/')[-1]}\b", page), (
            name
        )


def test_the_number_of_libraries_to_migrate_from_is_that_of_the_pages():
    pages = len(list((DOCS / "migrate").glob("*.md")))
    assert f"migration from {in_words(pages)} libraries" in TEXTS["CHANGELOG.md"]
    assert TEXTS["docs/index.md"].count("](migrate/") == pages


def test_what_is_public_is_said_alike():
    sentence = "Public are the names without an underscore that the documentation names"
    for name in ("CONTRIBUTING.md", "RELEASING.md", "docs/design/0001-the-house.md"):
        assert sentence in " ".join(TEXTS[name].split()), name


def test_the_four_questions_lead_to_what_is_there():
    rows = re.findall(r"^\| [^|]*\? \| `([^`]+)` \| `([^`]+)`: (.*) \|$", TEXTS["CONTRIBUTING.md"], re.MULTILINE)
    assert len(rows) == 4
    for first, second, rest in rows:
        assert (ROOT / first).exists()
        text = (ROOT / "src" / "rotary" / second).read_text(encoding="utf-8")
        assert Path(second).stem in (ROOT / first).read_text(encoding="utf-8")
        words = [word for word in re.findall(r"`([^`]+)`", rest) if not word.endswith(".py")]
        names = [re.sub(r"\(.*", "", word).split(".")[-1] for word in words]
        assert [n for n in names if not re.search(rf"\b(?:def|class) {n}\b|^{n}\b", text, re.MULTILINE)] == []


def test_what_security_promises_of_the_source_holds():
    files = {path.relative_to(ROOT / "src").as_posix().removeprefix("rotary/"): path for path in SOURCES}
    source = {name: path.read_text(encoding="utf-8") for name, path in files.items()}
    calls = {name: re.findall(r"torch\.load\(([^)\n]*)\)$", text, re.MULTILINE) for name, text in source.items()}
    assert {name: found for name, found in calls.items() if found} == {
        "checkpoints/torch_archive.py": ['path, map_location="cpu", mmap=True, weights_only=True']
    }
    loaders = {name for name, text in source.items() if "yaml.load" in text}
    assert loaders == {"config/files.py"} and "(yaml.SafeLoader)" in source["config/files.py"]
    assert {
        name
        for name, text in source.items()
        if re.search(r"pickle\.loads?\(|trust_remote_code=True|urlopen|socket\.", text)
    } == set()
    assert {name for name, text in source.items() if "import subprocess" in text} == {
        "_native/build.py",
        "cli/machine.py",
    }


# --- versions ------------------------------------------------------------------------------------------------------------------


@cache
def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {name: version for line in lines if "==" in line for name, _, version in [line.partition("==")]}


NAMED = ("transformers", "accelerate", "peft", "onnxscript", "onnx", "onnxruntime", "kernels", "rotary-embedding-torch")
PINNED_PAGES = (
    "README.md",
    "docs/guide/integrations.md",
    "docs/export.md",
    "docs/kernels-hub.md",
    "docs/check.md",
    "docs/models.md",
)


@pytest.mark.parametrize("name", PINNED_PAGES)
def test_versions_that_pages_say_they_were_run_with_are_those_of_the_constraints(name: str):
    assert wrong_versions(TEXTS[name]) == set()


def wrong_versions(text: str) -> set[tuple[str, str]]:
    words = re.findall(rf"(?<![\w-])({'|'.join(NAMED)}) (\d+\.\d[\d.]*\d|\d+\.\d)", " ".join(text.split()))
    return {
        (package, version) for package, version in words if not f"{pinned()[package]}.".startswith(f"{version}.")
    } - ASKED


ASKED = {("kernels", "0.18.2")}
"""What transformers asks for, which is not what is installed."""


def test_the_page_of_support_has_the_versions_of_the_matrix_and_of_the_constraints():
    from tools.wheel import VERSIONS

    page, workflow = TEXTS["docs/support.md"], TEXTS[".github/workflows/ci.yml"]
    versions = ["{}.{}".format(*version) for version in VERSIONS]
    assert re.findall(r"^\| (3\.\d+) \|", page, re.MULTILINE) == versions
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.findall(r"Python :: (3\.\d+)", project) == versions
    python, torch = (
        json.loads(re.findall(rf"^ +{key}: (\[.*\])$", workflow, re.MULTILINE)[0]) for key in ("python", "torch")
    )
    assert python == versions
    oldest, newest = (".".join(version.split(".")[:2]) for version in torch)
    assert f'"torch>={oldest}"' in project and pinned()["torch"].startswith(f"{newest}.")
    assert re.search(rf"^\| {re.escape(newest)} \| always", page, re.MULTILINE)
    triton = ".".join(pinned()["triton"].split(".")[:2])
    assert re.search(rf"^\| Triton {re.escape(triton)}, .*\| always", page, re.MULTILINE)


# --- the tests can fail --------------------------------------------------------------------------------------------------------


def test_the_tests_of_stale_statements_can_fail():
    assert make_targets("run `make nothing`, then\n\n    make more    words\n") == {"nothing", "more"}
    assert wrong_commands("`rotary show CONFIG --compare yarn:4`, `rotary check FOLDER`") == []
    wrong = ["rotary show --no-such-option", "rotary nothing x"]
    assert wrong_commands(f"`{wrong[0]}` and\n\n    {wrong[1]}\n") == wrong
    assert file_names("see `src/rotary/gone.py`, `_fused/{eager,gone}.py` and `config.json`") - tree() == {
        "src/rotary/gone.py",
        "_fused/gone.py",
    }
    assert (
        importable("rotary.scaling.YaRN") and not importable("rotary.nothing") and not importable("rotary.scaling.YaRM")
    )
    assert anchors("# A b\n## What `x` is, and why\n") == {"a-b", "what-x-is-and-why"}
    assert [in_words(n) for n in (4, 36, 69, 70)] == ["four", "thirty-six", "sixty-nine", "seventy"]
    assert wrong_versions("with transformers 4.9 and kernels 0.18.2") == {("transformers", "4.9")}
