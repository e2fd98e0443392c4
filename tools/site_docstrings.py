"""An extension of griffe: docstrings of this project, turned into Markdown for the reference.

They are prose in which "name: explanation" at the start of a line is about an argument, a field or a result, and lines that are
indented further go on with it. More such entries may follow on the same line, if their names are known. Entries become a list, sessions
blocks of code.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection
from typing import Any

import griffe

_NAME = r"[A-Za-z_][\w.]*(?:\([\w, ]*\))?"
_NAMES = rf"{_NAME}(?:, {_NAME})*(?: \[[\w/]+\])?"
_ENTRY = re.compile(rf"({_NAMES}): (\S.*)")
_INSIDE = re.compile(rf"(?<=[.;)]) ({_NAMES}): ")
_HEADING = re.compile(r"(Args|Arguments):")


class ProseDocstrings(griffe.Extension):
    """Rewrites the docstring of every object once all of them are loaded."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value, known_names(obj))


def known_names(obj: griffe.Object) -> set[str]:
    """Arguments of a function; members of a class and arguments of its constructor."""
    if isinstance(obj, griffe.Function):
        return {parameter.name for parameter in obj.parameters}
    if isinstance(obj, griffe.Class):
        return {*obj.members, *(parameter.name for parameter in obj.parameters)}
    return set()


def markdown(docstring: str, known: Collection[str] = ()) -> str:
    """The docstring as Markdown: paragraph by paragraph."""
    paragraphs = re.split(r"\n[ ]*\n", textwrap.dedent(docstring.expandtabs()).strip("\n"))
    return "\n\n".join(_paragraph(paragraph.rstrip(), known) for paragraph in paragraphs if paragraph.strip())


def _paragraph(text: str, known: Collection[str]) -> str:
    if text.lstrip().startswith(">>>"):
        return f"```pycon\n{textwrap.dedent(text)}\n```"
    lines = text.splitlines()
    if _HEADING.fullmatch(lines[0]) and len(lines) > 1:
        return _paragraph(textwrap.dedent("\n".join(lines[1:])), known)
    if all(line.startswith("    ") for line in lines):
        return text  # a drawing or a formula: Markdown shows it as it is
    blocks: list[str] = []  # paragraphs, and entries, which start with "- "
    indent = -1  # of the entry that lines indented further go on with
    for line in lines:
        depth = len(line) - len(line.lstrip())
        match = _ENTRY.fullmatch(line.strip())
        if match and (indent < 0 or depth <= indent):
            blocks.append(f"- **`{match[1]}`**: {match[2]}")
            indent = depth
        elif indent >= 0 and (depth > indent or not re.search(r"[.:;]\)?$", blocks[-1])):
            blocks[-1] += " " + line.strip()  # a sentence that goes on, indented or not
        elif blocks and indent < 0:
            blocks[-1] += "\n" + line.strip()
        else:
            blocks.append(line.strip())
            indent = -1
    return "\n\n".join(_split(block, known) if block.startswith("- ") else block for block in blocks)


def _split(entry: str, known: Collection[str]) -> str:
    """An entry and those that follow in its text, each on a line of its own."""

    def on_its_own(match: re.Match[str]) -> str:
        names = re.sub(r" \[.*|\(.*?\)", "", match[1]).split(", ")
        return f"\n- **`{match[1]}`**: " if all(name in known for name in names) else match[0]

    return _INSIDE.sub(on_its_own, entry)
