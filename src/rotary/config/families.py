"""What a model family determines and its configs may omit: pairing, base, the rotated share of a head; or why it is refused.

families.json has one entry for every `model_type` of transformers that rotates. Its keys, and their value if they are absent:

    base                    base of the frequencies, one number or one per layer type                           10000
    interleaved             true if neighbouring channels form a plane, false for half a head apart             false
    partial                 partial_rotary_factor                                                               1
    sizes                   default sizes, for sub-configs of composite models that omit them                   none
    scaled                  true if the family always uses a scheme, which its config must name                 false
    scaled_everywhere       true if the scaling of a 4.x config belongs to both layer types, not to full attention alone       false
    local_base              the key of a 4.x config that holds the base of sliding attention                            none
    stated                  true if base and partial are defaults of rope_parameters as a whole: a config with any rope parameter must
                            state them, since transformers then has other defaults                                      false
    asks_base               true if the config class and the models it is part of have different bases                  false
    derived_head_dim        true if head_dim is always hidden size / heads, whatever the config says                     false
    unrotated_every         every n-th layer does not rotate, where no_rope_layers does not say which                   none
    unrotated_from_end      every n-th layer, counted from the last one, does not rotate without layer_rope_theta       none
    unrotated_layer_types   layer types that do not rotate if the config has a sliding window                   none
    enabled_by              the config key that must be "rotary" or "rope" for the model to rotate              none
    axes                    how planes are dealt out to coordinates: see coordinates.py                                none
    sections                the planes of each coordinate where the config does not say                                none
    axial                   the order of planes of a vision tower, whose axes have a spectrum each: see towers.py       none
    positions               what a caller must know of its positions, as keys of _NOTES in towers.py                    none
    width                   the keys of its width and of the numbers of heads that divide it     hidden_size, num_attention_heads
    refused                 why RotaryEmbedding cannot be this family's rotation, a key of REASONS              none
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypedDict, cast

_FILE = Path(__file__).with_name("families.json")
_UNROTATED = Path(__file__).with_name("unrotated.json")

REASONS = {
    "mrope": "the two channels of a plane read different coordinates of an image, which is no rotation: R R^T differs from 1 by up to "
    "1.00, and scores at equal distances by up to 1.75; for text alone the coordinates are equal, and {plain} is the same rotation",
    "two angles": "it turns the two channels of a plane by different angles, which is no rotation: R R^T differs from 1 by up to 0.99, and "
    "scores at equal distances by up to 1.48",
    "products": "its coordinates are products of data (the time of a frame times the start of its window), and turn hidden states, not "
    "queries and keys; give frequencies and coordinates to RotaryEmbedding.from_inv_freq(..., axes=), or pass part='text_config'",
    "learned": "its frequencies contain learned numbers, which are in the checkpoint and not in the config; if they are one per plane, "
    "pass them to RotaryEmbedding.from_inv_freq",
    "trailing": "it rotates the last channels of a head, and rotates its output back; pass those channels to rotary.apply_rotary "
    "(conjugate=True rotates back)",
    "backwards": "it rotates in the opposite direction; {plain} with negated positions is the same rotation",
    "first head": "it rotates only the first head; pass that head to {plain}",
    "unrotated": "it does not rotate; qk_rope_head_dim is only the width of a slice",
    "values": "it rotates values too, and takes its dimension from projection_dim",
}
"""Why a family is refused, for error messages. {plain} is the RotaryEmbedding of its config without the obstacle."""


class Family(TypedDict, total=False):
    """An entry of families.json; see the top of this file."""

    base: float | dict[str, float]
    interleaved: bool
    partial: float
    sizes: dict[str, int]
    scaled: bool
    scaled_everywhere: bool
    local_base: str
    stated: bool
    asks_base: bool
    derived_head_dim: bool
    unrotated_every: int
    unrotated_from_end: int
    unrotated_layer_types: list[str]
    enabled_by: str
    axes: str
    sections: list[int]
    axial: str
    positions: list[str]
    width: list[str]
    refused: str


class _Families(Mapping[str, Family]):
    """The entries of families.json, which is read at the first access."""

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


@functools.cache
def unrotated() -> frozenset[str]:
    """The other values of `model_type` in transformers: models that do not rotate, whatever keys their configs have."""
    return frozenset(cast("list[str]", json.loads(_UNROTATED.read_text(encoding="utf-8"))))
