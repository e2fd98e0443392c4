"""What does rotary.transformers.check find in every model family of transformers, built small from its default config?

    python -m tools.check_families [FAMILY ...]        half a minute; prints the families with problems or without a comparison, and counts

Nothing is to be a problem but MiniMax-M3, whose code does not read the rotary_dim of its config.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from torch import nn

from rotary.transformers import Findings, check
from tests.transformers.zoo import families


def findings_of(family: str) -> Findings | None:
    """Of the first model class of a family that can be built; None if none can."""
    for kind in families.candidates(family):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = families.build(kind)
        except Exception:  # the model's code may raise anything
            continue
        _undo_sizes(family, model)
        return check(model)
    return None


def _undo_sizes(family: str, model: nn.Module) -> None:
    """Take out of the configs what making them small put in: sections of M-RoPE for families that have none, and a second window."""
    for config in {id(c): c for module in model.modules() for c in _configs(getattr(module, "config", None))}.values():
        rope = getattr(config, "rope_parameters", None)
        for block in [rope, *rope.values()] if isinstance(rope, dict) else []:
            if isinstance(block, dict) and family not in families.several_axes():
                block.pop("mrope_section", None)
            if isinstance(block, dict):
                block.pop("max_position_embeddings", None)


def _configs(config: Any) -> Iterator[Any]:
    if isinstance(config, transformers.PreTrainedConfig):
        yield config
        for part in vars(config).values():
            yield from _configs(part)


def verdict(findings: Findings | None) -> str:
    if findings is None:
        return "not built"
    if findings.problems:
        return "with problems"
    if findings.agreeing:
        return "agree in part" if findings.unchecked else "agree"
    return "listed with the reason"


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    counts: Counter[str] = Counter()
    for family in sys.argv[1:] or families.families():
        findings = findings_of(family)
        counts[verdict(findings)] += 1
        if verdict(findings) != "agree":
            print(f"{family}: {verdict(findings)}")
            print("\n".join(f"    {line}" for line in str(findings or "").splitlines()), flush=True)
    print(f"{counts.total()} families: {', '.join(f'{n} {name}' for name, n in counts.most_common())}")
