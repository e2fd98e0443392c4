"""A GPU's instructions run by numpy: what Triton compiles a kernel to (PTX) gives its results on a machine without a GPU.

Every thread of every program executes each instruction at once, one numpy operation on arrays (programs, threads), so that a
barrier has nothing to wait for. Known are the instructions and modifiers that this library's kernels come to; another is an error
with its name.
Branches are those of loops, which all threads of all programs take alike.

Each access to memory is held to what compute-sanitizer asks: it lies inside a tensor that the launch was given (memcheck), its
address is divisible by its width, and no thread touches what another one writes but across a barrier of one program (racecheck).
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
READ = -1
SHARED = 1 << 62  # where shared memory lies beside that of tensors, for the search for races
_BITS = {"b": "u", "u": "u", "s": "i"}
_INSTRUCTION = re.compile(r"(?:@(!?)(%p\d+)\s+)?([a-z][\w.]*)\s*(.*)", re.S)
_OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*")
_PARAMETER = re.compile(r"\.param \.\w(\d+)[^,)]*?(\w+)(?=,|\n)")
_TYPES = {
    *(f"{kind}{bits}" for kind in "bus" for bits in (16, 32, 64)),
    "f16",
    "f32",
    "f64",
    "f32x2",
    "bf16",
    "bf16x2",
    "f16x2",
    "pred",
}
_MODIFIERS = {
    "rn",
    "rmi",
    "rzi",
    "lo",
    "wide",
    "sync",
    "warp",
    "idx",
    "bfly",
    "aligned",
    "m8n8",
    "x1",
    "x2",
    "x4",
    "trans",
    "v2",
    "v4",
}
_MODIFIERS |= {"uni", "global", "shared", "param", "lt", "le", "gt", "ge", "eq", "ne"}
_COMPARE = {"lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal}
_COMPARE |= {"eq": np.equal, "ne": np.not_equal}


class Instruction(NamedTuple):
    guard: tuple[bool, str] | None
    """(negated, predicate register): threads where it does not hold do nothing."""
    name: str
    words: tuple[str, ...]
    operands: tuple[str, ...]


@dataclass(frozen=True)
class Program:
    """A compiled kernel: instructions and the labels before them, the byte at which each parameter lies, sizes, threads of a program."""

    instructions: tuple[Instruction, ...]
    labels: dict[str, int]
    offsets: dict[str, int]
    sizes: tuple[int, ...]
    threads: int


def parse(text: str) -> Program:
    head, body = re.split(r"^\{", text, maxsplit=1, flags=re.M)
    body = re.split(r"^\}", body, maxsplit=1, flags=re.M)[0]
    parameters = [(name, int(bits) // 8) for bits, name in _PARAMETER.findall(head)]
    offsets, at = {}, 0
    for name, size in parameters:
        at = -(-at // size) * size
        offsets[name] = at
        at += size
    threads = re.search(r"\.reqntid (\d+)", head)
    assert threads, "the number of threads of a program is missing"
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    text = ""
    for line in body.splitlines():
        line = line.split("//")[0].strip()
        if line.startswith("$") and line.endswith(":"):
            labels[line[:-1]] = len(instructions)
        elif line and not line.startswith("."):
            *whole, text = f"{text} {line}".split(";")
            instructions += [_instruction(statement.strip()) for statement in whole if statement.strip(" }")]
    return Program(tuple(instructions), labels, offsets, tuple(size for _, size in parameters), int(threads[1]))


def _instruction(statement: str) -> Instruction:
    match = _INSTRUCTION.fullmatch(statement)
    assert match, f"no instruction: {statement!r}"
    negated, predicate, word, rest = match.groups()
    name, *words = word.split(".")
    guard = (bool(negated), predicate) if predicate else None
    strange = {*words} - _TYPES - _MODIFIERS
    if strange:
        raise RuntimeError(f"the modifier {', '.join(sorted(strange))} is not known here: {statement}")
    return Instruction(guard, name, tuple(words), tuple(o.strip() for o in _OPERAND.findall(rest)))


def run(program: Program, grid: int, arguments: Sequence[int], tensors: Sequence[tuple[int, int]], shared: int) -> None:
    """Launch `grid` programs. arguments: addresses and integers, one per parameter. tensors: (first, past last) address of memory.

    AssertionError where an access is wrong, RuntimeError naming an instruction that is not known.
    """
    memory = b""
    for value, size in zip(arguments, program.sizes, strict=True):
        memory += bytes(-len(memory) % size) + (value % (1 << 8 * size)).to_bytes(size, "little")
    with np.errstate(all="ignore"):
        Machine(program, grid, np.frombuffer(memory, np.uint8), tensors, shared).run()


class Access(NamedTuple):
    """What one instruction touched: the addresses of bytes (threads, width), which threads, and what each wrote, or READ.

    after: how many times, until then, the threads of a program had waited for each other, and those of a warp.
    """

    address: Array
    thread: Array
    value: Array
    after: tuple[int, int]


def races(accesses: list[Access], threads_of_a_program: int) -> bool:
    """Whether two threads touch one byte without having waited for each other, but to read it or to write the same value.

    Waiting at a shuffle counts as far as it goes, within a warp: what is passed on has been loaded.
    """
    if not accesses:
        return False
    address = np.concatenate([a.address.ravel() for a in accesses])
    thread = np.concatenate([np.repeat(a.thread, a.address.shape[1]) for a in accesses])
    value = np.concatenate([a.value.ravel() for a in accesses])
    order = np.argsort(address, kind="stable")
    starts = _starts(address[order])
    shared = _differ(thread[order], starts) & _differ(value[order], starts)
    # Few bytes are, and whether threads waited says nothing of the rest.
    shared = order[np.repeat(shared, np.diff(np.append(starts, len(order))))]
    if not len(shared):
        return False
    address, thread, value = address[shared], thread[shared], value[shared]
    sizes = [a.address.size for a in accesses]
    program, warp = (np.repeat([a.after[n] for a in accesses], sizes)[shared] for n in (0, 1))
    for who, waited in (
        (thread // threads_of_a_program, 0 * program),
        (thread // 32, program),
        (thread, program + warp),
    ):
        order = np.lexsort((waited, address))
        starts = _starts(address[order], waited[order])
        if bool((_differ(who[order], starts) & _differ(value[order], starts)).any()):
            return True
    return False


def _starts(*sorted_by: Array) -> Array:
    """Where another group of equal numbers begins."""
    return np.flatnonzero(np.logical_or.reduce([np.r_[True, part[1:] != part[:-1]] for part in sorted_by]))


def _differ(part: Array, starts: Array) -> Array:
    """Whether the numbers of a group differ, for each group."""
    return np.minimum.reduceat(part, starts) != np.maximum.reduceat(part, starts)


class Machine:
    """Registers, memories and the position in the text of all programs of one launch."""

    def __init__(self, program: Program, grid: int, parameters: Array, tensors: Sequence[tuple[int, int]], shared: int):
        self.program, self.parameters = program, parameters
        self.shape = grid, program.threads
        self.registers: dict[str, Array] = {
            "%tid.x": np.arange(program.threads, dtype=np.uint32)[None].repeat(grid, 0),
            "%ctaid.x": np.arange(grid, dtype=np.uint32)[:, None].repeat(program.threads, 1),
        }
        self.thread = np.arange(grid * program.threads).reshape(self.shape)
        self.tensors = [(start, _bytes(start, stop)) for start, stop in _merged(tensors)]
        self.shared = np.zeros(grid * shared, np.uint8)
        self.accesses: list[Access] = []
        self.waited = [0, 0]

    def run(self) -> None:
        self.next = 0
        while self.next < len(self.program.instructions):
            instruction = self.program.instructions[self.next]
            self.next += 1
            execute: Callable[..., Any] | None = getattr(self, f"_{instruction.name}", None)
            if execute is None:
                raise RuntimeError(f"the instruction {instruction.name} is not known here: {instruction}")
            execute(instruction)
        assert not races(self.accesses, self.program.threads), "threads race for memory"

    # --- operands -----------------------------------------------------------------------------------------------------------

    def value(self, operand: str, kind: str) -> Array:
        """An operand as an array of numbers: a register, a constant, the address of a parameter or of shared memory."""
        dtype = _dtype(kind)
        if operand.startswith("%"):
            return self.registers[operand] if kind == "pred" else self.registers[operand].view(dtype)
        if operand in self.program.offsets:
            return np.array(self.program.offsets[operand], dtype)
        if operand == "global_smem":
            return np.array(0, dtype)
        if operand[:2] in ("0f", "0d"):
            return np.array(int(operand[2:], 16), _dtype("b32" if operand[1] == "f" else "b64")).view(dtype)
        return np.array(int(operand.rstrip("U"), 0) % (1 << 8 * dtype.itemsize), f"u{dtype.itemsize}").view(dtype)

    def set(self, instruction: Instruction, register: str, value: Array) -> None:
        value = np.broadcast_to(value, self.shape)
        value = value if value.dtype == bool else np.ascontiguousarray(value).view(f"u{value.dtype.itemsize}")
        if instruction.guard is not None:
            value = np.where(self.active(instruction), value, self.registers.get(register, np.zeros_like(value)))
        self.registers[register] = value

    def active(self, instruction: Instruction) -> Array:
        if instruction.guard is None:
            return np.ones(self.shape, bool)
        negated, name = instruction.guard
        return np.broadcast_to(self.registers[name] ^ negated, self.shape)

    def compute(self, instruction: Instruction, function: Callable[..., Any], kind: str | None = None) -> None:
        kind = kind or instruction.words[-1]
        to, *operands = instruction.operands
        if kind == "f32x2":  # two numbers in one register
            halves = [self.value(o, "b64")[..., None].view(np.float32) for o in operands]
            self.set(instruction, to, np.ascontiguousarray(function(*halves)).view(np.uint64)[..., 0])
        elif kind in ("bf16", "f16"):  # products of two are exact in float32
            wide = [_widened(self.value(o, "b16"), kind) for o in operands]
            self.set(instruction, to, _round(np.asarray(function(*wide)), kind))
        elif kind in ("bf16x2", "f16x2"):
            pairs = [np.ascontiguousarray(self.value(o, "b32"))[..., None].view(np.uint16) for o in operands]
            result = _round(np.asarray(function(*(_widened(pair, kind[:-2]) for pair in pairs))), kind[:-2])
            self.set(instruction, to, np.ascontiguousarray(result).view(np.uint32)[..., 0])
        else:
            self.set(instruction, to, np.asarray(function(*(self.value(o, kind) for o in operands))))

    # --- arithmetic ---------------------------------------------------------------------------------------------------------

    def _mov(self, i: Instruction) -> None:
        to, source = i.operands
        if to.startswith("{"):
            parts = to.strip("{} ").split(",")
            whole = np.ascontiguousarray(np.broadcast_to(self.value(source, i.words[-1]), self.shape))
            pieces = whole.view(f"u{whole.dtype.itemsize // len(parts)}").reshape(*self.shape, len(parts))
            for n, part in enumerate(parts):
                self.set(i, part.strip(), pieces[..., n])
        elif source.startswith("{"):
            unset = np.full(self.shape, 0xFFFF, np.uint16)  # a half that nothing reads is left as it is by compilers
            pieces = [self.registers.get(part.strip(), unset) for part in source.strip("{} ").split(",")]
            self.set(i, to, np.stack(pieces, -1).view(_dtype(i.words[-1]))[..., 0])
        else:
            self.compute(i, lambda a: a)

    def _add(self, i: Instruction) -> None:
        self.compute(i, np.add)

    def _sub(self, i: Instruction) -> None:
        self.compute(i, np.subtract)

    def _mul(self, i: Instruction) -> None:
        self.compute(i, np.multiply) if "wide" not in i.words else self.compute(i, lambda a, b: _wide(a) * _wide(b))

    def _mad(self, i: Instruction) -> None:
        *factors, add = i.operands
        if "wide" not in i.words:
            self.compute(i, lambda a, b, c: a * b + c)
        else:
            kind = i.words[-1]
            product = [_wide(self.value(o, kind)) for o in factors[1:]]
            self.set(i, i.operands[0], product[0] * product[1] + self.value(add, kind[0] + "64"))

    def _div(self, i: Instruction) -> None:
        if i.words[-1][0] == "f":
            assert i.words[0] == "rn"
            self.compute(i, np.divide)
        else:
            self.compute(i, lambda a, b: np.sign(a) * np.sign(b) * (abs(a) // abs(b)))

    def _rem(self, i: Instruction) -> None:
        assert i.words[-1][0] in "su"
        self.compute(i, lambda a, b: np.sign(a) * (abs(a) % abs(b)))

    def _sqrt(self, i: Instruction) -> None:
        assert i.words[0] == "rn"
        self.compute(i, np.sqrt)

    def _min(self, i: Instruction) -> None:
        assert i.words[-1][0] in "su"
        self.compute(i, np.minimum)

    def _max(self, i: Instruction) -> None:
        assert i.words[-1][0] in "su"
        self.compute(i, np.maximum)

    def _neg(self, i: Instruction) -> None:
        self.compute(i, np.negative)

    def _shl(self, i: Instruction) -> None:
        to, a, by = i.operands
        self.set(i, to, self.value(a, i.words[-1]) << self.value(by, "b32").astype(_dtype(i.words[-1])))

    def _shr(self, i: Instruction) -> None:
        to, a, by = i.operands
        self.set(i, to, self.value(a, i.words[-1]) >> self.value(by, "b32").astype(_dtype(i.words[-1])))

    def _bfe(self, i: Instruction) -> None:
        to, a, first, count = i.operands
        kept = 8 * _dtype(i.words[-1]).itemsize - int(count)
        self.set(i, to, self.value(a, i.words[-1]) << (kept - int(first)) >> kept)

    def _and(self, i: Instruction) -> None:
        self.compute(i, np.bitwise_and)

    def _or(self, i: Instruction) -> None:
        self.compute(i, np.bitwise_or)

    def _xor(self, i: Instruction) -> None:
        self.compute(i, np.bitwise_xor)

    def _not(self, i: Instruction) -> None:
        self.compute(i, np.bitwise_not)

    def _prmt(self, i: Instruction) -> None:
        """Four bytes picked from the eight of two words: each by a nibble of the selector."""
        to, *operands = i.operands
        assert len(i.words) == 1, "modes of prmt"
        a, b, selector = (np.broadcast_to(self.value(o, "b32"), self.shape) for o in operands)
        picked = (selector[..., None] >> np.arange(0, 16, 4, dtype=np.uint32)) & 15
        assert not (picked & 8).any(), "bytes that are signs"
        both = np.stack((a, b), -1).view(np.uint8)
        self.set(i, to, np.take_along_axis(both, picked.astype(np.int64), -1).view(np.uint32)[..., 0])

    def _setp(self, i: Instruction) -> None:
        self.compute(i, _COMPARE[i.words[0]])

    def _selp(self, i: Instruction) -> None:
        to, a, b, predicate = i.operands
        kind = i.words[-1]
        self.set(i, to, np.where(self.value(predicate, "pred"), self.value(a, kind), self.value(b, kind)))

    def _cvt(self, i: Instruction) -> None:
        to, *sources = i.operands
        into, source = i.words[-2:]
        if into.endswith("x2"):  # the first source goes to the high half
            high, low = (_round(self.value(s, source), into[:-2]) for s in sources)
            self.set(i, to, np.stack((low, high), -1).view(np.uint32)[..., 0])
        elif into in ("bf16", "f16"):
            self.set(i, to, _round(self.value(sources[0], source), into))
        elif source == "bf16":
            self.set(i, to, (self.value(sources[0], "b16").astype(np.uint32) << 16).view(_dtype(into)))
        else:
            value = self.value(sources[0], source)
            if "rmi" in i.words:  # to an integer below
                assert into == source
                value = np.floor(value)
            self.set(i, to, value.astype(_dtype(into)))

    # --- memory -------------------------------------------------------------------------------------------------------------

    def _ld(self, i: Instruction) -> None:
        to, where = i.operands
        names = [name.strip() for name in to.strip("{} ").split(",")]
        width = _dtype(i.words[-1]).itemsize
        for here, memory, offsets in self.places(i, self.address(i, where), width * len(names)):
            words = memory[offsets].view(f"u{width}")
            for n, name in enumerate(names):
                value = self.registers.get(name, np.zeros(self.shape, words.dtype)).copy()
                value[here] = words[:, n]
                self.registers[name] = value

    def _st(self, i: Instruction) -> None:
        where, source = i.operands
        names = [name.strip() for name in source.strip("{} ").split(",")]
        kind = f"b{8 * _dtype(i.words[-1]).itemsize}"
        words = np.stack([np.broadcast_to(self.value(name, kind), self.shape) for name in names], -1)
        for here, memory, offsets in self.places(i, self.address(i, where), words.dtype.itemsize * len(names)):
            memory[offsets] = self.accesses[-1].value[...] = words[here].view(np.uint8)

    def _ldmatrix(self, i: Instruction) -> None:
        """Matrices of 8 rows of 8 half words: threads 8 m .. 8 m + 7 of a warp have the addresses of the rows of matrix m."""
        for register, addresses in self.matrices(i, *i.operands):
            halves = np.zeros((*self.shape, 2), np.uint16)
            for half, address in enumerate(addresses):
                for here, memory, offsets in self.places(i, address, 2):
                    halves[here, half] = memory[offsets].view(np.uint16)[:, 0]
            self.set(i, register, halves.view(np.uint32)[..., 0])

    def _stmatrix(self, i: Instruction) -> None:
        for register, addresses in self.matrices(i, *reversed(i.operands)):
            halves = np.ascontiguousarray(self.value(register, "b32"))[..., None].view(np.uint16)
            for half, address in enumerate(addresses):
                for here, memory, offsets in self.places(i, address, 2):
                    memory[offsets] = self.accesses[-1].value[...] = halves[here, half, None].copy().view(np.uint8)

    def matrices(self, i: Instruction, registers: str, where: str) -> Iterator[tuple[str, list[Array]]]:
        """A register and the addresses of its two half words, for each matrix: side by side in a row, or in a column (trans)."""
        assert i.words[:3] == ("sync", "aligned", "m8n8")
        rows, thread = self.address(i, where), np.arange(self.shape[1])
        assert not (rows % 16).any(), f"a row of a matrix is not divisible by 16: {i}"
        warp, line, pair = thread // 32 * 32, thread % 32 // 4, thread % 4 * 2
        for m, register in enumerate(registers.strip("{} ").split(",")):
            first = warp + 8 * m
            if "trans" in i.words:
                yield register.strip(), [rows[:, first + pair + half] + 2 * line for half in (0, 1)]
            else:
                yield register.strip(), [rows[:, first + line] + 2 * (pair + half) for half in (0, 1)]

    def address(self, i: Instruction, operand: str) -> Array:
        base, _, more = operand.strip("[] ").partition("+")
        address = self.value(base.strip(), "b64" if "global" in i.words else "b32").astype(np.int64) + int(more or 0)
        return np.broadcast_to(address, self.shape)

    def places(self, i: Instruction, address: Array, width: int) -> Iterator[tuple[Array, Array, Array]]:
        """(active threads, memory, offset in it of each byte: (threads, width)) of one access, for each tensor that it falls into.

        It is recorded as a read; an instruction that writes changes self.accesses[-1].
        """
        space = next(word for word in i.words if word in ("param", "global", "shared"))
        left = self.active(i)
        assert not (address[left] % width).any(), f"an address is not divisible by {width}: {i}"
        if space == "shared":  # every program has its own
            size = self.shared.size // self.shape[0]
            assert (address[left] + width <= size).all(), f"outside {size} bytes of shared memory: {i}"
            address = address + size * self.registers["%ctaid.x"]
        for start, memory in {"param": [(0, self.parameters)], "shared": [(0, self.shared)]}.get(space, self.tensors):
            here = left & (address >= start) & (address <= start + len(memory) - width)
            if here.any():
                offsets = (address[here] - start)[:, None] + np.arange(width)
                if space != "param":
                    byte = offsets + start + (SHARED if space == "shared" else 0)
                    self.accesses.append(
                        Access(byte, self.thread[here], np.full(byte.shape, READ), (self.waited[0], self.waited[1]))
                    )
                yield here, memory, offsets
                left = left & ~here
        assert not left.any(), f"{int(left.sum())} threads outside every tensor: {i}"

    def _bar(self, i: Instruction) -> None:
        """bar.sync 0: all threads of a program; bar.warp.sync -1: those of a warp."""
        assert i.guard is None and (i.words, i.operands) in ((("sync",), ("0",)), (("warp", "sync"), ("-1",)))
        self.waited["warp" in i.words] += 1

    def _shfl(self, i: Instruction) -> None:
        assert i.words[0] == "sync" and i.words[1] in ("idx", "bfly")
        to, source, lane, clamp, members = i.operands
        assert int(clamp, 0) == 31 and int(members, 0) in (-1, 0xFFFFFFFF)
        self.waited[1] += 1
        lanes = np.broadcast_to(self.value(lane, "u32"), self.shape) % 32
        held = np.broadcast_to(self.value(source, "b32"), self.shape)
        first = np.arange(self.shape[1]) // 32 * 32
        if i.words[1] == "bfly":  # the lane whose number differs in these bits
            lanes = (np.arange(self.shape[1]) % 32)[None] ^ lanes
        self.set(i, to.split("|")[0], np.take_along_axis(held, first[None] + lanes, 1))

    def _bra(self, i: Instruction) -> None:
        taken = self.active(i)
        assert taken.all() or not taken.any(), f"threads part at a branch: {i}"
        if taken.all():
            self.next = self.program.labels[i.operands[0]]

    def _ret(self, i: Instruction) -> None:
        assert i.guard is None


def _dtype(kind: str) -> np.dtype[Any]:
    if kind == "pred":
        return np.dtype(bool)
    letter, bits = kind[0], int(kind[1:])
    return np.dtype(f"{_BITS.get(letter, letter)}{bits // 8}")


def _wide(a: Array) -> Array:
    return a.astype(f"{a.dtype.kind}{2 * a.dtype.itemsize}")


def _widened(bits: Array, kind: str) -> Array:
    """Numbers of 16 bits, as uint16, in float32."""
    if kind == "f16":
        return np.ascontiguousarray(bits).view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _round(value: Array, into: str) -> Array:
    """To nearest, ties to even, as uint16."""
    if into == "f16":
        return value.astype(np.float16).view(np.uint16)
    bits = np.ascontiguousarray(value).view(np.uint32)
    rounded = ((bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(value), np.uint16(0x7FFF), rounded)


def _merged(tensors: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The memory of these tensors, parts that several of them share merged."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(t for t in tensors if t[0] < t[1]):
        if merged and start < merged[-1][1]:
            merged[-1] = merged[-1][0], max(stop, merged[-1][1])
        else:
            merged.append((start, stop))
    return merged


def _bytes(start: int, stop: int) -> Array:
    return np.frombuffer((ctypes.c_uint8 * (stop - start)).from_address(start), np.uint8)
