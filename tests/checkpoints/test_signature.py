"""A file that is not what its name says is named for what it is, with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("safetensors")
from safetensors.torch import save_file

from rotary.checkpoints.safetensors import read_header
from rotary.checkpoints.signature import mistaken
from rotary.checkpoints.torch_archive import tensors_of

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
PAGE = b"\n<!DOCTYPE html><html>not found</html>"
TENSORS = {"a": torch.randn(3, 5)}


def complaint(path: Path) -> str:
    with pytest.raises(ValueError, match="is not a safetensors file: |is no archive of torch.save: ") as error:
        read_header(path) if path.suffix == ".safetensors" else tensors_of(path)
    return str(error.value)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "consolidated.00.pth"])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is empty; download it again"),
        (POINTER, "it is a pointer of Git LFS; fetch the file itself by git lfs pull"),
        (PAGE, "it is a web page, as a failed download leaves"),
        (b"GGUF\x03\0\0\0" + bytes(40), "it is a GGUF file, which is not read"),
        (b"something else", "is it complete?"),
        (b"\xff" * 3, "is it complete?"),
    ],
)
def test_files_of_neither_format_are_named(name: str, data: bytes, words: str, tmp_path: Path):
    (tmp_path / name).write_bytes(data)
    assert words in complaint(tmp_path / name)
    assert ("before torch 1.6" in complaint(tmp_path / name)) is False


def test_each_format_under_the_name_of_the_other(tmp_path: Path):
    save_file(TENSORS, tmp_path / "model.bin")
    assert "it is a safetensors file; let its name end in .safetensors" in complaint(tmp_path / "model.bin")
    torch.save(TENSORS, tmp_path / "model.safetensors")
    assert "as torch.save writes; let its name end in .bin, and pass" in complaint(tmp_path / "model.safetensors")
    for name in ("old.safetensors", "old.bin"):
        torch.save(TENSORS, tmp_path / name, _use_new_zipfile_serialization=False)
        assert "torch.save wrote it before torch 1.6; rewrite it as a .bin file by" in complaint(tmp_path / name)


def test_files_that_are_cut_short_are_named(tmp_path: Path):
    for name, save in (("a.safetensors", save_file), ("a.bin", torch.save)):
        save(TENSORS, tmp_path / name)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:40])
    assert "it ends inside the header of a safetensors file; download it again" in complaint(tmp_path / "a.safetensors")
    assert "it is a zip archive that is cut short or damaged; download it again" in complaint(tmp_path / "a.bin")
    (tmp_path / "a.bin").write_bytes((tmp_path / "a.safetensors").read_bytes())
    assert "it ends inside the header of a safetensors file" in complaint(tmp_path / "a.bin")


def test_a_whole_file_of_its_own_format_is_no_mistake(tmp_path: Path):
    save_file(TENSORS, tmp_path / "a.safetensors")
    assert mistaken(tmp_path / "a.safetensors") is None
