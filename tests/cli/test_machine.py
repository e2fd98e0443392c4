"""What is said of the processor: read from where Linux and macOS keep it, and left out where it is not there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rotary.cli import machine

X86 = """processor\t: 0
cpu family\t: 25
model\t\t: 17
model name\t: Some  Processor @ 2.0GHz
flags\t\t: fpu sse2 avx avx2 f16c fma

processor\t: 1
model name\t: Another
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16 sve\nCPU implementer\t: 0x41\n"


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What was read of one machine is not kept for the next."""
    cached = (machine.processor, machine.instruction_sets, machine.caches)
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


@pytest.fixture
def cpuinfo(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The text of /proc/cpuinfo, as the only element; empty: there is no such file."""
    text: list[str] = []
    real = Path.read_text

    def read(path: Path, *arguments: object, **options: object) -> str:
        if str(path) != "/proc/cpuinfo":
            return real(path, *arguments, **options)  # type: ignore[arg-type]
        if not text:
            raise FileNotFoundError(path)
        return text[0]

    monkeypatch.setattr(Path, "read_text", read)
    return text


def test_an_x86_processor(cpuinfo: list[str]):
    cpuinfo.append(X86)
    assert machine.processor() == "Some Processor @ 2.0GHz, family 25 model 17"
    assert machine.instruction_sets() == ("avx", "f16c", "fma", "avx2")
    assert "Some Processor" in machine.described() and "avx f16c fma avx2" in machine.described()


def test_an_arm_processor_without_a_name(cpuinfo: list[str], monkeypatch: pytest.MonkeyPatch):
    cpuinfo.append(ARM)
    monkeypatch.setattr(machine.platform, "processor", lambda: "")
    monkeypatch.setattr(machine.platform, "machine", lambda: "aarch64")
    assert machine.processor() == "aarch64" and machine.instruction_sets() == ("asimd", "bf16", "sve")


def test_a_system_that_says_nothing(cpuinfo: list[str], monkeypatch: pytest.MonkeyPatch):
    assert cpuinfo == [] and machine.instruction_sets() == ()
    monkeypatch.setattr(Path, "glob", lambda path, pattern: iter(()))
    assert machine.caches() == {} and machine.last_cache() == 32 << 20
    assert machine.described()


def test_macos(cpuinfo: list[str], monkeypatch: pytest.MonkeyPatch):
    values = {"machdep.cpu.brand_string": "Some M", "hw.l1dcachesize": "65536", "hw.l2cachesize": "4194304"}
    monkeypatch.setattr(Path, "glob", lambda path, pattern: iter(()))
    monkeypatch.setattr(machine, "_sysctl", values.get)
    assert cpuinfo == [] and machine.processor() == "Some M"
    assert machine.caches() == {"L1d": 65536, "L2": 4194304} and machine.last_cache() == 4194304
    assert "L1d 64 KiB, L2 4 MiB" in machine.described()


def test_sizes_of_caches_as_linux_writes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for i, (level, kind, size) in enumerate(
        (("1", "Data", "48K"), ("1", "Instruction", "32K"), ("3", "Unified", "2M"))
    ):
        folder = tmp_path / f"index{i}"
        folder.mkdir()
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(text + "\n")
    (tmp_path / "index9").mkdir()  # one that says nothing
    monkeypatch.setattr(machine, "_CACHES", tmp_path)
    monkeypatch.setattr(machine, "_sysctl", lambda key: None)
    assert machine.caches() == {"L1d": 48 << 10, "L3": 2 << 20}
