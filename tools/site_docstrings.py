"""An extension of griffe: docstrings of this project, turned into Markdown for the reference.

They are prose in which a line "name: explanation" is about an argument, a field or a result, and lines that are indented further go on
with it. Such lines become a list; a session becomes a block of code.
"""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe

_NAME = r"[A-Za-z_][\w.]*(?:\([\w, ]*\))?"
_ENTRY = re.compile(rf"({_NAME}(?:, {_NAME})*(?: \[[\w/]+\])?): (\S.*)")
_HEADING = re.compile(r"(Args|Arguments):")


class ProseDocstrings(griffe.Extension):
    """Rewrites each docstring as soon as its object is known."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(docstring: str) -> str:
    """The docstring as Markdown: paragraph by paragraph."""
    paragraphs = re.split(r"\n[ ]*\n", textwrap.dedent(docstring.expandtabs()).strip("\n"))
    return "\n\n".join(_paragraph(paragraph.rstrip()) for paragraph in paragraphs if paragraph.strip())


def _paragraph(text: str) -> str:
    if text.lstrip().startswith(">>>"):
        return f"```pycon\n{textwrap.dedent(text)}\n```"
    lines = text.splitlines()
    if _HEADING.fullmatch(lines[0]) and len(lines) > 1:
        return _paragraph(textwrap.dedent("\n".join(lines[1:])))
    if all(line.startswith("    ") for line in lines):
        return text  # a drawing or a formula: Markdown shows it as it is
    out: list[str] = []
    indent = -1  # of the entry that lines indented further go on with
    for line in lines:
        depth = len(line) - len(line.lstrip())
        match = _ENTRY.fullmatch(line.strip())
        if match and (indent < 0 or depth <= indent):
            out += ([""] if out and indent < 0 else []) + [f"- **`{match[1]}`**: {match[2]}"]
            indent = depth
        elif indent >= 0 and (depth > indent or not re.search(r"[.:;]\)?$", out[-1])):
            out.append("  " + line.strip())  # a sentence that goes on, indented or not
        else:
            out += ([""] if indent >= 0 else []) + [line.strip()]
            indent = -1
    return "\n".join(out)
