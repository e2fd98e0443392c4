"""Text, an image and a video through a tiny Qwen2.5-VL whose rotations run on this library's kernels: near and far, prefill and decoding.

    python examples/multimodal.py        needs transformers; seconds

The model is made from its config class, with random weights; the pixels are random too. Its errors are judged by a float64 run of the
same model. The exit status is 0 if every check holds, else 1.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn.functional import pad
from torch.overrides import TorchFunctionMode
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from rotary.positions import multimodal
from rotary.transformers import patch

IMAGE, VIDEO, BEGIN, END = 250, 251, 252, 253
PICTURE, CLIP = (1, 4, 6), (10, 2, 3)
"""Frames, rows and columns in tokens: each is 2 x 2 patches."""
LAST = [END, *b" Who"]
FAR = 1_000_000
ALLOWED = 1e-5


def tiny() -> Any:
    torch.manual_seed(0)
    spectrum = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]}
    text = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "vocab_size": 256}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "rope_parameters": spectrum, "initializer_range": 0.1}
    vision = {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "out_hidden_size": 128}
    vision |= {"patch_size": 4, "window_size": 16, "fullatt_block_indexes": [1], "tokens_per_second": 1}
    ids: dict[str, Any] = {
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "vision_start_token_id": BEGIN,
        "vision_end_token_id": END,
    }
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def tokens(grid: Sequence[int]) -> int:
    return grid[0] * grid[1] * grid[2]


def prompt(clip: tuple[int, int, int] = CLIP) -> tuple[dict[str, Tensor], list[int | tuple[int, int, int]]]:
    """The inputs of the model, and the same sequence as spans: text, image, text, video, text."""
    first, second = [*b"Down the rabbit hole: ", BEGIN], [END, *b" and ", BEGIN]
    row = [*first, *[IMAGE] * tokens(PICTURE), *second, *[VIDEO] * tokens(clip), *LAST]
    ids, generator = torch.tensor([row]), torch.Generator().manual_seed(1)
    inputs = {"input_ids": ids, "mm_token_type_ids": (ids == IMAGE) * 1 + (ids == VIDEO) * 2}
    for name, grid, pixels in (("image", PICTURE, "pixel_values"), ("video", clip, "pixel_values_videos")):
        inputs[f"{name}_grid_thw"] = torch.tensor([[grid[0], 2 * grid[1], 2 * grid[2]]])
        inputs[pixels] = torch.randn(4 * tokens(grid), 3 * 2 * 4 * 4, generator=generator)
    return inputs, [len(first), PICTURE, len(second), clip, len(LAST)]


class InFloat64(TorchFunctionMode):
    """What the code of a model casts to float32, angles and norms among it, is cast to float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.float:
            func = Tensor.double
        elif func is Tensor.to:
            args = tuple(torch.float64 if a is torch.float32 else a for a in args)
            kwargs = {name: torch.float64 if a is torch.float32 else a for name, a in (kwargs or {}).items()}
        return func(*args, **(kwargs or {}))


def in_float64(model: Any, inputs: dict[str, Tensor], at: Tensor) -> Tensor:
    wide = copy.deepcopy(model).double()
    inputs = {name: x.double() if x.is_floating_point() else x for name, x in inputs.items()}
    with InFloat64():
        return wide(**inputs, position_ids=at).logits


def as_ids(positions: Tensor) -> Tensor:
    """(seq, 3) -> (3, 1, seq), as the model takes them."""
    return positions.T[:, None]


def show(spans: Sequence[int | tuple[int, int, int]], theirs: Tensor, following: int) -> None:
    """First and last position (time, row, column) of each span: the model's own and ours."""
    ours, following_ours = multimodal(*spans)
    names, start = ("text", "image", "text", "video", "text"), 0
    print(f"  {'tokens':14} {'transformers':>27} {'rotary.positions.multimodal':>31}")
    for name, span in zip(names, spans, strict=True):
        n = span if isinstance(span, int) else tokens(span)
        ends = [f"{tuple(at[start].tolist())} .. {tuple(at[start + n - 1].tolist())}" for at in (theirs, ours)]
        print(f"  {f'{n} {name}':14} {ends[0]:>27} {ends[1]:>31}")
        start += n
    print(f"  {'decoding':14} {f'{following} ..':>27} {f'{following_ours} ..':>31}")


def prefill_against_decoding(model: Any, more: Tensor, clip: tuple[int, int, int], own: bool) -> float:
    """How far apart the logits of the tokens of more are, after a prompt: in one prefill of everything, and one token at a time with a
    cache. own: at the positions that the model makes itself; else at those of multimodal."""
    inputs, spans = prompt(clip)
    n, m = inputs["input_ids"].shape[1], more.shape[1]
    at = as_ids(multimodal(*spans, m)[0])

    def ids(first: int, last: int) -> dict[str, Tensor]:
        return {} if own else {"position_ids": at[..., first:last]}

    longer = {**inputs, "input_ids": torch.cat((inputs["input_ids"], more), 1)}
    longer["mm_token_type_ids"] = pad(inputs["mm_token_type_ids"], (0, m))
    whole = model(**longer, **ids(0, n + m)).logits[:, n:]
    cache = model(**inputs, **ids(0, n), use_cache=True).past_key_values
    steps = [
        model(input_ids=more[:, t : t + 1], past_key_values=cache, **ids(n + t, n + t + 1)).logits for t in range(m)
    ]
    return apart(torch.cat(steps, 1), whole)


def apart(a: Tensor, b: Tensor) -> float:
    """Largest difference as a fraction of the largest value."""
    return float((a.double() - b.double()).abs().max() / b.double().abs().max())


@torch.no_grad()
def main() -> int:
    transformers.logging.set_verbosity_error()
    model, (inputs, spans), checks = tiny(), prompt(), dict[str, bool]()
    grids = (inputs["image_grid_thw"], inputs["video_grid_thw"])
    n = inputs["input_ids"].shape[1]

    print(f"1  positions of {n} tokens (time, row, column), first .. last")
    theirs, delta = model.model.get_rope_index(inputs["input_ids"], inputs["mm_token_type_ids"], *grids)
    show(spans, theirs[:, 0].T, n + int(delta))
    ours, before = multimodal(*spans)[0], n - len(LAST)
    checks["positions to the end of the video are transformers'"] = torch.equal(ours[:before], theirs[:, 0, :before].T)
    on = int(theirs[0, 0, -1]) + 1
    print(f"  transformers: a prompt one token longer would go on at {on}, decoding goes on at {n + int(delta)}")

    print("2  what was replaced")
    with patch(model, tables="exact") as handle:
        print("  " + str(handle.report()).replace("\n", "\n  "))
    checks["both towers have exact tables"] = str(handle.report()).count("exact angles") == 2

    print("3  error of the logits against float64, as a fraction of the largest")
    print(f"  {'first position':16} {'unpatched':>12} {'patch(model)':>14} {'tables=exact':>14}")
    for start in (0, FAR):
        at = as_ids(multimodal(*spans, start=start)[0])
        truth = in_float64(model, inputs, at)
        found = [apart(model(**inputs, position_ids=at).logits, truth)]
        for tables in ("model", "exact"):
            with patch(model, tables=tables):
                found.append(apart(model(**inputs, position_ids=at).logits, truth))
        print(f"  {start:<16,} {found[0]:12.1e} {found[1]:14.1e} {found[2]:14.1e}")
        checks[f"exact tables are within {ALLOWED:g} of float64 at {start:,}"] = found[2] <= ALLOWED

    print(
        "4  eight more tokens: one prefill of everything against decoding with a cache, largest difference of their logits"
    )
    more = torch.tensor([list(b" was it?")])
    short = (max(CLIP[1:]), *CLIP[1:])
    with patch(model, tables="exact"):
        for name, clip, own in (
            (f"transformers' positions, a video of {short[0]} frames", short, True),
            (f"transformers' positions, the video of {CLIP[0]} frames", CLIP, True),
            (f"positions.multimodal, the video of {CLIP[0]} frames", CLIP, False),
        ):
            difference = prefill_against_decoding(model, more, clip, own)
            print(f"  {name:48} {difference:.1e}")
    checks[f"prefill and decoding agree within {ALLOWED:g} on positions.multimodal"] = difference <= ALLOWED

    for failed in (name for name, passed in checks.items() if not passed):
        print(f"FAILED: {failed}")
    good = all(checks.values())
    print(f"multimodal: all {len(checks)} checks passed" if good else "multimodal: FAILED")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
