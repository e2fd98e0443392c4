"""No silence: every key about rotation, in any block and in any spelling, is one of the dialect of its config, or an error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from .._checks import describe
from .names import SCHEME_NAMES, about_rotation, contains_one, names_a_scheme, nearest, snake

_OF_THIS_MODEL = {
    *("text_config", "llm_config", "language_config", "thinker_config"),
    *("text", "llm", "language_model", "text_model", "model", "decoder", "transformer"),
}
"""Names of blocks that describe the model itself, even if they have sizes."""
_SIZES = {
    "hidden_size",
    "d_model",
    "dim",
    "n_embd",
    "embed_dim",
    "num_attention_heads",
    "n_heads",
    "n_layers",
    "num_hidden_layers",
    "depth",
}
OF_OTHER_THINGS = {
    "quantization_config",
    "compression_config",
    "quantization",
    "hf_config",
    "auto_map",
    "label2id",
    "id2label",
}
_NAMES_OF_THE_MODEL = {
    "model_type",
    "_name_or_path",
    "name_or_path",
    "name",
    "basename",
    "architecture",
    "architectures",
    "chat_template",
    "template",
}


def check_everything_is_owned(
    config: Mapping[str, Any], dialect: str, keys: frozenset[str], stems: tuple[str, ...]
) -> None:
    """TypeError for a key about rotation that is not among `keys`, at any depth of the part of the config that is read.

    keys: "block/key" for a key of a block; "block/*" for a block whose content is checked where it is read.
    stems: a key that begins with one of them is about rotation in this dialect, even if its name does not say so.
    Blocks of another model (a vision tower) are not read, and their keys are not checked.
    """
    tops = frozenset(name for name in keys if "/" not in name)
    for path, key, value in _entries(config, keys):
        if path in keys:
            continue
        block = path.rpartition("/")[0]
        of_other_things = block.partition("/")[0] in OF_OTHER_THINGS
        rotates_weights = of_other_things and "rotat" in snake(
            key
        )  # quantisers rotate weights, which is no position embedding
        if _is_about_rotation(key, tops, stems) and not rotates_weights:
            if block and key == "alpha":  # LoRA has a key of this name
                continue
            inside = f"inside {block!r} " if block else ""
            names = {name.rpartition("/")[2] for name in keys} - {"*"} if block else tops
            remedy = (
                "; write it at the top level, or remove it" if block and key in tops else nearest(key, names, value)
            )
            raise TypeError(
                f"unknown rotary key {key!r} ({describe(value)}) {inside}in the config, read as {dialect}{remedy}"
            )
        if (
            names_a_scheme(value)
            and not of_other_things
            and snake(key).removeprefix("general_") not in _NAMES_OF_THE_MODEL
        ):
            raise TypeError(
                f"{path} ({describe(value)}) names a scheme where configs of {dialect} have none; write it as the dialect does, or "
                f"remove it"
            )


def _entries(config: Mapping[str, Any], keys: frozenset[str], prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """(path, key, value) of every entry that is not None, at every depth."""
    for name, value in config.items():
        key, path = str(name), f"{prefix}{name}"
        if value is None or f"{path}/*" in keys or key.startswith("tokenizer."):  # the vocabulary in GGUF metadata
            continue
        if isinstance(value, Mapping):
            block = cast("Mapping[str, Any]", value)
            if is_another_model(key, block):
                continue
            if path in keys and not any(name.startswith(f"{path}/") for name in keys):
                raise TypeError(f"{path} must be a single value, got {describe(block)}")
            if snake(key) in SCHEME_NAMES or (about_rotation(key) and path not in keys):
                yield path, key, block
            yield from _entries(block, keys, f"{path}/")
            continue
        yield path, key, value
        for item in _blocks(value):
            yield from _entries(item, keys, f"{path}/")


def _blocks(value: Any) -> Iterator[Mapping[str, Any]]:
    """The blocks in a list, or in lists of it."""
    for item in cast("list[Any]", value) if isinstance(value, (list, tuple)) else ():
        if isinstance(item, Mapping):
            yield cast("Mapping[str, Any]", item)
        else:
            yield from _blocks(item)


def _is_about_rotation(key: str, tops: frozenset[str], stems: tuple[str, ...]) -> bool:
    return about_rotation(key) or snake(key).startswith(stems) or contains_one(key, tops)


def is_another_model(key: str, block: Mapping[str, Any]) -> bool:
    """Whether a block of a config is the config of another model: it names its type or has sizes of its own."""
    if key in _OF_THIS_MODEL:
        return False
    return bool(block.get("model_type")) or len(_SIZES & block.keys()) >= 2
