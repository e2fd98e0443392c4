"""Which model families of transformers give the same outputs and gradients when they are patched?

    python -m tools.model_page        10 minutes on one core; writes the tables of docs/models.md

It runs every family of tests/transformers/zoo patched and unpatched. The times in the tables come from results/models.json.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from rotary.transformers import RotationSpec
from tests.transformers.zoo import families
from tests.transformers.zoo.proof import NEW, Outcome, walk

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "models.md"
SPEED = ROOT / "benchmarks" / "results" / "models.json"
BEGIN, END = "<!-- made by tools/model_page.py -->\n", "<!-- end -->"


def tables(results: list[Outcome]) -> str:
    """The text between BEGIN and END."""
    counted: dict[str, list[str]] = {}
    unknown: list[str] = []
    for family in families.families():
        for name, body in families.specs(family).items():
            if isinstance(body, RotationSpec):
                counted.setdefault(str(body), []).append(family)
            else:
                unknown.append(f"| {family}.{name} | {LEFT.get(name, body)} |")
    speed = json.loads(SPEED.read_text())["ratios"] if SPEED.exists() else {}
    shown = [r for r in results if not r.reason]
    generated = [r for r in shown if r.greedy is not None]
    rotated = [r.rotated for r in shown if r.rotated is not None]
    lines = [
        f"**{sum(r.passes for r in results)} of {len(results)} families pass.** Greedy generation of {NEW} tokens with the cache is the "
        f"same in {sum(r.greedy == NEW for r in generated)} of the {len(generated)} that generate. In bfloat16 the rms error of rotated "
        f"q and k, ours over theirs, is {min(rotated):.2f} to {max(rotated):.2f}, the median {sorted(rotated)[len(rotated) // 2]:.2f}.",
        "",
        "| family | model | what it does | output | gradient | greedy | q, k in bf16 | output in bf16 | rotation |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [_line(r, speed) for r in shown]
    left = [r for r in results if r.reason]
    lines += ["", f"{len(left)} are not shown to pass:", "", "| family | why |", "| --- | --- |"]
    lines += [f"| {r.family} | {WHY.get(r.family) or r.reason.replace('|', '/')} |" for r in left]
    lines += ["", "The functions by rotation spec, as probed:", ""]
    lines += [
        "| rotation spec | functions | families | forward f32, bf16 | with backward f32, bf16 |",
        "| --- | ---: | --- | ---: | ---: |",
    ]
    for body, names in sorted(counted.items(), key=lambda item: -len(item[1])):
        who = ", ".join(dict.fromkeys(names)) if len(names) <= 12 else f"{names[0]} and many more"
        v = list(speed.get(body, {}).values())
        times = f"{v[0]:.1f} x, {v[2]:.1f} x | {v[1]:.1f} x, {v[3]:.1f} x" if v else " | "
        lines.append(f"| {body} | {len(names)} | {who} | {times} |")
    lines += [
        "",
        "Functions that are not recognised, and are left unchanged:",
        "",
        "| function | why |",
        "| --- | --- |",
        *unknown,
    ]
    return "\n".join(lines) + "\n"


LEFT = {
    "apply_rotary_pos_emb_2d_cross_attn": "only those keys rotate that have a place in an image, by tables of their own",
    "apply_multidimensional_rope": "a head is cut into one block per axis of the positions, and each block is rotated by itself",
}
# What the run cannot say of itself.
WHY = {
    "vjepa2": "its function is no rotation: the two channels of a plane use different frequencies, so it is left unchanged",
    "jamba": "defines a rotation and never calls it",
    "parakeet": "defines a rotation and never calls it",
    "nemotron_asr_streaming": "defines a rotation and never calls it",
    "nemotron_h": "its own model does not rotate; other families use the function that it defines",
    "pe_video": "built from timm, which needs torchvision",
    "pe_audio_video": "built from timm, which needs torchvision",
    "eomt_dinov3": "needs torchvision",
    "edgetam_video": "runs on a video session only, of frames and prompts",
    "sam2_video": "runs on a video session only, of frames and prompts",
    "sam3_tracker_video": "runs on a video session only, of frames and prompts",
    "esmfold2": "takes ten arguments that describe a protein",
    "lightglue": "needs the key points of a second model",
}


def _line(r: Outcome, speed: dict[str, dict[str, float]]) -> str:
    first = next((speed[str(spec)] for spec in r.specs if str(spec) in speed), None)
    cells = [
        r.family,
        r.model,
        "; ".join(map(str, r.specs)),
        f"{r.logits:.1e}",
        f"{r.gradient:.1e}",
        "" if r.greedy is None else f"{r.greedy} of {NEW}",
        "" if r.rotated is None else f"{r.rotated:.2f}",
        "" if r.rounded is None else f"{r.rounded:.2f}",
        "" if first is None else f"{next(iter(first.values())):.1f} x",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    torch.set_num_threads(1)
    results = walk(lambda line: print(line, flush=True))
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + tables(results) + END + rest.partition(END)[2], encoding="utf-8")
    print(f"{sum(r.passes for r in results)} of {len(results)} families pass")
