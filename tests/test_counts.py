"""Counts, lists and versions that pages state are those of this tree, and so is what SECURITY.md says of the source."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import pytest

import rotary.config
from test_stale import DOCS, ROOT, SOURCES, TEXTS

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


def test_numbers_of_functions_and_behaviours_are_those_of_the_table_of_models():
    table = TEXTS["docs/models.md"].partition("| rotation spec |")[2].partition("\n\n")[0]
    functions = [int(n) for n in re.findall(r"^\| [^|]+ \| (\d+) \|", table, re.MULTILINE)]
    sentence = (
        f"The {sum(functions)} functions of transformers 5.23 that are recognised have {len(functions)} behaviours"
    )
    assert sentence in TEXTS["docs/design/0007-recognised-by-behaviour.md"]


def test_numbers_of_classes_and_cases_are_those_that_are_tested():
    from rotary.config.dialects.diffusers_classes import BY_SHARE, BY_WIDTHS
    from rotary.config.dialects.diffusers_frequencies import BY_FORMULA
    from test_operators import CASES

    classes = {*BY_WIDTHS, *BY_SHARE, *BY_FORMULA}
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


def test_the_share_of_the_rotation_in_a_model_is_that_of_the_results():
    results = (ROOT / "benchmarks" / "results" / "cpu.md").read_text(encoding="utf-8")
    rows = (
        results.partition("|  | transformers | rotary | no rotation at all |")[2].partition("\n\n")[0].splitlines()[2:]
    )
    for row in rows:
        usual, _, without = (float(cell.split()[0]) for cell in row.split("|")[2:5])
        assert round(100 * (usual - without) / usual) <= 2, row
    assert len(rows) == 3
    for name in ("README.md", "docs/models.md"):
        assert "at most two percent of" in TEXTS[name]


def test_figures_that_prose_quotes_are_in_the_results():
    measured = re.findall(
        r"^\| bfloat16, heads of 80 and 96.*?\| ([\d.]+) – ([\d.]+) \|", TEXTS["docs/cpu.md"], re.MULTILINE
    )
    low, high = (f"{float(figure):.1f}" for figure in measured[0])
    for name in ("CHANGELOG.md", "docs/design/0012-instruction-sets.md"):
        assert re.search(rf"80 and 96 (?:takes )?{low} to {high}", " ".join(TEXTS[name].split())), name


def test_configs_that_travel_with_the_package_are_listed():
    page = " ".join(TEXTS["docs/reference/command-line.md"].split())
    listed = page.partition("published config, in any case: ")[2].partition(". ")[0]
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


def test_the_modules_that_are_imported_late_are_listed():
    listed = re.findall(r"((?:`[\w.]+`,? )+)are imported when first used", TEXTS["CHANGELOG.md"])
    assert tuple(re.findall(r"`(\w+)`", listed[0])) == rotary._LATE


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


def test_the_tests_of_counts_and_versions_can_fail():
    assert [in_words(n) for n in (4, 36, 69, 70)] == ["four", "thirty-six", "sixty-nine", "seventy"]
    assert wrong_versions("with transformers 4.9 and kernels 0.18.2") == {("transformers", "4.9")}
