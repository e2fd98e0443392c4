"""Findings, what check(model) returns: one for each rotary module and type of layers, and all of them as text and as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Kind = Literal[
    "agrees",
    "uninitialised",
    "rounded",
    "base",
    "width",
    "scheme",
    "attention factor",
    "tables",
    "not in the config",
    "contradiction",
    "unchecked",
]


class Finding(NamedTuple):
    """One rotary module compared with its config.

    path: of the module in its model, "" for the model itself. owner: the name of its class. layer_type: of the layers that these
        frequencies are for, None if the module has one set.
    kind: "agrees"; what is wrong: "uninitialised", "rounded" (cast to a half precision), "base", "width", "scheme",
        "attention factor", "tables" (cos and sin are not those of its frequencies), "not in the config" (which describes no
        rotation), "contradiction" (in the config); or "unchecked".
    text: the base, factor or width of the module, and that of the config; for "unchecked", the reason.
    """

    path: str
    owner: str
    layer_type: str | None
    kind: Kind
    text: str

    @property
    def name(self) -> str:
        """The module's class and path, and the type of layers."""
        layers = "" if self.layer_type is None else f", {self.layer_type}"
        return f"{self.owner} ({self.path}{layers})" if self.path or layers else self.owner


@dataclass(frozen=True)
class Findings:
    """All findings of one model, in the order of its modules; printed as text, with equal ones of several layers in one line."""

    model: str
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        """Modules whose rotation is not that of their config."""
        return tuple(f for f in self.findings if f.kind not in ("agrees", "unchecked"))

    @property
    def agreeing(self) -> tuple[Finding, ...]:
        """Modules whose rotation is that of their config, within float32 arithmetic."""
        return tuple(f for f in self.findings if f.kind == "agrees")

    @property
    def unchecked(self) -> tuple[Finding, ...]:
        """Modules that could not be compared, with the reason."""
        return tuple(f for f in self.findings if f.kind == "unchecked")

    def __str__(self) -> str:
        counts: dict[tuple[Any, ...], list[Finding]] = {}
        for finding in (*self.problems, *self.unchecked, *self.agreeing):
            counts.setdefault((finding.owner, finding.layer_type, finding.kind, finding.text), []).append(finding)
        return "\n".join(_line(alike) for alike in counts.values())

    def as_json(self) -> str:
        """{"model", "problems", "agreeing", "unchecked"}: lists of {"path", "owner", "layer_type", "kind", "text"}."""
        groups = {"problems": self.problems, "agreeing": self.agreeing, "unchecked": self.unchecked}
        lists = {name: [finding._asdict() for finding in findings] for name, findings in groups.items()}
        return json.dumps({"model": self.model, **lists}, indent=1)


def _line(alike: list[Finding]) -> str:
    """One line for findings that differ in the path alone."""
    first = alike[0]
    verdict = {"agrees": "agrees   ", "unchecked": "unchecked"}.get(first.kind, "PROBLEM  ")
    number = f" and {len(alike) - 1} more" if len(alike) > 1 else ""
    kind = "" if first.kind in ("agrees", "unchecked") else f"{first.kind}: "
    return f"{verdict}  {first.name}{number}: {kind}{first.text}"
