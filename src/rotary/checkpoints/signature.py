"""Signature: what a file is, by its first bytes, where it is not what its name says."""

from __future__ import annotations

from pathlib import Path

_FIRST = 512
# The pickle of the number that torch.save wrote first, until torch 1.6.
_BEFORE_TORCH_1_6 = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_PAGES = (b"<!doctype", b"<html", b"<?xml")


def mistaken(path: Path) -> str | None:
    """What the file is and what to do, as the end of a sentence; None where its first bytes are not of a known format.

    path: a regular file that is not in the expected format.
    """
    with path.open("rb") as file:
        first = file.read(_FIRST)
    if not first:
        return "it is empty; download it again"
    if first.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS; fetch the file itself by git lfs pull"
    if first.lstrip().lower().startswith(_PAGES):
        return "it is a web page, as a failed download leaves; download it again"
    if first.startswith(b"GGUF"):
        return "it is a GGUF file, which is not read; convert the checkpoint that it was made from"
    if first.startswith(_BEFORE_TORCH_1_6):
        return (
            "torch.save wrote it before torch 1.6; rewrite it as a .bin file by "
            "torch.save(torch.load(path, weights_only=True), new_path)"
        )
    if first.startswith(b"PK"):
        if path.suffix.lower() == ".safetensors":
            return "it is a zip archive, as torch.save writes; let its name end in .bin, and pass the file"
        return "it is a zip archive that is cut short or damaged; download it again"
    length = int.from_bytes(first[:8], "little")
    if first[8:9] == b"{":
        if 8 + length > path.stat().st_size:
            return "it ends inside the header of a safetensors file; download it again"
        return (
            None
            if path.suffix.lower() == ".safetensors"
            else "it is a safetensors file; let its name end in .safetensors"
        )
    return None
