"""A hook of MkDocs: Markdown that reads right on the forge, turned into Markdown that reads right on the site.

- A link that leaves docs/ leads to the repository. CONTRIBUTING.md, RELEASING.md, SECURITY.md and CHANGELOG.md are pages of the site,
  made from the files.
- A Python block that starts with a prompt is highlighted as a session, without its remarks to doctest.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
OF_THE_ROOT = {f"{name}.md": f"{name.lower()}.md" for name in ("CONTRIBUTING", "RELEASING", "SECURITY", "CHANGELOG")}
"""Files beside docs/ that are pages of the site -> where they are there."""

_LINK = re.compile(r"(\]\()([^)\s#]+)([^)\s]*\))")
_FENCED = re.compile(r"^```.*?^```\s*$", re.MULTILINE | re.DOTALL)


def on_files(files: Any, config: Any) -> Any:
    """Called by MkDocs once the files are known."""
    for name, page in OF_THE_ROOT.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Called by MkDocs for each page."""
    source = page.file.src_uri
    if source == "index.md":
        page.meta["hide"] = ["navigation"]
    of_the_root = {page: name for name, page in OF_THE_ROOT.items()}
    repository_path = of_the_root.get(source, posixpath.join("docs", source))
    return sessions(outside_code(markdown, lambda part: links(part, repository_path, source, config.repo_url)))


def outside_code(markdown: str, change: Callable[[str], str]) -> str:
    """The text with change() applied outside of fenced blocks."""
    done, end = [], 0
    for fence in _FENCED.finditer(markdown):
        done += [change(markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join((*done, change(markdown[end:])))


def links(markdown: str, source: str, page: str, repo_url: str) -> str:
    """Links as the site needs them. source: the file's path in the repository; page: its path below docs/ on the site."""

    def of_site(match: re.Match[str]) -> str:
        link = match[2]
        if ":" in link or link.startswith("/"):
            return match[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
        inside = target.removeprefix("docs/") if target.startswith("docs/") else OF_THE_ROOT.get(target)
        if inside is not None and not (ROOT / "docs" / inside).is_dir():
            return match[1] + posixpath.relpath(inside, posixpath.dirname(page) or ".") + match[3]
        kind = "tree" if (ROOT / target).is_dir() else "blob"
        return f"{match[1]}{repo_url.rstrip('/')}/{kind}/main/{target}{match[3]}"

    return _LINK.sub(of_site, markdown)


def sessions(markdown: str) -> str:
    """```python blocks with prompts become ```pycon, remarks to doctest and the empty line that ends an output for it go."""
    markdown = re.sub(r"^```python\n(?=>>>)", "```pycon\n", markdown, flags=re.MULTILINE)
    markdown = re.sub(r" *# doctest: .*$", "", markdown, flags=re.MULTILINE)
    return re.sub(r"\n\n```$", "\n```", markdown, flags=re.MULTILINE)
