"""Files are read and written as by the safetensors library."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("safetensors")
from safetensors.torch import load_file, save_file

from rotary.checkpoints.safetensors import header_bytes, read_header

TENSORS = {
    "a": torch.randn(3, 5),
    "b": torch.randn(4, 2).bfloat16(),
    "none": torch.empty(0, 3),
    "one": torch.tensor(2.0, dtype=torch.float64),
    "whole": torch.arange(6, dtype=torch.int8).view(2, 3),
}


def test_a_copy_is_the_same_to_the_safetensors_library(tmp_path: Path):
    save_file(TENSORS, tmp_path / "x.safetensors", metadata={"by": "us"})
    file = read_header(tmp_path / "x.safetensors")
    assert file.metadata == {"by": "us"} and {e.name: e.shape for e in file.entries} == {
        n: tuple(t.shape) for n, t in TENSORS.items()
    }
    out = io.BytesIO(header_bytes(file.entries, {"by": "them"}))
    out.seek(0, io.SEEK_END)
    for entry in file.entries:
        file.write_copy(entry, out)  # type: ignore[arg-type]
    (tmp_path / "y.safetensors").write_bytes(out.getvalue())
    copied = load_file(tmp_path / "y.safetensors")
    assert all(
        torch.equal(copied[name], tensor) and copied[name].dtype == tensor.dtype for name, tensor in TENSORS.items()
    )
    assert read_header(tmp_path / "y.safetensors").metadata == {"by": "them"}


def test_reordered_rows_and_float64_rows(tmp_path: Path):
    save_file(TENSORS, tmp_path / "x.safetensors")
    file = read_header(tmp_path / "x.safetensors")
    entries = {entry.name: entry for entry in file.entries}
    out = io.BytesIO()
    file.write_reordered(entries["b"], [2, 0, 3, 1], out)
    assert torch.equal(torch.frombuffer(out.getbuffer(), dtype=torch.bfloat16).view(4, 2), TENSORS["b"][[2, 0, 3, 1]])
    assert torch.equal(file.float64_rows(entries["b"], slice(1, 3)), TENSORS["b"][1:3].double())
    with pytest.raises(ValueError, match="whole is I8: dequantise"):
        file.float64_rows(entries["whole"], slice(0, 1))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1234",
        (5).to_bytes(8, "little") + b"[1,2]",
        (2).to_bytes(8, "little") + b"{]",
        (1 << 40).to_bytes(8, "little") + b"{}",
    ],
)
def test_other_files_are_refused(data: bytes, tmp_path: Path):
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match="is not a safetensors file"):
        read_header(tmp_path / "x.safetensors")


def test_a_file_cut_short_is_refused(tmp_path: Path):
    save_file(TENSORS, tmp_path / "x.safetensors")
    data = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(data[:-3])
    with pytest.raises(ValueError, match="ends inside"):
        read_header(tmp_path / "x.safetensors")


def with_offsets(path: Path, *offsets: tuple[int, int], shape: object = (2,), metadata: object = None) -> Path:
    """A file whose header gives these data_offsets to float32 tensors of this shape."""
    entries = {str(i): {"dtype": "F32", "shape": shape, "data_offsets": pair} for i, pair in enumerate(offsets)}
    text = json.dumps({"__metadata__": metadata or {}, **entries}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(max(max(pair) for pair in offsets)))
    return path


def test_bytes_that_overlap_or_leave_gaps_are_refused(tmp_path: Path):
    """The format allows neither, and a copy with the same offsets would not be the same file."""
    path = tmp_path / "x.safetensors"
    assert [entry.end for entry in read_header(with_offsets(path, (8, 16), (0, 8))).entries] == [8, 16]
    for offsets in (((0, 8), (4, 12)), ((0, 8), (16, 24)), ((8, 16),), ((0, 8), (8, 4)), ((0, 8), (0, 8))):
        with pytest.raises(ValueError, match="begins at"):
            read_header(with_offsets(path, *offsets))
    with pytest.raises(ValueError, match="0 takes 12 bytes, not 8"):
        read_header(with_offsets(path, (0, 12)))
    for shape in ("two", 2, None):
        with pytest.raises(ValueError, match="is not a safetensors file"):
            read_header(with_offsets(path, (0, 8), shape=shape))
    with pytest.raises(ValueError, match="is not a safetensors file"):
        read_header(with_offsets(path, (0, 8), metadata="words"))


ONE = '{"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}'


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        ('{"a": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}}', "the shape of a must be integers"),
        ('{"a": {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]}}', "the shape of a must be integers"),
        ('{"a": {"dtype": "F32", "shape": [true, 2], "data_offsets": [0, 8]}}', "the shape of a must be integers"),
        ('{"a": {"dtype": "F32", "shape": ["2"], "data_offsets": [0, 8]}}', "the shape of a must be integers"),
        ('{"a": {"dtype": "F32", "shape": [Infinity], "data_offsets": [0, 8]}}', "Infinity is no number of JSON"),
        ('{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, NaN]}}', "NaN is no number of JSON"),
        ('{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8.0]}}', "the data_offsets of a must be integers"),
        ('{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 1e999]}}', "the data_offsets of a must be integers"),
        (f'{{"a": {{"dtype": "F32", "shape": [2], "data_offsets": [0, {10**400}]}}}}', "the data_offsets of a must be"),
        ('{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 8]}}', "is not a safetensors file"),
        ('{"a": {"dtype": "F32", "shape": [2], "data_offsets": null}}', "the data_offsets of a must be integers"),
        ('{"a": {"dtype": null, "shape": [2], "data_offsets": [0, 8]}}', "the dtype of a must be a string"),
        ('{"a": {"dtype": "I8", "shape": [2], "data_offsets": [0, 8]}}', "a takes 8 bytes, not 2"),
        ('{"a": {"dtype": "NEW", "shape": [65], "data_offsets": [0, 8]}}', "a takes 8 bytes, not 9"),
        (f'{{"a": {ONE}, "a": {ONE}}}', "'a' occurs twice"),
        (f'{{"__metadata__": {{"a": "1", "a": "2"}}, "a": {ONE}}}', "'a' occurs twice"),
        (f'{{"__metadata__": {{"a": 1}}, "a": {ONE}}}', "__metadata__ must map names to strings"),
        (f'{{"__metadata__": ["a"], "a": {ONE}}}', "__metadata__ must map names to strings"),
        (f'{{"\\ud800": {ONE}}}', "surrogates not allowed"),
        ("[" * 100_000, "is not a safetensors file"),
        ("[1, 2]", "the header is list"),
    ],
)
def test_a_header_that_the_format_forbids_is_refused(header: str, complaint: str, tmp_path: Path):
    """A copy of it would not load, and its numbers are sizes and offsets."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(8))
    with pytest.raises(ValueError, match="is not a safetensors file") as error:
        read_header(path)
    assert complaint in str(error.value)


@pytest.mark.parametrize("metadata", ["", '"__metadata__": null, ', '"__metadata__": {"by": "us"}, '])
def test_a_header_that_the_format_allows_is_read(metadata: str, tmp_path: Path):
    header = f'{{{metadata}"a": {ONE}}}'.encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    assert [entry.name for entry in read_header(path).entries] == list(load_file(path)) == ["a"]


def test_bytes_after_the_last_tensor_are_refused(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    for tensors in (TENSORS, {}):
        save_file(tensors, path)
        read_header(path)
        path.write_bytes(path.read_bytes() + b"!")
        with pytest.raises(ValueError, match="1 bytes follow its last tensor"):
            read_header(path)


def test_a_row_that_ends_inside_a_byte_is_not_moved(tmp_path: Path):
    header = b'{"a": {"dtype": "F4", "shape": [4, 3], "data_offsets": [0, 6]}}'
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(6))
    file = read_header(path)
    with pytest.raises(ValueError, match="a is F4: a row of it ends inside a byte"):
        file.write_reordered(file.entries[0], [1, 0, 3, 2], io.BytesIO())
