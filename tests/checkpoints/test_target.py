"""The target appears whole or not at all, takes the place of nothing, and only what the run itself made is removed."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
from pathlib import Path

import pytest
import torch

pytest.importorskip("safetensors")
from safetensors.torch import save_file

from rotary.checkpoints import convert
from rotary.checkpoints.target import undisturbed, whole
from support import warm

CONFIG = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "rope_theta": 10000.0}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A checkpoint of three shards in a folder of its own."""
    folder = tmp_path / "here" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    for n in range(3):
        tensors = {f"model.layers.{n}.self_attn.{role}_proj.weight": torch.randn(64, 64) for role in "qk"}
        save_file(tensors, folder / f"model-{n}.safetensors")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("folder", [True, False])
def test_a_source_with_the_name_of_a_temporary_is_only_read(folder: bool, model: Path):
    """Former releases removed .TARGET.partial first, also where it was the source."""
    if folder:
        source, target = model.rename(model.with_name(".out.partial")), model.with_name("out")
    else:
        source, target = model / ".out.safetensors.partial", model / "out.safetensors"
        (model / "model-0.safetensors").rename(source)
    before = content(model.parent)
    convert(source, target, to="interleaved", config=CONFIG)
    assert target.exists()
    assert {name: data for name, data in content(model.parent).items() if name in before} == before


def test_what_others_left_beside_the_target_stays(model: Path):
    """Also the leftover of a killed run: nobody can tell it from a folder of the user's."""
    here = model.parent
    for name in (".out.partial/thesis.txt", ".rotary-abcd1234/out/thesis.txt"):
        (here / name).parent.mkdir(parents=True)
        (here / name).write_text("years of work")
    before = content(here)
    convert(model, here / "out", to="interleaved")
    with pytest.raises(ZeroDivisionError):
        convert(model, here / "other", to="interleaved", progress=lambda file, done, total: 1 // 0)
    after = content(here)
    assert {name: after[name] for name in before} == before
    assert {path.name for path in here.iterdir()} == {"model", "out", ".out.partial", ".rotary-abcd1234"}


@pytest.mark.parametrize("folder", [True, False])
@pytest.mark.parametrize("stranger", ["file", "folder", "empty folder", "link to nothing"])
def test_what_appears_at_the_target_meanwhile_stays(stranger: str, folder: bool, model: Path):
    target = model.parent / "out"

    def appear(file: str, done: int, total: int) -> None:
        if os.path.lexists(target):
            return
        if stranger == "file":
            target.write_text("mine")
        elif stranger == "link to nothing":
            target.symlink_to(model / "none")
        else:
            target.mkdir()
            if stranger == "folder":
                (target / "thesis.txt").write_text("mine")

    source = model if folder else model / "model-0.safetensors"
    with pytest.raises(FileExistsError, match="out' appeared during the conversion and stays as it is"):
        convert(source, target, to="interleaved", progress=appear)
    kinds = {"file": target.is_file(), "link to nothing": target.is_symlink()}
    assert kinds.get(stranger, target.is_dir())
    assert [p.name for p in target.iterdir()] if stranger == "folder" else True
    assert {path.name for path in model.parent.iterdir()} == {"model", "out"}


@pytest.mark.parametrize("taken", [True, False])
def test_without_hard_links_a_file_is_published_all_the_same(
    taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def link(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", link)
    target = tmp_path / "out"
    try:
        with whole(target, folder=False) as path:
            path.write_text("new")
            if taken:
                target.write_text("old")
        assert not taken
    except FileExistsError:
        assert taken
    assert content(tmp_path) == {"out": b"old" if taken else b"new"}


def test_folders_above_a_failed_target_are_removed_if_the_run_made_them(model: Path, tmp_path: Path):
    target = tmp_path / "a" / "b" / "c"
    beside = tmp_path / "a" / "thesis.txt"

    def fails(file: str, done: int, total: int) -> None:
        raise ZeroDivisionError

    def writes_and_fails(file: str, done: int, total: int) -> None:
        beside.write_text("mine")
        raise ZeroDivisionError

    for path in (target, tmp_path / "a" / ".." / "d" / "c"):
        with pytest.raises(ZeroDivisionError):
            convert(model, path, to="interleaved", progress=fails)
        assert {path.name for path in tmp_path.iterdir()} == {"here"}
    with pytest.raises(ZeroDivisionError):
        convert(model, target, to="interleaved", progress=writes_and_fails)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["thesis.txt"]
    with pytest.raises(ZeroDivisionError):
        convert(model, target, to="interleaved", progress=fails)
    assert content(tmp_path / "a") == {"thesis.txt": b"mine"}
    convert(model, target, to="interleaved")
    assert len(content(target)) == 4


def test_folders_above_a_target_that_cannot_be_made_leave_nothing(model: Path, tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "nowhere").symlink_to(tmp_path / "none")
    for name in ("file/b/c", "file/c", "nowhere/c", f"a/b/{'x' * 300}/c"):
        with pytest.raises(OSError, match=r"Not a directory|exists|too long"):
            convert(model, tmp_path / name, to="interleaved")
    assert {path.name for path in tmp_path.iterdir()} == {"here", "file", "nowhere"}


def test_a_failing_rename_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fails(*paths: object) -> None:
        raise OSError(errno.EIO, "the disk is gone")

    for name in ("link", "rename", "replace"):
        monkeypatch.setattr(os, name, fails)
    for folder in (True, False):
        with pytest.raises(OSError, match="the disk is gone"), whole(tmp_path / "out", folder=folder) as path:
            (path / "file" if folder else path).write_text("new")
        assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(os, "link", lambda *paths: (_ for _ in ()).throw(OSError(errno.ENOTSUP, "no links")))
    with pytest.raises(OSError, match="the disk is gone"), whole(tmp_path / "out", folder=False) as path:
        path.write_text("new")
    assert list(tmp_path.iterdir()) == []


def test_a_signal_waits_until_the_tidying_is_over():
    done = False
    outside = signal.signal(signal.SIGINT, signal.default_int_handler)  # under nohup, say, it is ignored
    try:
        with pytest.raises(KeyboardInterrupt), undisturbed():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            done = True
        assert done
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, outside)


def test_other_threads_publish_too(model: Path):
    thread = threading.Thread(target=convert, args=(model, model.parent / "out"), kwargs={"to": "interleaved"})
    thread.start()
    thread.join()
    assert len(content(model.parent / "out")) == 4


DRIVER = """
import os, signal, sys, time
import torch
torch.set_num_threads(1)
from rotary import cli
from rotary.checkpoints import convert
source, here = sys.argv[1:]

def child(target):
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            status = cli.main(["convert", source, os.path.join(here, target), "--to", "interleaved"])
        finally:
            os._exit(status)
    return pid
"""


def drive(code: str, model: Path) -> list[str]:
    """The lines that it prints: a process that has used no thread, and forks."""
    run = warm.run("-c", DRIVER + code, model, model.parent)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_killed_at_any_moment_the_source_is_the_same_and_the_target_whole_or_absent(model: Path):
    """Moments spread over the time of a whole run; a run after each kill is not disturbed by what it left."""
    before = content(model)
    drive(
        """
os.waitpid(child("warm"), 0)
began = time.monotonic()
os.waitpid(child("timed"), 0)
whole = time.monotonic() - began
for n in range(12):
    pid = child(f"out{n}")
    time.sleep(whole * (n + 0.5) / 12)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
assert os.waitstatus_to_exitcode(os.waitpid(child("last"), 0)[1]) == 0
""",
        model,
    )
    assert content(model) == before
    complete = content(model.parent / "last")
    for target in model.parent.glob("out*"):
        assert content(target) == complete
    others = {p.name for p in model.parent.iterdir() if not p.name.startswith((".rotary-", "out"))}
    assert others == {"model", "warm", "timed", "last"}


def test_of_two_conversions_into_one_target_exactly_one_wins(model: Path):
    before = content(model)
    lines = drive(
        """
for n in range(8):
    pids = [child(f"out{n}") for _ in range(2)]
    print("statuses", *sorted(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids), flush=True)
""",
        model,
    )
    assert [line for line in lines if line.startswith("statuses")] == ["statuses 0 2"] * 8
    assert content(model) == before
    complete = content(model.parent / "out0")
    assert set(complete) == set(before)
    assert all(content(model.parent / f"out{n}") == complete for n in range(8))
    assert {p.name for p in model.parent.iterdir()} == {"model", *(f"out{n}" for n in range(8))}


def test_a_full_disk_leaves_nothing(model: Path):
    """The limit of a file's size stands for it: a write fails in the header, in a tensor, and in the last one."""
    lines = drive(
        """
import resource
for size in (0, 1, 100, 5000, 20000, 33000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    print("status", cli.main(["convert", source, os.path.join(here, "out"), "--to", "interleaved"]), flush=True)
""",
        model,
    )
    assert lines == ["status 2"] * 6
    assert {p.name for p in model.parent.iterdir()} == {"model"}
