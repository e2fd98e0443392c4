"""What a model family fixes and a config may leave unsaid: pairing, base, the share of a head that turns; or why it is refused.

families.json has an entry for every `model_type` of transformers that rotates, with these facts where they differ from the plain:

    base           of the frequencies, one number or one per layer type                                     plain: 10000
    interleaved    which channels form a plane                                                              plain: false
    partial        partial_rotary_factor                                                                    plain: 1
    sizes          widths that a config may leave out, as part of a frame does where they are the usual ones  plain: none
    scaled         the family has no plain rotation, so its config must say what it has                     plain: false
    still          layer types that do not rotate, in a config with a sliding window                        plain: none
    asks           the key whose value, "rotary" or "rope", says that the model rotates                     plain: it always does
    refused        why RotaryEmbedding cannot be this family's rotation, a key of REASONS                   plain: not
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypedDict, cast

_FILE = Path(__file__).with_name("families.json")

REASONS = {
    "mrope": "its planes are divided among several coordinates (M-RoPE), while positions here are one number per token; for text "
    "alone the coordinates are equal, and {plain} is its rotation",
    "axial": "it turns by two or three coordinates of an image or video, while positions here are one number per token",
    "real": "it turns by real-valued coordinates, while positions here are integers",
    "learned": "its frequencies hold learned numbers, which lie in the checkpoint and not in the config; where they are one per plane, "
    "give them to RotaryEmbedding.from_inv_freq",
    "trailing": "it turns the last channels of a head, and turns its output back; give rotary.apply_rotary those channels "
    "(conjugate=True turns back)",
    "backwards": "it turns the other way; {plain} with negated positions is its rotation",
    "first head": "it turns the first head alone; give that head to {plain}",
    "still": "it does not rotate; qk_rope_head_dim is but the width of a slice",
    "values": "it turns values too, and takes its dimension from projection_dim",
}


class Family(TypedDict, total=False):
    base: float | dict[str, float]
    interleaved: bool
    partial: float
    sizes: dict[str, int]
    scaled: bool
    still: list[str]
    asks: str
    refused: str


class _Families(Mapping[str, Family]):
    """families.json, read when first asked."""

    @functools.cached_property
    def _entries(self) -> dict[str, Family]:
        return cast("dict[str, Family]", json.loads(_FILE.read_text(encoding="utf-8")))

    def __getitem__(self, name: str) -> Family:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


FAMILIES = _Families()
