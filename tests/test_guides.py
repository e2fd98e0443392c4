"""The pages that show how it is done: every Python block of the home page, the guide and the migration pages runs, page by page."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [
    DOCS / "index.md",
    DOCS / "export.md",
    *sorted((DOCS / "guide").glob("*.md")),
    *sorted((DOCS / "migrate").glob("*.md")),
]
PEERS = {
    "transformers": "transformers",
    "rotary-embedding-torch": "rotary_embedding_torch",
    "x-transformers": "x_transformers.x_transformers",
    "timm": "timm.layers",
    "integrations": "accelerate",
    "export": "onnxscript",
}
"""Pages that run code of another package -> the package."""
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def sessions(page: str) -> str:
    """The Python blocks with prompts, each at its line, so that a failure names the line; everything else is blank."""
    kept, end = [], 0
    for block in BLOCK.finditer(page):
        runs = block[1] == "python" and block[2].startswith(">>>")
        kept.append("\n" * page.count("\n", end, block.start(2)))
        kept.append(block[2] if runs else "\n" * block[2].count("\n"))
        end = block.end(2)
    return "".join(kept)


def failures(page: str, name: str, file: str) -> int:
    test = doctest.DocTestParser().get_doctest(sessions(page), {}, name, file, 0)
    return doctest.DocTestRunner(optionflags=FLAGS).run(test).failed


INSTALLED = "# run where it is installed: "


def idle_blocks(page: str) -> list[str]:
    """Blocks that are not run and do not say so."""
    blocks = [block for language, block in BLOCK.findall(page) if language == "python"]
    return [block for block in blocks if not block.startswith((">>> ", "# not run: ", INSTALLED))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).with_suffix("").as_posix())
def test_every_block_runs(page: Path):
    if page.stem in PEERS:
        pytest.importorskip(PEERS[page.stem])
    assert failures(page.read_text(encoding="utf-8"), page.name, str(page)) == 0


def test_torchtunes_code_gives_what_ours_gives_where_it_is_installed():
    text = (DOCS / "migrate" / "torchtune.md").read_text(encoding="utf-8")
    (theirs,) = (block for _, block in BLOCK.findall(text) if block.startswith(INSTALLED))
    pytest.importorskip(theirs.partition("\n")[0].removeprefix(INSTALLED), exc_type=ImportError)
    names: dict[str, object] = {}
    test = doctest.DocTestParser().get_doctest(sessions(text), names, "torchtune", None, 0)
    assert doctest.DocTestRunner(optionflags=FLAGS).run(test, clear_globs=False).failed == 0
    ours = dict(test.globs)
    exec(theirs, test.globs)
    for name in ("q_rotated", "k_rotated", "last"):
        torch.testing.assert_close(test.globs[name], ours[name], rtol=0, atol=5e-5)
    assert test.globs["rope"] is not ours["rope"]


def test_the_tests_of_blocks_can_fail(capsys: pytest.CaptureFixture[str]):
    page = "Words.\n\n```python\n>>> 1 + 1\n3\n```\n"
    assert failures(page, "page", "page.md") == 1
    assert 'File "page.md", line 4' in capsys.readouterr().out
    assert failures(page.replace("3", "2"), "page", "page.md") == 0
    assert idle_blocks("```python\nx = 1\n```\n") == ["x = 1\n"]


def test_the_guide_and_every_peer_have_a_page():
    names = {page.relative_to(DOCS).with_suffix("").as_posix() for page in PAGES}
    guide = {"train", "decode", "pack", "layouts", "extend", "several-axes", "integrations"}
    peers = {
        "transformers",
        "flash-attention",
        "torchtune",
        "rotary-embedding-torch",
        "zeta",
        "meta",
        "x-transformers",
        "timm",
    }
    assert names >= {f"guide/{name}" for name in guide} | {f"migrate/{name}" for name in peers}
