"""What the documentation site makes of pages and docstrings before they are shown; `make docs` builds all of it."""

from __future__ import annotations

import pytest

REPOSITORY = "https://forge.example/rotary"


@pytest.mark.parametrize(
    ("source", "page", "link", "shown"),
    [
        ("docs/cpu.md", "cpu.md", "gpu.md#tables", "gpu.md#tables"),
        ("docs/design/0009-x.md", "design/0009-x.md", "../cpu.md", "../cpu.md"),
        ("docs/cpu.md", "cpu.md", "pictures/cpu.png", "pictures/cpu.png"),
        ("docs/cpu.md", "cpu.md", "../benchmarks/results/cpu.md", f"{REPOSITORY}/blob/main/benchmarks/results/cpu.md"),
        ("docs/gpu.md", "gpu.md", "../benchmarks/results", f"{REPOSITORY}/tree/main/benchmarks/results"),
        ("docs/guide/train.md", "guide/train.md", "../../CONTRIBUTING.md#words", "../contributing.md#words"),
        ("CONTRIBUTING.md", "contributing.md", "docs/glossary.md", "glossary.md"),
        ("CONTRIBUTING.md", "contributing.md", "CHANGELOG.md", "changelog.md"),
        ("CONTRIBUTING.md", "contributing.md", "Makefile", f"{REPOSITORY}/blob/main/Makefile"),
        ("docs/cpu.md", "cpu.md", "https://arxiv.org/abs/2104.09864", "https://arxiv.org/abs/2104.09864"),
        ("docs/cpu.md", "cpu.md", "#anchor", "#anchor"),
    ],
)
def test_links_that_leave_the_site_lead_to_the_repository(source: str, page: str, link: str, shown: str):
    pytest.importorskip("mkdocs")
    from tools.site_pages import links

    assert links(f"see [it]({link}).", source, page, REPOSITORY) == f"see [it]({shown})."


def test_code_is_left_alone_and_sessions_are_highlighted_as_such():
    pytest.importorskip("mkdocs")
    from tools.site_pages import outside_code, sessions

    page = "[a](b)\n```python\n>>> x = y[0](a)  # doctest: +SKIP\n1\n\n```\n[a](b)\n"
    assert outside_code(page, str.upper).count("[A](B)") == 2 and "y[0](a)" in outside_code(page, str.upper)
    assert sessions(page) == "[a](b)\n```pycon\n>>> x = y[0](a)\n1\n```\n[a](b)\n"


DOCSTRING = """Rotate x, in
one pass.

    a drawing   a b a b

x: (seq, dim), or
    wider. cos, sin: tables. other: not a name.
inplace: write
    over x

Returns x.

>>> 1 + 1
2
"""


def test_entries_of_a_docstring_become_a_list():
    pytest.importorskip("griffe")
    from tools.site_docstrings import markdown

    assert markdown(DOCSTRING, {"x", "cos", "sin", "inplace"}).splitlines() == [
        "Rotate x, in",
        "one pass.",
        "",
        "    a drawing   a b a b",
        "",
        "- **`x`**: (seq, dim), or wider.",
        "- **`cos, sin`**: tables. other: not a name.",
        "",
        "- **`inplace`**: write over x",
        "",
        "Returns x.",
        "",
        "```pycon",
        ">>> 1 + 1",
        "2",
        "```",
    ]


def test_indented_entries_are_read_below_a_heading():
    pytest.importorskip("griffe")
    from tools.site_docstrings import markdown

    assert markdown("Args:\n    a: one\n        more\n    b: two") == "- **`a`**: one more\n\n- **`b`**: two"
